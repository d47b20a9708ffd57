//! The configuration: defaults, a TOML file, the environment and the command line, in this order.
//!
//! The defaults are the commented file `config/adtide.toml` itself, so it can't go out of date: a key that is
//! not in it is unknown.

mod layers;
mod views;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use adtide_dataflows::model::{EventTime, UnknownIds};
use adtide_dataflows::{Emit, Statement, StatementPlan};
use anyhow::{Context, anyhow, ensure};
use serde::de::IntoDeserializer;
use serde::{Deserialize, Deserializer};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::UsageError;
use crate::engine::Restart;

/// The commented default configuration.
pub const DEFAULT: &str = include_str!("../config/adtide.toml");

/// Everything that can be set. The keys are described in `config/adtide.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    name: String,
    #[serde(deserialize_with = "duration")]
    allowed_lateness: Duration,
    #[serde(deserialize_with = "duration")]
    max_future_skew: Duration,
    #[serde(deserialize_with = "duration")]
    epoch_interval: Duration,
    #[serde(deserialize_with = "duration")]
    idle_timeout: Duration,
    statements: Vec<Statement>,
    plan: BTreeMap<Statement, StatementPlan>,
    restart: Restart,
    ids: Ids,
    source: Source,
    sink: Sink,
    kafka: Kafka,
    postgres: Postgres,
    redis: Redis,
    worker: Worker,
    watermark: Watermark,
    rtb: Rtb,
    ranking: Ranking,
    performance: Performance,
    conversion: Conversion,
    epoch: Epoch,
    checkpoint: Checkpoint,
    watchdog: Watchdog,
    cluster: Cluster,
    ops: Ops,
    /// Logging.
    pub log: Log,
    generator: Generator,
}

#[derive(Clone, Debug, Deserialize)]
struct Ids {
    unknown: UnknownIds,
}

#[derive(Clone, Debug, Deserialize)]
struct Source {
    kind: SourceKind,
    from: PathBuf,
    at_end: AtEnd,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum SourceKind {
    Files,
    Kafka,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum AtEnd {
    Auto,
    Follow,
    Stop,
}

#[derive(Clone, Debug, Deserialize)]
struct Sink {
    kind: SinkKind,
    data_dir: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum SinkKind {
    Embedded,
    Services,
    None,
}

#[derive(Clone, Debug, Deserialize)]
struct Kafka {
    brokers: String,
    prefix: String,
    #[serde(deserialize_with = "duration")]
    connect_timeout: Duration,
    #[serde(deserialize_with = "duration")]
    discovery_interval: Duration,
    #[serde(deserialize_with = "duration")]
    stall_timeout: Duration,
    prefetch_bytes: u64,
    properties: BTreeMap<String, Property>,
}

/// A property of librdkafka, which takes all of them as text.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Property {
    Text(String),
    Integer(i64),
    Switch(bool),
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Checkpoint {
    url: String,
    #[serde(deserialize_with = "duration")]
    interval: Duration,
    keep: usize,
    max_waiting_bytes: u64,
}

#[derive(Clone, Debug, Deserialize)]
struct Postgres {
    url: String,
    #[serde(deserialize_with = "duration")]
    connect_timeout: Duration,
    #[serde(deserialize_with = "duration")]
    statement_timeout: Duration,
}

#[derive(Clone, Debug, Deserialize)]
struct Redis {
    url: String,
    #[serde(deserialize_with = "duration")]
    ttl: Duration,
    #[serde(deserialize_with = "duration")]
    connect_timeout: Duration,
}

#[derive(Clone, Debug, Deserialize)]
struct Worker {
    #[serde(deserialize_with = "duration")]
    status_interval: Duration,
    #[serde(deserialize_with = "duration")]
    refund_memory: Duration,
    instance: String,
}

#[derive(Clone, Debug, Deserialize)]
struct Watermark {
    #[serde(deserialize_with = "duration")]
    performance: Duration,
    #[serde(deserialize_with = "duration")]
    conversions: Duration,
    #[serde(deserialize_with = "duration")]
    duplicates: Duration,
    idle_advance: bool,
}

#[derive(Clone, Debug, Deserialize)]
struct Rtb {
    product_metrics: ProductMetrics,
    live_windows: usize,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ProductMetrics {
    Topic,
    Live,
}

#[derive(Clone, Debug, Deserialize)]
struct Ranking {
    limit: usize,
}

#[derive(Clone, Debug, Deserialize)]
struct Performance {
    emit: Emit,
}

#[derive(Clone, Debug, Deserialize)]
struct Conversion {
    #[serde(deserialize_with = "duration")]
    lookback: Duration,
    #[serde(deserialize_with = "duration_or_lookback")]
    repeat_within: Option<Duration>,
}

#[derive(Clone, Debug, Deserialize)]
struct Epoch {
    #[serde(deserialize_with = "duration")]
    catch_up_interval: Duration,
    #[serde(deserialize_with = "duration")]
    quiet_interval: Duration,
    max_bytes: u64,
    max_in_flight: usize,
}

#[derive(Clone, Debug, Deserialize)]
struct Watchdog {
    #[serde(deserialize_with = "duration")]
    timeout: Duration,
}

#[derive(Clone, Debug, Deserialize)]
struct Cluster {
    #[serde(deserialize_with = "duration")]
    heartbeat_timeout: Duration,
}

#[derive(Clone, Debug, Deserialize)]
struct Ops {
    listen: String,
}

/// Logging.
#[derive(Clone, Debug, Deserialize)]
pub struct Log {
    /// Directives of tracing's `EnvFilter`.
    pub level: String,
    /// Text or JSON.
    pub format: LogFormat,
    /// Whether nobody has said what the level is to be.
    #[serde(skip)]
    pub is_default: bool,
}

impl Log {
    /// What is logged.
    ///
    /// # Errors
    /// The level is none.
    pub fn filter(&self) -> anyhow::Result<EnvFilter> {
        let level = &self.level;
        let wrong = || {
            format!("key log.level: {level:?} is no log level; want info, or one such as info,adtide=debug")
        };
        // A filter takes a word that is no level for the name of a module.
        if !level.contains(['=', ',', '[']) {
            level.parse::<LevelFilter>().with_context(wrong)?;
        }
        EnvFilter::try_new(level).with_context(wrong)
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

#[derive(Clone, Debug, Deserialize)]
struct Generator {
    seed: u64,
    start: String,
    #[serde(deserialize_with = "duration")]
    span: Duration,
    ad_events: u64,
    campaign_events: u64,
    campaigns: usize,
    products: usize,
    devices: usize,
    daily_curve: bool,
    partitions: u32,
    malformed: f64,
}

/// A setting from the command line: key and value.
pub type Override = (String, String);

impl Config {
    /// Reads the configuration.
    ///
    /// # Errors
    /// Names where the wrong value stands (file, environment variable or command line), its key, and what
    /// would be right. What is right without the command line is a [`UsageError`].
    pub fn load(file: Option<&Path>, overrides: &[Override]) -> anyhow::Result<Config> {
        Config::read(file, overrides).map_err(|error| {
            let is_usage = !overrides.is_empty() && Config::read(file, &[]).is_ok();
            if is_usage { UsageError(format!("{error:#}")).into() } else { error }
        })
    }

    fn read(file: Option<&Path>, overrides: &[Override]) -> anyhow::Result<Config> {
        let table = layers::merge(file, overrides)?;
        let value = serde::de::value::MapDeserializer::new(table.values.into_iter());
        let mut config: Config = serde_path_to_error::deserialize(value).map_err(
            |error: serde_path_to_error::Error<toml::de::Error>| {
                let key = error.path().to_string();
                // An item of a list is where the list is.
                let set = key.split('[').next().unwrap_or(&key);
                let origin = table.origins.get(set).map_or("the default configuration", String::as_str);
                anyhow!("{origin}: key {key}: {}", error.inner().message())
            },
        )?;
        config.log.is_default = !table.origins.contains_key("log.level");
        config.check()?;
        Ok(config)
    }

    /// The merged configuration as TOML, without secrets.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn show(file: Option<&Path>, overrides: &[Override]) -> anyhow::Result<String> {
        Config::load(file, overrides)?;
        let mut values = layers::merge(file, overrides)?.values;
        layers::hide_secrets(&mut values);
        Ok(toml::to_string_pretty(&values)?)
    }

    /// What works, but may not be meant, a sentence each.
    pub fn warnings(&self) -> Vec<String> {
        let drops = self.allowed_lateness.is_zero() && !self.max_future_skew.is_zero();
        let warning = || {
            let skew = humantime::format_duration(self.max_future_skew);
            format!(
                "allowed_lateness is 0s and max_future_skew {skew}: one event that is {skew} ahead makes all others of its \
                 partition late for up to {skew}, and late events are dropped; a smaller max_future_skew costs less"
            )
        };
        drops.then(warning).into_iter().collect()
    }

    fn check(&self) -> anyhow::Result<()> {
        let positive = [
            ("epoch_interval", self.epoch_interval),
            ("epoch.catch_up_interval", self.epoch.catch_up_interval),
            ("epoch.quiet_interval", self.epoch.quiet_interval),
            ("worker.status_interval", self.worker.status_interval),
            ("worker.refund_memory", self.worker.refund_memory),
            ("watchdog.timeout", self.watchdog.timeout),
            ("generator.span", self.generator.span),
        ];
        for (key, duration) in positive {
            ensure!(duration >= Duration::from_millis(1), "key {key} must be at least 1ms");
        }
        ensure!(
            self.allowed_lateness.is_zero() || self.max_future_skew <= self.allowed_lateness,
            "key max_future_skew: {} is more than allowed_lateness, {}: one event that is so far ahead would make those that \
             follow it too late to be counted; set it to {1} or less, or allowed_lateness to more",
            humantime::format_duration(self.max_future_skew),
            humantime::format_duration(self.allowed_lateness)
        );
        ensure!(!self.statements.is_empty(), "key statements is empty; name at least one statement");
        ensure!(
            self.checkpoint.interval >= Duration::from_millis(100),
            "key checkpoint.interval must be at least 100ms"
        );
        ensure!(self.checkpoint.keep > 0, "key checkpoint.keep must be at least 1");
        ensure!(self.checkpoint.max_waiting_bytes > 0, "key checkpoint.max_waiting_bytes must be at least 1");
        let url = self.checkpoint.url.split_once("://").map_or("file", |(scheme, _)| scheme);
        ensure!(
            ["file", "s3", "s3a", "gs", "az", "abfs", "abfss", "memory"].contains(&url),
            "key checkpoint.url: {url}:// is no store that adtide knows; want a folder, s3://, gs:// or az://"
        );
        ensure!(self.rtb.live_windows > 0, "key rtb.live_windows must be at least 1");
        ensure!(self.epoch.max_in_flight > 0, "key epoch.max_in_flight must be at least 1");
        ensure!(self.epoch.max_bytes > 0, "key epoch.max_bytes must be at least 1");
        // There is a beat every half second.
        ensure!(
            self.cluster.heartbeat_timeout >= Duration::from_secs(1),
            "key cluster.heartbeat_timeout must be at least 1s"
        );
        // It is refreshed once a second at most.
        let ttl = self.redis.ttl;
        ensure!(ttl.is_zero() || ttl >= Duration::from_secs(5), "key redis.ttl must be 0s or at least 5s");
        let live = matches!(self.rtb.product_metrics, ProductMetrics::Live);
        let runs = |statement| self.statements.contains(&statement);
        ensure!(
            !live || !runs(Statement::RtbCacheUpdater) || runs(Statement::PerformanceAggregator),
            "key rtb.product_metrics: \"live\" needs performance_aggregator among the statements; add it, or set \"topic\""
        );
        let services = self.sink.kind == SinkKind::Services;
        let needs_kafka = services || self.source.kind == SourceKind::Kafka;
        let needed = [
            (needs_kafka, "kafka.brokers", &self.kafka.brokers, "localhost:9092"),
            (services, "postgres.url", &self.postgres.url, "postgres://user:password@localhost/adtide"),
            (services, "redis.url", &self.redis.url, "redis://localhost/0"),
        ];
        for (needed, key, value, example) in needed {
            ensure!(!needed || !value.is_empty(), "key {key} is empty; set it, e.g. {key} = \"{example}\"");
        }
        let named = !self.name.is_empty()
            && self.name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        ensure!(named, "key name: {:?} is no name; use letters, digits, '-', '_' and '.'", self.name);
        // Kafka limits the name of a member, to which the topic is added.
        let instance = self.worker.instance.as_str();
        let is_name = instance.len() <= 200
            && instance.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        ensure!(
            is_name,
            "key worker.instance: {instance:?} is no name; use letters, digits, '-', '_' and '.'"
        );
        if let Some(listen) = self.listen() {
            let port = listen.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
            let right = matches!(port, Some(Ok(_)));
            ensure!(
                right,
                "key ops.listen: {listen:?} is no address; want host:port, such as \"127.0.0.1:9464\""
            );
        }
        EventTime::parse(&self.generator.start).context("key generator.start")?;
        self.log.filter()?;
        Ok(())
    }
}

/// None for "lookback".
fn duration_or_lookback<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text == "lookback" { Ok(None) } else { duration(text.into_deserializer()).map(Some) }
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    humantime::parse_duration(&text).map_err(|error| {
        serde::de::Error::custom(format!(
            "{text:?} is no duration ({error}); want one such as \"100ms\", \"90s\", \"10m\" or \"24h\""
        ))
    })
}

#[cfg(test)]
mod tests;
