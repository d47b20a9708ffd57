//! The topics of the system in Kafka: which there are, what they must be like, and creating them.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::{Duration, Instant};

use adtide_dataflows::Settings;
use adtide_dataflows::model::Topic;
use anyhow::{Context, anyhow, bail, ensure};
use rdkafka::admin::{
    AdminClient, AdminOptions, ConfigResource, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::kafka::{KafkaConfig, QuietConsumer, QuietContext, explain};
use super::{Fault, persist};
use crate::sink::TOPICS as OUTPUTS;
use crate::sink::kafka::PROGRESS;

/// How long one answer of the brokers may take.
const ANSWER: Duration = Duration::from_secs(10);

/// A topic of the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SystemTopic {
    /// Its name, without the prefix.
    pub name: &'static str,
    /// Whether only the last record of each key matters, so that it must be compacted and not deleted by age.
    pub compacted: bool,
    /// Whether it has one partition, whatever the others have.
    pub single: bool,
}

/// A topic as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Which it is.
    pub topic: SystemTopic,
    /// How many partitions it has; None if it is not there.
    pub partitions: Option<usize>,
    /// Whether this call has created it.
    pub created: bool,
}

impl SystemTopic {
    /// Whether its records have event times.
    fn has_events(&self) -> bool {
        [Topic::AdEvents, Topic::ConversionEvents, Topic::CampaignEvents]
            .iter()
            .any(|topic| topic.name() == self.name)
    }
}

/// All topics of the system: the inputs, the outputs, and the progress of the outputs.
pub fn system_topics() -> Vec<SystemTopic> {
    let inputs = Topic::ALL.map(|topic| SystemTopic {
        name: topic.name(),
        compacted: matches!(topic, Topic::ProductMetrics | Topic::ProductMeta),
        single: false,
    });
    let outputs = OUTPUTS.map(|name| SystemTopic { name, compacted: false, single: false });
    let progress = SystemTopic { name: PROGRESS, compacted: true, single: true };
    inputs.into_iter().chain(outputs).chain([progress]).collect()
}

/// A connection for looking after topics.
pub struct Admin<'a> {
    kafka: &'a KafkaConfig,
    client: AdminClient<QuietContext>,
    /// For reading: of its failures the reasons can be had.
    consumer: QuietConsumer,
    runtime: tokio::runtime::Runtime,
}

impl<'a> Admin<'a> {
    /// A client of the brokers; they are first spoken to when something is asked.
    ///
    /// # Errors
    /// The properties are wrong.
    pub fn new(kafka: &'a KafkaConfig) -> anyhow::Result<Admin<'a>> {
        let client = AdminClient::from_config_and_context(&kafka.client(), QuietContext);
        let client = client.map_err(|error| kafka.fault(error).into_error())?;
        let consumer = kafka
            .client()
            .create_with_context(QuietContext)
            .map_err(|error| kafka.fault(error).into_error())?;
        // It waits for the client's own thread and needs no timers or sockets.
        let runtime =
            tokio::runtime::Builder::new_current_thread().build().context("can't start a runtime")?;
        Ok(Admin { kafka, client, consumer, runtime })
    }

    /// The system's topics as they are.
    ///
    /// # Errors
    /// The brokers can't be reached within `kafka.connect_timeout`, or refuse.
    pub fn find(&self) -> anyhow::Result<Vec<Found>> {
        let partitions =
            persist("reading the topics of Kafka", Some(self.kafka.connect_timeout), || self.partitions());
        let partitions = partitions.context("can't read the topics")?;
        let find = |topic: SystemTopic| {
            let partitions = partitions.get(&self.kafka.topic(topic.name)).copied();
            Found { topic, partitions, created: false }
        };
        Ok(system_topics().into_iter().map(find).collect())
    }

    /// Creates the topics that are not there, with `partitions` partitions, or one where a topic has only
    /// one, on `replication` brokers, or as many as the brokers' default says. Topics of events take no
    /// timestamp that is ahead of the broker's clock by more than `max_future_skew`. What is there stays as
    /// it is.
    ///
    /// # Errors
    /// As [`Admin::find`], or a topic can't be created.
    pub fn create(
        &self,
        partitions: i32,
        replication: Option<i32>,
        settings: &Settings,
    ) -> anyhow::Result<Vec<Found>> {
        let ahead = settings.max_future_skew.to_string();
        let missing: Vec<_> = self.find()?.into_iter().filter(|found| found.partitions.is_none()).collect();
        let names: Vec<_> = missing.iter().map(|found| self.kafka.topic(found.topic.name)).collect();
        let new: Vec<_> = missing
            .iter()
            .zip(&names)
            .map(|(found, name)| {
                let topic = found.topic;
                let new = NewTopic::new(
                    name,
                    if topic.single { 1 } else { partitions },
                    TopicReplication::Fixed(replication.unwrap_or(-1)),
                );
                let new = if topic.compacted { new.set("cleanup.policy", "compact") } else { new };
                if topic.has_events() { new.set(MOST_AHEAD, &ahead) } else { new }
            })
            .collect();
        if !new.is_empty() {
            let created = self.ask(self.client.create_topics(&new, &options()))?;
            for result in created {
                match result {
                    Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                    Err((name, code)) => {
                        bail!("Kafka at {}: can't create {name}: {code}{}", self.kafka.brokers, advice(code))
                    }
                }
            }
        }
        let mut found = self.find_all()?;
        for topic in &mut found {
            topic.created = missing.iter().any(|missing| missing.topic == topic.topic);
        }
        Ok(found)
    }

    /// Waits until every topic can be used: brokers tell of a new one a moment after they have created it.
    fn find_all(&self) -> anyhow::Result<Vec<Found>> {
        let started = Instant::now();
        loop {
            let found = self.find()?;
            if found.iter().all(|found| found.partitions.is_some_and(|partitions| partitions > 0)) {
                return Ok(found);
            }
            ensure!(
                started.elapsed() < ANSWER,
                "Kafka at {} has created the topics, but after {ANSWER:?} not all of them are there; look at its log",
                self.kafka.brokers
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The topics' own settings, of those that are there.
    ///
    /// # Errors
    /// As [`Admin::find`].
    pub fn configs(&self, found: &[Found]) -> anyhow::Result<Vec<(SystemTopic, ConfigResource)>> {
        let there: Vec<_> =
            found.iter().filter(|found| found.partitions.is_some()).map(|found| found.topic).collect();
        let names: Vec<_> = there.iter().map(|topic| self.kafka.topic(topic.name)).collect();
        let asked: Vec<_> = names.iter().map(|name| ResourceSpecifier::Topic(name)).collect();
        if asked.is_empty() {
            return Ok(Vec::new());
        }
        let configs = self.ask(self.client.describe_configs(&asked, &options()))?;
        let named = there.into_iter().zip(&names).zip(configs).map(|((topic, name), config)| {
            let refused =
                |code| anyhow!("Kafka at {}: can't read {name}'s settings: {code}", self.kafka.brokers);
            Ok((topic, config.map_err(refused)?))
        });
        named.collect()
    }

    /// What of the topics' own settings would lose data that adtide needs or let wrong clocks in, in
    /// sentences.
    pub fn warnings(&self, configs: &[(SystemTopic, ConfigResource)], settings: &Settings) -> Vec<String> {
        let complaints = configs.iter().flat_map(|(topic, config)| {
            let complaints = [complaint(topic, config, settings), clock_complaint(topic, config, settings)];
            complaints
                .into_iter()
                .flatten()
                .map(|complaint| format!("{} {complaint}", self.kafka.topic(topic.name)))
        });
        complaints.collect()
    }

    /// How many offsets a topic's partitions span: records that are kept, and markers of transactions.
    ///
    /// # Errors
    /// As [`Admin::find`].
    pub fn span(&self, found: &Found) -> anyhow::Result<u64> {
        let name = self.kafka.topic(found.topic.name);
        let mut span = 0;
        for partition in 0..found.partitions.unwrap_or(0) {
            let partition = i32::try_from(partition).context("too many partitions")?;
            let (low, high) =
                persist("reading the offsets of Kafka", Some(self.kafka.connect_timeout), || {
                    let offsets = self.client.inner().fetch_watermarks(&name, partition, self.patience());
                    offsets.map_err(|error| self.kafka.fault(error))
                })?;
            span += u64::try_from(high - low).unwrap_or(0);
        }
        Ok(span)
    }

    fn partitions(&self) -> Result<BTreeMap<String, usize>, Fault> {
        let metadata = self.consumer.fetch_metadata(None, self.patience());
        let metadata = metadata.map_err(|error| self.kafka.fault(explain(&self.consumer, error)))?;
        Ok(metadata
            .topics()
            .iter()
            .map(|topic| (topic.name().to_owned(), topic.partitions().len()))
            .collect())
    }

    fn patience(&self) -> Duration {
        self.kafka.connect_timeout.min(ANSWER)
    }

    fn ask<T>(&self, answer: impl Future<Output = Result<T, KafkaError>>) -> anyhow::Result<T> {
        self.runtime.block_on(answer).map_err(|error| self.kafka.fault(error).into_error())
    }
}

/// Makes sure that all input topics are there; gives the least number of partitions that one of them has.
///
/// # Errors
/// Names those that are not, or the brokers can't be reached.
pub fn input_partitions(kafka: &KafkaConfig) -> anyhow::Result<u32> {
    let found = Admin::new(kafka)?.find()?;
    let inputs = found.iter().filter(|found| Topic::ALL.iter().any(|topic| topic.name() == found.topic.name));
    let (there, missing): (Vec<_>, Vec<_>) = inputs.partition(|found| found.partitions.is_some());
    let missing: Vec<_> = missing.iter().map(|found| kafka.topic(found.topic.name)).collect();
    if !missing.is_empty() {
        return Err(kafka.missing_topics(&missing));
    }
    let least = there.iter().filter_map(|found| found.partitions).min().unwrap_or(0);
    u32::try_from(least).context("too many partitions")
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(ANSWER)).operation_timeout(Some(ANSWER))
}

fn advice(code: RDKafkaErrorCode) -> &'static str {
    match code {
        RDKafkaErrorCode::InvalidReplicationFactor => "; there are fewer brokers than --replication asks for",
        RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::ClusterAuthorizationFailed => {
            "; give this user the right to it on the brokers"
        }
        RDKafkaErrorCode::InvalidTopic => "; check kafka.prefix: letters, digits, '.', '_' and '-' only",
        _ => "",
    }
}

/// How far ahead of the broker's clock a producer's timestamp may be, in milliseconds.
const MOST_AHEAD: &str = "message.timestamp.after.max.ms";

/// Whose word the timestamps of a topic are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Timestamps {
    /// The broker's.
    Broker,
    /// The producers', and so many milliseconds ahead of the broker's clock at most.
    Producers { ahead: i64 },
}

impl Timestamps {
    fn of(config: &ConfigResource) -> Timestamps {
        let value = |name: &str| config.get(name).and_then(|entry| entry.value.as_deref());
        if value("message.timestamp.type") == Some("LogAppendTime") {
            return Timestamps::Broker;
        }
        // Brokers before 3.6 have one bound for both directions.
        let ahead = value(MOST_AHEAD).or_else(|| value("message.timestamp.difference.max.ms"));
        Timestamps::Producers { ahead: ahead.and_then(|ahead| ahead.parse().ok()).unwrap_or(i64::MAX) }
    }
}

/// What the timestamps of a topic of events are, in words; None of other topics.
pub fn timestamps(topic: &SystemTopic, config: &ConfigResource) -> Option<String> {
    topic.has_events().then(|| match Timestamps::of(config) {
        Timestamps::Broker => "timestamps by the broker".to_owned(),
        Timestamps::Producers { ahead } => format!("timestamps up to {} ahead", shown_ahead(ahead)),
    })
}

fn shown_ahead(ms: i64) -> String {
    if ms > 1_000_000_000_000 { "any time".to_owned() } else { shown(ms) }
}

fn shown(ms: i64) -> String {
    humantime::format_duration(Duration::from_millis(ms.unsigned_abs())).to_string()
}

/// Whether a topic of events takes timestamps that adtide will not believe.
fn clock_complaint(topic: &SystemTopic, config: &ConfigResource, settings: &Settings) -> Option<String> {
    let skew = settings.max_future_skew;
    match Timestamps::of(config) {
        Timestamps::Producers { ahead } if topic.has_events() && ahead > skew => Some(format!(
            "takes timestamps that are ahead of the broker's clock by {}, more than max_future_skew ({}): whether such a record \
             is bad input depends on when it is read, by the run and by each ledger worker; set {MOST_AHEAD}={skew}, or \
             message.timestamp.type=LogAppendTime",
            shown_ahead(ahead),
            shown(skew)
        )),
        _ => None,
    }
}

/// What is wrong with a topic's settings.
fn complaint(topic: &SystemTopic, config: &ConfigResource, settings: &Settings) -> Option<String> {
    let value = |name: &str| config.get(name).and_then(|entry| entry.value.as_deref());
    let policy = value("cleanup.policy")?;
    let by_age = policy.contains("delete");
    if topic.compacted {
        return by_age
            .then(|| format!("has cleanup.policy={policy}, and would forget; set cleanup.policy=compact"));
    }
    let kept: i64 = value("retention.ms")?.parse().ok().filter(|kept| *kept >= 0 && by_age)?;
    match topic.name {
        name if name == Topic::CampaignEvents.name() => Some(format!(
            "keeps records for {}: a campaign that has not changed for longer is unknown to a run without a checkpoint; \
             set retention.ms=-1, or cleanup.policy=compact if its keys are campaign ids",
            shown(kept)
        )),
        name if [Topic::AdEvents, Topic::ConversionEvents].iter().any(|topic| topic.name() == name) => {
            let memory = settings.memory();
            let needed = memory.lookback.max(memory.repeat_within).saturating_add(settings.allowed_lateness);
            (kept < needed).then(|| {
                format!(
                    "keeps records for {}, less than conversion.lookback (or repeat_within) and allowed_lateness together ({}): \
                     a restart without a checkpoint would lose clicks; set retention.ms to more",
                    shown(kept),
                    shown(needed)
                )
            })
        }
        _ => None,
    }
}
