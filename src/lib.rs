//! adtide: the stream processor for advertising platforms.
//!
//! The statements themselves are in `adtide-dataflows`, free of I/O. Here is all that is around them:
//! sources, sinks, the engine that drives the workers, and the batch recomputation that checks the results.

// Printing panics where the reader has gone away; `commands::output` does not.
#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod checkpoint;
pub mod cli;
pub mod clock;
pub mod commands;
pub mod config;
pub mod connect;
pub mod engine;
pub mod files;
pub mod json;
pub mod ledger;
pub mod ops;
pub mod sink;
pub mod source;
mod terminal;
pub mod verify;

use std::error::Error;
use std::io::{ErrorKind, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use adtide_dataflows::model::EventTime;

/// The wall clock. It fills columns such as updated_at; where something goes by it, see [`clock`]. Results
/// never depend on it.
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

/// The arguments are wrong: starting again is of no use.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

/// An error about the arguments if `is_right` is false.
///
/// # Errors
/// See above.
pub(crate) fn usage_error(is_right: bool, what: impl FnOnce() -> String) -> anyhow::Result<()> {
    if is_right { Ok(()) } else { Err(UsageError(what()).into()) }
}

/// Prints what ended the process, on standard error.
pub fn complain(error: &anyhow::Error) {
    if logs_json() {
        tracing::error!("{error:#}");
    } else {
        // Nobody could be told of a fault.
        let _ = writeln!(std::io::stderr().lock(), "adtide: error: {error:#}");
    }
}

/// What to look at after a fault of a file or a socket, to be appended to a message.
pub(crate) fn advice(error: &(dyn Error + 'static)) -> &'static str {
    std::iter::successors(Some(error), |&error| error.source()).find_map(advice_for).unwrap_or_default()
}

fn advice_for(error: &(dyn Error + 'static)) -> Option<&'static str> {
    use rusqlite::ErrorCode;

    const FULL: &str = "; is the disk full?";
    const OPEN_FILES: &str =
        "; too many files are open: raise the limit of open files (ulimit -n; LimitNOFILE= of systemd)";
    if let Some(error) = error.downcast_ref::<rusqlite::Error>() {
        return match error.sqlite_error_code()? {
            ErrorCode::DiskFull | ErrorCode::SystemIoFailure => Some(FULL),
            ErrorCode::CannotOpen => Some("; may it be opened, and are not too many files open (ulimit -n)?"),
            _ => None,
        };
    }
    let error = error.downcast_ref::<std::io::Error>()?;
    match (error.kind(), error.raw_os_error()) {
        (
            ErrorKind::StorageFull
            | ErrorKind::QuotaExceeded
            | ErrorKind::FileTooLarge
            | ErrorKind::WriteZero,
            _,
        ) => Some(FULL),
        // Of this process, and of the machine.
        (_, Some(EMFILE | ENFILE)) => Some(OPEN_FILES),
        _ => None,
    }
}

/// As every Unix numbers them.
const EMFILE: i32 = 24;
const ENFILE: i32 = 23;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_open_files_are_no_full_disk() {
        let said = |number: i32| {
            let error = anyhow::Error::new(std::io::Error::from_raw_os_error(number)).context("can't write");
            advice(error.as_ref())
        };
        assert!(said(EMFILE).contains("ulimit -n") && said(ENFILE).contains("ulimit -n"));
        // ENOSPC and EACCES.
        assert_eq!((said(28), said(13)), ("; is the disk full?", ""));
    }
}
