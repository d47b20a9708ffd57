//! Lines for the terminal. A reader that has gone away, as with `adtide | head`, is no fault.

use std::fmt::Arguments;
use std::io::{ErrorKind, Write};

/// A line on standard output: results.
macro_rules! say {
    ($($line:tt)*) => { $crate::commands::output::to_stdout(format_args!($($line)*)) };
}

/// A line on standard error: what goes on.
macro_rules! tell {
    ($($line:tt)*) => { $crate::commands::output::to_stderr(format_args!($($line)*)) };
}

pub(super) use {say, tell};

pub(super) fn to_stdout(line: Arguments<'_>) {
    if let Err(error) = writeln!(std::io::stdout().lock(), "{line}")
        && error.kind() != ErrorKind::BrokenPipe
    {
        crate::fatal(&anyhow::Error::new(error).context("can't write to standard output"));
    }
}

pub(super) fn to_stderr(line: Arguments<'_>) {
    // Nobody could be told of the fault.
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// Where log lines go: standard error. A reader that has gone away is no fault here either; the library that writes the log
/// would report it on standard error again, which panics.
pub(super) struct LogLines;

impl Write for LogLines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let _ = std::io::stderr().lock().write_all(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
