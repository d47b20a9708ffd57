//! Topics in Kafka.

use adtide_dataflows::model::Topic;
use rdkafka::Message;

use super::{Ends, Input, Offsets, TopicRecord};
use crate::connect::kafka::{KafkaConfig, stamp};
use crate::verify::kafka::Reader;

/// The input topics of a cluster.
pub struct KafkaTopics {
    config: KafkaConfig,
    notes: Vec<String>,
}

impl KafkaTopics {
    /// The topics there.
    pub fn new(config: &KafkaConfig) -> KafkaTopics {
        KafkaTopics { config: config.clone(), notes: Vec::new() }
    }

    /// Says where records are gone that results rest on.
    fn note_gaps(&mut self, reader: &Reader, topic: Topic, until: &Offsets) -> anyhow::Result<()> {
        for (partition, bounds) in reader.bounds(topic.name())? {
            if bounds.start > 0 && until.get(&partition).is_some_and(|until| *until > 0) {
                self.notes.push(format!(
                    "{} [{partition}] begins at offset {}: what was before has been deleted, and results that rest on it \
                     show as differences",
                    self.config.topic(topic.name()),
                    bounds.start
                ));
            }
        }
        Ok(())
    }
}

impl Input for KafkaTopics {
    fn each_record(
        &mut self,
        topic: Topic,
        until: &Offsets,
        each: &mut dyn FnMut(TopicRecord<'_>),
    ) -> anyhow::Result<()> {
        if until.values().all(|until| *until == 0) {
            return Ok(());
        }
        let reader = Reader::new(&self.config)?;
        self.note_gaps(&reader, topic, until)?;
        reader.read(topic.name(), until, &mut |partition, offset, message| {
            each(TopicRecord {
                partition,
                offset,
                key: message.key(),
                value: message.payload(),
                stamp: stamp(message),
            });
        })
    }

    fn ends(&mut self, topic: Topic) -> anyhow::Result<Ends> {
        Reader::new(&self.config)?.bounds(topic.name())
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }
}
