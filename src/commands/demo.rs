//! The demonstration: generated traffic, the four statements and the four workers in one process, and a check
//! of all that they have written. Over traffic that ends it shows the same figures each time, on any number
//! of workers.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};

use super::execute::{LOCK, execute, lock};
use super::{generate, summary, verify};
use crate::cli::RunArgs;
use crate::config::Config;
use crate::connect::{Fault, persist};
use crate::engine::{Cluster, EngineConfig, Restart, SourceConfig};
use crate::ledger::{self, Backend, DATABASE, Job, Worker, WorkerConfig};
use crate::sink::{sqlite, topics};
use crate::source::generator::GeneratorConfig;
use crate::verify::{Results, Topics};

/// How often the statements are looked at.
const LOOK: Duration = Duration::from_millis(20);

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

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
    check_results(args, config)?;
    if args.live {
        live(args, config, &topics, cluster, stop)
    } else {
        bounded(args, config, &topics, cluster, stop)
    }
}

/// Makes sure that no results are replaced but those of generated traffic, unless that is wanted.
fn check_results(args: &RunArgs, config: &Config) -> anyhow::Result<()> {
    let data_dir = config.data_dir();
    let before =
        if args.fresh || !config.writes() { None } else { sqlite::committed(&data_dir.join(DATABASE))? };
    let Some((run, _)) = before else { return Ok(()) };
    ensure!(
        generate::is_generated(Path::new(&run.source)),
        "{} holds the results of the topics in {}; start over with --fresh, or name another folder with --data-dir",
        data_dir.display(),
        run.source
    );
    Ok(())
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
    let workers = open_accounts(config, &traffic, topics)?;
    let hold = Arc::new(AtomicBool::new(true));
    let mut engine = engine(config, topics, Some(&hold));
    // Into how many records a late click divides the refund of its group depends on how partitions
    // interleave. So the windows of statement 4 close with the traffic, each group with one record.
    engine.settings.duplicates_bound = traffic.span_ms.saturating_add(DAY_MS);
    let settling = settle(workers, topics, hold, stop)?;
    execute(args, config, engine, cluster, stop)?;
    settling.join().map_err(|_| anyhow!("the thread of the workers has panicked"))??;
    summary::balances(config.data_dir())?;
    if stop.load(Ordering::Relaxed) {
        return Ok(ExitCode::SUCCESS);
    }
    verify::report(&Topics::Files(topics.to_owned()), &Results::Embedded(config.data_dir().to_owned()))
}

/// The order in which workers run to their end when the statements have: first the debits exhaust campaigns,
/// then refunds bring some back, and at last campaign-status reads its own events. What each finds is then
/// the same every time.
const ORDER: [Job; 6] = [
    Job::Balance,
    Job::CampaignStatus,
    Job::Compensation,
    Job::CampaignStatus,
    Job::Budget,
    Job::CampaignStatus,
];

/// On a thread: waits until every window is closed, runs the workers, and then releases `hold`: statement 1
/// is to see the last campaign that was paused.
fn settle(
    workers: WorkerConfig,
    topics: &Path,
    hold: Arc<AtomicBool>,
    stop: &Arc<AtomicBool>,
) -> anyhow::Result<JoinHandle<anyhow::Result<()>>> {
    let (topics, stop) = (topics.to_owned(), Arc::clone(stop));
    let work = move || {
        let has_ended =
            || topics::committed(&topics).ok().flatten().is_some_and(|progress| progress.has_ended());
        while !has_ended() && !stop.load(Ordering::Relaxed) {
            std::thread::sleep(LOOK);
        }
        let mut jobs = ORDER.iter().take_while(|_| !stop.load(Ordering::Relaxed));
        let done =
            jobs.try_for_each(|job| ledger::run_all(&workers, &vec![(*job, Arc::default())], true, &stop));
        if done.is_err() {
            stop.store(true, Ordering::Relaxed);
        }
        hold.store(false, Ordering::Release);
        done
    };
    std::thread::Builder::new().name("settling".to_owned()).spawn(work).context("can't start a thread")
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

/// The engine over generated topics, which replace what was there.
fn engine(config: &Config, topics: &Path, hold: Option<&Arc<AtomicBool>>) -> EngineConfig {
    let mut engine = EngineConfig { restart: Restart::Fresh, ..config.engine() };
    if let SourceConfig::Files(files) = &mut engine.source {
        files.folder = topics.to_owned();
        files.hold = hold.cloned();
    }
    engine
}

/// Opens an account for every advertiser of the traffic, in a ledger without anything of an earlier
/// demonstration.
fn open_accounts(config: &Config, traffic: &GeneratorConfig, folder: &Path) -> anyhow::Result<WorkerConfig> {
    let data_dir = config.data_dir();
    topics::forget(folder)?;
    ledger::reset(data_dir)?;
    let place = Backend::Embedded { from: folder.to_owned(), data_dir: data_dir.to_owned() };
    let catalogue = ledger::demo::catalogue(traffic)?;
    let mut ledger = place.ledger("demonstration")?;
    let patience = Duration::from_secs(30);
    persist("opening the accounts", Some(patience), || -> Result<(), Fault> {
        ledger.open_accounts(&catalogue)
    })?;
    Ok(config.worker_at(place))
}

/// The four workers, each on a thread.
struct Workers {
    running: Vec<Worker>,
    stop: Arc<AtomicBool>,
}

impl Workers {
    /// Opens the accounts, and starts the workers.
    fn start(config: &Config, traffic: &GeneratorConfig, topics: &Path) -> anyhow::Result<Workers> {
        let workers = open_accounts(config, traffic, topics)?;
        let stop = Arc::new(AtomicBool::new(false));
        let spawn = |job: &Job| Worker::spawn(&workers, *job, &Arc::default(), false, &stop);
        Ok(Workers { running: Job::ALL.iter().map(spawn).collect::<anyhow::Result<_>>()?, stop })
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
