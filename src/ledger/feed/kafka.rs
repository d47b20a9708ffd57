//! A topic of Kafka, shared out by its consumer group among all processes of the same worker.
//!
//! The group decides who reads a partition; from where, the store decides. Offsets are never committed to
//! Kafka.

mod group;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use adtide_dataflows::Judgement;
use adtide_dataflows::model::{EventTime, Topic};
use adtide_dataflows::operators::Fingerprint;
use anyhow::anyhow;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::BorrowedMessage;
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Message, Offset, TopicPartitionList};
use tracing::{debug, warn};

use group::{Group, Told};

use super::ends::Ends;
use super::{Bell, Change, Feed, Mark, Partition, Positions, Record};
use crate::clock::steady_now;
use crate::connect::Fault;
use crate::connect::kafka::{KafkaConfig, QuietConsumer, QuietContext, explain, stamp};

/// How long an answer of the broker may take.
const ANSWER: Duration = Duration::from_secs(10);

/// How long the group waits for a member that does not answer: the least that brokers allow unless they are
/// told otherwise.
const SESSION: Duration = Duration::from_secs(6);

/// How long records are gathered once the first one has come.
const BATCH: Duration = Duration::from_millis(20);

/// What to do where a topic is another one than before. The stores know records by topic, partition and
/// offset.
const ANEW: &str = "restore a topic that was created anew, \
                    or start over with empty databases (keys postgres.url and redis.url)";

/// As whom a feed joins, and who is woken when there is something to read.
#[derive(Clone, Debug)]
pub struct Member {
    /// The consumer group.
    pub group: String,
    /// Its name there, by which it gets its partitions back at once after a crash; None for one that is new
    /// each time.
    pub instance: Option<String>,
    /// Shared by the feeds of a worker.
    pub bell: Arc<Bell>,
}

/// One topic, as a member of a consumer group.
pub struct KafkaFeed {
    config: KafkaConfig,
    member: Member,
    topic: String,
    max_future_skew: i64,
    ends: Arc<Ends>,
    consumer: BaseConsumer<Group>,
    /// What is read, by partition number; None before the group has told.
    partitions: Option<BTreeMap<u32, Assigned>>,
    /// Since when, and whether it is all that the topic has.
    assigned: (Instant, bool),
    last_record: Instant,
}

/// How a partition stands.
struct Assigned {
    partition: Partition,
    next_offset: u64,
    /// The last record that was read.
    last: Option<Fingerprint>,
    /// What is compared before anything else is read.
    known: Option<Fingerprint>,
    at_end: bool,
    has_been_at_end: bool,
    /// Where it ended when it was first asked for after that: marks of transactions, which nobody reads, may
    /// lie before.
    known_end: Option<u64>,
}

impl KafkaFeed {
    /// Joins the member's group to read the topic of this name, which gets the configured prefix.
    ///
    /// # Errors
    /// There is no such topic, or the settings of Kafka are wrong. Transient if the brokers don't answer.
    pub fn join(
        config: KafkaConfig,
        mut member: Member,
        topic: &str,
        max_future_skew: i64,
        ends: &Arc<Ends>,
    ) -> Result<KafkaFeed, Fault> {
        // A worker that reads two topics is two members.
        member.instance = member.instance.map(|instance| format!("{instance}-{topic}"));
        let topic = config.topic(topic);
        let consumer = subscribe(&config, &member, &topic)?;
        let (partitions, last_record, assigned) = (None, Instant::now(), (Instant::now(), false));
        let ends = Arc::clone(ends);
        let feed = KafkaFeed {
            config,
            member,
            topic,
            max_future_skew,
            ends,
            consumer,
            partitions,
            assigned,
            last_record,
        };
        // A consumer waits for a topic that is not there without a word.
        if feed.count()? == 0 {
            return Err(Fault::Lasting(feed.config.missing_topics(std::slice::from_ref(&feed.topic))));
        }
        Ok(feed)
    }

    fn fault(&self, error: KafkaError) -> Fault {
        self.config.fault(error)
    }

    /// The offsets of the oldest record and behind the newest one.
    fn bounds(&self, partition: &Partition) -> Result<(u64, u64), Fault> {
        let number = i32::try_from(partition.number).map_err(|error| Fault::Lasting(error.into()))?;
        // After a broker was away, librdkafka may hold a partition for one without a leader, or for none,
        // until its consumer is closed (issue 5430 there). A new client asks anew.
        let bounds = self.consumer.fetch_watermarks(&partition.topic, number, ANSWER).or_else(|_| {
            let fresh: QuietConsumer = self.config.client().create_with_context(QuietContext)?;
            fresh.fetch_watermarks(&partition.topic, number, ANSWER).map_err(|error| explain(&fresh, error))
        });
        let (low, high) = bounds.map_err(|error| self.fault(error))?;
        Ok((low.max(0).unsigned_abs(), high.max(0).unsigned_abs()))
    }

    /// How many partitions the topic has.
    fn count(&self) -> Result<usize, Fault> {
        let metadata =
            self.consumer.fetch_metadata(Some(&self.topic), ANSWER).map_err(|error| self.fault(error))?;
        Ok(metadata.topics().iter().map(|topic| topic.partitions().len()).sum())
    }

    /// How long the group holds a member for alive that is not heard of.
    fn session_timeout(&self) -> Duration {
        let set = self.config.properties.get("session.timeout.ms").and_then(|ms| ms.parse().ok());
        set.map_or(SESSION, Duration::from_millis)
    }

    /// Takes in what came in place of a record.
    fn note(&mut self, error: KafkaError) -> Result<(), Fault> {
        if let KafkaError::PartitionEOF(number) = error {
            if let Some(place) =
                self.partitions.as_mut().and_then(|places| places.get_mut(&number.unsigned_abs()))
            {
                place.recognise(None)?;
                place.at_end = true;
                place.has_been_at_end = true;
            }
            return Ok(());
        }
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AutoOffsetReset) {
            return Err(gone(&self.out_of_range()?, &error.to_string()));
        }
        if let KafkaError::MessageConsumptionFatal(code) = error {
            if code == RDKafkaErrorCode::FencedInstanceId {
                // Whoever came later keeps the name: with it, this one would push that one out again.
                self.member.instance = None;
                warn!(
                    group = self.member.group,
                    "another process has the same name in the consumer group; give each its own worker.instance or data folder"
                );
            }
            warn!(%error, topic = self.topic, "the consumer can't go on; it is replaced");
            return self.rejoin();
        }
        Err(self.fault(error))
    }

    /// The partitions whose next offset is not there, with those that are. The error itself names none.
    fn out_of_range(&self) -> Result<String, Fault> {
        let mut found = Vec::new();
        for place in self.partitions.iter().flat_map(BTreeMap::values) {
            let (low, high) = self.bounds(&place.partition)?;
            if !(low..=high).contains(&place.next_offset) {
                let next = place.next_offset;
                found.push(format!(
                    "{} (offset {next} comes next, {low} to {high} are there)",
                    place.partition
                ));
            }
        }
        Ok(if found.is_empty() { self.topic.clone() } else { found.join(", ") })
    }

    /// A consumer that gets nothing although there is more is replaced.
    fn watch(&mut self) -> Result<(), Fault> {
        let behind =
            self.partitions.as_ref().is_some_and(|places| places.values().any(|place| !place.at_end));
        if !behind || self.last_record.elapsed() < self.config.stall_timeout {
            return Ok(());
        }
        self.last_record = Instant::now();
        let mut waits = false;
        for place in self.partitions.iter().flat_map(BTreeMap::values).filter(|place| !place.at_end) {
            waits |= self.bounds(&place.partition)?.1 > place.next_offset;
        }
        if waits {
            warn!(topic = self.topic, "nothing comes although there is more; the consumer is replaced");
            self.rejoin()?;
        }
        Ok(())
    }
}

impl Assigned {
    /// Up to where it is read, if it ends there now.
    fn reached(&mut self, end: u64) -> u64 {
        let known = if self.at_end { *self.known_end.get_or_insert(end) } else { 0 };
        self.next_offset.max(known)
    }

    fn take(
        &mut self,
        message: &BorrowedMessage<'_>,
        max_future_skew: i64,
        take: &mut dyn FnMut(Record<'_>),
    ) -> Result<(), Fault> {
        let offset = message.offset().unsigned_abs();
        let read = Fingerprint::of(offset, message.timestamp().to_millis(), message.payload());
        self.recognise(Some(read))?;
        // Compared only, or of an earlier assignment.
        if offset < self.next_offset {
            return Ok(());
        }
        (self.next_offset, self.last) = (offset + 1, Some(read));
        (self.at_end, self.known_end) = (false, None);
        let stamp = stamp(message);
        let judgement = Judgement::new(steady_now(), max_future_skew);
        take(Record {
            partition: &self.partition,
            offset,
            latest: judgement.latest(stamp).unwrap_or(EventTime::MIN),
            key: message.key(),
            timestamp: stamp.time(),
            value: Some(Ok(message.payload().unwrap_or_default())),
        });
        Ok(())
    }

    /// Compares the record that was read last, once what is in its place has been `read`; None at the end of
    /// the partition.
    fn recognise(&mut self, read: Option<Fingerprint>) -> Result<(), Fault> {
        let is_reached = |known: &mut Fingerprint| read.is_none_or(|read| read.offset >= known.offset);
        let Some(known) = self.known.take_if(is_reached) else { return Ok(()) };
        let is_same = match read.filter(|read| read.offset == known.offset) {
            Some(read) => read == known,
            // Owners may have their events compacted.
            None => self.partition.topic.ends_with(Topic::CampaignEvents.name()),
        };
        is_same.then_some(()).ok_or_else(|| {
            Fault::Lasting(anyhow!(
                "{} holds another record at offset {}, or none, than the one that was read there: the topic was deleted and \
                 created anew, or restored from a copy: {ANEW}",
                self.partition,
                known.offset
            ))
        })
    }
}

fn subscribe(config: &KafkaConfig, member: &Member, topic: &str) -> Result<BaseConsumer<Group>, Fault> {
    let prefetch = (config.prefetch_bytes / 1024).clamp(1, 2_097_151);
    let mut client = config.client_with(&[
        ("session.timeout.ms", &SESSION.as_millis().to_string()),
        ("heartbeat.interval.ms", "2000"),
        // A full queue is looked at again soon, not after a second. Fetches that find nothing wait for as
        // long as librdkafka's default says: a store is slower than the brokers, and an idle worker is to
        // cost nothing.
        ("fetch.queue.backoff.ms", "20"),
    ]);
    if let Some(instance) = &member.instance {
        client.set("group.instance.id", instance);
    }
    client
        .set("group.id", &member.group)
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
    let mut consumer = consumer.map_err(|error| config.fault(error))?;
    let bell = Arc::clone(&member.bell);
    consumer.set_nonempty_callback(move || bell.ring());
    consumer.subscribe(&[topic]).map_err(|error| config.fault(error))?;
    Ok(consumer)
}

fn gone(place: &str, detail: &str) -> Fault {
    Fault::Lasting(anyhow!(
        "{place}: {detail}. Records that were not read yet are gone, or the topic was created anew: let Kafka keep its \
         records for longer; to go on without them, change next_offset (PostgreSQL: table worker_offsets; Redis: hash \
         adtide:worker:NAME:budget); {ANEW}"
    ))
}

impl Feed for KafkaFeed {
    fn poll(&mut self, wait: Duration, take: &mut dyn FnMut(Record<'_>)) -> Result<(), Fault> {
        if self.partitions.is_none() {
            // On its way to the group librdkafka takes a step a second, unless it is asked something
            // meanwhile.
            self.consumer.subscription().map_err(|error| self.fault(error))?;
        }
        let (mut end, mut has_waited) = (Instant::now() + wait, false);
        while self.consumer.context().changes().is_empty() {
            match self.consumer.poll(Duration::ZERO) {
                Some(Ok(message)) => {
                    self.last_record = Instant::now();
                    end = end.min(self.last_record + wait.min(BATCH));
                    let number = message.partition().unsigned_abs();
                    let places = self.partitions.as_mut();
                    if let Some(place) = places.and_then(|places| places.get_mut(&number)) {
                        place.take(&message, self.max_future_skew, take)?;
                    }
                }
                Some(Err(error)) => self.note(error)?,
                None => {
                    self.watch()?;
                    let rest = end.saturating_duration_since(Instant::now());
                    // What it was woken for may be another feed's.
                    if has_waited || rest.is_zero() {
                        break;
                    }
                    self.member.bell.wait(rest);
                    (end, has_waited) = (Instant::now() + wait.min(BATCH), true);
                }
            }
            if Instant::now() >= end {
                break;
            }
        }
        Ok(())
    }

    fn change(&mut self) -> Option<Change> {
        let topic = &self.topic;
        let told = self.consumer.context().changes().front().cloned();
        told.map(|told| match told {
            Told::Assigned(numbers) => Change::Gained(
                numbers.into_iter().map(|number| Partition { topic: topic.clone(), number }).collect(),
            ),
            Told::Revoked => Change::Lost,
        })
    }

    fn earliest(&mut self, partition: &Partition) -> Result<u64, Fault> {
        Ok(self.bounds(partition)?.0)
    }

    fn start(&mut self, claimed: &[super::Start]) -> Result<(), Fault> {
        let mut list = TopicPartitionList::new();
        let mut places = BTreeMap::new();
        for super::Start { partition, next: next_offset, mark } in claimed {
            let (low, high) = self.bounds(partition)?;
            if !(low..=high).contains(next_offset) {
                let detail = format!("offset {next_offset} comes next, but only {low} to {high} are there");
                return Err(gone(&partition.to_string(), &detail));
            }
            let number = i32::try_from(partition.number).map_err(|error| Fault::Lasting(error.into()))?;
            // One that retention has deleted can't be compared.
            let is_there = |known: &Fingerprint| known.offset + 1 == *next_offset && known.offset >= low;
            let known = match mark {
                Some(Mark::Record(known)) => Some(*known).filter(is_there),
                _ => None,
            };
            let from = known.map_or(*next_offset, |known| known.offset);
            let offset = i64::try_from(from).map_err(|error| Fault::Lasting(error.into()))?;
            list.add_partition_offset(&partition.topic, number, Offset::Offset(offset))
                .map_err(|error| self.fault(error))?;
            let partition = partition.clone();
            let (next_offset, at_end, has_been_at_end, known_end) = (*next_offset, false, false, None);
            let place =
                Assigned { partition, next_offset, last: known, known, at_end, has_been_at_end, known_end };
            places.insert(place.partition.number, place);
        }
        let is_all = places.len() >= self.count()?;
        self.consumer.assign(&list).map_err(|error| self.fault(error))?;
        debug!(group = self.member.group, topic = self.topic, partitions = places.len(), "assigned");
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
        let consumer = subscribe(&self.config, &self.member, &self.topic)?;
        self.leave();
        self.consumer = consumer;
        self.partitions = None;
        Ok(())
    }

    fn mark(&mut self, partition: &Partition) -> Option<Mark> {
        let place =
            self.partitions.as_ref()?.get(&partition.number).filter(|place| place.partition == *partition)?;
        place.last.map(Mark::Record)
    }

    fn is_assigned(&self) -> bool {
        self.partitions.is_some() && self.consumer.context().changes().is_empty()
    }

    fn at_end(&self) -> bool {
        let changes = !self.consumer.context().changes().is_empty();
        !changes && self.partitions.as_ref().is_some_and(|places| places.values().all(|place| place.at_end))
    }

    /// What others have is theirs to bring to its end, if they live. A member that has died counts for as
    /// long as its session lasts, and then what it had comes here.
    fn has_been_at_end(&self) -> bool {
        let (since, is_all) = self.assigned;
        if !is_all && since.elapsed() < self.session_timeout() + ANSWER {
            return false;
        }
        self.partitions.as_ref().is_some_and(|places| places.values().all(|place| place.has_been_at_end))
    }

    fn answered_since(&self, since: Instant) -> bool {
        self.ends.answered_since(since)
    }

    /// Of partitions of other processes, marks of transactions behind the last record count as records.
    fn lag(&mut self, positions: &mut dyn FnMut() -> Result<Positions, Fault>) -> Result<Option<u64>, Fault> {
        let Some(ends) = self.ends.of(&self.topic) else { return Ok(None) };
        let mut none = BTreeMap::new();
        let own = self.partitions.as_mut().unwrap_or(&mut none);
        let is_shared = ends.keys().any(|number| !own.contains_key(number));
        let others = if is_shared { positions()? } else { Positions::new() };
        let lag = ends.iter().map(|(number, bounds)| {
            let reached = match own.get_mut(number) {
                Some(place) => place.reached(bounds.end),
                None => {
                    let partition = Partition { topic: self.topic.clone(), number: *number };
                    others.get(&partition).copied().unwrap_or(bounds.start)
                }
            };
            bounds.end.saturating_sub(reached)
        });
        Ok(Some(lag.sum()))
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
