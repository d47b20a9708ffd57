//! What the workers of this process tell the rest of it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use adtide_dataflows::model::{Epoch, EventTime, Money};
use adtide_dataflows::operators::Watermarks;
use adtide_dataflows::{Counts, IdCounts, PartitionCounts, Statement};

use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use tracing::warn;

use crate::checkpoint::Manifest;
use crate::clock::Moment;
use crate::source::SourceStatus;

/// The workers' and sources' latest word, for progress bars, summaries, metrics and the watchdog.
#[derive(Debug)]
pub struct Monitor {
    workers: Mutex<Vec<WorkerStatus>>,
    sources: Mutex<BTreeMap<usize, SourceStatus>>,
    heartbeat: Mutex<Heartbeat>,
    checkpoint: Mutex<Option<CheckpointStatus>>,
    epochs: Histogram,
    /// When a worker last read anything.
    last_read: Mutex<Option<Instant>>,
    has_judged_ids: AtomicBool,
}

/// How many clicks are read before ids are missed that none of them has.
const FIRST_CLICKS: u64 = 10_000;

/// The last checkpoint of this run.
#[derive(Clone, Copy, Debug)]
pub struct CheckpointStatus {
    /// Its epoch.
    pub epoch: Epoch,
    /// How many there were.
    pub count: u64,
    /// Rows it holds.
    pub rows: u64,
    /// Bytes it holds, as stored.
    pub bytes: u64,
    /// Bytes that were written for all of them, merging not counted.
    pub written: u64,
    /// When it was complete.
    pub at: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Heartbeat {
    beats: u64,
    last: Instant,
}

/// What a worker is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// It sets up its sources and sinks.
    #[default]
    Starting,
    /// It gives back what the last checkpoint holds.
    Restoring,
    /// It brings back the state in which the sinks have committed last.
    Replaying,
    /// It reads what is new.
    Running,
    /// It waits for the sinks to commit the last epochs.
    Stopping,
}

/// Where a worker is.
#[derive(Clone, Debug, Default)]
pub struct WorkerStatus {
    /// The worker's number in the cluster.
    pub worker: usize,
    /// What it is about.
    pub phase: Phase,
    /// Rows of the checkpoint that it has given back, and how many there are.
    pub restored: (u64, u64),
    /// What came of the records it read.
    pub counts: Counts,
    /// The same by partition.
    pub partitions: Vec<PartitionCounts>,
    /// Bytes read.
    pub bytes: u64,
    /// The watermarks it knows of.
    pub watermarks: Option<Watermarks>,
    /// The first epoch that is not committed everywhere; None when all are.
    pub frontier: Option<Epoch>,
    /// How many ended epochs wait for the sinks.
    pub in_flight: usize,
    /// About how many bytes of new state wait to be written for a checkpoint, or are being written.
    pub unwritten: u64,
    /// When this was, on the clock that names its epochs.
    pub clock: Option<Moment>,
    /// What its share of each statement holds.
    pub held: Vec<Held>,
    /// Conversions that repeated another.
    pub repeats: u64,
    /// The sum of the refunds that its share of statement 4 has found.
    pub refunds: Money,
}

/// What a worker's share of a statement holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// The statement.
    pub statement: Statement,
    /// What of it.
    pub what: &'static str,
    /// How many.
    pub rows: u64,
    /// How much memory, about; None where that is not known.
    pub bytes: Option<u64>,
}

impl Default for Monitor {
    fn default() -> Self {
        // From 5 ms to a minute and a half.
        let epochs = Histogram::new(exponential_buckets(0.005, 1.25, 45));
        let heartbeat = Heartbeat { beats: 0, last: Instant::now() };
        Monitor {
            workers: Mutex::default(),
            sources: Mutex::default(),
            heartbeat: Mutex::new(heartbeat),
            checkpoint: Mutex::default(),
            epochs,
            last_read: Mutex::default(),
            has_judged_ids: AtomicBool::new(false),
        }
    }
}

impl Monitor {
    /// Takes a worker's word.
    pub fn report(&self, status: WorkerStatus) {
        let mut workers = lock(&self.workers);
        match workers.iter_mut().find(|known| known.worker == status.worker) {
            Some(known) => *known = status,
            None => workers.push(status),
        }
    }

    /// Takes note that a worker has read something.
    pub fn has_read(&self, now: Instant) {
        *lock(&self.last_read) = Some(now);
    }

    /// How long no worker has read anything; for ever before one has.
    pub fn quiet_for(&self, now: Instant) -> Duration {
        lock(&self.last_read).map_or(Duration::MAX, |last| now.saturating_duration_since(last))
    }

    /// Warns of the ids that none of the first clicks of this process has, once: a statement that matches by
    /// them finds nothing.
    pub fn miss_ids(&self, statements: &[Statement]) {
        if self.has_judged_ids.load(Ordering::Relaxed) {
            return;
        }
        let ids = self.counts().ids;
        if ids.clicks < FIRST_CLICKS || self.has_judged_ids.swap(true, Ordering::Relaxed) {
            return;
        }
        for (field, without) in missed_ids(&ids, statements) {
            warn!(
                clicks = ids.clicks,
                "no click so far has a {field}: {without}; is the field named otherwise, or are its values in ids.unknown?"
            );
        }
    }

    /// All workers' latest words.
    pub fn workers(&self) -> Vec<WorkerStatus> {
        lock(&self.workers).clone()
    }

    /// Takes the word of worker `worker`'s source, in place of its last. Workers call it at each epoch's end
    /// with what [`Source::status`](crate::source::Source::status) gives; a source may do so itself at any
    /// other moment too, as when its brokers went away.
    pub fn source(&self, worker: usize, status: SourceStatus) {
        lock(&self.sources).insert(worker, status);
    }

    /// All sources' latest words.
    pub fn sources(&self) -> Vec<SourceStatus> {
        lock(&self.sources).values().cloned().collect()
    }

    /// What all workers are past: a process replays as long as one of its workers does.
    pub fn phase(&self) -> Phase {
        let workers = lock(&self.workers);
        let phases: Vec<_> = workers.iter().map(|worker| worker.phase).collect();
        let order = [Phase::Starting, Phase::Restoring, Phase::Replaying, Phase::Stopping];
        let first = order.into_iter().find(|phase| phases.contains(phase));
        first.unwrap_or(if phases.is_empty() { Phase::Starting } else { Phase::Running })
    }

    /// The least of the workers' watermarks; None before there are any.
    pub fn watermarks(&self) -> Option<Watermarks> {
        let workers = lock(&self.workers);
        let all: Option<Vec<_>> = workers.iter().map(|worker| worker.watermarks).collect();
        let least = |pick: fn(&Watermarks) -> EventTime| all.iter().flatten().map(pick).min();
        Some(Watermarks {
            performance: least(|marks| marks.performance)?,
            conversions: least(|marks| marks.conversions)?,
            duplicates: least(|marks| marks.duplicates)?,
        })
    }

    /// The first epoch that is not committed everywhere, while the workers read what is new; None before and
    /// when all are.
    pub fn frontier(&self) -> Option<Epoch> {
        let workers = lock(&self.workers);
        let running =
            workers.iter().filter(|worker| matches!(worker.phase, Phase::Running | Phase::Stopping));
        running.filter_map(|worker| worker.frontier).min()
    }

    /// How old the first epoch is that is not committed everywhere, as [`Monitor::frontier`], on the clock
    /// that names epochs.
    pub fn frontier_age(&self) -> Option<Duration> {
        let frontier = self.frontier()?;
        let now = lock(&self.workers).iter().filter_map(|worker| worker.clock).map(Moment::since).max()?;
        Some(Duration::from_millis(now.saturating_sub(frontier)))
    }

    /// Takes note of a checkpoint.
    pub fn has_checkpoint(&self, checkpoint: &Manifest) {
        let mut status = lock(&self.checkpoint);
        let (rows, bytes) = checkpoint.size();
        let (count, written) = status.map_or((0, 0), |before| (before.count, before.written));
        *status = Some(CheckpointStatus {
            epoch: checkpoint.epoch,
            count: count + 1,
            rows,
            bytes,
            written: written + checkpoint.written_bytes,
            at: Instant::now(),
        });
    }

    /// The last checkpoint of this run.
    pub fn checkpoint(&self) -> Option<CheckpointStatus> {
        *lock(&self.checkpoint)
    }

    /// Takes note of an epoch of new records that is committed everywhere, so long after they came.
    pub fn committed(&self, after: Duration) {
        self.epochs.observe(after.as_secs_f64());
    }

    /// How long after their first record came epochs were committed everywhere, in seconds, on each worker.
    pub fn epochs(&self) -> Histogram {
        self.epochs.clone()
    }

    /// Says that a frontier has moved.
    pub fn beat(&self) {
        let mut heartbeat = lock(&self.heartbeat);
        *heartbeat = Heartbeat { beats: heartbeat.beats + 1, last: Instant::now() };
    }

    /// How often a frontier has moved.
    pub fn heartbeat(&self) -> u64 {
        lock(&self.heartbeat).beats
    }

    /// For how long no frontier has moved.
    pub fn still_for(&self) -> Duration {
        lock(&self.heartbeat).last.elapsed()
    }

    /// The counts of all workers together.
    pub fn counts(&self) -> Counts {
        let mut total = Counts::default();
        for worker in self.workers() {
            total.add(&worker.counts);
        }
        total
    }
}

/// The ids that no click has, and what these statements can't do without them.
fn missed_ids(ids: &IdCounts, statements: &[Statement]) -> Vec<(&'static str, String)> {
    const NO_DUPLICATES: (Statement, &str) =
        (Statement::DuplicateDetector, "statement 4 finds no duplicates");
    let fields = [
        (
            "device_id",
            ids.clicks_without_device,
            &[NO_DUPLICATES, (Statement::ConversionMatcher, "statement 3 matches by session only")][..],
        ),
        ("ad_id", ids.clicks_without_ad, &[NO_DUPLICATES]),
        (
            "session_id",
            ids.clicks_without_session,
            &[(Statement::ConversionMatcher, "statement 3 matches by device only")],
        ),
    ];
    let missed =
        fields.into_iter().filter(|(_, without, _)| *without == ids.clicks).map(|(field, _, effects)| {
            let effects = effects.iter().filter(|(statement, _)| statements.contains(statement));
            (field, effects.map(|(_, effect)| *effect).collect::<Vec<_>>().join(", and "))
        });
    missed.filter(|(_, effects)| !effects.is_empty()).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_missed_only_if_no_click_has_it_and_a_statement_needs_it() {
        let some = IdCounts {
            clicks: 9,
            clicks_without_device: 8,
            clicks_without_session: 9,
            ..IdCounts::default()
        };
        let missed = |ids: &IdCounts, statements: &[Statement]| missed_ids(ids, statements);
        let session = ("session_id", "statement 3 matches by device only".to_owned());
        assert_eq!(missed(&some, &Statement::ALL), [session]);
        assert_eq!(missed(&some, &[Statement::DuplicateDetector]), []);
        let none = IdCounts { clicks_without_device: 9, clicks_without_ad: 9, ..some };
        let device = "statement 4 finds no duplicates, and statement 3 matches by session only".to_owned();
        let fields: Vec<_> = missed(&none, &Statement::ALL).into_iter().map(|(field, _)| field).collect();
        assert_eq!(fields, ["device_id", "ad_id", "session_id"]);
        assert_eq!(missed(&none, &Statement::ALL)[0].1, device);
        assert_eq!(missed(&none, &[Statement::PerformanceAggregator]), []);
    }

    #[test]
    fn ids_are_judged_once_when_enough_clicks_were_read() {
        let monitor = Monitor::default();
        let report = |worker, clicks| {
            let counts = Counts { ids: IdCounts { clicks, ..IdCounts::default() }, ..Counts::default() };
            monitor.report(WorkerStatus { worker, counts, ..WorkerStatus::default() });
            monitor.miss_ids(&Statement::ALL);
            monitor.has_judged_ids.load(Ordering::Relaxed)
        };
        assert!(!report(0, FIRST_CLICKS / 2) && !report(1, FIRST_CLICKS / 2 - 1));
        assert!(report(1, FIRST_CLICKS / 2));
    }
}
