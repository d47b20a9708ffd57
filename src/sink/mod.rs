//! Where results go.
//!
//! A sink belongs to one worker of the whole cluster and is written by a thread of its own, so a slow server never
//! blocks the dataflow. Each commit is atomic: the changes of one epoch, or of several that waited together, and the
//! progress that they stand for. An epoch leaves the dataflow's frontier only when it is committed, which is how
//! sources know how far they may run ahead.

mod attach;
mod change;
pub mod kafka;
pub mod postgres;
pub mod redis;
pub mod sqlite;
pub mod topics;
mod watch;

pub use attach::attach;
pub use change::{Change, Commit, Progress, Run, Stored, latest, progress, rankings, records, tables};
pub use watch::{SLOW, SinkStatus, sinks, slow_sinks};

/// A place that takes results.
pub trait Sink: Send {
    /// Its name, for messages, metrics and threads.
    fn name(&self) -> &'static str;

    /// What it held when it was opened; None if it is new.
    fn stored(&self) -> Option<Stored>;

    /// Writes the changes and the progress in one atomic step. What can be retried it retries by itself, for as long as it
    /// takes: the sources wait.
    ///
    /// # Errors
    /// What can't be retried; it ends the process.
    fn commit(&mut self, commit: Commit) -> anyhow::Result<()>;

    /// Called about once a second while there is nothing to commit.
    ///
    /// # Errors
    /// As [`Sink::commit`].
    fn tick(&mut self) -> anyhow::Result<()> {
        Ok(())
    }
}
