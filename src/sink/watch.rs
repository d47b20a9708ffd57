//! How the sinks of this process are doing, for metrics and readiness.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use adtide_dataflows::model::Epoch;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use tracing::{debug, info, warn};

use super::{Change, Commit, Sink};

/// A commit that takes longer is worth a word in the log, and makes a process unready while it goes on.
pub const SLOW: Duration = Duration::from_secs(5);

/// While a commit takes longer than this, the log says so.
const TELL: Duration = Duration::from_secs(10);

static SINKS: Mutex<BTreeMap<&'static str, SinkStatus>> = Mutex::new(BTreeMap::new());

/// How a sink is doing.
#[derive(Clone, Debug)]
pub struct SinkStatus {
    /// Rows and records committed: an update of a row counts once, a deletion does not.
    pub rows: u64,
    /// Commits that succeeded.
    pub commits: u64,
    /// Epochs in them.
    pub epochs: u64,
    /// How long they took, in seconds, retries included.
    pub seconds: Histogram,
    /// The last epoch committed, now or by an earlier run.
    pub committed: Option<Epoch>,
    /// When the last commit succeeded.
    pub last_commit: Option<Instant>,
    /// Since when a commit is under way.
    pub writing_since: Option<Instant>,
    /// Whether the log has it that this commit takes long.
    is_told: bool,
}

impl Default for SinkStatus {
    fn default() -> Self {
        SinkStatus {
            rows: 0,
            commits: 0,
            epochs: 0,
            // From a millisecond to half a minute.
            seconds: Histogram::new(exponential_buckets(0.001, 2.0, 16)),
            committed: None,
            last_commit: None,
            writing_since: None,
            is_told: false,
        }
    }
}

/// The sinks that were opened, by name.
pub fn sinks() -> BTreeMap<&'static str, SinkStatus> {
    lock().clone()
}

/// The sinks that take too long to commit, in words.
pub fn slow_sinks() -> Vec<String> {
    let sinks = lock();
    let writing = sinks.iter().filter_map(|(name, sink)| Some((name, sink.writing_since?.elapsed())));
    let slow = writing.filter(|(_, taken)| *taken >= SLOW);
    slow.map(|(name, taken)| format!("the sink {name} has not committed for {} s", taken.as_secs())).collect()
}

/// The sinks that are committing now, in words.
pub fn writing_sinks() -> Vec<String> {
    let sinks = lock();
    let writing = sinks.iter().filter_map(|(name, sink)| Some((name, sink.writing_since?.elapsed())));
    writing
        .map(|(name, taken)| format!("the sink {name} has been committing for {} s", taken.as_secs()))
        .collect()
}

/// Logs, once each, the commits that take long and are not done. To be called every second or so.
pub fn warn_of_slow_sinks() {
    for (name, sink) in lock().iter_mut() {
        let taken = sink.writing_since.map(|since| since.elapsed()).unwrap_or_default();
        if !sink.is_told && taken >= TELL {
            sink.is_told = true;
            warn!(
                sink = name,
                "the sink {name} has not committed for {} s; what was read waits for it",
                taken.as_secs()
            );
        }
    }
}

/// Takes note of a sink that was opened.
pub(super) fn opened(sink: &dyn Sink) {
    let (name, committed) = (sink.name(), sink.stored().map(|stored| stored.progress.epoch));
    match committed {
        Some(epoch) => info!(sink = name, epoch, "sink opened: it has committed up to this epoch"),
        None => info!(sink = name, "sink opened: it is new"),
    }
    let status = SinkStatus { committed, ..SinkStatus::default() };
    lock().insert(name, status);
}

/// Commits to a sink and takes note of it.
pub(super) fn commit(sink: &mut dyn Sink, commit: Commit) -> anyhow::Result<()> {
    let (name, started) = (sink.name(), Instant::now());
    let (epoch, epochs) = (commit.progress.epoch, commit.epochs.len() as u64);
    let rows = commit.epochs.iter().flatten().filter(|change| is_row(change)).count() as u64;
    with(name, |status| status.writing_since = Some(started));
    sink.commit(commit)?;
    let took = started.elapsed();
    let mut was_told = false;
    with(name, |status| {
        was_told = std::mem::take(&mut status.is_told);
        status.rows += rows;
        status.commits += 1;
        status.epochs += epochs;
        status.seconds.observe(took.as_secs_f64());
        status.committed = Some(epoch);
        status.last_commit = Some(Instant::now());
        status.writing_since = None;
    });
    if was_told {
        info!(sink = name, epoch, rows, ?took, "the sink {name} commits again");
    } else if took >= SLOW {
        warn!(sink = name, epoch, rows, ?took, "a commit took long");
    } else {
        debug!(sink = name, epoch, epochs, rows, ?took, "committed");
    }
    Ok(())
}

fn is_row(change: &Change) -> bool {
    match change {
        Change::Ranking(_, diff) | Change::Performance(_, diff) | Change::Attribution(_, diff) => *diff > 0,
        Change::Compensation(_) | Change::Late(_) | Change::Dead(_) => true,
        Change::Report(_) | Change::Watermarks(_) => false,
    }
}

fn with(name: &'static str, change: impl FnOnce(&mut SinkStatus)) {
    change(lock().entry(name).or_default());
}

fn lock() -> MutexGuard<'static, BTreeMap<&'static str, SinkStatus>> {
    SINKS.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use adtide_dataflows::operators::Watermarks;
    use adtide_dataflows::rtb_cache_updater::RankingRow;

    use super::super::{Progress, Stored};
    use super::*;

    struct Full(&'static str);

    impl Sink for Full {
        fn name(&self) -> &'static str {
            self.0
        }

        fn stored(&self) -> Option<Stored> {
            None
        }

        fn commit(&mut self, _commit: Commit) -> anyhow::Result<()> {
            assert!(sinks()[self.0].writing_since.is_some());
            if self.0 == "takes" { Ok(()) } else { Err(anyhow::anyhow!("full")) }
        }
    }

    #[test]
    fn a_commit_counts_once_it_has_succeeded_and_progress_is_no_row() {
        let row = RankingRow {
            placement: "top".into(),
            category: "toys".into(),
            list: Vec::new(),
            total_campaigns: 1,
        };
        for (mut sink, expected) in [(Full("takes"), (2, 1, 2)), (Full("refuses"), (0, 0, 0))] {
            opened(&sink);
            let epoch = vec![
                Change::Ranking(row.clone(), -1),
                Change::Ranking(row.clone(), 1),
                Change::Watermarks(Watermarks::MIN),
            ];
            let progress = Progress { epoch: 7, ..Progress::default() };
            let result = commit(&mut sink, Commit { epochs: vec![epoch.clone(), epoch], progress });
            assert_eq!(result.is_ok(), expected.1 == 1);
            let status = sinks()[sink.name()].clone();
            assert_eq!((status.rows, status.commits, status.epochs), expected);
            assert_eq!(status.committed, (expected.1 == 1).then_some(7));
        }
    }

    #[test]
    fn a_sink_is_slow_while_its_commit_takes_long() {
        let says =
            || slow_sinks().iter().any(|slow| slow.starts_with("the sink waits has not committed for "));
        with("waits", |status| status.writing_since = Some(Instant::now()));
        assert!(!says());
        let before = Instant::now().checked_sub(SLOW).unwrap();
        with("waits", |status| status.writing_since = Some(before));
        assert!(says());
        assert!(writing_sinks().iter().any(|writing| writing.contains("waits")));
        warn_of_slow_sinks();
        assert!(!sinks()["waits"].is_told);
        with("waits", |status| status.writing_since = before.checked_sub(TELL));
        warn_of_slow_sinks();
        assert!(sinks()["waits"].is_told);
        with("waits", |status| status.writing_since = None);
        assert!(!says());
    }
}
