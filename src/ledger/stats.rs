//! What a worker has done since it started.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use adtide_dataflows::model::Money;

/// A call to a server that takes longer makes a worker unready, and is worth a line in the log.
pub const SLOW: Duration = Duration::from_secs(5);

/// Counters of one worker, and its state. Counters only grow. Each counts once what was committed, whatever
/// was repeated.
#[derive(Debug, Default)]
pub struct WorkerStats {
    /// Records read; those of other types and bad ones included.
    pub records: AtomicU64,
    /// Records that can't be read, and were left out. The statements send them to `dead-letter`.
    pub bad: AtomicU64,
    /// Clicks debited, of balance; clicks counted, of budget.
    pub debits: AtomicU64,
    /// Their sum, in minor units.
    pub debit_amount: AtomicI64,
    /// Refunds credited, of compensation; refunds counted, of budget. Repeats are not.
    pub credits: AtomicU64,
    /// Their sum, in minor units.
    pub credit_amount: AtomicI64,
    /// Refunds and clicks that had been counted before, and changed nothing.
    pub repeats: AtomicU64,
    /// Advertisers that the ledger did not know; they start with an opening balance of 0.
    pub new_advertisers: AtomicU64,
    /// Campaigns paused.
    pub paused: AtomicU64,
    /// Campaigns activated again.
    pub activated: AtomicU64,
    /// Commits that were refused because another process had taken a partition over.
    pub zombies: AtomicU64,
    standing: Mutex<Standing>,
}

/// The state of a worker.
#[derive(Debug, Default)]
struct Standing {
    /// It has had partitions, so its settings are right.
    has_worked: bool,
    /// It has partitions, or knows that there are none for it.
    is_assigned: bool,
    caught_up: Option<Instant>,
    lag: Option<u64>,
    /// Why it has failed; it will start again.
    failure: Option<String>,
    /// Why it can't read, since when.
    unread: Option<(String, Instant)>,
    /// What it waits for, since when.
    waits: Option<(String, Instant)>,
    /// When its loop last went round.
    turned: Option<Instant>,
}

impl WorkerStats {
    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When it last began to look and then found nothing left to do.
    pub fn caught_up(&self) -> Option<Instant> {
        self.standing().caught_up
    }

    /// How many records of its topics wait to be read, whichever process is to read them, as of the last
    /// look; in files, about. None before the first look.
    pub fn lag(&self) -> Option<u64> {
        self.standing().lag
    }

    /// Why its effects do not follow its topics right now, in words; empty if they do.
    pub fn unready(&self, name: &str) -> Vec<String> {
        let standing = self.standing();
        let starting = !standing.is_assigned && standing.failure.is_none();
        let causes = [
            standing.failure.as_ref().map(|error| format!("failed, and starts again: {error}")),
            starting.then(|| "starting: no partitions are assigned yet".to_owned()),
            standing
                .unread
                .as_ref()
                .map(|(error, since)| format!("can't read for {} s: {error}", since.elapsed().as_secs())),
            standing
                .waits
                .as_ref()
                .filter(|(_, since)| since.elapsed() >= SLOW)
                .map(|(what, since)| format!("{what} has taken {} s", since.elapsed().as_secs())),
        ];
        causes.into_iter().flatten().map(|cause| format!("worker {name}: {cause}")).collect()
    }

    /// For how long its loop has not gone round; zero before it has begun and while it waits to start again.
    pub fn still_for(&self) -> Duration {
        self.standing().turned.map_or(Duration::ZERO, |turned| turned.elapsed())
    }

    pub(super) fn has_worked(&self) -> bool {
        self.standing().has_worked
    }

    /// Whether it knows which partitions it reads, and does.
    pub(super) fn set_assigned(&self, is_assigned: bool) {
        let mut standing = self.standing();
        standing.is_assigned = is_assigned;
        standing.has_worked |= is_assigned;
    }

    /// It has committed, or found nothing to do: what made it fail is over.
    pub(super) fn set_succeeded(&self) {
        self.standing().failure = None;
    }

    pub(super) fn set_failure(&self, error: String) {
        let mut standing = self.standing();
        (standing.is_assigned, standing.failure) = (false, Some(error));
        (standing.unread, standing.waits, standing.turned) = (None, None, None);
    }

    /// It can't read. Whether it could until now.
    pub(super) fn set_unread(&self, error: String) -> bool {
        let mut standing = self.standing();
        let since = standing.unread.as_ref().map_or_else(Instant::now, |(_, since)| *since);
        standing.unread.replace((error, since)).is_none()
    }

    /// Since when it can't read; None if it can.
    pub(super) fn unread_since(&self) -> Option<Instant> {
        self.standing().unread.as_ref().map(|(_, since)| *since)
    }

    pub(super) fn set_read(&self) {
        self.standing().unread = None;
    }

    /// What it waits for, and how long it has.
    pub(super) fn waits(&self) -> Option<(String, Duration)> {
        self.standing().waits.as_ref().map(|(what, since)| (what.clone(), since.elapsed()))
    }

    /// It waits for this from now on; None if it no longer does.
    pub(super) fn set_waits(&self, what: Option<String>) {
        self.standing().waits = what.map(|what| (what, Instant::now()));
    }

    pub(super) fn turned(&self) {
        self.standing().turned = Some(Instant::now());
    }

    pub(super) fn set_caught_up(&self, looked: Instant) {
        let mut standing = self.standing();
        (standing.caught_up, standing.failure) = (Some(looked), None);
    }

    pub(super) fn set_lag(&self, lag: u64) {
        self.standing().lag = Some(lag);
    }

    pub(super) fn debit(&self, number: u64, amount: Money) {
        self.debits.fetch_add(number, Ordering::Relaxed);
        self.debit_amount.fetch_add(amount.0, Ordering::Relaxed);
    }

    pub(super) fn credit(&self, number: u64, amount: Money) {
        self.credits.fetch_add(number, Ordering::Relaxed);
        self.credit_amount.fetch_add(amount.0, Ordering::Relaxed);
    }

    /// Debits so far.
    pub fn debited(&self) -> Money {
        Money(self.debit_amount.load(Ordering::Relaxed))
    }

    /// Credits so far.
    pub fn credited(&self) -> Money {
        Money(self.credit_amount.load(Ordering::Relaxed))
    }
}
