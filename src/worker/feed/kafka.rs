//! A topic of Kafka, shared out by its consumer group among all processes of the same worker.
//!
//! The group decides who reads a partition; from where, the store decides. Offsets are never committed to Kafka.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use adtide_dataflows::model::EventTime;
use anyhow::anyhow;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::BorrowedMessage;
use rdkafka::types::{RDKafkaErrorCode, RDKafkaRespErr};
use rdkafka::{ClientContext, Message, Offset, TopicPartitionList};
use tracing::{debug, warn};

use super::{Change, Feed, Partition, Record};
use crate::connect::Fault;
use crate::connect::kafka::{CATCHING_UP, KafkaConfig, log, log_error};

/// How long an answer of the broker may take.
const ANSWER: Duration = Duration::from_secs(10);

/// One topic, as a member of a consumer group.
pub struct KafkaFeed {
    config: KafkaConfig,
    group: String,
    topic: String,
    max_future_skew: i64,
    consumer: BaseConsumer<Group>,
    /// What is read, by partition number; None before the group has told.
    partitions: Option<BTreeMap<u32, Place>>,
    /// Since when, and whether it is all that the topic has.
    assigned: (Instant, bool),
    last_record: Instant,
}

/// How a partition stands.
struct Place {
    partition: Partition,
    next_offset: u64,
    at_end: bool,
    has_been_at_end: bool,
}

/// What the group has told and was not acted on yet. Changes wait until the records before them are committed.
#[derive(Default)]
struct Group {
    changes: Mutex<VecDeque<Told>>,
    /// The consumer is going: nobody will act on a change any more.
    closing: AtomicBool,
}

#[derive(Clone)]
enum Told {
    Assigned(Vec<u32>),
    Revoked,
}

impl Group {
    fn changes(&self) -> MutexGuard<'_, VecDeque<Told>> {
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

impl KafkaFeed {
    /// Joins the group `group` to read the topic of this name, which gets the configured prefix.
    ///
    /// # Errors
    /// The settings of Kafka are wrong. That a broker is away is none: it is waited for.
    pub fn join(config: KafkaConfig, group: String, topic: &str, max_future_skew: i64) -> Result<KafkaFeed, Fault> {
        let topic = config.topic(topic);
        let consumer = subscribe(&config, &group, &topic)?;
        let (partitions, last_record, assigned) = (None, Instant::now(), (Instant::now(), false));
        Ok(KafkaFeed { config, group, topic, max_future_skew, consumer, partitions, assigned, last_record })
    }

    fn fault(&self, error: KafkaError) -> Fault {
        self.config.fault(error)
    }

    /// The offsets of the oldest record and behind the newest one.
    fn bounds(&self, partition: &Partition) -> Result<(u64, u64), Fault> {
        let number = i32::try_from(partition.number).map_err(|error| Fault::Lasting(error.into()))?;
        let bounds = self.consumer.fetch_watermarks(&partition.topic, number, ANSWER);
        let (low, high) = bounds.map_err(|error| self.fault(error))?;
        Ok((low.max(0).unsigned_abs(), high.max(0).unsigned_abs()))
    }

    /// How many partitions the topic has.
    fn count(&self) -> Result<usize, Fault> {
        let metadata = self.consumer.fetch_metadata(Some(&self.topic), ANSWER).map_err(|error| self.fault(error))?;
        Ok(metadata.topics().iter().map(|topic| topic.partitions().len()).sum())
    }

    /// How long the group holds a member for alive that is not heard of.
    fn session_timeout(&self) -> Duration {
        let set = self.config.properties.get("session.timeout.ms").and_then(|ms| ms.parse().ok());
        set.map_or(Duration::from_secs(45), Duration::from_millis)
    }

    /// Takes in what came in place of a record.
    fn note(&mut self, error: KafkaError) -> Result<(), Fault> {
        if let KafkaError::PartitionEOF(number) = error {
            if let Some(place) = self.partitions.as_mut().and_then(|places| places.get_mut(&number.unsigned_abs())) {
                place.at_end = true;
                place.has_been_at_end = true;
            }
            return Ok(());
        }
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AutoOffsetReset) {
            return Err(gone(&self.topic, &error.to_string()));
        }
        if let KafkaError::MessageConsumptionFatal(_) = error {
            warn!(%error, topic = self.topic, "the consumer can't go on; it is replaced");
            return self.rejoin();
        }
        Err(self.fault(error))
    }

    /// A consumer that gets nothing although there is more is replaced.
    fn watch(&mut self) -> Result<(), Fault> {
        let behind = self.partitions.as_ref().is_some_and(|places| places.values().any(|place| !place.at_end));
        if !behind || self.last_record.elapsed() < self.config.stall_timeout {
            return Ok(());
        }
        self.last_record = Instant::now();
        if self.lag()? > 0 {
            warn!(topic = self.topic, "nothing comes although there is more; the consumer is replaced");
            self.rejoin()?;
        }
        Ok(())
    }
}

impl Place {
    fn take(&mut self, message: &BorrowedMessage<'_>, max_future_skew: i64, take: &mut dyn FnMut(Record<'_>)) {
        let offset = message.offset().unsigned_abs();
        // Of an earlier assignment.
        if offset < self.next_offset {
            return;
        }
        self.next_offset = offset + 1;
        self.at_end = false;
        let stamped = message.timestamp().to_millis().map_or_else(crate::now, EventTime);
        take(Record {
            partition: &self.partition,
            offset,
            latest: stamped.plus(max_future_skew),
            value: Some(Ok(message.payload().unwrap_or_default())),
        });
    }
}

fn subscribe(config: &KafkaConfig, group: &str, topic: &str) -> Result<BaseConsumer<Group>, Fault> {
    let prefetch = (config.prefetch_bytes / 1024).clamp(1, 2_097_151);
    let mut client = config.client_with(CATCHING_UP);
    client
        .set("group.id", group)
        .set("group.protocol", "classic")
        // Every change takes all partitions away first: see `Change::Lost`.
        .set("partition.assignment.strategy", "range")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("isolation.level", "read_committed")
        .set("enable.partition.eof", "true")
        // An offset that is not there is money that is gone: never skip over it.
        .set("auto.offset.reset", "error")
        .set("queued.max.messages.kbytes", prefetch.to_string());
    let consumer: KafkaResult<BaseConsumer<Group>> = client.create_with_context(Group::default());
    let consumer = consumer.map_err(|error| config.fault(error))?;
    consumer.subscribe(&[topic]).map_err(|error| config.fault(error))?;
    Ok(consumer)
}

fn gone(place: &str, detail: &str) -> Fault {
    Fault::Lasting(anyhow!(
        "{place}: {detail}. Records that were not read yet are gone, or the topic was created anew: let Kafka keep its \
         records for longer; to go on without them, change next_offset (PostgreSQL: table worker_offsets; Redis: hash \
         adtide:worker:NAME:budget)"
    ))
}

impl Feed for KafkaFeed {
    fn poll(&mut self, wait: Duration, take: &mut dyn FnMut(Record<'_>)) -> Result<(), Fault> {
        let end = Instant::now() + wait;
        while self.consumer.context().changes().is_empty() {
            let rest = end.saturating_duration_since(Instant::now());
            match self.consumer.poll(rest) {
                Some(Ok(message)) => {
                    self.last_record = Instant::now();
                    let number = message.partition().unsigned_abs();
                    let places = self.partitions.as_mut();
                    if let Some(place) = places.and_then(|places| places.get_mut(&number)) {
                        place.take(&message, self.max_future_skew, take);
                    }
                }
                Some(Err(error)) => self.note(error)?,
                None => {
                    self.watch()?;
                    break;
                }
            }
            if rest.is_zero() {
                break;
            }
        }
        Ok(())
    }

    fn change(&mut self) -> Option<Change> {
        let topic = &self.topic;
        let told = self.consumer.context().changes().front().cloned();
        told.map(|told| match told {
            Told::Assigned(numbers) => {
                Change::Gained(numbers.into_iter().map(|number| Partition { topic: topic.clone(), number }).collect())
            }
            Told::Revoked => Change::Lost,
        })
    }

    fn earliest(&mut self, partition: &Partition) -> Result<u64, Fault> {
        Ok(self.bounds(partition)?.0)
    }

    fn start(&mut self, claimed: &[super::Place]) -> Result<(), Fault> {
        let mut list = TopicPartitionList::new();
        let mut places = BTreeMap::new();
        for super::Place { partition, next: next_offset, .. } in claimed {
            let (low, high) = self.bounds(partition)?;
            if !(low..=high).contains(next_offset) {
                let detail = format!("offset {next_offset} comes next, but only {low} to {high} are there");
                return Err(gone(&partition.to_string(), &detail));
            }
            let number = i32::try_from(partition.number).map_err(|error| Fault::Lasting(error.into()))?;
            let offset = i64::try_from(*next_offset).map_err(|error| Fault::Lasting(error.into()))?;
            list.add_partition_offset(&partition.topic, number, Offset::Offset(offset))
                .map_err(|error| self.fault(error))?;
            let partition = partition.clone();
            let (at_end, has_been_at_end) = (false, false);
            places.insert(partition.number, Place { partition, next_offset: *next_offset, at_end, has_been_at_end });
        }
        let is_all = places.len() >= self.count()?;
        self.consumer.assign(&list).map_err(|error| self.fault(error))?;
        debug!(group = self.group, topic = self.topic, partitions = places.len(), "assigned");
        self.last_record = Instant::now();
        self.assigned = (self.last_record, is_all);
        self.partitions = Some(places);
        self.consumer.context().changes().pop_front();
        Ok(())
    }

    fn release(&mut self) -> Result<(), Fault> {
        self.partitions = None;
        self.consumer.unassign().map_err(|error| self.fault(error))?;
        self.consumer.context().changes().pop_front();
        Ok(())
    }

    fn rejoin(&mut self) -> Result<(), Fault> {
        let consumer = subscribe(&self.config, &self.group, &self.topic)?;
        self.leave();
        self.consumer = consumer;
        self.partitions = None;
        Ok(())
    }

    fn at_end(&self) -> bool {
        let changes = !self.consumer.context().changes().is_empty();
        !changes && self.partitions.as_ref().is_some_and(|places| places.values().all(|place| place.at_end))
    }

    /// What others have is theirs to bring to its end, if they live. A member that has died counts for as long as its session
    /// lasts, and then what it had comes here.
    fn has_been_at_end(&self) -> bool {
        let (since, is_all) = self.assigned;
        if !is_all && since.elapsed() < self.session_timeout() + ANSWER {
            return false;
        }
        self.partitions.as_ref().is_some_and(|places| places.values().all(|place| place.has_been_at_end))
    }

    fn lag(&mut self) -> Result<u64, Fault> {
        let Some(places) = &self.partitions else { return Ok(0) };
        let mut lag = 0;
        for place in places.values().filter(|place| !place.at_end) {
            let (_, high) = self.bounds(&place.partition)?;
            lag += high.saturating_sub(place.next_offset);
        }
        Ok(lag)
    }
}

impl KafkaFeed {
    /// Leaves the group, so that another process can go on at once.
    fn leave(&self) {
        self.consumer.context().closing.store(true, Ordering::Relaxed);
        // A change that was told and not acted on would keep the consumer from closing.
        if let Err(error) = self.consumer.unassign() {
            debug!(%error, "can't let go of the partitions");
        }
    }
}

impl Drop for KafkaFeed {
    fn drop(&mut self) {
        self.leave();
    }
}
