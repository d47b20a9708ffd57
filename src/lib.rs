//! adtide: the stream processor for advertising platforms.
//!
//! The statements themselves are in `adtide-dataflows`, free of I/O. Here is all that is around them: sources, sinks,
//! the engine that drives the workers, and the batch recomputation that checks the results.

pub mod cli;
pub mod commands;
pub mod config;
pub mod connect;
pub mod engine;
pub mod json;
pub mod sink;
pub mod source;
pub mod verify;
pub mod worker;

use adtide_dataflows::model::EventTime;

/// The wall clock. It fills columns such as updated_at and tells what is too far in the future; results never depend
/// on it.
pub fn now() -> EventTime {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    EventTime(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
}

/// Ends the process with a message: for faults on threads that nobody joins. Status 1.
pub fn fatal(error: &anyhow::Error) -> ! {
    eprintln!("adtide: error: {error:#}");
    std::process::exit(1);
}
