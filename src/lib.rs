//! adtide: the stream processor for advertising platforms.
//!
//! The statements themselves are in `adtide-dataflows`, free of I/O. Here is all that is around them: sources, sinks,
//! the engine that drives the workers, and the batch recomputation that checks the results.

pub mod checkpoint;
pub mod cli;
pub mod clock;
pub mod commands;
pub mod config;
pub mod connect;
pub mod engine;
pub mod json;
pub mod ops;
pub mod sink;
pub mod source;
pub mod verify;
pub mod worker;

use std::sync::atomic::{AtomicBool, Ordering};

use adtide_dataflows::model::EventTime;

/// The wall clock. It fills columns such as updated_at and tells what is too far in the future; results never depend
/// on it.
pub fn now() -> EventTime {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    EventTime(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
}

/// Ends the process with a message: for faults on threads that nobody joins. Status 1.
pub fn fatal(error: &anyhow::Error) -> ! {
    complain(error);
    std::process::exit(1);
}

/// Whether all that goes to standard error is lines of JSON.
static JSON_LOG: AtomicBool = AtomicBool::new(false);

/// Says from now on in JSON what would be said in words, because the log is JSON.
pub(crate) fn log_json() {
    JSON_LOG.store(true, Ordering::Relaxed);
}

/// Whether the log is JSON.
pub(crate) fn logs_json() -> bool {
    JSON_LOG.load(Ordering::Relaxed)
}

/// Prints what ended the process, on standard error.
pub fn complain(error: &anyhow::Error) {
    if logs_json() {
        tracing::error!("{error:#}");
    } else {
        eprintln!("adtide: error: {error:#}");
    }
}
