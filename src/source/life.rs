//! The life of a partition, as its reader sees it; the same for every source.

use std::time::{Duration, Instant};

use adtide_dataflows::model::{Epoch, EventTime, Topic};
use adtide_dataflows::operators::{PartitionState, WatermarkView, Watermarks};
use adtide_dataflows::{Ingest, PartitionHandle};

use crate::sink::Progress;

/// Where a partition is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// It is read.
    Active,
    /// It is caught up and has been quiet: the others go on without it.
    Idle,
    /// It is reported as active in this epoch. Once the watermarks of that epoch are known it follows them, and is
    /// read on.
    Waking(Epoch),
    /// It has ended.
    Finished,
}

/// A partition's stage, and what of it was not reported yet.
#[derive(Debug)]
pub(super) struct Life {
    stage: Stage,
    last_read: Instant,
    /// Whether this epoch changed anything that has to be reported.
    changed: bool,
}

impl Life {
    /// Of a partition that was just found.
    pub fn new(stage: Stage) -> Life {
        Life { stage, last_read: Instant::now(), changed: true }
    }

    pub fn stage(&self) -> Stage {
        self.stage
    }

    pub fn is_active(&self) -> bool {
        self.stage == Stage::Active
    }

    /// Takes note of a record that was read.
    pub fn has_read(&mut self) {
        self.last_read = Instant::now();
        self.changed = true;
    }

    /// How long nothing has been read.
    pub fn quiet_for(&self) -> Duration {
        self.last_read.elapsed()
    }

    pub fn go(&mut self, stage: Stage) {
        self.stage = stage;
        self.changed = true;
    }

    /// If it woke up, and the watermarks of the epoch in which it said so are known, lets it follow them.
    pub fn follow(&mut self, key: (Topic, u32), handle: PartitionHandle, ingest: &mut Ingest, view: &WatermarkView) {
        if let Stage::Waking(since) = self.stage
            && view.through.is_some_and(|through| through >= since)
        {
            if let Some(floor) = view.floors.get(&key) {
                ingest.follow(handle, *floor);
            }
            self.stage = Stage::Active;
            self.last_read = Instant::now();
        }
    }

    /// Goes on with what an earlier run knew by its last cut: the partition follows the watermarks that it had, or if it
    /// is new those of all; with `sleeps`, it sleeps if it slept.
    pub fn resume(
        &mut self,
        key: (Topic, u32),
        handle: PartitionHandle,
        ingest: &mut Ingest,
        last: &Progress,
        sleeps: bool,
    ) {
        let before = last.partitions.get(&key);
        let floor = before.map(|before| before.watermarks).or(last.watermarks);
        ingest.follow(handle, floor.unwrap_or(Watermarks::MIN));
        if sleeps && before.is_some_and(|before| matches!(before.state, PartitionState::Idle(_))) {
            self.go(Stage::Idle);
        }
    }

    /// Reports it if there is anything new. An idle one that follows the `clock` is reported always.
    pub fn report(&mut self, handle: PartitionHandle, ingest: &mut Ingest, clock: Option<EventTime>) {
        let state = match self.stage {
            Stage::Active | Stage::Waking(_) => PartitionState::Active,
            Stage::Idle => PartitionState::Idle(clock),
            Stage::Finished => PartitionState::Finished,
        };
        let follows_clock = self.stage == Stage::Idle && clock.is_some();
        if std::mem::take(&mut self.changed) || follows_clock {
            ingest.report(handle, state);
        }
    }
}
