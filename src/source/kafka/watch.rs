//! What the brokers say of the topics: which partitions there are, and where they end.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use adtide_dataflows::model::Topic;
use anyhow::Context;
use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Offset, TopicPartitionList};
use tracing::{info, warn};

use crate::connect::kafka::{Inquirer, KafkaConfig};
use crate::connect::{Fault, persist};
use crate::engine::loss::{Extent, Extents};

/// How often the brokers are asked where the partitions end.
const INTERVAL: Duration = Duration::from_secs(1);

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(5);

/// What was seen last, kept up to date by a thread of its own until this is dropped. All workers of a process
/// share it.
///
/// A consumer alone can't tell "there is nothing more" from "the broker does not answer"; this can.
pub struct Watch {
    watcher: Mutex<Watcher>,
    seen: Mutex<Seen>,
    patience: Duration,
    cluster: String,
}

type Offsets = BTreeMap<(Topic, u32), u64>;

struct Seen {
    /// Where the partitions started when that was asked for last.
    starts: Offsets,
    ends: Offsets,
    refreshed: Instant,
    fault: Option<String>,
}

impl Watch {
    /// Takes a first look at the topics and goes on to watch them.
    ///
    /// # Errors
    /// The brokers can't be reached within `connect_timeout`, or a topic is missing.
    pub fn start(config: &KafkaConfig, topics: &[Topic]) -> anyhow::Result<Arc<Watch>> {
        let (kafka, known) = (Inquirer::new(config), Vec::new());
        let (config, topics) = (config.clone(), topics.to_vec());
        let mut watcher = Watcher { config, topics, kafka, known, discovered: Instant::now() };
        let patience = watcher.config.connect_timeout;
        let ends = persist("reaching Kafka", Some(patience), || watcher.look())?;
        let starts = || watcher.offsets(Offset::Beginning);
        let starts = persist("asking Kafka where its topics start", Some(patience), starts)?;
        let cluster = watcher.kafka.ask(|client| Ok(client.client().fetch_cluster_id(ANSWER)));
        let cluster = cluster.map_err(Fault::into_error)?.unwrap_or_else(|| watcher.config.brokers.clone());
        let seen = Mutex::new(Seen { starts, ends, refreshed: Instant::now(), fault: None });
        let watch = Arc::new(Watch { watcher: Mutex::new(watcher), seen, patience, cluster });
        let weak = Arc::downgrade(&watch);
        let keep_watch = move || {
            loop {
                std::thread::sleep(INTERVAL);
                let Some(watch) = weak.upgrade() else { return };
                watch.note(&mut watch.watcher());
            }
        };
        std::thread::Builder::new()
            .name("kafka-watch".to_owned())
            .spawn(keep_watch)
            .context("can't start a thread")?;
        Ok(watch)
    }

    fn note(&self, watcher: &mut Watcher) {
        // Still under the watcher's lock, so that no older answer replaces a newer one.
        let looked = watcher.look();
        let mut seen = self.seen();
        match looked {
            Ok(ends) => {
                if seen.fault.take().is_some() {
                    info!("Kafka answers again");
                }
                seen.ends = ends;
                seen.refreshed = Instant::now();
            }
            Err(fault) => {
                let fault = format!("{:#}", fault.into_error());
                if seen.fault.is_none() {
                    warn!("{fault}");
                }
                seen.fault = Some(fault);
            }
        }
    }

    /// The partitions that there are.
    pub fn partitions(&self) -> Vec<(Topic, u32)> {
        self.seen().ends.keys().copied().collect()
    }

    /// Where a partition ends: the offset that its next readable record will have or exceed. As far as is
    /// known.
    pub fn end(&self, partition: (Topic, u32)) -> Option<u64> {
        self.seen().ends.get(&partition).copied()
    }

    /// Asks the brokers where the partitions begin and end, rather than say what they answered before:
    /// whatever was committed before this call, by a run that this one takes over from too, lies within.
    ///
    /// # Errors
    /// They don't answer within `connect_timeout`.
    pub fn look_again(&self) -> anyhow::Result<Extents> {
        let mut watcher = self.watcher();
        let again = || Ok((watcher.look()?, watcher.offsets(Offset::Beginning)?));
        let (ends, starts) = persist("asking Kafka where its topics end", Some(self.patience), again)?;
        let mut seen = self.seen();
        (seen.ends, seen.starts, seen.refreshed) = (ends, starts, Instant::now());
        Ok(seen.extents())
    }

    /// Where the partitions begin and end, as [`Watch::look_again`] last found it.
    pub fn extents(&self) -> Extents {
        self.seen().extents()
    }

    /// The same if the brokers said so only now.
    pub fn end_now(&self, partition: (Topic, u32)) -> Option<u64> {
        let seen = self.seen();
        let fresh = seen.fault.is_none() && seen.refreshed.elapsed() < 3 * INTERVAL;
        seen.ends.get(&partition).copied().filter(|_| fresh)
    }

    /// Why the brokers can't be reached, if they can't.
    pub fn fault(&self) -> Option<String> {
        self.seen().fault.clone()
    }

    /// The cluster's own id.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Taken before [`Watch::seen`], never after.
    fn watcher(&self) -> MutexGuard<'_, Watcher> {
        self.watcher.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    fn extents(&self) -> Extents {
        let extent = |(place, start): (&(Topic, u32), &u64)| {
            let end = *self.ends.get(place)?;
            Some((*place, Extent { start: *start, end }))
        };
        self.starts.iter().filter_map(extent).collect()
    }
}

struct Watcher {
    config: KafkaConfig,
    topics: Vec<Topic>,
    kafka: Inquirer,
    known: Vec<(Topic, u32)>,
    discovered: Instant,
}

impl Watcher {
    /// Where every partition ends.
    fn look(&mut self) -> Result<Offsets, Fault> {
        if self.known.is_empty() || self.discovered.elapsed() >= self.config.discovery_interval {
            self.known = self.discover()?;
            self.discovered = Instant::now();
        }
        self.offsets(Offset::End)
    }

    /// Where every known partition starts or ends.
    fn offsets(&mut self, at: Offset) -> Result<Offsets, Fault> {
        let Watcher { config, kafka, known, .. } = self;
        kafka.ask(|client| {
            let mut wanted = TopicPartitionList::new();
            for (topic, partition) in &*known {
                wanted.add_partition_offset(&config.topic(topic.name()), *partition as i32, at)?;
            }
            let answered = client.offsets_for_times(wanted, ANSWER)?;
            let mut offsets = BTreeMap::new();
            for key in &*known {
                let answer = answered.find_partition(&config.topic(key.0.name()), key.1 as i32);
                let Some(answer) = answer else { continue };
                answer.error()?;
                if let Offset::Offset(offset) = answer.offset() {
                    offsets.insert(*key, u64::try_from(offset).unwrap_or(0));
                }
            }
            Ok(offsets)
        })
    }

    fn discover(&mut self) -> Result<Vec<(Topic, u32)>, Fault> {
        let (mut partitions, mut missing) = (Vec::new(), Vec::new());
        for topic in &self.topics {
            let name = self.config.topic(topic.name());
            let metadata = self.kafka.ask(|client| client.fetch_metadata(Some(&name), ANSWER))?;
            let found = metadata.topics().iter().find(|found| found.name() == name);
            let error = found.and_then(|found| found.error()).map(RDKafkaErrorCode::from);
            match (found, error) {
                (Some(found), None) if !found.partitions().is_empty() => {
                    let numbers =
                        found.partitions().iter().filter_map(|partition| u32::try_from(partition.id()).ok());
                    partitions.extend(numbers.map(|number| (*topic, number)));
                }
                (Some(_), Some(code)) if code != RDKafkaErrorCode::UnknownTopicOrPartition => {
                    return Err(self.config.fault(KafkaError::MetadataFetch(code)).context(name));
                }
                _ => missing.push(name),
            }
        }
        if missing.is_empty() {
            return Ok(partitions);
        }
        Err(Fault::Lasting(self.config.missing_topics(&missing)))
    }
}
