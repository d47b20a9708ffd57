//! What workers leave out: records that can't be read, or that nothing can be made of.
//!
//! They are written before the offsets that pass over them. In SQLite each is there once; in Kafka one may be there again after
//! a crash, under the same key.

use adtide_dataflows::model::EventTime;
use adtide_dataflows::record::BadRecord;

use super::feed::{Partition, Record};
use super::publish::Publisher;
use super::store::sqlite::SqliteStore;
use crate::connect::Fault;
use crate::json;
use crate::sink::DEAD_LETTER;
use crate::sink::kafka::fit;

/// Why a record is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfit {
    /// The name by which such records are counted.
    pub reason: &'static str,
    /// What is wrong with this one.
    pub detail: String,
}

impl From<BadRecord> for Unfit {
    fn from(bad: BadRecord) -> Unfit {
        Unfit { reason: bad.reason(), detail: bad.to_string() }
    }
}

/// A record that is left out.
#[derive(Clone, Debug)]
pub struct Letter {
    /// Where it was read.
    pub partition: Partition,
    /// Its offset there.
    pub offset: u64,
    /// Why it is left out.
    pub unfit: Unfit,
    /// Its key, where it has one.
    pub key: Option<Vec<u8>>,
    /// Its own timestamp, where it has one.
    pub timestamp: Option<EventTime>,
    /// Its bytes; none of one that is too large to be read.
    pub value: Vec<u8>,
}

impl Letter {
    /// Of a record as it was read.
    pub fn new(record: &Record<'_>, unfit: Unfit) -> Letter {
        let value = record.value.as_ref().and_then(|value| value.as_ref().ok());
        Letter {
            partition: record.partition.clone(),
            offset: record.offset,
            unfit,
            key: record.key.map(<[u8]>::to_vec),
            timestamp: record.timestamp,
            value: value.map(|value| value.to_vec()).unwrap_or_default(),
        }
    }
}

/// Where dead letters go.
pub trait DeadLetters {
    /// Writes dead letters of a worker. Writing one again is harmless.
    ///
    /// # Errors
    /// They can't be written.
    fn write(&mut self, worker: &str, letters: &[Letter]) -> Result<(), Fault>;

    /// The place, for messages.
    fn place(&self) -> &'static str;
}

/// The topic `dead-letter`.
pub struct KafkaDeadLetters {
    publisher: Publisher,
    prefix: String,
}

impl KafkaDeadLetters {
    /// By a publisher of its own; topics' names begin with `prefix`.
    pub fn new(publisher: Publisher, prefix: String) -> KafkaDeadLetters {
        KafkaDeadLetters { publisher, prefix }
    }
}

impl DeadLetters for KafkaDeadLetters {
    fn write(&mut self, worker: &str, letters: &[Letter]) -> Result<(), Fault> {
        let records = letters.iter().map(|letter| {
            let Partition { topic, number } = &letter.partition;
            let topic = topic.strip_prefix(&self.prefix).unwrap_or(topic);
            let key = format!("{worker}-{topic}-{number}-{}", letter.offset);
            (key, fit(|longest| json::left_out(worker, topic, letter, longest)))
        });
        self.publisher.publish(DEAD_LETTER, records)
    }

    fn place(&self) -> &'static str {
        "the topic dead-letter"
    }
}

impl DeadLetters for SqliteStore {
    fn write(&mut self, worker: &str, letters: &[Letter]) -> Result<(), Fault> {
        self.write_dead_letters(worker, letters)
    }

    fn place(&self) -> &'static str {
        "adtide.db, table worker_dead_letters"
    }
}
