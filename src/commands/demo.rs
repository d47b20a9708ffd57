//! The demonstration: generated traffic, the four statements and the four workers in one process, and a check of all that
//! they have written.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};

use super::run::{LOCK, execute, lock};
use super::{generate, summary, verify};
use crate::cli::RunArgs;
use crate::config::Config;
use crate::connect::{Fault, persist};
use crate::engine::{Cluster, EngineConfig, SourceConfig};
use crate::sink::topics;
use crate::source::generator::GeneratorConfig;
use crate::verify::{Results, Topics};
use crate::worker::{self, Job, Place, Worker};

/// How often the workers are looked at.
const LOOK: Duration = Duration::from_millis(20);

/// Generates traffic, runs over it, and checks the results.
pub fn demonstrate(
    args: &RunArgs,
    config: &Config,
    cluster: &Cluster,
    stop: &Arc<AtomicBool>,
) -> anyhow::Result<ExitCode> {
    ensure!(
        args.processes == 1,
        "the demonstration runs in one process; make topics with `adtide generate` and name them with --from"
    );
    ensure!(
        args.live || !config.follows(),
        "--follow (key source.at_end) needs topics to follow: name their folder with --from, or use --live"
    );
    ensure!(
        !config.writes_services(),
        "the demonstration writes to a folder; for servers, send traffic to Kafka with `adtide generate --to-kafka`, and set \
         source.kind = \"kafka\""
    );
    let topics = config.data_dir().join("topics");
    let _lock = lock(config.data_dir(), LOCK)?;
    if args.live { live(args, config, &topics, cluster, stop) } else { bounded(args, config, &topics, cluster, stop) }
}

/// Over two hours of traffic, to their end.
fn bounded(
    args: &RunArgs,
    config: &Config,
    topics: &Path,
    cluster: &Cluster,
    stop: &Arc<AtomicBool>,
) -> anyhow::Result<ExitCode> {
    let traffic = config.generator();
    generate::write(&traffic, topics)?;
    if !config.writes() {
        execute(args, config, engine(config, topics, None), cluster, stop)?;
        return Ok(ExitCode::SUCCESS);
    }
    let workers = Workers::start(config, &traffic, topics)?;
    let hold = Arc::new(AtomicBool::new(true));
    let engine = engine(config, topics, Some(&hold));
    let settling = workers.settle(topics, hold, stop)?;
    execute(args, config, engine, cluster, stop)?;
    let workers = settling.join().map_err(|_| anyhow!("the watch over the workers has panicked"))?;
    workers.stop()?;
    summary::balances(config.data_dir())?;
    if stop.load(Ordering::Relaxed) {
        return Ok(ExitCode::SUCCESS);
    }
    verify::report(&Topics::Files(topics.to_owned()), &Results::Embedded(config.data_dir().to_owned()))
}

/// Over traffic that another thread generates in real time, until Ctrl-C.
fn live(
    args: &RunArgs,
    config: &Config,
    topics: &Path,
    cluster: &Cluster,
    stop: &Arc<AtomicBool>,
) -> anyhow::Result<ExitCode> {
    let mut traffic = config.generator();
    traffic.start = crate::now();
    traffic.check()?;
    let traffic = traffic.for_span(i64::try_from(generate::MONTH.as_millis())?);
    generate::claim(topics)?;
    let workers = if config.writes() { Some(Workers::start(config, &traffic, topics)?) } else { None };
    let (topics_of_thread, flag) = (topics.to_owned(), Arc::clone(stop));
    let generating = std::thread::Builder::new().name("generator".to_owned()).spawn(move || {
        if let Err(error) = generate::write_live(&traffic, &topics_of_thread, &flag) {
            crate::fatal(&error.context("the generator can't go on"));
        }
    })?;
    execute(args, config, engine(config, topics, None), cluster, stop)?;
    generating.join().map_err(|_| anyhow!("the generator has panicked"))?;
    if let Some(workers) = workers {
        workers.stop()?;
        summary::balances(config.data_dir())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The engine over generated topics.
fn engine(config: &Config, topics: &Path, hold: Option<&Arc<AtomicBool>>) -> EngineConfig {
    let mut engine = config.engine();
    if let SourceConfig::Files(files) = &mut engine.source {
        files.folder = topics.to_owned();
        files.hold = hold.cloned();
    }
    engine
}

/// The four workers, each on a thread.
struct Workers {
    running: Vec<Worker>,
    stop: Arc<AtomicBool>,
}

impl Workers {
    /// Opens an account for every advertiser of the traffic, and starts the workers.
    fn start(config: &Config, traffic: &GeneratorConfig, folder: &Path) -> anyhow::Result<Workers> {
        let data_dir = config.data_dir();
        // Nothing of an earlier demonstration may be taken for what this one has done.
        topics::forget(folder)?;
        worker::reset(data_dir)?;
        let place = Place::Embedded { from: folder.to_owned(), data_dir: data_dir.to_owned() };
        let catalogue = worker::demo::catalogue(traffic)?;
        let mut ledger = place.ledger("demonstration")?;
        let patience = Duration::from_secs(30);
        persist("opening the accounts", Some(patience), || -> Result<(), Fault> { ledger.open_accounts(&catalogue) })?;
        let stop = Arc::new(AtomicBool::new(false));
        let workers = config.worker_at(place);
        let spawn = |job: &Job| Worker::spawn(&workers, *job, &Arc::default(), false, &stop);
        Ok(Workers { running: Job::ALL.iter().map(spawn).collect::<anyhow::Result<_>>()?, stop })
    }

    /// On a thread: waits until every window is closed and the workers have settled all that came of it, and then releases
    /// `hold`: statement 1 is to see the last campaign that was paused.
    fn settle(
        self,
        topics: &Path,
        hold: Arc<AtomicBool>,
        stop: &Arc<AtomicBool>,
    ) -> anyhow::Result<JoinHandle<Workers>> {
        let (topics, stop) = (topics.to_owned(), Arc::clone(stop));
        let watch = move || {
            let closed = || topics::committed(&topics).ok().flatten().is_some_and(|progress| progress.has_ended());
            let wait = |done: &dyn Fn() -> bool| {
                while !done() && !self.has_failed() && !stop.load(Ordering::Relaxed) {
                    std::thread::sleep(LOOK);
                }
            };
            wait(&closed);
            let since = Instant::now();
            wait(&|| self.caught_up(since, |job| job != Job::CampaignStatus));
            let since = Instant::now();
            wait(&|| self.caught_up(since, |job| job == Job::CampaignStatus));
            hold.store(false, Ordering::Release);
            self
        };
        std::thread::Builder::new().name("settling".to_owned()).spawn(watch).context("can't start a thread")
    }

    fn caught_up(&self, since: Instant, which: impl Fn(Job) -> bool) -> bool {
        self.running.iter().filter(|worker| which(worker.job())).all(|worker| worker.caught_up(since))
    }

    fn has_failed(&self) -> bool {
        self.running.iter().any(Worker::is_finished)
    }

    /// Ends the workers.
    ///
    /// # Errors
    /// One has failed.
    fn stop(self) -> anyhow::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.running.into_iter().try_for_each(Worker::join)
    }
}
