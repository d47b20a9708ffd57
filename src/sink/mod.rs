//! Where results go.
//!
//! A sink belongs to one worker of the whole cluster and is written by a thread of its own, so a slow server never
//! blocks the dataflow. Each commit is atomic: the changes of one epoch, or of several that waited together, and the
//! progress that they stand for. An epoch leaves the dataflow's frontier only when it is committed, which is how
//! sources know how far they may run ahead.

mod attach;
mod change;
pub mod sqlite;
pub mod topics;

pub use attach::attach;
pub use change::{Change, Commit, Progress, Run, latest, progress, records, tables};

/// A place that takes results.
pub trait Sink: Send {
    /// Its name, for messages and threads.
    fn name(&self) -> &'static str;

    /// How far it had got when it was opened; None if it is new.
    fn progress(&self) -> Option<Progress>;

    /// Writes the changes and the progress in one atomic step.
    ///
    /// # Errors
    /// What can't be retried; it ends the process.
    fn commit(&mut self, commit: Commit) -> anyhow::Result<()>;
}
