//! The engine: timely workers, each with its share of the sources, driven epoch by epoch.
//!
//! [`run`] is all that an application needs. The parts of a worker are public for simulations, which run
//! several in one thread, under a clock, a log, sinks and a store of their own.

pub mod checkpoint;
mod clock;
mod cluster;
pub mod control;
pub mod driver;
pub mod jobs;
pub mod loss;
mod monitor;
pub mod outlets;
mod plan;
pub mod restart;
pub mod restore;
mod waits;
mod watchdog;
mod worker;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use adtide_dataflows::Settings;
use adtide_dataflows::model::EventTime;
use anyhow::{Context, anyhow};
use timely::WorkerConfig;
use timely::execute::execute_from;
use timely::worker::Worker;
use tracing::info;

pub use cluster::{Cluster, PEER_LOST};
pub use monitor::{CheckpointStatus, Held, Monitor, Phase, WorkerStatus};
pub use plan::Plan;
pub use restart::{FromCheckpoint, Restart};
pub(crate) use waits::waits_outside;

use crate::checkpoint::{CheckpointConfig, Store};
use crate::connect::kafka::KafkaConfig;
use crate::connect::postgres::PostgresConfig;
use crate::connect::redis::RedisConfig;
use crate::source::file::{FileSource, FileSourceConfig};
use crate::source::kafka::{KafkaSource, KafkaSourceConfig, Watch, heads};
use crate::source::{Gap, Heads, Source};
use cluster::Joined;
use loss::Extents;
use watchdog::Watchdog;
use worker::End;

/// What the engine runs, and how.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// The statements' settings.
    pub settings: Settings,
    /// Where events come from.
    pub source: SourceConfig,
    /// Where results go.
    pub sinks: SinkConfig,
    /// What to do with the results of an earlier run there.
    pub restart: Restart,
    /// Where checkpoints are; None if there are none.
    pub checkpoints: Option<CheckpointConfig>,
    /// Which one to go on from.
    pub from_checkpoint: FromCheckpoint,
    /// From when on ads and conversions are read anew, without a checkpoint.
    pub backfill_from: Option<EventTime>,
    /// Whether results may be continued whose input is not all there any more; see [`loss`].
    pub accept_loss: bool,
    /// How epochs are cut.
    pub epochs: EpochConfig,
    /// The process ends if the frontier stands still for so long.
    pub watchdog: Duration,
}

/// Where events come from.
#[derive(Clone, Debug)]
pub enum SourceConfig {
    /// Topic files.
    Files(FileSourceConfig),
    /// Topics in Kafka.
    Kafka(KafkaSourceConfig),
}

impl SourceConfig {
    /// Whether the end of the topics is waited at.
    pub fn follows(&self) -> bool {
        match self {
            SourceConfig::Files(files) => files.follow,
            SourceConfig::Kafka(kafka) => kafka.follow,
        }
    }
}

/// Where results go.
#[derive(Clone, Debug)]
pub enum SinkConfig {
    /// Nowhere: everything is computed and nothing written.
    None,
    /// SQLite and topic files, in one folder.
    Embedded(PathBuf),
    /// PostgreSQL, Redis and Kafka.
    Services(Box<Services>),
}

/// The servers that take results, and the name under which they keep how far it got.
#[derive(Clone, Debug)]
pub struct Services {
    /// The name of this deployment.
    pub name: String,
    /// Statement 1.
    pub redis: RedisConfig,
    /// Statements 2 and 3.
    pub postgres: PostgresConfig,
    /// Statement 4, late events and dead letters.
    pub kafka: KafkaConfig,
}

/// How epochs are cut and how many may wait.
#[derive(Clone, Debug)]
pub struct EpochConfig {
    /// An epoch's length while the input is caught up: how fresh results are.
    pub interval: Duration,
    /// An epoch's length while it is not: larger epochs cost less an event.
    pub catch_up_interval: Duration,
    /// An epoch's length while no worker of this process has read anything for a while. [`run`] sets it to
    /// `interval` if there are other processes, of whose input this one does not know.
    pub quiet_interval: Duration,
    /// An epoch ends early when it has read so many bytes.
    pub max_bytes: u64,
    /// How many epochs may wait for the sinks before the sources stop reading.
    pub max_in_flight: usize,
}

/// Runs this process's workers until the input ends or `stop` is set in any process of the cluster.
///
/// # Errors
/// The communication with other processes can't be set up. An input that can't be read or a sink that can't
/// go on ends the process, and so does the loss of another process, with [`PEER_LOST`].
pub fn run(
    cluster: &Cluster,
    config: &EngineConfig,
    monitor: &Arc<Monitor>,
    stop: &Arc<AtomicBool>,
) -> anyhow::Result<()> {
    let watchdog = Watchdog::start(Arc::clone(monitor), config.watchdog, Arc::clone(stop));
    let input = Input::new(&config.source)?;
    let Some(Joined { builders, threads, peers }) = cluster.join(stop)? else { end_before_the_start() };
    watchdog.arm(peers.clone());
    let store = config
        .checkpoints
        .as_ref()
        .map(|checkpoints| Store::open(&checkpoints.url, &checkpoints.name))
        .transpose()?;
    let store = store.map(Arc::new);
    let mut config = config.clone();
    if peers.is_some() {
        config.epochs.quiet_interval = config.epochs.interval;
    }
    let (monitor, stop, others) = (Arc::clone(monitor), Arc::clone(stop), peers.clone());
    // A worker that just returned would leave its siblings waiting for it.
    let work = move |worker: &mut Worker| match worker::run(
        worker,
        &config,
        &input,
        store.as_ref(),
        &monitor,
        &stop,
    ) {
        Ok(End::Done) => {}
        Ok(End::Abandoned) => {
            others.iter().for_each(|peers| peers.leave());
            end_before_the_start();
        }
        Err(error) => crate::fatal(&error),
    };
    let guards = execute_from(builders, threads, WorkerConfig::default(), work);
    let guards = guards.map_err(|error| anyhow!("can't start the workers: {error}"))?;
    let results: Vec<_> = guards.join().into_iter().collect();
    drop(watchdog);
    peers.iter().for_each(|peers| peers.leave());
    for result in results {
        result.map_err(|panic| anyhow!("a worker has panicked: {panic}"))?;
    }
    Ok(())
}

/// Half a replay says nothing that the sinks don't know better.
fn end_before_the_start() -> ! {
    info!("stopped before anything new was read");
    std::process::exit(0);
}

/// What the sources of a process share.
#[derive(Clone)]
enum Input {
    Files(FileSourceConfig),
    Kafka(KafkaSourceConfig, Arc<Watch>),
}

impl Input {
    fn new(config: &SourceConfig) -> anyhow::Result<Input> {
        Ok(match config {
            SourceConfig::Files(files) => Input::Files(files.clone()),
            SourceConfig::Kafka(kafka) => {
                Input::Kafka(kafka.clone(), Watch::start(&kafka.kafka, &kafka.topics)?)
            }
        })
    }

    /// What its results remember it by.
    fn describe(&self) -> anyhow::Result<String> {
        Ok(match self {
            Input::Files(files) => {
                let folder = files.folder.canonicalize();
                folder
                    .with_context(|| format!("can't read {}", files.folder.display()))?
                    .display()
                    .to_string()
            }
            Input::Kafka(kafka, watch) => {
                let prefix = &kafka.kafka.prefix;
                let prefixed = if prefix.is_empty() { String::new() } else { format!(", topics {prefix}*") };
                format!("Kafka cluster {}{prefixed}", watch.cluster())
            }
        })
    }

    /// Where the partitions begin and end now; of files, which begin with their first line, nothing.
    fn extents(&self) -> anyhow::Result<Extents> {
        match self {
            Input::Files(_) => Ok(Extents::new()),
            Input::Kafka(_, watch) => watch.look_again(),
        }
    }

    /// What follows the gaps.
    fn heads(&self, gaps: &[Gap]) -> anyhow::Result<Heads> {
        match self {
            Input::Files(_) => Ok(Heads::new()),
            Input::Kafka(kafka, _) => heads(kafka, gaps),
        }
    }

    fn source(&self, worker: usize, workers: usize) -> Box<dyn Source> {
        match self {
            Input::Files(files) => Box::new(FileSource::new(files.clone(), worker, workers)),
            Input::Kafka(kafka, watch) => {
                Box::new(KafkaSource::new(kafka.clone(), Arc::clone(watch), worker, workers))
            }
        }
    }
}
