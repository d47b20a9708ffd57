//! What a worker has done since it started.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use adtide_dataflows::model::Money;

/// Counters of one worker. They only grow, except `lag`. Each counts once what was committed, whatever was repeated.
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
    /// Records that wait to be read, as of the last look; in files, about.
    pub lag: AtomicU64,
    caught_up: Mutex<Option<Instant>>,
}

impl WorkerStats {
    /// When it last began to look and then found nothing left to do.
    pub fn caught_up(&self) -> Option<Instant> {
        *self.caught_up.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_caught_up(&self, looked: Instant) {
        *self.caught_up.lock().unwrap_or_else(PoisonError::into_inner) = Some(looked);
        self.lag.store(0, Ordering::Relaxed);
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
