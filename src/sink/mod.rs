//! Where results go.
//!
//! A sink belongs to one worker of the whole cluster and is written by a thread of its own, so a slow server
//! never blocks the dataflow. Each commit is atomic: the changes of one epoch, or of several that waited
//! together, and the progress that they stand for. An epoch leaves the dataflow's frontier only when it is
//! committed, which is how sources know how far they may run ahead.

mod attach;
mod change;
pub mod kafka;
pub mod postgres;
pub mod redis;
mod rows;
pub mod sqlite;
mod thread;
pub mod topics;
mod watch;

use std::path::Path;

use adtide_dataflows::model::Epoch;
use anyhow::anyhow;

pub use attach::{Committer, Opener, attach};
use change::by_partition;
pub use change::{Change, Commit, Progress, Run, Stored, latest, progress, rankings, records, tables};
pub use thread::on_thread;
pub use watch::{SLOW, SinkStatus, sinks, slow_sinks, warn_of_slow_sinks, writing_sinks};

/// The topic of statement 4's records.
pub const COMPENSATION_EVENTS: &str = "compensation-events";
/// The topic of records that came too late for a statement.
pub const LATE_EVENTS: &str = "late-events";
/// The topic of records that can't be read.
pub const DEAD_LETTER: &str = "dead-letter";
/// The topics that are written.
pub const TOPICS: [&str; 3] = [COMPENSATION_EVENTS, LATE_EVENTS, DEAD_LETTER];

/// A place that takes results.
pub trait Sink: Send {
    /// Its name, for messages, metrics and threads.
    fn name(&self) -> &'static str;

    /// What it held when it was opened; None if it is new.
    fn stored(&self) -> Option<Stored>;

    /// Whether it can take up a run in the middle: what it holds comes again as a whole when a state is
    /// restored.
    fn joins_late(&self) -> bool {
        false
    }

    /// Whether the progress of every commit is stored by the time that the commit is acknowledged. If not, it
    /// may lag behind where nothing but progress was committed.
    fn stores_all_progress(&self) -> bool {
        true
    }

    /// Writes the changes and the progress in one atomic step. What can be retried it retries by itself, for
    /// as long as it takes: the sources wait.
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

/// The error of a sink that can't `act` on a file.
fn cannot(act: &str, path: &Path, error: impl Into<anyhow::Error>) -> anyhow::Error {
    let error = error.into();
    let advice = crate::advice(error.as_ref());
    error.context(format!("can't {act} {}{advice}", path.display()))
}

/// What a run is told that finds its progress under the number of a later run.
fn fenced(server: &str, name: &str) -> anyhow::Error {
    anyhow!(
        "another run named {name:?} has taken over in {server}, so this one stops; two runs of one name take turns: \
         give one of them another (key name)"
    )
}

/// What a run is told whose last commit is not there any more.
fn rewound(server: &str, held: Option<Epoch>, committed: Option<Epoch>) -> anyhow::Error {
    let held = held.map_or("no epoch".to_owned(), |epoch| format!("epoch {epoch}"));
    let before = committed
        .map_or("this run had begun".to_owned(), |epoch| format!("epoch {epoch} had been committed"));
    anyhow!(
        "{server} holds {held}, though {before} there; was it emptied, restored, or taken over by a replica that lagged? start \
         adtide again: it goes on from what is there"
    )
}
