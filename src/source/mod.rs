//! Where events come from.

pub mod file;
mod gap;
pub mod generator;
pub mod kafka;
pub mod life;
pub mod lines;

use std::collections::VecDeque;

use adtide_dataflows::Ingest;
use adtide_dataflows::model::{Epoch, EventTime, Topic};
use adtide_dataflows::operators::{Fingerprint, WatermarkView};

pub use gap::{Gap, Head, Heads};

use crate::sink::Progress;

/// One worker's share of the input.
pub trait Source {
    /// Adds this worker's partitions to the ingest and reports them, in the first epoch or the one in which a
    /// restored state is complete.
    ///
    /// # Errors
    /// The input can't be read, or is not there from where it is to be read.
    fn start(&mut self, ingest: &mut Ingest, from: &Start<'_>) -> anyhow::Result<()>;

    /// For a replay: reads no further than an earlier run had committed, and takes for good what was good
    /// then. None after the last cut: from there on everything is new.
    fn replay_to(&mut self, cut: Option<&Progress>);

    /// Goes on, after the last cut, with what that run knew of the partitions.
    fn resume(&mut self, ingest: &mut Ingest, last: &Progress);

    /// Reads a little, some milliseconds' worth at most, without waiting. `epoch` is the one that is being
    /// filled.
    ///
    /// # Errors
    /// The input can't be read.
    fn poll(&mut self, ingest: &mut Ingest, epoch: Epoch, view: &WatermarkView) -> anyhow::Result<Poll>;

    /// Reports, at an epoch's end, the partitions that changed in it.
    fn report(&mut self, ingest: &mut Ingest);

    /// Whether any partition has changed since it was last reported: an epoch in which none has may be long.
    fn has_news(&self) -> bool;

    /// How many bytes have been read.
    fn bytes_read(&self) -> u64;

    /// How it is doing, for metrics and readiness; asked at each epoch's end. None if it tells the
    /// [`Monitor`](crate::engine::Monitor) itself, or has nothing to tell.
    fn status(&self) -> Option<SourceStatus> {
        None
    }
}

/// Where to start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Start<'a> {
    /// How far a checkpoint's run had read; None for the start of the topics.
    pub checkpoint: Option<&'a Progress>,
    /// From when on ads and conversions are read, by when they were appended; None for all of them.
    pub backfill: Option<EventTime>,
    /// How far the sinks have committed, in order.
    pub cuts: &'a [Progress],
    /// What is lost of the topics, and passed over.
    pub gaps: &'a [Gap],
}

impl Start<'_> {
    /// Where a partition is read from that would be read from `next`, if the log starts with `start`, and
    /// where the results of it began. A run that continues no other begins where the log does; one that does
    /// has been checked for gaps.
    pub fn offsets(&self, place: (Topic, u32), next: u64, start: u64) -> (u64, u64) {
        let mut runs = self.checkpoint.into_iter().chain(self.cuts).peekable();
        if runs.peek().is_none() {
            return (next.max(start), next.max(start));
        }
        let first = runs.filter_map(|run| Some(run.partitions.get(&place)?.first_offset)).max().unwrap_or(0);
        let is_snapshot = matches!(place.0, Topic::ProductMetrics | Topic::ProductMeta) && next == 0;
        let gap = self.gaps.iter().find(|gap| gap.place() == place);
        let next = gap.map_or(next.max(first), |gap| next.max(gap.to));
        (if is_snapshot { next.max(start) } else { next }, first)
    }

    /// The records of a partition that earlier runs read last, in order, as far as they may still be there:
    /// from `start` on.
    pub fn last_read(&self, place: (Topic, u32), start: u64) -> VecDeque<Fingerprint> {
        let runs = self.checkpoint.into_iter().chain(self.cuts);
        let last = runs.filter_map(|progress| progress.partitions.get(&place)?.last);
        let mut last: Vec<_> = last.filter(|last| last.offset >= start).collect();
        last.sort_unstable();
        last.dedup();
        last.into()
    }
}

/// What came of a poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Poll {
    /// There is more.
    Ready,
    /// There is nothing now.
    Pending,
    /// There will never be more; of a replay, its cut is reached.
    Finished,
}

/// How a worker's source is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceStatus {
    /// The partitions that it reads.
    pub partitions: Vec<PartitionStatus>,
    /// Bytes that are there and not read yet; None where they are not known, as with Kafka.
    pub lag_bytes: Option<u64>,
    /// What keeps it from reading, in words for an operator, e.g. "reading Kafka: no broker answers"; None if
    /// nothing does.
    pub fault: Option<String>,
}

/// How far a partition has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionStatus {
    /// The partition's topic.
    pub topic: Topic,
    /// Its number.
    pub partition: u32,
    /// The offset of the first record that was not read.
    pub next_offset: u64,
    /// The offset that the next record appended will get, if the source knows it: with `next_offset`, the
    /// lag.
    pub end_offset: Option<u64>,
    /// Whether it is idle, and so does not hold the watermark back.
    pub idle: bool,
}
