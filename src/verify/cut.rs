//! The moment at which a sink stands.

use std::collections::{BTreeMap, BTreeSet};

use adtide_dataflows::Judgement;
use adtide_dataflows::model::{EventTime, Topic};
use adtide_dataflows::operators::{PartitionReport, Watermarks};
use adtide_dataflows::oracle::Location;

use super::input::Offsets;
use crate::sink::Progress;

/// A moment of a run: the records that it had read, and the watermarks that had taken effect. What a sink
/// holds must be what comes of exactly these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The watermarks in effect: they say which windows have closed.
    pub watermarks: Watermarks,
    partitions: BTreeMap<(Topic, u32), Reached>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Reached {
    next_offset: u64,
    /// By which clock the run judged what is too far ahead.
    judgements: Vec<Judgement>,
    /// By which the partition's records were late.
    watermarks: Watermarks,
}

impl Cut {
    /// Where a sink stands; without progress it holds nothing.
    pub fn of(progress: Option<&Progress>) -> Cut {
        let reached = |progress: &Progress| {
            let reached = |at: &PartitionReport| Reached {
                next_offset: at.next_offset,
                judgements: at.judgements.clone(),
                watermarks: at.watermarks,
            };
            progress.partitions.iter().map(|(key, at)| (*key, reached(at))).collect()
        };
        Cut {
            watermarks: progress.and_then(|progress| progress.watermarks).unwrap_or(Watermarks::MIN),
            partitions: progress.map(reached).unwrap_or_default(),
        }
    }

    /// Whether a record had been read.
    pub fn holds(&self, location: Location) -> bool {
        let reached = self.partitions.get(&(location.topic, location.partition));
        reached.is_some_and(|reached| location.offset < reached.next_offset)
    }

    /// How far each partition of a topic had been read.
    pub fn offsets(&self, topic: Topic) -> Offsets {
        let partitions = self.partitions.range((topic, 0)..=(topic, u32::MAX));
        partitions.map(|((_, partition), reached)| (*partition, reached.next_offset)).collect()
    }

    /// The topics that were read.
    pub fn topics(&self) -> BTreeSet<Topic> {
        self.partitions.keys().map(|(topic, _)| *topic).collect()
    }

    /// How far a partition had been read, and how its records were judged until then.
    pub fn judgements(&self, topic: Topic, partition: u32) -> Option<(u64, &[Judgement])> {
        let reached = self.partitions.get(&(topic, partition));
        reached.map(|reached| (reached.next_offset, reached.judgements.as_slice()))
    }

    /// The watermarks that a partition had of its own: none of its records can have met greater ones.
    pub fn partition_watermarks(&self, topic: Topic, partition: u32) -> Watermarks {
        self.partitions.get(&(topic, partition)).map_or(Watermarks::MIN, |reached| reached.watermarks)
    }

    /// Whether more had been read of any partition.
    pub fn reads_more_than(&self, other: &Cut) -> bool {
        let offset = |key| other.partitions.get(key).map_or(0, |reached| reached.next_offset);
        self.partitions.iter().any(|(key, reached)| reached.next_offset > offset(key))
    }

    /// Whether the input had ended: everything is closed.
    pub fn has_ended(&self) -> bool {
        self.watermarks.duplicates == EventTime::MAX
    }
}
