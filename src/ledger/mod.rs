//! The four workers: plain consumers that act on what the topics tell, each effect exactly once.
//!
//! | worker | reads | writes |
//! |---|---|---|
//! | balance | clicks of `ad-events` | a debit in the ledger, the advertiser's balance |
//! | budget | clicks of `ad-events`, refunds of `compensation-events` | what each campaign has spent |
//! | campaign-status | the ledger, `campaign-events` | campaigns that are exhausted or back, and events that tell it |
//! | compensation | refunds of `compensation-events` | a credit in the ledger, the advertiser's balance |
//!
//! Whatever a worker does it does in one step with its offsets ([`store`]), under a guard: it must still own
//! the partition, and the partition must stand where the worker believes it to stand. So a crash at any
//! moment loses nothing and repeats nothing, and a process that others have taken for dead changes nothing
//! any more.

mod accounts;
mod announcement;
mod budget;
mod campaign_status;
mod dead_letters;
pub mod demo;
mod drive;
pub mod feed;
mod instance;
mod letter;
mod outbox;
mod publish;
mod record;
mod stats;
pub mod store;
mod supervise;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use adtide_dataflows::model::{Topic, UnknownIds};
use anyhow::{Context, anyhow};

use crate::connect::kafka::KafkaConfig;
use crate::connect::persist_unless;
use crate::connect::postgres::PostgresConfig;
use crate::connect::redis::RedisConfig;
use crate::sink::COMPENSATION_EVENTS;
use accounts::Accounts;
use budget::BudgetWork;
use campaign_status::CampaignStatus;
use dead_letters::{DeadLetters, KafkaDeadLetters};
use drive::{Driver, Work};
use feed::Feed;
use feed::ends::Ends;
use feed::files::FileFeed;
use feed::kafka::{KafkaFeed, Member};
use instance::Instance;
pub use letter::Letter;
use outbox::{FileOutbox, KafkaOutbox, Outbox};
use publish::Publisher;
pub use stats::WorkerStats;
use store::postgres::PostgresLedger;
use store::redis::RedisBudgets;
use store::sqlite::SqliteStore;
use store::{Budgets, Ledger};
pub use supervise::run_all;

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

    /// What holds its effects.
    fn store(self, place: &Backend) -> &'static str {
        match place {
            Backend::Embedded { .. } => "SQLite",
            Backend::Services { .. } if self == Job::Budget => "Redis",
            Backend::Services { .. } => "PostgreSQL",
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
    /// The name of this process in consumer groups; empty for one that is kept in `members`.
    pub instance: String,
    /// The folder of names that are kept.
    pub members: PathBuf,
    /// Where topics and tables are.
    pub place: Backend,
}

/// Where topics and tables are.
#[derive(Clone, Debug)]
pub enum Backend {
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

impl Backend {
    /// The ledger, for a worker or command of this name.
    ///
    /// # Errors
    /// The embedded database can't be opened.
    pub fn ledger(&self, user: &str) -> anyhow::Result<Box<dyn Ledger + Send>> {
        Ok(match self {
            Backend::Embedded { data_dir, .. } => Box::new(SqliteStore::open(&data_dir.join(DATABASE))?),
            Backend::Services { postgres, .. } => Box::new(PostgresLedger::new(postgres.clone(), user)),
        })
    }
}

/// The embedded database, in the folder of results.
pub const DATABASE: &str = "adtide.db";

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
    /// Starts a worker. It ends when `stop` is set, after what it has read is committed; with `until_end`
    /// also when it has read all that is there. A server that is away it waits for.
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
        let ends = watch_ends(&config, &[job])?;
        let run = move || {
            run(&config, job, until_end, &stop, &shared, ends.as_ref())
                .with_context(|| format!("worker {}", job.name()))
        };
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

    /// Whether it has done all there was to do when it looked after `since`: every record that was there then
    /// has had its effect, and of campaign-status, the campaigns were looked at and nothing waits to be
    /// published.
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

/// Watches where the topics of workers end, if they are in Kafka.
fn watch_ends(config: &WorkerConfig, jobs: &[Job]) -> anyhow::Result<Option<Arc<Ends>>> {
    let Backend::Services { kafka, .. } = &config.place else { return Ok(None) };
    let topics = jobs.iter().flat_map(|job| job.topics()).map(|topic| kafka.topic(topic));
    Ends::watch(kafka, topics).map(Some)
}

/// One worker, on this thread.
fn run(
    config: &WorkerConfig,
    job: Job,
    until_end: bool,
    stop: &AtomicBool,
    stats: &Arc<WorkerStats>,
    ends: Option<&Arc<Ends>>,
) -> anyhow::Result<()> {
    let mut work = work(config, job, stats)?;
    let (feeds, _member) = match &config.place {
        Backend::Embedded { from, data_dir } => {
            let feed = |topic: &&str| -> Box<dyn Feed> {
                let is_output = *topic == COMPENSATION_EVENTS;
                let folder = if is_output { &data_dir.join("topics") } else { from };
                Box::new(FileFeed::new(folder, topic, config.max_future_skew, until_end, is_output))
            };
            (job.topics().iter().map(feed).collect(), None)
        }
        Backend::Services { kafka, .. } => {
            let instance = Instance::take(&config.instance, &config.members, &config.name, job.name());
            let ends = ends.context("nobody watches where the topics end")?;
            (join(config, kafka, job, &instance, ends, stop)?, Some(instance))
        }
    };
    let dead_letters = dead_letters(&config.place)?;
    Driver::new(job.name(), job.store(&config.place), feeds, dead_letters, stop, stats)
        .run(work.as_mut(), until_end)
}

/// Joins the consumer group of a worker with each of its topics. None at all if it is to stop meanwhile.
fn join(
    config: &WorkerConfig,
    kafka: &KafkaConfig,
    job: Job,
    instance: &Instance,
    ends: &Arc<Ends>,
    stop: &AtomicBool,
) -> anyhow::Result<Vec<Box<dyn Feed>>> {
    let group = format!("{}{}-{}", kafka.prefix, config.name, job.name());
    let member = Member { group, instance: instance.id.clone(), bell: Arc::default() };
    let mut feeds: Vec<Box<dyn Feed>> = Vec::new();
    for topic in job.topics() {
        let what = format!("worker {}: joining its consumer group", job.name());
        let feed = persist_unless(stop, &what, || {
            KafkaFeed::join(kafka.clone(), member.clone(), topic, config.max_future_skew, ends)
        })?;
        feeds.extend(feed.map(|feed| Box::new(feed) as Box<dyn Feed>));
    }
    Ok(feeds)
}

/// Where records go that a worker leaves out.
fn dead_letters(place: &Backend) -> anyhow::Result<Box<dyn DeadLetters>> {
    Ok(match place {
        Backend::Embedded { data_dir, .. } => Box::new(SqliteStore::open(&data_dir.join(DATABASE))?),
        Backend::Services { kafka, .. } => {
            Box::new(KafkaDeadLetters::new(Publisher::new(kafka.clone()), kafka.prefix.clone()))
        }
    })
}

fn work(config: &WorkerConfig, job: Job, stats: &Arc<WorkerStats>) -> anyhow::Result<Box<dyn Work>> {
    let (place, unknown_ids) = (&config.place, &config.unknown_ids);
    Ok(match job {
        Job::Balance => Box::new(Accounts::debits(place.ledger(job.name())?, unknown_ids, stats)),
        Job::Compensation => Box::new(Accounts::credits(place.ledger(job.name())?, stats)),
        Job::Budget => {
            let budgets: Box<dyn Budgets> = match place {
                Backend::Embedded { data_dir, .. } => Box::new(SqliteStore::open(&data_dir.join(DATABASE))?),
                Backend::Services { redis, .. } => {
                    Box::new(RedisBudgets::new(redis.clone(), &config.name, config.refund_memory))
                }
            };
            Box::new(BudgetWork::new(budgets, unknown_ids, stats))
        }
        Job::CampaignStatus => {
            let outbox: Box<dyn Outbox> = match place {
                Backend::Embedded { from, data_dir } => {
                    Box::new(FileOutbox::new(from, &data_dir.join(DATABASE))?)
                }
                Backend::Services { kafka, .. } => Box::new(KafkaOutbox(Publisher::new(kafka.clone()))),
            };
            let ledger = place.ledger(job.name())?;
            Box::new(CampaignStatus::new(ledger, outbox, config.status_interval, unknown_ids, stats))
        }
    })
}
