//! A partition that is read, and its records.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use adtide_dataflows::model::Topic;
use adtide_dataflows::operators::Fingerprint;
use adtide_dataflows::record::MAX_RECORD_BYTES;
use adtide_dataflows::{Envelope, Ingest, PartitionHandle};
use anyhow::ensure;
use rdkafka::Message;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::error::KafkaError;
use rdkafka::message::OwnedMessage;

use super::{BATCH, KafkaSourceConfig, Listener, OVERSIZED_HEAD};
use crate::connect::kafka::{KafkaConfig, stamp};
use crate::source::life::Life;

/// A partition of a topic.
pub(super) struct Partition {
    pub(super) topic: Topic,
    pub(super) number: u32,
    pub(super) handle: PartitionHandle,
    pub(super) queue: Option<PartitionQueue<Listener>>,
    /// The first offset that was not taken.
    pub(super) next_offset: u64,
    /// Whether the queue has said that it is at the end, since the last record.
    pub(super) at_end: bool,
    /// A record that was polled before its time.
    pub(super) held: Option<OwnedMessage>,
    /// The records that earlier runs read last, in order: each must still be the same.
    pub(super) known: VecDeque<Fingerprint>,
    /// Of a replay: the offset to stop before.
    pub(super) until: Option<u64>,
    /// Of a bounded run: where the input ends.
    pub(super) last: Option<u64>,
    /// Since when there is nothing, although the brokers have more.
    pub(super) hungry: Option<Instant>,
    pub(super) life: Life,
}

impl Partition {
    /// The offset to stop before.
    pub(super) fn limit(&self) -> u64 {
        self.until.or(self.last).unwrap_or(u64::MAX)
    }

    /// Whether it is to be read further. Offsets may have gaps: what ends a replay is a record beyond it, or
    /// the end.
    pub(super) fn is_wanted(&self) -> bool {
        let beyond = self.held.as_ref().is_some_and(|held| offset_of(held) >= self.limit());
        let replayed = self.until.is_some() && self.at_end;
        let may_have_more = self.next_offset < self.limit() && !beyond && !replayed;
        self.life.is_active() && (may_have_more || self.is_comparing())
    }

    /// Whether the record that was read last has to be read again.
    pub(super) fn is_comparing(&self) -> bool {
        let is_before = |known: &Fingerprint| known.offset < self.next_offset;
        self.held.is_none() && !self.at_end && self.known.front().is_some_and(is_before)
    }

    /// Whether a bounded run has read all of it.
    pub(super) fn is_at_last(&self) -> bool {
        let beyond = |last| self.held.as_ref().is_some_and(|held| offset_of(held) >= last);
        let is_read = |last| self.next_offset >= last || self.at_end || beyond(last);
        self.last.is_some_and(is_read) && !self.is_comparing()
    }

    /// Takes what the queue has, up to a batch. How many bytes that were, and what went wrong.
    ///
    /// # Errors
    /// The topic is not the one that was read before.
    pub(super) fn read(
        &mut self,
        ingest: &mut Ingest,
        config: &KafkaSourceConfig,
    ) -> anyhow::Result<(u64, Option<KafkaError>)> {
        let limit = self.limit();
        let (mut bytes, mut last, mut trouble) = (0, None, None);
        if let Some(held) = self.held.take_if(|held| offset_of(held) < limit) {
            last = Some(self.recognise(&held, &config.kafka)?);
            bytes += take(ingest, (self.topic, self.handle), &held);
            self.has_taken(offset_of(&held));
        }
        for _ in 0..BATCH {
            let is_wanted = self.held.is_none() && (self.next_offset < limit || self.is_comparing());
            let Some(queue) = self.queue.as_ref().filter(|_| is_wanted) else { break };
            match queue.poll(Duration::ZERO) {
                None => break,
                Some(Ok(message)) if offset_of(&message) >= limit => self.held = Some(message.detach()),
                Some(Ok(message)) => {
                    let read =
                        recognise(&mut self.known, &message, (self.topic, self.number), &config.kafka)?;
                    let offset = offset_of(&message);
                    // What an earlier run read last was read again only to be compared.
                    let is_new = offset >= self.next_offset;
                    if is_new {
                        bytes += take(ingest, (self.topic, self.handle), &message);
                    }
                    drop(message);
                    if is_new {
                        last = Some(read);
                        self.has_taken(offset);
                    }
                }
                Some(Err(KafkaError::PartitionEOF(_))) => self.at_end = true,
                Some(Err(error)) => {
                    trouble = Some(error);
                    break;
                }
            }
        }
        if let Some(last) = last {
            ingest.note_last(self.handle, last);
            self.life.has_read(Instant::now());
        }
        Ok((bytes, trouble))
    }

    pub(super) fn recognise(
        &mut self,
        message: &impl Message,
        config: &KafkaConfig,
    ) -> anyhow::Result<Fingerprint> {
        recognise(&mut self.known, message, (self.topic, self.number), config)
    }

    pub(super) fn has_taken(&mut self, offset: u64) {
        self.next_offset = offset + 1;
        self.at_end = false;
        self.hungry = None;
    }

    /// Of an idle partition: looks whether there is a record, and holds it.
    pub(super) fn peek(&mut self, config: &KafkaConfig) -> anyhow::Result<Option<KafkaError>> {
        let queue = self.queue.as_ref().filter(|_| self.held.is_none());
        match queue.and_then(|queue| queue.poll(Duration::ZERO)) {
            None => {}
            Some(Ok(message)) if offset_of(&message) < self.next_offset => {
                recognise(&mut self.known, &message, (self.topic, self.number), config)?;
            }
            Some(Ok(message)) => self.held = Some(message.detach()),
            Some(Err(KafkaError::PartitionEOF(_))) => self.at_end = true,
            Some(Err(error)) => return Ok(Some(error)),
        }
        Ok(None)
    }
}

/// Compares a record with what earlier runs read in its place, and gives what it is recognised by.
pub(super) fn recognise(
    known: &mut VecDeque<Fingerprint>,
    message: &impl Message,
    (topic, number): (Topic, u32),
    config: &KafkaConfig,
) -> anyhow::Result<Fingerprint> {
    let read = Fingerprint::of(offset_of(message), message.timestamp().to_millis(), message.payload());
    while let Some(before) = known.front().copied().filter(|before| before.offset <= read.offset) {
        known.pop_front();
        // Compaction takes records away; of these topics nothing else does, as the log starts no later.
        let may_be_gone = !matches!(topic, Topic::AdEvents | Topic::ConversionEvents);
        let is_same = if before.offset < read.offset { may_be_gone } else { before == read };
        ensure!(
            is_same,
            "{} [{number}] holds another record at offset {} than the one that was read there: the topic was \
             deleted and created anew, or restored from a copy; results of the old topic can't be continued: set \
             another name (key name) to start over",
            config.topic(topic.name()),
            before.offset
        );
    }
    Ok(read)
}

pub(super) fn offset_of(message: &impl Message) -> u64 {
    u64::try_from(message.offset()).unwrap_or(0)
}

/// Gives a record to the ingest. How many bytes it has, and one more, so that an empty one counts.
pub(super) fn take(
    ingest: &mut Ingest,
    (topic, handle): (Topic, PartitionHandle),
    message: &impl Message,
) -> u64 {
    let envelope = Envelope { offset: offset_of(message), key: message.key(), stamp: stamp(message) };
    match message.payload() {
        Some(value) if value.len() > MAX_RECORD_BYTES => {
            ingest.oversized(handle, envelope, &value[..OVERSIZED_HEAD], value.len() as u64);
        }
        Some(value) => ingest.record_in(handle, envelope, value),
        None => ingest.record_in(handle, envelope, tombstone(topic, message.key()).as_bytes()),
    }
    message.payload().map_or(0, <[u8]>::len) as u64 + 1
}

/// What a null value says: on a topic of products, that its key is deleted. Without a product for a key, as
/// on the other topics, it is an empty record, and so a bad one.
pub(super) fn tombstone(topic: Topic, key: Option<&[u8]>) -> String {
    let key = key.filter(|_| matches!(topic, Topic::ProductMetrics | Topic::ProductMeta));
    let key = key.and_then(|key| std::str::from_utf8(key).ok()).filter(|key| !key.starts_with('+'));
    let product = key.and_then(|key| key.parse::<i64>().ok());
    product.map_or_else(String::new, |product| format!(r#"{{"product_id":{product}}}"#))
}
