//! What a topic no longer has.

use std::collections::BTreeMap;
use std::fmt;

use adtide_dataflows::model::{EventTime, Topic};
use serde::{Deserialize, Serialize};

/// Records of a partition that are needed and not there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// The partition's topic.
    pub topic: Topic,
    /// Its number.
    pub partition: u32,
    /// The first offset that is needed.
    pub from: u64,
    /// The first offset that is there.
    pub to: u64,
    /// The offset behind the last record that is in the results.
    pub committed: u64,
    /// The greatest event time among those.
    pub greatest: Option<EventTime>,
}

/// The timestamps of the first records behind a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// That of the first.
    pub first: EventTime,
    /// The greatest.
    pub latest: EventTime,
    /// Whether the broker has set them.
    pub is_append_time: bool,
}

/// The heads of partitions; where one has no record there is none.
pub type Heads = BTreeMap<(Topic, u32), Head>;

impl Gap {
    /// The partition.
    pub fn place(&self) -> (Topic, u32) {
        (self.topic, self.partition)
    }
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Gap { topic, partition, from, to, committed, .. } = self;
        write!(f, "{} [{partition}]: offsets {from} to {} are gone", topic.name(), to - 1)?;
        match to <= committed {
            true => write!(f, ", of which the results hold all"),
            false => write!(f, ", of which the results hold those before {committed}"),
        }
    }
}
