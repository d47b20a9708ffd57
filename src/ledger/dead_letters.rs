//! What workers leave out: records that can't be read, or that nothing can be made of.
//!
//! They are written before the offsets that pass over them. In SQLite each is there once; in Kafka one may be
//! there again after a crash, under the same key.

use super::feed::Partition;
use super::letter::{Letter, left_out};
use super::publish::Publisher;
use super::store::sqlite::SqliteStore;
use crate::connect::Fault;
use crate::sink::DEAD_LETTER;
use crate::sink::kafka::fit;

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
            (key, fit(|longest| left_out(worker, topic, letter, longest)))
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
