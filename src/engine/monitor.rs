//! What the workers of this process tell the rest of it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use adtide_dataflows::Counts;
use adtide_dataflows::operators::Watermarks;

/// The workers' latest word, for progress bars, summaries and the watchdog.
#[derive(Debug, Default)]
pub struct Monitor {
    workers: Mutex<Vec<WorkerStatus>>,
    /// Moves whenever a frontier does.
    heartbeat: AtomicU64,
}

/// Where a worker is.
#[derive(Clone, Debug, Default)]
pub struct WorkerStatus {
    /// The worker's number in the cluster.
    pub worker: usize,
    /// What came of the records it read.
    pub counts: Counts,
    /// Bytes read, and bytes there are.
    pub bytes: (u64, u64),
    /// The watermarks it knows of.
    pub watermarks: Option<Watermarks>,
    /// Conversions that repeated another.
    pub repeats: u64,
}

impl Monitor {
    /// Takes a worker's word.
    pub fn report(&self, status: WorkerStatus) {
        let mut workers = self.workers.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match workers.iter_mut().find(|known| known.worker == status.worker) {
            Some(known) => *known = status,
            None => workers.push(status),
        }
    }

    /// All workers' latest words.
    pub fn workers(&self) -> Vec<WorkerStatus> {
        self.workers.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// Says that a frontier has moved.
    pub fn beat(&self) {
        self.heartbeat.fetch_add(1, Ordering::Relaxed);
    }

    /// How often a frontier has moved.
    pub fn heartbeat(&self) -> u64 {
        self.heartbeat.load(Ordering::Relaxed)
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
