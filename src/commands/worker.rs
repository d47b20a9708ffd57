//! `adtide worker` and `adtide init-demo`.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tracing::info;

use super::execute::lock;
use super::output::say;
use super::run::check_topics;
use super::start_log;
use super::stop_on_signal;
use crate::cli::{InitDemoArgs, WorkerArgs};
use crate::config::Config;
use crate::connect::{fill_fresh_memory, persist};
use crate::ledger::{self, Backend, Jobs, demo};
use crate::ops::Ops;

/// Runs workers until Ctrl-C or SIGTERM, or to the end of what is there.
pub fn worker(args: &WorkerArgs) -> anyhow::Result<ExitCode> {
    let config = Config::load(args.sources.config.as_deref(), &args.overrides())?;
    if config.reads_kafka() {
        fill_fresh_memory();
    }
    start_log(&config.log)?;
    let workers = config.worker()?;
    let jobs: Jobs = args.worker.jobs().iter().map(|job| (*job, Arc::default())).collect();
    // In files nobody shares partitions out: one process a worker, held until the end.
    let mut locks = Vec::new();
    if let Backend::Embedded { from, data_dir } = &workers.place {
        if from.is_dir() {
            check_topics(from, !args.until_end)?;
        }
        for (job, _) in &jobs {
            locks.push(lock(data_dir, &format!(".adtide-worker-{}.lock", job.name()))?);
        }
    }
    let stop = Arc::new(AtomicBool::new(false));
    stop_on_signal(&stop)?;
    if let Some(listen) = config.listen() {
        Ops::of_workers(&jobs, config.watchdog() / 2).serve(listen)?;
    }
    let names: Vec<_> = jobs.iter().map(|(job, _)| job.name()).collect();
    info!(version = env!("CARGO_PKG_VERSION"), name = config.name(), workers = names.join(","), "starting");
    ledger::run_all(&workers, &jobs, args.until_end, &stop)?;
    Ok(ExitCode::SUCCESS)
}

/// Fills in balances and budgets for generated traffic.
pub fn init_demo(args: &InitDemoArgs) -> anyhow::Result<ExitCode> {
    let config = Config::load(args.sources.config.as_deref(), &args.overrides())?;
    start_log(&config.log)?;
    let (place, patience) = config.tables();
    let catalogue = demo::catalogue(&config.generator())?;
    let mut ledger = place.ledger("init-demo")?;
    persist("filling in the demonstration", Some(patience), || ledger.open_accounts(&catalogue))?;
    say!(
        "{} advertisers, {} campaigns with budgets, {} products in {}",
        catalogue.accounts.len(),
        catalogue.budgets.len(),
        catalogue.prices.len(),
        match &place {
            Backend::Embedded { data_dir, .. } => Path::display(data_dir).to_string(),
            Backend::Services { postgres, .. } => postgres.url.to_string(),
        }
    );
    Ok(ExitCode::SUCCESS)
}
