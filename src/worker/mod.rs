//! The four workers: plain consumers that act on what the topics tell, each effect exactly once.
//!
//! | worker | reads | writes |
//! |---|---|---|
//! | balance | clicks of `ad-events` | a debit in the ledger, the advertiser's balance |
//! | budget | clicks of `ad-events`, refunds of `compensation-events` | what each campaign has spent |
//! | campaign-status | the ledger, `campaign-events` | campaigns that are exhausted or back, and events that tell it |
//! | compensation | refunds of `compensation-events` | a credit in the ledger, the advertiser's balance |
//!
//! Whatever a worker does it does in one step with its offsets ([`store`]), under a guard: it must still own the partition,
//! and the partition must stand where the worker believes it to stand. So a crash at any moment loses nothing and repeats
//! nothing, and a process that others have taken for dead changes nothing any more.

mod accounts;
mod budget;
mod campaign_status;
pub mod demo;
mod drive;
pub mod feed;
mod outbox;
mod record;
mod stats;
pub mod store;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use adtide_dataflows::model::{Topic, UnknownIds};
use anyhow::{Context, anyhow};

use crate::connect::kafka::KafkaConfig;
use crate::connect::postgres::PostgresConfig;
use crate::connect::redis::RedisConfig;
use crate::sink::COMPENSATION_EVENTS;
use accounts::Accounts;
use budget::BudgetWork;
use campaign_status::CampaignStatus;
use drive::{Driver, Work};
use feed::Feed;
use feed::files::FileFeed;
use feed::kafka::KafkaFeed;
use outbox::{FileOutbox, KafkaOutbox, Outbox};
pub use stats::WorkerStats;
use store::postgres::PostgresLedger;
use store::redis::RedisBudgets;
use store::sqlite::SqliteStore;
use store::{Budgets, Ledger};

// The topics that workers read.
const AD_EVENTS: &str = Topic::AdEvents.name();
const CAMPAIGN_EVENTS: &str = Topic::CampaignEvents.name();

/// One of the workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Job {
    /// Debits clicks.
    Balance,
    /// Counts what campaigns spend.
    Budget,
    /// Pauses campaigns that have spent their budget.
    CampaignStatus,
    /// Credits refunds.
    Compensation,
}

impl Job {
    /// All of them.
    pub const ALL: [Job; 4] = [Job::Balance, Job::Budget, Job::CampaignStatus, Job::Compensation];

    /// Its name on the command line, in consumer groups and in logs.
    pub fn name(self) -> &'static str {
        match self {
            Job::Balance => "balance",
            Job::Budget => "budget",
            Job::CampaignStatus => "campaign-status",
            Job::Compensation => "compensation",
        }
    }

    /// The topics that it reads.
    fn topics(self) -> &'static [&'static str] {
        match self {
            Job::Balance => &[AD_EVENTS],
            Job::Budget => &[AD_EVENTS, COMPENSATION_EVENTS],
            Job::CampaignStatus => &[CAMPAIGN_EVENTS],
            Job::Compensation => &[COMPENSATION_EVENTS],
        }
    }
}

/// What a worker needs to know.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// The deployment's name: part of consumer groups and of what offsets are kept by.
    pub name: String,
    /// How far an event time may lie ahead of its record's timestamp, in milliseconds.
    pub max_future_skew: i64,
    /// Texts that stand for an unknown id.
    pub unknown_ids: UnknownIds,
    /// How often campaign-status looks at the campaigns.
    pub status_interval: Duration,
    /// How long the budgets remember which refunds they count.
    pub refund_memory: Duration,
    /// Where topics and tables are.
    pub place: Place,
}

/// Where topics and tables are.
#[derive(Clone, Debug)]
pub enum Place {
    /// Topic files and SQLite.
    Embedded {
        /// The folder of input topics; campaign-status appends to `campaign-events` there.
        from: PathBuf,
        /// The folder of results: `adtide.db`, and `topics` with the compensations.
        data_dir: PathBuf,
    },
    /// Kafka, PostgreSQL and Redis.
    Services {
        /// The topics.
        kafka: KafkaConfig,
        /// The ledger.
        postgres: PostgresConfig,
        /// The budgets.
        redis: RedisConfig,
    },
}

impl Place {
    /// The ledger, for a worker or command of this name.
    ///
    /// # Errors
    /// The embedded database can't be opened.
    pub fn ledger(&self, user: &str) -> anyhow::Result<Box<dyn Ledger + Send>> {
        Ok(match self {
            Place::Embedded { data_dir, .. } => Box::new(SqliteStore::open(&data_dir.join(DATABASE))?),
            Place::Services { postgres, .. } => Box::new(PostgresLedger::new(postgres.clone(), user)),
        })
    }
}

/// The embedded database, in the folder of results.
const DATABASE: &str = "adtide.db";

/// Forgets what the workers have done in a folder of results, for topics that start over.
///
/// # Errors
/// The database can't be written.
pub fn reset(data_dir: &std::path::Path) -> anyhow::Result<()> {
    SqliteStore::open(&data_dir.join(DATABASE))?.reset()
}

/// Takes back what the workers have made of the refunds of an earlier run, which is started over.
///
/// # Errors
/// The database can't be written.
pub fn withdraw_refunds(data_dir: &std::path::Path) -> anyhow::Result<()> {
    SqliteStore::open(&data_dir.join(DATABASE))?.withdraw_refunds()
}

/// A worker that runs on a thread of its own.
pub struct Worker {
    job: Job,
    stats: Arc<WorkerStats>,
    thread: JoinHandle<anyhow::Result<()>>,
}

impl Worker {
    /// Starts a worker. It ends when `stop` is set, after what it has read is committed; with `until_end` also when it has
    /// read all that is there. A server that is away it waits for.
    ///
    /// # Errors
    /// The settings are wrong, or the embedded database can't be opened.
    pub fn spawn(
        config: &WorkerConfig,
        job: Job,
        stats: &Arc<WorkerStats>,
        until_end: bool,
        stop: &Arc<AtomicBool>,
    ) -> anyhow::Result<Worker> {
        let stats = Arc::clone(stats);
        let (config, stop, shared) = (config.clone(), Arc::clone(stop), Arc::clone(&stats));
        let run =
            move || run(&config, job, until_end, &stop, &shared).with_context(|| format!("worker {}", job.name()));
        let thread = std::thread::Builder::new().name(format!("worker:{}", job.name())).spawn(run)?;
        Ok(Worker { job, stats, thread })
    }

    /// Which one it is.
    pub fn job(&self) -> Job {
        self.job
    }

    /// Its counters.
    pub fn stats(&self) -> &Arc<WorkerStats> {
        &self.stats
    }

    /// Whether it has done all there was to do when it looked after `since`: every record that was there then has had its
    /// effect, and of campaign-status, the campaigns were looked at and nothing waits to be published.
    pub fn caught_up(&self, since: Instant) -> bool {
        self.stats.caught_up().is_some_and(|looked| looked >= since)
    }

    /// Whether it has ended, as it does on a fault that lasts.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// What ended it, if it was not told to.
    pub fn join(self) -> anyhow::Result<()> {
        self.thread.join().map_err(|_| anyhow!("worker {} has panicked", self.job.name()))?
    }
}

/// Workers to run, each with its counters.
pub type Jobs = Vec<(Job, Arc<WorkerStats>)>;

/// Runs workers to their end: all at once, except that with `until_end` campaign-status comes last, as it looks at what
/// the others have written.
///
/// # Errors
/// The first fault that lasts; it stops all of them.
pub fn run_all(config: &WorkerConfig, jobs: &Jobs, until_end: bool, stop: &Arc<AtomicBool>) -> anyhow::Result<()> {
    let comes_last = |job: Job| until_end && job == Job::CampaignStatus && jobs.len() > 1;
    let (last, first): (Jobs, Jobs) = jobs.iter().cloned().partition(|(job, _)| comes_last(*job));
    for jobs in [first, last] {
        let spawn = |(job, stats): &(Job, Arc<WorkerStats>)| Worker::spawn(config, *job, stats, until_end, stop);
        let workers = jobs.iter().map(spawn).collect::<anyhow::Result<Vec<_>>>()?;
        watch(workers, until_end, stop)?;
    }
    Ok(())
}

/// Joins workers in the order in which they end.
fn watch(mut workers: Vec<Worker>, until_end: bool, stop: &AtomicBool) -> anyhow::Result<()> {
    let mut result = Ok(());
    while !workers.is_empty() {
        let Some(ended) = workers.iter().position(Worker::is_finished) else {
            std::thread::sleep(Duration::from_millis(20));
            continue;
        };
        let ended = workers.swap_remove(ended).join();
        if ended.is_err() || !until_end {
            stop.store(true, Ordering::Relaxed);
        }
        result = result.and(ended);
    }
    result
}

/// One worker, on this thread.
fn run(
    config: &WorkerConfig,
    job: Job,
    until_end: bool,
    stop: &AtomicBool,
    stats: &Arc<WorkerStats>,
) -> anyhow::Result<()> {
    let mut work = work(config, job, stats)?;
    let feeds = job.topics().iter().map(|topic| feed(config, job, topic, until_end));
    let feeds = feeds.collect::<anyhow::Result<Vec<_>>>()?;
    Driver::new(job.name(), feeds, stop, stats).run(work.as_mut(), until_end)
}

fn work(config: &WorkerConfig, job: Job, stats: &Arc<WorkerStats>) -> anyhow::Result<Box<dyn Work>> {
    let (place, unknown_ids) = (&config.place, &config.unknown_ids);
    Ok(match job {
        Job::Balance => Box::new(Accounts::debits(place.ledger(job.name())?, unknown_ids, stats)),
        Job::Compensation => Box::new(Accounts::credits(place.ledger(job.name())?, stats)),
        Job::Budget => {
            let budgets: Box<dyn Budgets> = match place {
                Place::Embedded { data_dir, .. } => Box::new(SqliteStore::open(&data_dir.join(DATABASE))?),
                Place::Services { redis, .. } => {
                    Box::new(RedisBudgets::new(redis.clone(), &config.name, config.refund_memory))
                }
            };
            Box::new(BudgetWork::new(budgets, unknown_ids, stats))
        }
        Job::CampaignStatus => {
            let outbox: Box<dyn Outbox> = match place {
                Place::Embedded { from, data_dir } => Box::new(FileOutbox::new(from, &data_dir.join(DATABASE))?),
                Place::Services { kafka, .. } => Box::new(KafkaOutbox::new(kafka.clone())),
            };
            let ledger = place.ledger(job.name())?;
            Box::new(CampaignStatus::new(ledger, outbox, config.status_interval, unknown_ids, stats))
        }
    })
}

fn feed(config: &WorkerConfig, job: Job, topic: &str, until_end: bool) -> anyhow::Result<Box<dyn Feed>> {
    let skew = config.max_future_skew;
    Ok(match &config.place {
        Place::Embedded { data_dir, .. } if topic == COMPENSATION_EVENTS => {
            Box::new(FileFeed::new(&data_dir.join("topics"), topic, skew, until_end, true))
        }
        Place::Embedded { from, .. } => Box::new(FileFeed::new(from, topic, skew, until_end, false)),
        Place::Services { kafka, .. } => {
            let group = format!("{}{}-{}", kafka.prefix, config.name, job.name());
            let feed = KafkaFeed::join(kafka.clone(), group, topic, skew);
            Box::new(feed.map_err(crate::connect::Fault::into_error)?)
        }
    })
}
