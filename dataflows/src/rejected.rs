//! Records that are left out: by all statements, as they can't be read, or by one, as they are late.

use serde::{Deserialize, Serialize};

use crate::Statement;
use crate::model::{EventTime, Topic};

/// A record that can't be read, for the topic `dead-letter`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DeadLetter {
    /// Where it was read.
    pub topic: Topic,
    /// Its partition.
    pub partition: u32,
    /// Its offset.
    pub offset: u64,
    /// What it is counted by, [`BadRecord::reason`](crate::record::BadRecord::reason).
    pub reason: String,
    /// What is wrong, in a sentence.
    pub detail: String,
    /// Its key, if it has one.
    pub key: Option<Vec<u8>>,
    /// Its own timestamp, if it has one.
    pub timestamp: Option<EventTime>,
    /// Its bytes.
    pub value: Vec<u8>,
}

/// A record that came too late for a statement, for the topic `late-events`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LateEvent {
    /// The statement that leaves it out.
    pub statement: Statement,
    /// Where it was read.
    pub topic: Topic,
    /// Its partition.
    pub partition: u32,
    /// Its offset.
    pub offset: u64,
    /// When it happened.
    pub event_time: EventTime,
    /// The watermark of its partition when it came.
    pub watermark: EventTime,
    /// Whether it is late whatever the watermark was: what it belongs to is closed for good, because its
    /// state was forgotten, or because records of it are lost.
    pub is_closed: bool,
    /// Its key, if it has one.
    pub key: Option<Vec<u8>>,
    /// Its own timestamp, if it has one.
    pub timestamp: Option<EventTime>,
    /// Its bytes.
    pub value: Vec<u8>,
}
