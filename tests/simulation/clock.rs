//! Simulated time.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use adtide::clock::Moment;

use crate::log::START;

/// Three clocks: that of the log, by which records are appended; the monotonic one; and the wall clock, which
/// somebody may set.
pub struct Clock {
    origin: Instant,
    elapsed: AtomicI64,
    set: AtomicI64,
}

impl Clock {
    pub fn new() -> Clock {
        Clock { origin: Instant::now(), elapsed: AtomicI64::new(0), set: AtomicI64::new(0) }
    }

    pub fn advance(&self, ms: i64) {
        self.elapsed.fetch_add(ms, Ordering::Relaxed);
    }

    /// Sets the wall clock forward, or back.
    pub fn set_by(&self, ms: i64) {
        self.set.fetch_add(ms, Ordering::Relaxed);
    }

    pub fn elapsed(&self) -> i64 {
        self.elapsed.load(Ordering::Relaxed)
    }

    /// What was appended by now is there.
    pub fn log_time(&self) -> i64 {
        START + self.elapsed()
    }

    pub fn instant(&self) -> Instant {
        self.origin + Duration::from_millis(self.elapsed() as u64)
    }

    /// The wall clock, in milliseconds.
    pub fn wall(&self) -> u64 {
        (START + self.elapsed() + self.set.load(Ordering::Relaxed)) as u64
    }

    pub fn moment(&self) -> Moment {
        Moment { wall: self.wall(), instant: self.instant() }
    }
}
