//! Runs the engine with progress and a summary, for `adtide run` and the demonstration.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context, bail};
use tracing::{info, warn};

use super::progress::RunProgress;
use super::stop::RunFile;
use super::{stop_on_signal, summary};
use crate::cli::RunArgs;
use crate::config::Config;
use crate::engine::{self, Cluster, EngineConfig, Monitor};
use crate::files;
use crate::ops::Ops;
use crate::ops::usage::Span;

/// Runs the engine, showing progress, and prints the summary.
pub(super) fn execute(
    args: &RunArgs,
    config: &Config,
    engine: EngineConfig,
    cluster: &Cluster,
    stop: &Arc<AtomicBool>,
) -> anyhow::Result<()> {
    stop_on_signal(stop)?;
    let monitor = Arc::new(Monitor::default());
    if let Some(listen) = config.listen() {
        // Later than all epochs of the usual pace are committed, and long before the watchdog.
        let stall = 4 * engine.epochs.catch_up_interval + Duration::from_secs(10);
        Ops::of_run(&monitor, stall, engine.watchdog / 2).serve(listen)?;
    }
    let statements: Vec<_> = engine.settings.statements.iter().map(|statement| statement.name()).collect();
    info!(
        version = env!("CARGO_PKG_VERSION"),
        name = config.name(),
        statements = statements.join(","),
        workers = args.workers,
        process = args.process,
        processes = args.processes,
        follow = config.follows(),
        "starting"
    );
    let _file = run_file(config)?;
    let span = Span::start();
    let progress = RunProgress::start(Arc::clone(&monitor), engine.source.follows(), Arc::clone(stop));
    engine::run(cluster, &engine, &monitor, stop)?;
    drop(progress);
    let used = span.used();
    info!(elapsed = ?used.elapsed, "stopped");
    if args.process == 0 && config.writes() {
        summary::results(config.data_dir())?;
    }
    summary::run(&monitor, &used, &engine);
    if let Some(file) = &args.report {
        summary::report(&monitor, &used, file)?;
    }
    Ok(())
}

/// Lets `adtide stop` find this run. A machine without a place for files may still run on servers.
fn run_file(config: &Config) -> anyhow::Result<Option<RunFile>> {
    if !config.writes_anywhere() {
        return Ok(None);
    }
    match RunFile::create(config) {
        Err(error) if config.writes_services() => {
            warn!("`adtide stop` will not find this run: {error:#}");
            Ok(None)
        }
        file => file.map(Some),
    }
}

/// The lock of a run.
pub(super) const LOCK: &str = ".adtide.lock";

/// Keeps a second process of a kind out of the folder for results, which it creates.
pub(super) fn lock(data_dir: &Path, name: &str) -> anyhow::Result<File> {
    std::fs::create_dir_all(data_dir)
        .with_context(|| format!("can't create the folder {}", data_dir.display()))?;
    let path = data_dir.join(name);
    let file = files::options().create(true).write(true).open(&path);
    let file = file.with_context(|| format!("can't write {}; is it a symbolic link?", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            bail!(
                "another run writes to {}; stop it first, or name another folder with --data-dir",
                data_dir.display()
            )
        }
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("can't lock {}", path.display()))
        }
    }
}
