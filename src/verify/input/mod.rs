//! Where the records come from that a run has read.

use std::collections::BTreeMap;

use adtide_dataflows::Stamp;
use adtide_dataflows::model::Topic;

use crate::connect::kafka::Bounds;

mod files;
mod kafka;

pub use files::{Marks, TopicFiles};
pub use kafka::KafkaTopics;

/// For each partition of a topic, the offset to stop before.
pub type Offsets = BTreeMap<u32, u64>;

/// The partitions of a topic, with where they begin and end.
pub type Ends = BTreeMap<u32, Bounds>;

/// A record as it stands in its topic.
#[derive(Clone, Copy, Debug)]
pub struct TopicRecord<'a> {
    /// The partition.
    pub partition: u32,
    /// The offset within the partition.
    pub offset: u64,
    /// The message key, where there is one.
    pub key: Option<&'a [u8]>,
    /// The value; None for null.
    pub value: Option<&'a [u8]>,
    /// Its timestamp.
    pub stamp: Stamp,
}

/// The input topics.
pub trait Input {
    /// Calls `each` with the records of a topic before the offsets, within a partition in order. Nothing is
    /// read of other partitions. Offsets may have gaps.
    ///
    /// # Errors
    /// The topic can't be read, or ends before the offsets.
    fn each_record(
        &mut self,
        topic: Topic,
        until: &Offsets,
        each: &mut dyn FnMut(TopicRecord<'_>),
    ) -> anyhow::Result<()>;

    /// Where the partitions of a topic begin and end now; empty if that is not known.
    ///
    /// # Errors
    /// The topic can't be read.
    fn ends(&mut self, _topic: Topic) -> anyhow::Result<Ends> {
        Ok(Ends::new())
    }

    /// What somebody should know who relies on this input, a sentence each.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }
}
