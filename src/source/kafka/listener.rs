//! What librdkafka says of a consumer beside records.

use std::sync::{Mutex, PoisonError};

use adtide_dataflows::HashMap;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::KafkaError;
use rdkafka::{ClientContext, Statistics};

use crate::connect::kafka::log;

/// Keeps, from librdkafka's statistics, up to where each partition has been fetched.
#[derive(Default)]
pub(super) struct Listener {
    fetched: Mutex<HashMap<(String, i32), u64>>,
}

impl Listener {
    /// The offset at which the end of a partition was last reached: nothing readable below it is still to
    /// come.
    pub(super) fn end_reached(&self, topic: &str, partition: u32) -> Option<u64> {
        let fetched = self.fetched.lock().unwrap_or_else(PoisonError::into_inner);
        fetched.get(&(topic.to_owned(), partition as i32)).copied()
    }
}

impl ClientContext for Listener {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, _error: KafkaError, _reason: &str) {
        // A broker that is away: the watch says so.
    }

    fn stats(&self, statistics: Statistics) {
        let mut fetched = self.fetched.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, topic) in statistics.topics {
            for (number, partition) in topic.partitions {
                if let Ok(end) = u64::try_from(partition.eof_offset) {
                    fetched.insert((name.clone(), number), end);
                }
            }
        }
    }
}

impl ConsumerContext for Listener {}
