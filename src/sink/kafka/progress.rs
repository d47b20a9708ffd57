//! The progress in the compacted topic `adtide-progress`, under the deployment's name.

use std::time::Instant;

use anyhow::{Context, anyhow};
use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaError;
use rdkafka::{Message, Offset, TopicPartitionList};
use serde::{Deserialize, Serialize};

use super::{ANSWER, Outgoing, TRANSACTION};
use crate::connect::Fault;
use crate::connect::kafka::{KafkaConfig, QuietConsumer, QuietContext};
use crate::sink::Stored;

/// The topic that holds how far the others are committed.
pub const TOPIC: &str = "adtide-progress";

/// All of it goes to one partition, so that its end is the last word however many there are.
const PARTITION: i32 = 0;

/// A record of the topic.
#[derive(Debug, Serialize, Deserialize)]
pub struct ProgressRecord {
    /// The number that the run has drawn.
    pub run_number: u64,
    /// What is committed; None if nothing yet.
    pub stored: Option<Stored>,
}

impl ProgressRecord {
    /// As it is written.
    pub fn outgoing(&self, config: &KafkaConfig, name: &str) -> anyhow::Result<Outgoing> {
        let value = serde_json::to_string(self)?;
        Ok(Outgoing { topic: config.topic(TOPIC), partition: Some(PARTITION), key: name.to_owned(), value })
    }
}

/// The last record of the deployment.
pub fn read(config: &KafkaConfig, name: &str) -> Result<Option<ProgressRecord>, Fault> {
    let topic = config.topic(TOPIC);
    let ends = |isolation: &str| -> Result<(QuietConsumer, i64, i64), Fault> {
        let consumer = consumer(config, name, isolation)?;
        let (start, end) =
            consumer.fetch_watermarks(&topic, PARTITION, ANSWER).map_err(|error| config.fault(error))?;
        Ok((consumer, start, end))
    };
    // Nothing behind an open transaction can be read, not even what is committed. Ours are settled, but the
    // topic is not ours alone.
    let (_, _, end) = ends("read_uncommitted")?;
    let (consumer, start, readable) = ends("read_committed")?;
    if readable < end {
        return Err(Fault::Passing(anyhow!(
            "a transaction is open in topic {topic} and hides the progress behind it"
        )));
    }
    // From the end, as the topic is large where compaction is slow: the first step nearly always finds it.
    let (mut until, mut step) = (end, 500);
    while until > start {
        let from = (until - step).max(start);
        if let Some(value) = last_between(config, &consumer, (from, until), name)? {
            let advice =
                || format!("the progress of {name:?} in topic {topic} is of another version of adtide");
            let record = serde_json::from_slice(&value).with_context(advice);
            return Ok(Some(record.map_err(Fault::Lasting)?));
        }
        (until, step) = (from, step * 10);
    }
    Ok(None)
}

/// The value of the last record of the deployment from offset `from` to before `until`.
fn last_between(
    config: &KafkaConfig,
    consumer: &QuietConsumer,
    (from, until): (i64, i64),
    name: &str,
) -> Result<Option<Vec<u8>>, Fault> {
    let fault = |error| config.fault(error);
    let mut assignment = TopicPartitionList::new();
    assignment.add_partition_offset(&config.topic(TOPIC), PARTITION, Offset::Offset(from)).map_err(fault)?;
    consumer.assign(&assignment).map_err(fault)?;
    let mut last = None;
    let deadline = Instant::now() + TRANSACTION;
    loop {
        match consumer.poll(ANSWER) {
            Some(Ok(record)) if record.offset() >= until => return Ok(last),
            Some(Ok(record)) if record.key() == Some(name.as_bytes()) => {
                last = record.payload().map(<[u8]>::to_vec)
            }
            Some(Ok(_)) | None => {}
            // Records that were compacted away or aborted don't come, so the end has to be told.
            Some(Err(KafkaError::PartitionEOF(_))) => return Ok(last),
            Some(Err(error)) => return Err(fault(error)),
        }
        if Instant::now() > deadline {
            let (brokers, topic) = (&config.brokers, config.topic(TOPIC));
            return Err(Fault::Passing(anyhow!("Kafka at {brokers} does not deliver topic {topic}")));
        }
    }
}

fn consumer(config: &KafkaConfig, name: &str, isolation: &str) -> Result<QuietConsumer, Fault> {
    let mut client = config.client();
    // Needed, though nothing is committed and no group joined.
    client.set("group.id", config.topic(&format!("{name}-progress")));
    client.set("isolation.level", isolation);
    client.set("enable.auto.commit", "false");
    client.set("enable.partition.eof", "true");
    client.set("auto.offset.reset", "earliest");
    // The end is told when a fetch has waited for more.
    client.set("fetch.wait.max.ms", "10");
    client.create_with_context(QuietContext).map_err(|error| config.fault(error))
}
