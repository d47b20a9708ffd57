//! Results in PostgreSQL, Redis and Kafka.

use std::borrow::Cow;

use super::kafka::Records;
use super::postgres::Tables;
use super::redis::{self, Budgets, Rankings};
use super::{BUDGETS, Found, RANKINGS, Sinks, Standing, Table, WORKER_OFFSETS, one_run};
use crate::connect;
use crate::connect::kafka::KafkaConfig;
use crate::connect::postgres::PostgresConfig;
use crate::connect::redis::RedisConfig;
use crate::sink::Stored;
use crate::verify::cells::Row;

/// How the servers are reached.
#[derive(Clone, Debug)]
pub struct ServicesConfig {
    /// The deployment's name.
    pub name: String,
    /// Tables.
    pub postgres: PostgresConfig,
    /// Rankings.
    pub redis: RedisConfig,
    /// Topics.
    pub kafka: KafkaConfig,
}

/// The results on three servers, each as it was at one moment.
pub struct Services {
    config: ServicesConfig,
    tables: Tables,
    rankings: Vec<Row>,
    budgets: Budgets,
    records: Records,
    sinks: Sinks,
}

impl Services {
    /// Looks at the servers. The topics come last: what is late in the others must be in them by then.
    ///
    /// # Errors
    /// A server can't be reached or read, or nothing was ever committed to any.
    pub fn open(config: &ServicesConfig) -> anyhow::Result<Services> {
        let mut tables = Tables::open(&config.postgres)?;
        let in_tables = tables.stored(&config.name)?;
        let mut connection = redis::connect(&config.redis)?;
        let Rankings { rows, stored: in_rankings } =
            redis::rankings(&config.redis, &mut connection, &config.name)?;
        let budgets = redis::budgets(&config.redis, &mut connection, &config.name)?;
        let epoch = |stored: &Option<Stored>| stored.as_ref().map_or(0, |stored| stored.progress.epoch);
        let records = Records::open(&config.kafka, &config.name, epoch(&in_tables).max(epoch(&in_rankings)))?;
        let all = [("postgres", in_tables), ("redis", in_rankings), ("kafka", records.stored.clone())];
        let run = one_run(&all, &format!("the deployment {} (key name)", config.name))?;
        let [tables_at, rankings_at, topics_at] =
            all.map(|(sink, stored)| Standing { sink, progress: stored.map(|stored| stored.progress) });
        let sinks =
            Sinks { rankings: rankings_at, tables: tables_at, topics: topics_at, settings: run.settings };
        Ok(Services { config: config.clone(), tables, rankings: rows, budgets, records, sinks })
    }
}

impl Found for Services {
    fn sinks(&self) -> &Sinks {
        &self.sinks
    }

    fn notes(&self) -> Vec<String> {
        let note = |hidden| {
            format!(
                "{hidden}: nothing counts, as a transaction is open there, whose producer or broker has died"
            )
        };
        self.records.hidden.iter().map(note).collect()
    }

    fn topic(&self, name: &str) -> String {
        self.config.kafka.topic(name)
    }

    fn stored_text(&self) -> fn(&str) -> Cow<'_, str> {
        connect::text::stored_text
    }

    fn held_text(&self) -> fn(&str) -> Cow<'_, str> {
        connect::text::held_text
    }

    fn has(&mut self, table: &Table) -> anyhow::Result<bool> {
        Ok(table.name == BUDGETS.name || self.tables.has(table)?)
    }

    fn each_row(&mut self, table: &Table, each: &mut dyn FnMut(Row)) -> anyhow::Result<()> {
        let in_redis = match table.name {
            name if name == RANKINGS.name => &self.rankings,
            name if name == BUDGETS.name => &self.budgets.rows,
            name => {
                if name == WORKER_OFFSETS.name {
                    self.budgets.offsets.iter().cloned().for_each(&mut *each);
                }
                return self.tables.each_row(table, each);
            }
        };
        in_redis.iter().cloned().for_each(each);
        Ok(())
    }

    fn each_record(&mut self, topic: &str, each: &mut dyn FnMut(u32, u64, &[u8])) -> anyhow::Result<()> {
        self.records.each_record(topic, each)
    }
}
