//! Kafka, through librdkafka.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use anyhow::anyhow;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{ClientConfig, ClientContext};
use tracing::debug;

use super::Fault;

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
    /// How often topics are searched for new partitions.
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
    /// The properties that every client starts from; those that the user has set come over ours. Clients add what they
    /// depend on (transactions, acknowledgements) after this, so that it can't be unset.
    pub fn client(&self) -> ClientConfig {
        let mut client = ClientConfig::new();
        client.set("client.id", "adtide");
        client.set("bootstrap.servers", &self.brokers);
        // A broker that went away is looked for again soon.
        client.set("reconnect.backoff.max.ms", "2000");
        for (name, value) in &self.properties {
            client.set(name, value);
        }
        client
    }

    /// The full name of one of the system's topics.
    pub fn topic(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// What an error of a client means, and what to do about it.
    pub fn fault(&self, error: KafkaError) -> Fault {
        let code = error.rdkafka_error_code();
        let said = match &error {
            // As a text it would show the value too, which may be a secret under a misspelt name.
            KafkaError::ClientConfig(_, what, key, _) => format!("{what}: {key}"),
            error => error.to_string(),
        };
        let lasting = |advice: &str| Fault::Lasting(anyhow!("Kafka at {}: {said}; {advice}", self.brokers));
        match code {
            Some(
                RDKafkaErrorCode::Authentication
                | RDKafkaErrorCode::SaslAuthenticationFailed
                | RDKafkaErrorCode::UnsupportedSASLMechanism,
            ) => lasting("check the user and the password under kafka.properties"),
            Some(
                RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::GroupAuthorizationFailed
                | RDKafkaErrorCode::ClusterAuthorizationFailed
                | RDKafkaErrorCode::TransactionalIdAuthorizationFailed,
            ) => lasting("give this user the right to it on the brokers"),
            Some(
                RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::UnknownPartition
                | RDKafkaErrorCode::UnknownTopicOrPartition,
            ) => lasting("create the topics with `adtide topics create`"),
            Some(RDKafkaErrorCode::InvalidConfig | RDKafkaErrorCode::SSL) => {
                lasting("check the keys under kafka.properties")
            }
            None if matches!(error, KafkaError::ClientConfig(..) | KafkaError::ClientCreation(_)) => {
                lasting("check the keys under kafka.properties")
            }
            Some(
                RDKafkaErrorCode::AllBrokersDown
                | RDKafkaErrorCode::BrokerTransportFailure
                | RDKafkaErrorCode::OperationTimedOut
                | RDKafkaErrorCode::Resolve,
            ) => Fault::Passing(anyhow!("Kafka at {}: {said}", self.brokers)).unconnected("Kafka", "kafka.brokers"),
            _ => Fault::Passing(anyhow!("Kafka at {}: {said}", self.brokers)),
        }
    }
}

/// The context of a client whose state is watched elsewhere: what librdkafka has to say of it goes to the debug log.
#[derive(Clone, Copy, Debug, Default)]
pub struct QuietContext;

impl ClientContext for QuietContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        debug!(%error, reason, "librdkafka");
    }
}

impl ConsumerContext for QuietContext {}

/// A consumer of this context.
pub type QuietConsumer = BaseConsumer<QuietContext>;

/// A line of librdkafka's own log: it repeats itself while a broker is away, so it is for those who look for it.
pub fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    debug!(?level, facility, message, "librdkafka");
}
