//! `adtide run`.

use std::fs::File;
use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use adtide_dataflows::model::Topic;
use anyhow::{Context, bail, ensure};
use tracing::warn;

use super::execute::{LOCK, execute, lock};
use super::{demo, start_log};
use crate::cli::RunArgs;
use crate::config::Config;
use crate::connect::fill_fresh_memory;
use crate::engine::{Cluster, EngineConfig, FromCheckpoint};
use crate::source::file;
use crate::usage_error;

/// Runs the statements over the named topics; without any, over generated ones, and then verifies the
/// results.
pub fn run(args: &RunArgs) -> anyhow::Result<ExitCode> {
    let mut config = Config::load(args.sources.config.as_deref(), &args.overrides())?;
    let is_shown =
        config.from().is_none() && !config.reads_kafka() && !args.live && config.listen().is_none();
    if is_shown && config.log.is_default {
        // Who looks at the demonstration looks at its results.
        config.log.level = "warn".to_owned();
    }
    if config.reads_kafka() {
        fill_fresh_memory();
    }
    start_log(&config.log)?;
    if let Some(time) = args.backfill_from {
        usage_error(time <= crate::now(), || format!("--backfill-from {time} is in the future"))?;
    }
    for warning in config.warnings() {
        warn!("{warning}");
    }
    let cluster = cluster(args, &config)?;
    let stop = Arc::new(AtomicBool::new(false));
    if config.reads_kafka() {
        ensure!(
            !args.live,
            "--live generates its own topics, and source.kind is \"kafka\"; leave out one of them"
        );
        let _lock = lock_results(args, &config)?;
        execute(args, &config, engine(args, &config), &cluster, &stop)?;
        return Ok(ExitCode::SUCCESS);
    }
    let Some(from) = config.from() else {
        let file = args.sources.config.as_ref();
        ensure!(
            file.is_none(),
            "{}: key source.from is empty: name the folder of topics there, or with --from",
            file.map(|file| file.display().to_string()).unwrap_or_default()
        );
        return demo::demonstrate(args, &config, &cluster, &stop);
    };
    ensure!(!args.live, "--live generates its own topics; remove the key source.from, or leave out --live");
    ensure!(from.is_dir(), "key source.from: {} is no folder; name the folder of the topics", from.display());
    check_topics(from, config.follows())?;
    let _lock = lock_results(args, &config)?;
    execute(args, &config, engine(args, &config), &cluster, &stop)?;
    Ok(ExitCode::SUCCESS)
}

/// Makes sure that there is something to read in a folder of topics, and names what looks like data and is
/// not read.
///
/// # Errors
/// There is nothing, and nothing is waited for.
pub(super) fn check_topics(folder: &Path, follows: bool) -> anyhow::Result<()> {
    const NAMED: usize = 10;
    let survey = file::survey(folder)?;
    let mut strays: Vec<_> =
        survey.strays.iter().take(NAMED).map(|stray| stray.display().to_string()).collect();
    if survey.strays.len() > NAMED {
        strays.push(format!("{} more", survey.strays.len() - NAMED));
    }
    let strays = strays.join(", ");
    let topics = Topic::ALL.map(Topic::name).join(", ");
    let right = format!(
        "a topic ({topics}) is DIR/<topic>/<number>.ndjson or DIR/<topic>.ndjson, uncompressed, one record a line"
    );
    let folder = folder.display();
    match (survey.partitions, strays.is_empty()) {
        (0, true) if follows => warn!("{folder} holds no topics yet; {right}"),
        (0, false) if follows => {
            warn!("{folder} holds no topics yet, and these are not read: {strays}; {right}")
        }
        (0, true) => bail!("{folder} holds no topics; {right}"),
        (0, false) => bail!("{folder} holds no topics, and these are not read: {strays}; {right}"),
        (_, false) => warn!("these are not read: {strays}; {right}"),
        (_, true) => {}
    }
    Ok(())
}

/// The engine's part of the configuration and the command line.
fn engine(args: &RunArgs, config: &Config) -> EngineConfig {
    let from_checkpoint = match args.backfill_from {
        Some(_) => FromCheckpoint::None,
        None => args.from_checkpoint.unwrap_or(FromCheckpoint::Newest),
    };
    let (backfill_from, accept_loss) = (args.backfill_from, args.accept_loss);
    EngineConfig { from_checkpoint, backfill_from, accept_loss, ..config.engine() }
}

/// Keeps a second run out of the folder for results while the lock is held, if there is one. Sinks belong to
/// worker 0, which is in process 0.
fn lock_results(args: &RunArgs, config: &Config) -> anyhow::Result<Option<File>> {
    let writes = config.writes() && args.process == 0;
    writes.then(|| lock(config.data_dir(), LOCK)).transpose()
}

/// The workers and processes, by timely's own flags.
fn cluster(args: &RunArgs, config: &Config) -> anyhow::Result<Cluster> {
    usage_error(args.process < args.processes, || {
        let (process, processes) = (args.process, args.processes);
        format!("-p {process} must be less than -n {processes}: processes are numbered from 0")
    })?;
    let addresses = match &args.hostfile {
        _ if args.processes == 1 => Vec::new(),
        Some(file) => read_hostfile(file, args.processes)?,
        None => (0..args.processes).map(|process| format!("localhost:{}", 2101 + process)).collect(),
    };
    let heartbeat_timeout = config.heartbeat_timeout();
    Ok(Cluster { workers: args.workers, process: args.process, addresses, heartbeat_timeout })
}

fn read_hostfile(file: &PathBuf, processes: usize) -> anyhow::Result<Vec<String>> {
    let name = file.display();
    let reader = std::fs::File::open(file).with_context(|| format!("can't read the hostfile {name}"))?;
    let lines = std::io::BufReader::new(reader).lines().collect::<Result<Vec<_>, _>>();
    let lines = lines.with_context(|| format!("can't read the hostfile {name}"))?;
    let addresses: Vec<_> =
        lines.iter().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect();
    if addresses.len() < processes {
        bail!(
            "the hostfile {name} names too few addresses, {}, but -n is {processes}; it needs a line host:port for each",
            addresses.len()
        );
    }
    Ok(addresses.into_iter().take(processes).collect())
}
