//! The life of a partition, as its reader sees it; the same for every source.

use std::time::{Duration, Instant};

use adtide_dataflows::model::{Epoch, EventTime, Topic};
use adtide_dataflows::operators::{PartitionState, WatermarkView};
use adtide_dataflows::{Ingest, PartitionHandle};

use crate::sink::Progress;

/// Where a partition is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It is read.
    Active,
    /// It is caught up and has been quiet: the others go on without it.
    Idle,
    /// It is reported as active in this epoch. Once the watermarks of that epoch are known it follows them,
    /// and is read on.
    Waking(Epoch),
    /// It has ended.
    Finished,
}

/// A partition's stage, and what of it was not reported yet.
#[derive(Debug)]
pub struct Life {
    stage: Stage,
    last_read: Instant,
    /// Whether this epoch changed anything that has to be reported.
    changed: bool,
}

impl Life {
    /// Of a partition that was just found.
    pub fn new(stage: Stage, now: Instant) -> Life {
        Life { stage, last_read: now, changed: true }
    }

    /// Where it is.
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// Whether it is read.
    pub fn is_active(&self) -> bool {
        self.stage == Stage::Active
    }

    /// Whether anything is to be reported.
    pub fn has_news(&self) -> bool {
        self.changed
    }

    /// Takes note of a record that was read.
    pub fn has_read(&mut self, now: Instant) {
        self.last_read = now;
        self.changed = true;
    }

    /// How long nothing has been read.
    pub fn quiet_for(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.last_read)
    }

    /// Goes to another stage.
    pub fn go(&mut self, stage: Stage) {
        self.stage = stage;
        self.changed = true;
    }

    /// Wakes up in this epoch, unless nobody has been told yet that it sleeps: then nobody would know that it
    /// wakes, and it would not be told what it has to follow.
    pub fn wake(&mut self, epoch: Epoch) {
        if !self.changed {
            self.go(Stage::Waking(epoch));
        }
    }

    /// If it woke up, and the watermarks of the epoch in which it said so are known, lets it follow them.
    pub fn follow(
        &mut self,
        key: (Topic, u32),
        handle: PartitionHandle,
        ingest: &mut Ingest,
        view: &WatermarkView,
        now: Instant,
    ) {
        if let Stage::Waking(since) = self.stage
            && view.through.is_some_and(|through| through >= since)
        {
            if let Some(floor) = view.floors.get(&key) {
                ingest.follow(handle, *floor);
            }
            self.stage = Stage::Active;
            self.last_read = now;
        }
    }

    /// Goes on with what an earlier run knew by its last cut: the partition follows the watermarks that it
    /// had and those of all, as it may be new, or have woken up and not followed them yet; with `sleeps`, it
    /// sleeps if it slept.
    pub fn resume(
        &mut self,
        key: (Topic, u32),
        handle: PartitionHandle,
        ingest: &mut Ingest,
        last: &Progress,
        sleeps: bool,
    ) {
        let before = last.partitions.get(&key);
        for floor in before.map(|before| before.watermarks).into_iter().chain(last.watermarks) {
            ingest.follow(handle, floor);
        }
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
