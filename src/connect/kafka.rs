//! Kafka, through librdkafka.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use adtide_dataflows::Stamp;
use adtide_dataflows::model::EventTime;
use anyhow::anyhow;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{DeliveryResult, ProducerContext};
use rdkafka::{ClientConfig, ClientContext, Message, Timestamp};
use tracing::debug;

use super::{Fault, transient};

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(5);

/// How the brokers are reached, and the names of the topics.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct KafkaConfig {
    /// host:port, separated by commas.
    pub brokers: String,
    /// Stands before the name of every topic, of consumer groups and of transactional ids.
    pub prefix: String,
    /// Properties of librdkafka for all clients, by its names.
    pub properties: BTreeMap<String, String>,
    /// How long to try to reach the brokers at the start.
    pub connect_timeout: Duration,
    /// How often topics are searched for new partitions, and for leaders that have changed unnoticed.
    pub discovery_interval: Duration,
    /// A consumer that gets nothing for so long, although there is more, is replaced.
    pub stall_timeout: Duration,
    /// How many bytes a worker's consumer may hold that were not read yet.
    pub prefetch_bytes: u64,
}

impl fmt::Debug for KafkaConfig {
    /// Without the properties: some are secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaConfig").field("brokers", &self.brokers).field("prefix", &self.prefix).finish()
    }
}

impl KafkaConfig {
    /// The properties that every client starts from; those that the user has set come over ours. Clients add
    /// what they depend on (transactions, acknowledgements) after this, so that it can't be unset.
    pub fn client(&self) -> ClientConfig {
        self.client_with(&[])
    }

    /// As [`KafkaConfig::client`], with more properties of ours, which the user can set otherwise.
    pub fn client_with(&self, ours: &[(&str, &str)]) -> ClientConfig {
        let mut client = ClientConfig::new();
        client.set("client.id", "adtide");
        client.set("bootstrap.servers", &self.brokers);
        // A broker that went away is looked for again soon.
        client.set("reconnect.backoff.max.ms", "2000");
        // One that is frozen keeps its connections: an answer is waited for as long as this, and a new
        // connection too.
        client.set("socket.timeout.ms", "10000");
        client.set("socket.connection.setup.timeout.ms", "10000");
        // New partitions are found by the metadata. So is the epoch of a leader, which changes when a broker
        // was frozen for so long that the controller gave it up: fetches by the old one fail until the
        // metadata is read anew.
        let discovery = self.discovery_interval.as_millis().clamp(10, 3_600_000);
        client.set("topic.metadata.refresh.interval.ms", discovery.to_string());
        for (name, value) in ours {
            client.set(*name, *value);
        }
        for (name, value) in &self.properties {
            client.set(name, value);
        }
        client
    }

    /// As [`KafkaConfig::client_with`], for a producer. The key chooses the partition as it does in Java's
    /// producers, so that a campaign's records are in one partition, whoever writes them. An owner whose
    /// producers choose otherwise sets `partitioner` to what they use.
    pub fn producer_with(&self, ours: &[(&str, &str)]) -> ClientConfig {
        self.client_with(&[&[("partitioner", "murmur2_random")], ours].concat())
    }

    /// The full name of one of the system's topics.
    pub fn topic(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// What is wrong where topics, by their full names, are not there.
    pub fn missing_topics(&self, names: &[String]) -> anyhow::Error {
        let (brokers, names) = (&self.brokers, names.join(", "));
        anyhow!("Kafka at {brokers} has no topic {names}; create the topics with `adtide topics create`")
    }

    /// What an error of a client means, and what to do about it.
    pub fn fault(&self, error: KafkaError) -> Fault {
        let code = error.rdkafka_error_code();
        let said = match &error {
            // As a text it would show the value too, which may be a secret under a misspelt name.
            KafkaError::ClientConfig(_, what, key, _) => format!("{what}: {key}"),
            error => error.to_string(),
        };
        let place = format!("Kafka at {}", self.brokers);
        let is_config = matches!(error, KafkaError::ClientConfig(..) | KafkaError::ClientCreation(_));
        if !is_config && code.is_none_or(transient::kafka) {
            let fault = Fault::Passing(anyhow!("{place}: {said}"));
            return match code {
                Some(
                    RDKafkaErrorCode::AllBrokersDown
                    | RDKafkaErrorCode::BrokerTransportFailure
                    | RDKafkaErrorCode::OperationTimedOut
                    | RDKafkaErrorCode::Resolve
                    | RDKafkaErrorCode::SSL,
                ) => match refusal() {
                    Some(refusal) => fault.context(format!(
                        "Kafka refuses the connection: {refusal}; check security.protocol, sasl.* and ssl.* under kafka.properties"
                    )),
                    None => fault.unconnected("Kafka", "kafka.brokers"),
                },
                Some(
                    RDKafkaErrorCode::UnknownTopic
                    | RDKafkaErrorCode::UnknownPartition
                    | RDKafkaErrorCode::UnknownTopicOrPartition,
                ) => fault
                    .context("a topic is not known now; if it does not exist, create it with `adtide topics create`"),
                _ => fault,
            };
        }
        let advice = match code {
            Some(
                RDKafkaErrorCode::Authentication
                | RDKafkaErrorCode::SaslAuthenticationFailed
                | RDKafkaErrorCode::UnsupportedSASLMechanism,
            ) => "check the user and the password under kafka.properties",
            Some(RDKafkaErrorCode::InvalidConfig) | None => "check the keys under kafka.properties",
            Some(_) => "give this user the right to it on the brokers",
        };
        let login = matches!(
            code,
            Some(RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed)
        );
        let refusal = refusal().filter(|_| login).map(|refusal| format!(": {refusal}")).unwrap_or_default();
        Fault::Lasting(anyhow!("{place}: {said}{refusal}; {advice}"))
    }
}

/// What consumers that have to catch up are told where librdkafka's own defaults cost throughput. A full
/// queue is looked at again soon, not after a second. And a request that finds nothing new, as the partitions
/// with much to read are full just then, holds its connection up for no longer than this, where it would be
/// half a second: catching up is four times as fast.
pub const CATCHING_UP: &[(&str, &str)] = &[("fetch.queue.backoff.ms", "20"), ("fetch.wait.max.ms", "50")];

/// The context of a client whose state is watched elsewhere: what librdkafka has to say of it goes to the
/// debug log.
#[derive(Clone, Copy, Debug, Default)]
pub struct QuietContext;

impl ClientContext for QuietContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        log_error(&error, reason);
    }
}

impl ConsumerContext for QuietContext {}

/// A consumer of this context.
pub type QuietConsumer = BaseConsumer<QuietContext>;

/// Asks the brokers for topics and offsets, and sees ends as a consumer of committed records does.
///
/// librdkafka may hold all brokers for gone long after they are back, until its client is closed (seen after
/// three minutes without an answer). So a question that failed is the last one of its client.
pub struct Inquirer {
    config: KafkaConfig,
    client: Option<QuietConsumer>,
}

impl Inquirer {
    /// One without a connection.
    pub fn new(config: &KafkaConfig) -> Inquirer {
        Inquirer { config: config.clone(), client: None }
    }

    /// Asks by a client that has not failed yet.
    ///
    /// # Errors
    /// The settings of Kafka are wrong, or the question fails.
    pub fn ask<T>(
        &mut self,
        question: impl FnOnce(&QuietConsumer) -> Result<T, KafkaError>,
    ) -> Result<T, Fault> {
        let answer = match self.client.take() {
            Some(client) => Ok(client),
            None => self
                .config
                .client()
                .set("isolation.level", "read_committed")
                .create_with_context(QuietContext),
        };
        let answer = answer.and_then(|client| match question(&client) {
            Ok(answer) => Ok((answer, client)),
            Err(error) => Err(explain(&client, error)),
        });
        let (answer, client) = answer.map_err(|error| self.config.fault(error))?;
        self.client = Some(client);
        Ok(answer)
    }
}

/// Where a partition begins and ends, as a consumer sees it: the offset of its first record, and the one
/// after its last. One that reads only what is committed sees the end before the first transaction that is
/// still open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// More than 0 where retention has deleted records.
    pub start: u64,
    /// Of a consumer that reads only what is committed: all records before it are committed or aborted.
    pub end: u64,
}

/// The partitions of a topic, by its name without the prefix, with where they begin and end now.
///
/// # Errors
/// The brokers can't be reached, or there is no such topic.
pub fn bounds(
    config: &KafkaConfig,
    consumer: &QuietConsumer,
    topic: &str,
) -> Result<BTreeMap<u32, Bounds>, Fault> {
    let name = config.topic(topic);
    let fault = |error| config.fault(explain(consumer, error)).context(format!("the topic {name}"));
    let metadata = consumer.fetch_metadata(Some(&name), ANSWER).map_err(fault)?;
    let found = metadata.topics().iter().find(|found| found.name() == name);
    let partitions = found.map_or(&[][..], |found| found.partitions());
    if partitions.is_empty() {
        return Err(Fault::Lasting(config.missing_topics(&[name])));
    }
    let bounds = partitions.iter().map(|partition| {
        let (start, end) = consumer.fetch_watermarks(&name, partition.id(), ANSWER).map_err(fault)?;
        let unsigned = |offset: i64| u64::try_from(offset).unwrap_or(0);
        Ok((partition.id().unsigned_abs(), Bounds { start: unsigned(start), end: unsigned(end) }))
    });
    bounds.collect()
}

/// The context of a producer that is given up when a record could not be delivered: remembers why the first
/// was not.
#[derive(Debug, Default)]
pub struct Deliveries(OnceLock<KafkaError>);

impl Deliveries {
    /// Why a record could not be delivered; None if all that were reported have been.
    pub fn failure(&self) -> Option<&KafkaError> {
        self.0.get()
    }
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        log_error(&error, reason);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            // Those that follow fail for the same reason, or because of it.
            let _ = self.0.set(error.clone());
        }
    }
}

/// A message's timestamp, and whose word it is.
pub fn stamp(message: &impl Message) -> Stamp {
    match message.timestamp() {
        Timestamp::CreateTime(ms) if ms >= 0 => Stamp::Created(EventTime(ms)),
        Timestamp::LogAppendTime(ms) if ms >= 0 => Stamp::Appended(EventTime(ms)),
        _ => Stamp::None,
    }
}

/// Why a broker last refused a connection: TLS, the login, another protocol. Calls that fail for it only time
/// out; librdkafka says it in its log.
static REFUSAL: Mutex<Option<(Instant, String)>> = Mutex::new(None);

/// For how long a refusal explains what fails: librdkafka repeats its lines twice a minute.
const EXPLAINS: Duration = Duration::from_secs(60);

fn refusal() -> Option<String> {
    let refusal = REFUSAL.lock().unwrap_or_else(PoisonError::into_inner);
    refusal.as_ref().filter(|(at, _)| at.elapsed() < EXPLAINS).map(|(_, refusal)| refusal.clone())
}

/// A line of librdkafka's own log: it repeats itself while a broker is away, so it is for those who look for
/// it.
pub fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    debug!(?level, facility, message, "librdkafka");
    if facility == "FAIL" {
        note_refusal(message);
    }
}

fn note_refusal(said: &str) {
    if ["SSL", "SASL", "certificate", "security.protocol"].iter().any(|word| said.contains(word)) {
        // Without the name of the thread.
        let said = said.split_once("]: ").map_or(said, |(_, said)| said);
        *REFUSAL.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), said.to_owned()));
    }
}

/// What a call of a consumer has failed for. When brokers refuse a connection, the call itself only waits in
/// vain; events say why.
pub fn explain(consumer: &QuietConsumer, error: KafkaError) -> KafkaError {
    let events = std::iter::from_fn(|| consumer.poll(Duration::ZERO)).filter_map(Result::err);
    let mut refusals = events.take(100).filter(|event| {
        matches!(
            event.rdkafka_error_code(),
            Some(
                RDKafkaErrorCode::Authentication
                    | RDKafkaErrorCode::SaslAuthenticationFailed
                    | RDKafkaErrorCode::SSL
            )
        )
    });
    refusals.next().unwrap_or(error)
}

/// The same for an error that concerns no call: what matters comes back as a result.
pub fn log_error(error: &KafkaError, reason: &str) {
    note_refusal(reason);
    debug!(%error, reason, "librdkafka");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_client_reads_the_metadata_anew_as_often_as_topics_are_searched() {
        let discovery_interval = Duration::from_secs(7);
        let kafka = KafkaConfig { discovery_interval, ..KafkaConfig::default() };
        for client in [kafka.client(), kafka.client_with(CATCHING_UP), kafka.producer_with(&[])] {
            assert_eq!(client.get("topic.metadata.refresh.interval.ms"), Some("7000"));
        }
    }

    #[test]
    fn what_the_user_sets_comes_over_ours() {
        let name = "topic.metadata.refresh.interval.ms".to_owned();
        let kafka =
            KafkaConfig { properties: [(name.clone(), "60000".to_owned())].into(), ..KafkaConfig::default() };
        assert_eq!(kafka.client_with(&[(&name, "1")]).get(&name), Some("60000"));
    }
}
