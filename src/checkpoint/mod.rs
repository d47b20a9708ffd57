//! Where checkpoints are kept and what they are made of.
//!
//! A checkpoint is a *manifest* that names *segments*: what entered the state since the segments before. See
//! [`engine::checkpoint`](crate::engine::checkpoint) for how they come about.

mod manifest;
mod segment;
mod store;
mod tiers;

use std::path::Path;
use std::time::Duration;

pub use manifest::{Manifest, Segment};
pub use store::{Damage, Store};
pub use tiers::{live, to_merge};

/// Where checkpoints are kept, and how often they are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointConfig {
    /// A folder, or a URL of an object store.
    pub url: String,
    /// The name of this deployment.
    pub name: String,
    /// How often one is taken.
    pub interval: Duration,
    /// How many are kept.
    pub keep: usize,
    /// About how many bytes a worker may hold that wait to be written, before it stops reading.
    pub max_waiting_bytes: u64,
    /// Whether this run takes any; if not, it only goes on from one, or deletes those of a run that it
    /// replaces.
    pub are_taken: bool,
}

impl CheckpointConfig {
    /// Whether there may be any: what is not on this machine can't be told so fast.
    pub fn exists(&self) -> bool {
        self.url.contains("://") || Path::new(&self.url).is_dir()
    }

    /// How many bytes may wait, as much as this machine can count.
    pub fn max_waiting(&self) -> usize {
        usize::try_from(self.max_waiting_bytes).unwrap_or(usize::MAX)
    }

    /// The interval in milliseconds.
    pub fn interval_ms(&self) -> u64 {
        u64::try_from(self.interval.as_millis()).unwrap_or(u64::MAX)
    }
}
