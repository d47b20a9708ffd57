//! Where a worker's records come from.

mod bell;
pub mod ends;
pub mod files;
pub mod kafka;

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use adtide_dataflows::model::EventTime;
use adtide_dataflows::operators::{FileMark, Fingerprint};
use adtide_dataflows::record::BadRecord;
use serde::{Deserialize, Serialize};

use crate::connect::Fault;
pub use bell::Bell;

/// A partition of a topic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition {
    /// The topic's full name.
    pub topic: String,
    /// Its number.
    pub number: u32,
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.number)
    }
}

/// The next offset of partitions.
pub type Positions = BTreeMap<Partition, u64>;

/// A record, as it was read.
pub struct Record<'a> {
    /// Where it is from.
    pub partition: &'a Partition,
    /// Its offset.
    pub offset: u64,
    /// The greatest event time that is accepted, by the rule of the statements
    /// ([`Judgement`](adtide_dataflows::Judgement)).
    pub latest: EventTime,
    /// Its key, where it has one.
    pub key: Option<&'a [u8]>,
    /// Its own timestamp, where it has one.
    pub timestamp: Option<EventTime>,
    /// Its bytes; None for an empty line of a file, which is no record.
    pub value: Option<Result<&'a [u8], BadRecord>>,
}

/// What the place in a partition up to which it was read is recognised by when it is read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Mark {
    /// The file that the next record is read from, where topics are files.
    File(FileMark),
    /// The last record that was read. It says nothing of an offset that was changed by hand.
    Record(Fingerprint),
}

/// From where a partition is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// The partition.
    pub partition: Partition,
    /// The offset of the next record.
    pub next: u64,
    /// What it is recognised by, if it was read before.
    pub mark: Option<Mark>,
}

/// What happened to the partitions of a feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// These are to be read from now on. They have to be claimed, and then given to [`Feed::start`].
    Gained(Vec<Partition>),
    /// All go away. What was read of them has to be committed, and then [`Feed::release`] be called.
    Lost,
}

/// The records of one topic, for one worker.
pub trait Feed {
    /// Hands over what there is, for up to `wait`; less if a change has come or there is nothing.
    ///
    /// # Errors
    /// The topic can't be read.
    fn poll(&mut self, wait: Duration, take: &mut dyn FnMut(Record<'_>)) -> Result<(), Fault>;

    /// The next change of its partitions. Nothing is handed over while one is pending.
    fn change(&mut self) -> Option<Change>;

    /// The first offset of a partition that can be read.
    ///
    /// # Errors
    /// It can't be found out.
    fn earliest(&mut self, partition: &Partition) -> Result<u64, Fault>;

    /// Reads claimed partitions from these places on.
    ///
    /// # Errors
    /// Lasting if one of the offsets is not there: what it stands for is gone. [`Feed::poll`] may find that
    /// out later, and that a partition is not the one that was read before; nothing of it is passed on until
    /// then.
    fn start(&mut self, places: &[Start]) -> Result<(), Fault>;

    /// What the place up to which a partition was read is recognised by; None if it can't be made anew
    /// unnoticed.
    fn mark(&mut self, partition: &Partition) -> Option<Mark>;

    /// Lets go of all partitions.
    ///
    /// # Errors
    /// It can't.
    fn release(&mut self) -> Result<(), Fault>;

    /// After another process has taken over a partition: drops everything and asks anew what is to be read.
    ///
    /// # Errors
    /// Lasting if there is nobody who could share the partitions out.
    fn rejoin(&mut self) -> Result<(), Fault>;

    /// Whether it is known which partitions are to be read here, and they are.
    fn is_assigned(&self) -> bool;

    /// Whether everything that is there has been handed over.
    fn at_end(&self) -> bool;

    /// Whether every partition has been at its end at least once, as far as this process is answerable for
    /// them.
    fn has_been_at_end(&self) -> bool;

    /// Whether the topic could be asked for after this, whatever a call to [`Feed::poll`] has returned.
    fn answered_since(&self, since: Instant) -> bool;

    /// How many records of the topic have had no effect yet, whichever process is to read them; None if that
    /// is not known now. Where other processes stand is asked of `positions`, if there are any.
    ///
    /// # Errors
    /// It can't be found out.
    fn lag(&mut self, positions: &mut dyn FnMut() -> Result<Positions, Fault>) -> Result<Option<u64>, Fault>;
}
