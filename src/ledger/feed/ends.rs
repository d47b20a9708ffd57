//! Where the partitions of the workers' topics begin and end, whoever reads them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaError;
use rdkafka::{Offset, TopicPartitionList};

use crate::connect::kafka::{Bounds, Inquirer, KafkaConfig, QuietConsumer};
use crate::connect::{Fault, persist};

/// How often the brokers are asked. Brokers that hang are noticed by it, too.
const INTERVAL: Duration = Duration::from_secs(5);

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(5);

/// The partitions of a topic.
pub type Partitions = BTreeMap<u32, Bounds>;

/// What the brokers have answered last, kept current by a thread until this is dropped. The workers of a
/// process share it.
#[derive(Debug)]
pub struct Ends {
    config: KafkaConfig,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    /// By the topics' full names; empty for one that was not seen yet.
    topics: BTreeMap<String, Partitions>,
    answered: Option<Instant>,
}

impl Ends {
    /// Starts to watch topics by their full names.
    ///
    /// # Errors
    /// The settings of Kafka are wrong.
    pub fn watch(
        config: &KafkaConfig,
        topics: impl IntoIterator<Item = String>,
    ) -> anyhow::Result<Arc<Ends>> {
        let topics = topics.into_iter().map(|topic| (topic, Partitions::new())).collect();
        let ends =
            Arc::new(Ends { config: config.clone(), seen: Mutex::new(Seen { topics, answered: None }) });
        let mut kafka = Inquirer::new(config);
        kafka.ask(|_| Ok(())).map_err(Fault::into_error)?;
        let weak = Arc::downgrade(&ends);
        let keep_watch = move || {
            let mut asked = Asked::default();
            loop {
                // It never gives up, so it does not fail.
                let looked = persist("asking Kafka where its topics end", None, || {
                    let Some(ends) = weak.upgrade() else { return Ok(false) };
                    asked.look(&ends, &mut kafka).map(|()| true)
                });
                if !matches!(looked, Ok(true)) {
                    return;
                }
                std::thread::sleep(INTERVAL);
            }
        };
        std::thread::Builder::new()
            .name("worker:ends".to_owned())
            .spawn(keep_watch)
            .context("can't start a thread")?;
        Ok(ends)
    }

    /// The partitions of a topic; None before the brokers have answered.
    pub fn of(&self, topic: &str) -> Option<Partitions> {
        self.seen().topics.get(topic).filter(|partitions| !partitions.is_empty()).cloned()
    }

    /// Whether the brokers have answered after this.
    pub fn answered_since(&self, since: Instant) -> bool {
        self.seen().answered.is_some_and(|answered| answered > since)
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is asked for.
#[derive(Default)]
struct Asked {
    partitions: Vec<(String, i32)>,
    discovered: Option<Instant>,
}

impl Asked {
    fn look(&mut self, ends: &Ends, kafka: &mut Inquirer) -> Result<(), Fault> {
        if self.discovered.is_none_or(|discovered| discovered.elapsed() >= ends.config.discovery_interval) {
            self.discover(ends, kafka)?;
        }
        let asked = Instant::now();
        let found = kafka.ask(|client| self.bounds(client))?;
        let mut seen = ends.seen();
        seen.topics.extend(found);
        seen.answered = Some(asked);
        Ok(())
    }

    fn bounds(&self, client: &QuietConsumer) -> Result<BTreeMap<String, Partitions>, KafkaError> {
        let offsets = |which: Offset| {
            let mut list = TopicPartitionList::new();
            for (topic, partition) in &self.partitions {
                list.add_partition_offset(topic, *partition, which)?;
            }
            client.offsets_for_times(list, ANSWER)
        };
        let (starts, ends) = (offsets(Offset::Beginning)?, offsets(Offset::End)?);
        let mut found: BTreeMap<String, Partitions> = BTreeMap::new();
        for (topic, partition) in &self.partitions {
            let at = |list: &TopicPartitionList| -> Result<u64, KafkaError> {
                let Some(answer) = list.find_partition(topic, *partition) else { return Ok(0) };
                answer.error()?;
                Ok(answer.offset().to_raw().and_then(|offset| u64::try_from(offset).ok()).unwrap_or(0))
            };
            let bounds = Bounds { start: at(&starts)?, end: at(&ends)? };
            found.entry(topic.clone()).or_default().insert(partition.unsigned_abs(), bounds);
        }
        Ok(found)
    }

    fn discover(&mut self, ends: &Ends, kafka: &mut Inquirer) -> Result<(), Fault> {
        let topics: Vec<String> = ends.seen().topics.keys().cloned().collect();
        let mut partitions = Vec::new();
        for topic in topics {
            let metadata = kafka.ask(|client| client.fetch_metadata(Some(&topic), ANSWER))?;
            let found = metadata.topics().iter().filter(|found| found.name() == topic);
            let numbers = found.flat_map(|found| found.partitions()).map(|partition| partition.id());
            // A topic that is not there yet may be created; its reader says that it is missing.
            partitions.extend(numbers.map(|number| (topic.clone(), number)));
        }
        (self.partitions, self.discovered) = (partitions, Some(Instant::now()));
        Ok(())
    }
}
