//! Lines for the terminal. A reader that has gone away, as with `adtide | head`, is no fault.

use std::fmt::Arguments;
use std::io::{ErrorKind, Write};
use std::sync::LazyLock;

use indicatif::MultiProgress;

use crate::terminal::plain_lines;

/// A line on standard output: results.
macro_rules! say {
    ($($line:tt)*) => { $crate::commands::output::to_stdout(format_args!($($line)*)) };
}

/// A line on standard error: what goes on.
macro_rules! tell {
    ($($line:tt)*) => { $crate::commands::output::to_stderr(format_args!($($line)*)) };
}

pub(super) use {say, tell};

/// All bars. They are taken from the terminal while a line is written there.
pub(super) static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

pub(super) fn to_stdout(line: Arguments<'_>) {
    let line = line.to_string();
    if let Err(error) = BARS.suspend(|| writeln!(std::io::stdout().lock(), "{}", plain_lines(&line)))
        && error.kind() != ErrorKind::BrokenPipe
    {
        crate::fatal(&anyhow::Error::new(error).context("can't write to standard output"));
    }
}

pub(super) fn to_stderr(line: Arguments<'_>) {
    // Nobody could be told of the fault.
    let line = line.to_string();
    let _ = BARS.suspend(|| writeln!(std::io::stderr().lock(), "{}", plain_lines(&line)));
}

/// Where log lines go: standard error. A reader that has gone away is no fault here either; the library that
/// writes the log would report it on standard error again, which panics.
pub(super) struct LogLines;

impl Write for LogLines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let _ = BARS.suspend(|| std::io::stderr().lock().write_all(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
