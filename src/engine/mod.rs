//! The engine: timely workers, each with its share of the sources, driven epoch by epoch.

mod clock;
mod monitor;
mod restart;
mod watchdog;
mod worker;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use adtide_dataflows::Settings;
use anyhow::anyhow;
use timely::worker::Worker;
use tracing::info;

pub use monitor::{Held, Monitor, PartitionStatus, Phase, SourceStatus, WorkerStatus};
pub use restart::{Plan, Restart};

use crate::source::file::FileSourceConfig;

/// What the engine runs, and how.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// The statements' settings.
    pub settings: Settings,
    /// Where events come from.
    pub source: FileSourceConfig,
    /// The folder that takes the results; None computes them and writes nothing.
    pub data_dir: Option<PathBuf>,
    /// What to do with the results of an earlier run there.
    pub restart: Restart,
    /// How epochs are cut.
    pub epochs: EpochConfig,
    /// The process ends if the frontier stands still for so long.
    pub watchdog: Duration,
}

/// How epochs are cut and how many may wait.
#[derive(Clone, Debug)]
pub struct EpochConfig {
    /// An epoch's length while the input is caught up: how fresh results are.
    pub interval: Duration,
    /// An epoch's length while it is not: larger epochs cost less an event.
    pub catch_up_interval: Duration,
    /// An epoch ends early when it has read so many bytes.
    pub max_bytes: u64,
    /// How many epochs may wait for the sinks before the sources stop reading.
    pub max_in_flight: usize,
}

/// Runs this process's workers until the input ends or `stop` is set.
///
/// # Errors
/// The communication with other processes can't be set up. An input that can't be read or a sink that can't go on ends
/// the process.
pub fn run(
    timely: timely::Config,
    config: &EngineConfig,
    monitor: &Arc<Monitor>,
    stop: &Arc<AtomicBool>,
) -> anyhow::Result<()> {
    let plan = Plan::new(config)?;
    let epochs: Vec<_> = plan.cuts.iter().map(|cut| cut.epoch).collect();
    info!(source = plan.run.source, resume = plan.resume, replay_through = ?epochs, "restart plan");
    let watchdog = watchdog::start(Arc::clone(monitor), config.watchdog);
    let (config, monitor, stop) = (config.clone(), Arc::clone(monitor), Arc::clone(stop));
    // A worker that just returned would leave its siblings waiting for it.
    let work = move |worker: &mut Worker| {
        worker::run(worker, &config, &plan, &monitor, &stop).unwrap_or_else(|error| crate::fatal(&error));
    };
    let guards = timely::execute(timely, work).map_err(|error| anyhow!("{error}; check -n, -p and the hostfile"))?;
    let results: Vec<_> = guards.join().into_iter().collect();
    watchdog.store(false, Ordering::Relaxed);
    for result in results {
        result.map_err(|panic| anyhow!("a worker has panicked: {panic}"))?;
    }
    Ok(())
}
