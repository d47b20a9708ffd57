//! The timestamps of the records that partitions start with.

use std::collections::BTreeMap;
use std::time::Instant;

use adtide_dataflows::model::{EventTime, Topic};
use anyhow::Context;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::{Message, Offset, Timestamp, TopicPartitionList};

use super::KafkaSourceConfig;
use crate::connect::kafka::CATCHING_UP;
use crate::connect::{Fault, persist};
use crate::source::{Gap, Head, Heads};

/// How many records of a partition are looked at: one alone may have come late.
const RECORDS: usize = 1000;

/// Reads the first records behind each of the gaps.
///
/// # Errors
/// They can't be read within `connect_timeout`.
pub fn heads(config: &KafkaSourceConfig, gaps: &[Gap]) -> anyhow::Result<Heads> {
    let mut heads = Heads::new();
    for topic in Topic::ALL {
        let gaps: Vec<_> = gaps.iter().filter(|gap| gap.topic == topic).collect();
        if !gaps.is_empty() {
            let read = || heads_of(config, topic, &gaps);
            heads.extend(persist(
                "reading the first records of a topic",
                Some(config.kafka.connect_timeout),
                read,
            )?);
        }
    }
    Ok(heads)
}

fn heads_of(config: &KafkaSourceConfig, topic: Topic, gaps: &[&Gap]) -> Result<Heads, Fault> {
    let kafka = &config.kafka;
    let fault = |error| kafka.fault(error);
    let mut client = kafka.client_with(CATCHING_UP);
    client
        .set("group.id", kafka.topic(&config.name))
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("isolation.level", "read_committed")
        .set("auto.offset.reset", "error");
    let consumer: BaseConsumer = client.create().map_err(fault)?;
    let (name, mut assignment) = (kafka.topic(topic.name()), TopicPartitionList::new());
    for gap in gaps {
        let from = Offset::Offset(i64::try_from(gap.to).map_err(|error| Fault::Lasting(error.into()))?);
        assignment.add_partition_offset(&name, gap.partition as i32, from).map_err(fault)?;
    }
    consumer.assign(&assignment).map_err(fault)?;
    let mut open: BTreeMap<u32, usize> = gaps.iter().map(|gap| (gap.partition, 0)).collect();
    let (mut heads, end) = (Heads::new(), Instant::now() + kafka.connect_timeout);
    while !open.is_empty() {
        let rest = end.saturating_duration_since(Instant::now());
        let polled = consumer.poll(rest).context("Kafka does not answer").map_err(Fault::Passing)?;
        match polled {
            Ok(message) => {
                let number = message.partition().unsigned_abs();
                let Some(seen) = open.get_mut(&number) else { continue };
                note(&mut heads, (topic, number), message.timestamp());
                *seen += 1;
                if *seen == RECORDS {
                    open.remove(&number);
                }
            }
            Err(KafkaError::PartitionEOF(number)) => drop(open.remove(&number.unsigned_abs())),
            Err(error) => return Err(fault(error)),
        }
    }
    Ok(heads)
}

fn note(heads: &mut Heads, place: (Topic, u32), timestamp: Timestamp) {
    let is_append_time = matches!(timestamp, Timestamp::LogAppendTime(_));
    let time = timestamp.to_millis().map_or_else(crate::now, EventTime);
    let head = heads.entry(place).or_insert(Head { first: time, latest: time, is_append_time });
    head.latest = head.latest.max(time);
    head.is_append_time &= is_append_time;
}
