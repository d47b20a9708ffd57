//! The records as messages in Kafka.

use std::time::Duration;

use adtide_dataflows::model::{EventTime, Topic};
use anyhow::{Context, anyhow};
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseRecord, Producer, ThreadedProducer};

use super::line::is_tombstone;
use super::{Arrival, Generated, GeneratorConfig, Traffic};
use crate::clock::steady_now;
use crate::connect::kafka::{Deliveries, KafkaConfig};

/// How many records there are between two looks at failures and at whether to stop.
const LOOK: u64 = 256;

/// How long is waited at once, for the clock or for room in the queue.
const PAUSE: Duration = Duration::from_millis(2);

/// How fast records are sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// As fast as the brokers take them.
    Unbounded,
    /// The traffic's own time passes so many times as fast as the clock, from now on.
    Times(f64),
}

/// Sends all records to the input topics, each to the partition that the traffic says, until the traffic ends
/// or `stop` says so. All that was sent is delivered when it returns.
///
/// Keys are the product's or campaign's id as text; a product's deletion is a null value. A message's
/// timestamp is when it was sent.
///
/// `progress` gets the number of ad events sent and that of all, from time to time and at the end.
///
/// # Errors
/// Which value of the configuration can't be, or why a record can't be delivered.
pub fn produce(
    config: &GeneratorConfig,
    kafka: &KafkaConfig,
    pace: Pace,
    stop: &dyn Fn() -> bool,
    progress: &mut dyn FnMut(u64, u64),
) -> anyhow::Result<Generated> {
    let mut traffic = Traffic::new(config)?;
    let outbox = Outbox::open(kafka)?;
    let mut clock = Clock { pace, start: config.start, began: steady_now(), reached: EventTime::MIN };
    let mut generated = Generated::default();
    let mut line = Vec::with_capacity(1024);
    let mut sent = 0;
    while let Some(arrival) = traffic.next(&mut line) {
        if sent % LOOK == 0 {
            outbox.check()?;
            progress(generated.records[Topic::AdEvents as usize], config.ad_events);
            if stop() {
                break;
            }
        }
        if !clock.await_time(arrival.at, stop) {
            break;
        }
        outbox.send(&arrival, &line)?;
        sent += 1;
        generated.records[arrival.topic as usize] += 1;
        generated.bytes += line.len() as u64;
    }
    outbox.finish()?;
    progress(generated.records[Topic::AdEvents as usize], config.ad_events);
    Ok(generated)
}

/// When records are due.
struct Clock {
    pace: Pace,
    /// Where the traffic's own time and the clock stood at the beginning.
    start: EventTime,
    began: EventTime,
    /// What the clock said last.
    reached: EventTime,
}

impl Clock {
    /// Waits until the record of an arrival is due; false if `stop` says so before.
    fn await_time(&mut self, at: EventTime, stop: &dyn Fn() -> bool) -> bool {
        let due = match self.pace {
            Pace::Unbounded => return true,
            Pace::Times(times) => self.began.plus(((at.0 - self.start.0) as f64 / times) as i64),
        };
        while due > self.reached {
            self.reached = steady_now();
            if due > self.reached {
                if stop() {
                    return false;
                }
                std::thread::sleep(PAUSE);
            }
        }
        true
    }
}

/// The producer.
struct Outbox<'a> {
    kafka: &'a KafkaConfig,
    producer: ThreadedProducer<Deliveries>,
    topics: [String; Topic::ALL.len()],
}

impl<'a> Outbox<'a> {
    fn open(kafka: &'a KafkaConfig) -> anyhow::Result<Outbox<'a>> {
        // Large batches, and no more in memory than a second or two of sending.
        let ours = [
            ("linger.ms", "5"),
            ("batch.size", "262144"),
            ("compression.type", "lz4"),
            ("queue.buffering.max.messages", "200000"),
            ("queue.buffering.max.kbytes", "65536"),
        ];
        let mut client = kafka.producer_with(&ours);
        // No record twice or out of order when one is sent again, and no report of the millions that go well.
        client.set("enable.idempotence", "true").set("delivery.report.only.error", "true");
        let producer = ThreadedProducer::from_config_and_context(&client, Deliveries::default());
        let producer = producer.map_err(|error| kafka.fault(error).into_error())?;
        Ok(Outbox { kafka, producer, topics: Topic::ALL.map(|topic| kafka.topic(topic.name())) })
    }

    /// Queues a record, as soon as there is room.
    fn send(&self, arrival: &Arrival, line: &[u8]) -> anyhow::Result<()> {
        let key = arrival.key.map(|key| key.to_string());
        let mut record = BaseRecord::<str, [u8]>::to(&self.topics[arrival.topic as usize]);
        record = record.partition(i32::try_from(arrival.partition)?);
        if let Some(key) = &key {
            record = record.key(key);
        }
        if !arrival.key.is_some_and(|key| is_tombstone(line, key)) {
            record = record.payload(line);
        }
        loop {
            record = match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), record)) => record,
                Err((error, _)) => return Err(self.kafka.fault(error).into_error()),
            };
            self.check()?;
            std::thread::sleep(PAUSE);
        }
    }

    /// Whether all has gone well so far.
    fn check(&self) -> anyhow::Result<()> {
        match self.producer.context().failure() {
            Some(error) => {
                Err(self.kafka.fault(error.clone()).into_error()).context("a record was not delivered")
            }
            None => Ok(()),
        }
    }

    /// Waits until everything is delivered.
    fn finish(&self) -> anyhow::Result<()> {
        // A record that stays undelivered fails after librdkafka's message.timeout.ms, five minutes.
        const MOST: Duration = Duration::from_secs(600);
        self.producer.flush(MOST).map_err(|error| anyhow!("records were not delivered: {error}"))?;
        self.check()
    }
}
