//! Reads topics of Kafka from their start to a given point.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::BorrowedMessage;
use rdkafka::{Message, Offset, TopicPartitionList};

use super::input::Offsets;
use crate::connect::kafka::{Bounds, KafkaConfig, QuietConsumer, QuietContext, bounds};
use crate::connect::{Fault, persist};

/// How long to wait for records that must be there.
const PATIENCE: Duration = Duration::from_secs(60);

/// What librdkafka has to say is for the debug log: that a partition has ended is no error here.
type Client = QuietConsumer;

/// Reads what is committed of a cluster's topics.
pub struct Reader {
    config: KafkaConfig,
    consumer: Client,
}

impl Reader {
    /// A reader of its own; what others read does not matter to it.
    ///
    /// # Errors
    /// The configuration of the clients is wrong.
    pub fn new(config: &KafkaConfig) -> anyhow::Result<Reader> {
        Ok(Reader { config: config.clone(), consumer: consumer(config)? })
    }

    /// The partitions of a topic, with where they begin and end now.
    ///
    /// # Errors
    /// The brokers can't be reached, or there is no such topic.
    pub fn bounds(&self, topic: &str) -> anyhow::Result<BTreeMap<u32, Bounds>> {
        let Reader { config, consumer } = self;
        persist("asking Kafka where its topics end", Some(config.connect_timeout), || {
            bounds(config, consumer, topic)
        })
    }

    /// Calls `each` with the committed records before the offsets, within a partition in order. Offsets have
    /// gaps: where compaction has removed records, where transactions were aborted, and at the marks of
    /// transactions.
    ///
    /// # Errors
    /// The brokers can't be reached, or a partition ends before its offset.
    pub fn read(
        &self,
        topic: &str,
        until: &Offsets,
        each: &mut dyn FnMut(u32, u64, &BorrowedMessage<'_>),
    ) -> anyhow::Result<()> {
        let bounds = self.bounds(topic)?;
        let name = self.config.topic(topic);
        let mut open = Offsets::new();
        for (&partition, &until) in until {
            let Bounds { start, end } =
                bounds.get(&partition).copied().unwrap_or(Bounds { start: 0, end: 0 });
            ensure!(
                end >= until,
                "{name} [{partition}] ends at offset {end}, but results rest on what was before {until}: the topic was made anew"
            );
            if until > start {
                open.insert(partition, until);
            }
        }
        let mut assignment = TopicPartitionList::new();
        for &partition in open.keys() {
            let partition = i32::try_from(partition).context("no partition has such a number")?;
            assignment.add_partition_offset(&name, partition, Offset::Beginning).context("can't assign")?;
        }
        self.consumer.assign(&assignment).map_err(|error| self.config.fault(error).into_error())?;
        let mut heard = Instant::now();
        while !open.is_empty() {
            let done = match self.consumer.poll(Duration::from_millis(100)) {
                None => {
                    ensure!(
                        heard.elapsed() < PATIENCE,
                        "Kafka at {}: {name} gives no more records, although there are; is a broker away?",
                        self.config.brokers
                    );
                    continue;
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => Some(partition),
                Some(Err(error)) => {
                    self.judge(error)?;
                    continue;
                }
                Some(Ok(message)) => take(&message, &open, each),
            };
            heard = Instant::now();
            if let Some(partition) = done.filter(|done| open.remove(&(*done as u32)).is_some()) {
                self.stop(&name, partition)?;
            }
        }
        self.consumer.unassign().map_err(|error| self.config.fault(error).into_error())
    }

    /// Reads no further in a partition.
    fn stop(&self, name: &str, partition: i32) -> anyhow::Result<()> {
        let mut done = TopicPartitionList::new();
        done.add_partition(name, partition);
        self.consumer.incremental_unassign(&done).map_err(|error| self.config.fault(error).into_error())
    }

    /// Whether an error ends it. A broker that is away comes back, and librdkafka with it.
    fn judge(&self, error: KafkaError) -> anyhow::Result<()> {
        match (error.rdkafka_error_code(), self.config.fault(error)) {
            (Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange), fault) => {
                bail!(
                    fault
                        .into_error()
                        .context("records were deleted from Kafka while they were read; verify again")
                )
            }
            (_, Fault::Lasting(error)) => Err(error),
            (_, Fault::Passing(_)) => Ok(()),
        }
    }
}

fn consumer(config: &KafkaConfig) -> anyhow::Result<Client> {
    let mut client = config.client();
    client
        // It joins no group and commits nothing, but librdkafka insists on a name.
        .set("group.id", config.topic("adtide-verify"))
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("enable.partition.eof", "true")
        // The end of a partition is told when a fetch has waited for more: half a second unless it is told
        // not to.
        .set("fetch.wait.max.ms", "10")
        .set("isolation.level", "read_committed")
        .set("auto.offset.reset", "error");
    client.create_with_context(QuietContext).map_err(|error| config.fault(error).into_error())
}

/// Gives a record to `each` if it is wanted. The partition, if this was its last.
fn take(
    message: &BorrowedMessage<'_>,
    open: &Offsets,
    each: &mut dyn FnMut(u32, u64, &BorrowedMessage<'_>),
) -> Option<i32> {
    let (Ok(partition), Ok(offset)) = (u32::try_from(message.partition()), u64::try_from(message.offset()))
    else {
        return None;
    };
    let until = *open.get(&partition)?;
    if offset < until {
        each(partition, offset, message);
    }
    (offset + 1 >= until).then_some(message.partition())
}
