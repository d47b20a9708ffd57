//! The configuration as each part of the program takes it.

use std::path::Path;
use std::time::Duration;

use adtide_dataflows::model::{EventTime, Topic};
use adtide_dataflows::{MetricsSource, Settings, Statement, StatementPlan};
use anyhow::ensure;

use super::{AtEnd, Config, ProductMetrics, Property, SinkKind, SourceKind};
use crate::checkpoint::CheckpointConfig;
use crate::connect::Url;
use crate::connect::kafka::KafkaConfig;
use crate::connect::postgres::PostgresConfig;
use crate::connect::redis::RedisConfig;
use crate::engine::{EngineConfig, EpochConfig, FromCheckpoint, Restart, Services, SinkConfig, SourceConfig};
use crate::ledger::{Backend, WorkerConfig};
use crate::source::file::FileSourceConfig;
use crate::source::generator::GeneratorConfig;
use crate::source::kafka::KafkaSourceConfig;

impl Config {
    /// Where checkpoints are kept. Runs that go on where another one stopped take them.
    pub fn checkpoints(&self) -> CheckpointConfig {
        let folder = || self.data_dir().join("checkpoints").display().to_string();
        CheckpointConfig {
            url: if self.checkpoint.url.is_empty() { folder() } else { self.checkpoint.url.clone() },
            name: self.name.clone(),
            interval: self.checkpoint.interval,
            keep: self.checkpoint.keep,
            max_waiting_bytes: self.checkpoint.max_waiting_bytes,
            are_taken: self.follows()
                || self.restart == Restart::Resume
                || self.sink.kind == SinkKind::Services,
        }
    }

    /// The settings of the statements.
    pub fn settings(&self) -> Settings {
        Settings {
            statements: self.statements.clone(),
            allowed_lateness: ms(self.allowed_lateness),
            max_future_skew: ms(self.max_future_skew),
            unknown_ids: self.ids.unknown.clone(),
            performance_bound: ms(self.watermark.performance),
            conversions_bound: ms(self.watermark.conversions),
            duplicates_bound: ms(self.watermark.duplicates),
            lookback: ms(self.conversion.lookback),
            repeat_within: self.conversion.repeat_within.map(ms),
            ranking_limit: self.ranking.limit,
            product_metrics: match self.rtb.product_metrics {
                ProductMetrics::Topic => MetricsSource::Topic,
                ProductMetrics::Live => MetricsSource::Live { windows: self.rtb.live_windows },
            },
            emit: self.performance.emit,
            plan: self
                .plan
                .clone()
                .into_iter()
                .filter(|(_, plan)| *plan != StatementPlan::default())
                .collect(),
        }
    }

    /// The folder of topics to read; None for the built-in generator.
    pub fn from(&self) -> Option<&Path> {
        (!self.source.from.as_os_str().is_empty()).then_some(&self.source.from)
    }

    /// The name of this deployment, by which its progress is kept.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the topics are Kafka's.
    pub fn reads_kafka(&self) -> bool {
        self.source.kind == SourceKind::Kafka
    }

    /// Whether the end of the topics is waited at: Kafka's are followed unless it is said, files are not.
    pub fn follows(&self) -> bool {
        match self.source.at_end {
            AtEnd::Auto => self.reads_kafka(),
            at_end => at_end == AtEnd::Follow,
        }
    }

    /// Whether results go to PostgreSQL, Redis and Kafka.
    pub fn writes_services(&self) -> bool {
        self.sink.kind == SinkKind::Services
    }

    /// How Kafka is reached.
    pub fn kafka(&self) -> KafkaConfig {
        let text = |property: &Property| match property {
            Property::Text(text) => text.clone(),
            Property::Integer(number) => number.to_string(),
            Property::Switch(on) => on.to_string(),
        };
        let properties = self.kafka.properties.iter();
        KafkaConfig {
            brokers: self.kafka.brokers.clone(),
            prefix: self.kafka.prefix.clone(),
            properties: properties.map(|(name, value)| (name.clone(), text(value))).collect(),
            connect_timeout: self.kafka.connect_timeout,
            discovery_interval: self.kafka.discovery_interval,
            stall_timeout: self.kafka.stall_timeout,
            prefetch_bytes: self.kafka.prefetch_bytes,
        }
    }

    /// Makes sure that it is said where Kafka is.
    ///
    /// # Errors
    /// It is not.
    pub fn needs_kafka(&self) -> anyhow::Result<()> {
        ensure!(
            !self.kafka.brokers.is_empty(),
            "key kafka.brokers is empty; set it, e.g. kafka.brokers = \"localhost:9092\""
        );
        Ok(())
    }

    /// How PostgreSQL is reached.
    pub fn postgres(&self) -> PostgresConfig {
        PostgresConfig {
            url: Url::new(self.postgres.url.clone()),
            connect_timeout: self.postgres.connect_timeout,
            statement_timeout: self.postgres.statement_timeout,
        }
    }

    /// How Redis is reached.
    pub fn redis(&self) -> RedisConfig {
        RedisConfig {
            url: Url::new(self.redis.url.clone()),
            ttl: self.redis.ttl,
            connect_timeout: self.redis.connect_timeout,
        }
    }

    /// How long another process may be silent.
    pub fn heartbeat_timeout(&self) -> Duration {
        self.cluster.heartbeat_timeout
    }

    /// Where metrics and health are served, host:port; None for nowhere.
    pub fn listen(&self) -> Option<&str> {
        (!self.ops.listen.is_empty()).then_some(self.ops.listen.as_str())
    }

    /// The workers' part.
    ///
    /// # Errors
    /// No topics are named, or they and the tables are not of one kind: workers run on files alone or on
    /// servers alone.
    pub fn worker(&self) -> anyhow::Result<WorkerConfig> {
        ensure!(
            self.reads_kafka() == self.writes_services() && self.sink.kind != SinkKind::None,
            "workers need source.kind = \"files\" with sink.kind = \"embedded\", \
             or \"kafka\" with \"services\"; set both"
        );
        ensure!(
            self.reads_kafka() || self.from().is_some(),
            "key source.from is empty: name the folder of topics there, or with --from"
        );
        Ok(self.worker_at(self.tables().0))
    }

    /// Workers on topics and tables of another place than the configured one.
    pub fn worker_at(&self, place: Backend) -> WorkerConfig {
        WorkerConfig {
            name: self.name.clone(),
            max_future_skew: ms(self.max_future_skew),
            unknown_ids: self.ids.unknown.clone(),
            status_interval: self.worker.status_interval,
            refund_memory: self.worker.refund_memory,
            instance: self.worker.instance.clone(),
            members: self.data_dir().join("run"),
            place,
        }
    }

    /// Where the workers' tables are, and how long to try to get there.
    pub fn tables(&self) -> (Backend, Duration) {
        if self.writes_services() {
            let (kafka, postgres, redis) = (self.kafka(), self.postgres(), self.redis());
            return (Backend::Services { kafka, postgres, redis }, self.postgres.connect_timeout);
        }
        let (from, data_dir) = (self.source.from.clone(), self.data_dir().to_owned());
        (Backend::Embedded { from, data_dir }, Duration::from_secs(30))
    }

    /// The process ends if nothing moves for so long.
    pub fn watchdog(&self) -> Duration {
        self.watchdog.timeout
    }

    /// The folder of results.
    pub fn data_dir(&self) -> &Path {
        &self.sink.data_dir
    }

    /// Whether anything is written anywhere.
    pub fn writes_anywhere(&self) -> bool {
        self.sink.kind != SinkKind::None
    }

    /// Whether results are written to the folder of results.
    pub fn writes(&self) -> bool {
        self.sink.kind == SinkKind::Embedded
    }

    /// The engine's part.
    pub fn engine(&self) -> EngineConfig {
        let sinks = match self.sink.kind {
            SinkKind::None => SinkConfig::None,
            SinkKind::Embedded => SinkConfig::Embedded(self.data_dir().to_owned()),
            SinkKind::Services => SinkConfig::Services(Box::new(Services {
                name: self.name.clone(),
                redis: self.redis(),
                postgres: self.postgres(),
                kafka: self.kafka(),
            })),
        };
        EngineConfig {
            settings: self.settings(),
            source: self.source(),
            sinks,
            restart: self.restart,
            checkpoints: Some(self.checkpoints())
                .filter(|checkpoints| checkpoints.are_taken || checkpoints.exists()),
            from_checkpoint: FromCheckpoint::Newest,
            backfill_from: None,
            accept_loss: false,
            epochs: EpochConfig {
                interval: self.epoch_interval,
                catch_up_interval: self.epoch.catch_up_interval,
                quiet_interval: self.epoch.quiet_interval,
                max_bytes: self.epoch.max_bytes,
                max_in_flight: self.epoch.max_in_flight,
            },
            watchdog: self.watchdog.timeout,
        }
    }

    fn source(&self) -> SourceConfig {
        let (follow, idle_timeout, idle_advance) =
            (self.follows(), self.idle_timeout, self.watermark.idle_advance);
        match self.source.kind {
            SourceKind::Files => SourceConfig::Files(FileSourceConfig {
                folder: self.source.from.clone(),
                follow,
                idle_timeout,
                idle_advance,
                hold: None,
            }),
            SourceKind::Kafka => SourceConfig::Kafka(KafkaSourceConfig {
                kafka: self.kafka(),
                name: self.name.clone(),
                topics: self.topics(),
                follow,
                idle_timeout,
                idle_advance,
            }),
        }
    }

    /// The input topics that the statements read.
    pub fn topics(&self) -> Vec<Topic> {
        let runs =
            |statements: &[Statement]| statements.iter().any(|statement| self.statements.contains(statement));
        let read = |topic: &Topic| match topic {
            Topic::AdEvents => runs(&[
                Statement::PerformanceAggregator,
                Statement::ConversionMatcher,
                Statement::DuplicateDetector,
            ]),
            Topic::ConversionEvents => runs(&[Statement::ConversionMatcher]),
            Topic::CampaignEvents | Topic::ProductMetrics | Topic::ProductMeta => {
                runs(&[Statement::RtbCacheUpdater])
            }
        };
        Topic::ALL.into_iter().filter(read).collect()
    }

    /// The generator's part.
    pub fn generator(&self) -> GeneratorConfig {
        let generator = &self.generator;
        GeneratorConfig {
            seed: generator.seed,
            // `check` has parsed it.
            start: EventTime::parse(&generator.start).unwrap_or_default(),
            span_ms: ms(generator.span),
            ad_events: generator.ad_events,
            campaign_events: generator.campaign_events,
            campaigns: generator.campaigns,
            products: generator.products,
            devices: generator.devices,
            daily_curve: generator.daily_curve,
            partitions: generator.partitions,
            malformed: generator.malformed,
        }
    }
}

/// As milliseconds. No two event times are further apart than the limit, so a longer duration means the same;
/// sums of limited ones can't overflow.
fn ms(duration: Duration) -> i64 {
    const LIMIT: i64 = 10_000 * 366 * 86_400_000;
    i64::try_from(duration.as_millis()).map_or(LIMIT, |ms| ms.min(LIMIT))
}
