//! What the consumer group says of a worker's partitions.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientContext, TopicPartitionList};
use tracing::warn;

use crate::connect::kafka::{log, log_error};

/// What the group has told and was not acted on yet. Changes wait until the records before them are
/// committed.
#[derive(Default)]
pub(super) struct Group {
    pub(super) changes: Mutex<VecDeque<Told>>,
    /// The consumer is going: nobody will act on a change any more.
    pub(super) closing: AtomicBool,
}

#[derive(Clone)]
pub(super) enum Told {
    Assigned(Vec<u32>),
    Revoked,
}

impl Group {
    pub(super) fn changes(&self) -> MutexGuard<'_, VecDeque<Told>> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Group {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        log_error(&error, reason);
    }
}

impl ConsumerContext for Group {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, code: RDKafkaRespErr, list: &mut TopicPartitionList) {
        if self.closing.load(Ordering::Relaxed) {
            // Until this is done the consumer can't be closed.
            if let Err(error) = consumer.unassign() {
                warn!(%error, "can't let go of the partitions");
            }
            return;
        }
        let told = if code == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            Told::Assigned(list.elements().iter().map(|element| element.partition().unsigned_abs()).collect())
        } else {
            Told::Revoked
        };
        self.changes().push_back(told);
    }
}
