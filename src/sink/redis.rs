//! The rankings in Redis.
//!
//! A commit is one script, which Redis runs without anything in between: it moves the progress on from the
//! epoch before, under the number of this run, and sets the rankings. If the progress is not where this run
//! has left it, nothing is written; so a run that was replaced can't write any more, and a commit whose
//! answer got lost is not done twice.

use std::time::{Duration, Instant};

use adtide_dataflows::model::{Epoch, Text};
use adtide_dataflows::rtb_cache_updater::RankingRow;
use anyhow::Context;
use redis::{Connection, RedisResult, Script};

use super::rows::Rows;
use super::{Commit, Progress, Run, Sink, Stored, by_partition, fenced, latest, rewound};
use crate::connect::redis::RedisConfig;
use crate::connect::{Fault, persist};
use crate::json;

/// Statement 1 in Redis.
pub struct RedisSink {
    config: RedisConfig,
    name: String,
    run: Run,
    /// The number that this run has drawn.
    number: i64,
    stored: Option<Stored>,
    /// The last epoch that is committed.
    committed: Option<Epoch>,
    /// When the rankings' time to live was last set anew.
    refreshed: Instant,
    scripts: Scripts,
    /// None after a fault.
    connection: Option<Connection>,
}

impl RedisSink {
    /// Connects, and takes over from any older run of the same name: nothing that it has not committed by now
    /// will be. The rankings that are there get the time to live that is configured now.
    ///
    /// # Errors
    /// The server can't be reached within `connect_timeout`, or refuses; with what to do.
    pub fn open(config: &RedisConfig, name: &str, run: Run) -> anyhow::Result<RedisSink> {
        let scripts = Scripts::new();
        let (connection, number, stored) = persist("opening Redis", Some(config.connect_timeout), || {
            let mut connection = config.connect()?;
            let number =
                redis::cmd("HINCRBY").arg(progress_key(name)).arg("run").arg(1).query(&mut connection);
            let number: i64 = number.map_err(|error| config.fault(error))?;
            // After drawing the number: nobody can write behind it.
            let stored = read(&mut connection, name).map_err(|error| config.fault(error))?;
            let mut adopt = scripts.adopt.key(rankings_key(name));
            let adopted: RedisResult<()> = adopt.arg(ms(config.ttl)).invoke(&mut connection);
            adopted.map_err(|error| config.fault(error))?;
            Ok((connection, number, stored))
        })?;
        let stored = stored.map(decode).transpose()?;
        Ok(RedisSink {
            config: config.clone(),
            name: name.to_owned(),
            run,
            number,
            committed: stored.as_ref().map(|stored| stored.progress.epoch),
            stored,
            refreshed: Instant::now(),
            scripts,
            connection: Some(connection),
        })
    }

    /// Tries `action`, on a new connection if the last one failed.
    fn attempt<T>(&mut self, action: impl Fn(&Self, &mut Connection) -> RedisResult<T>) -> Result<T, Fault> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.config.connect()?,
        };
        let result = action(self, &mut connection).map_err(|error| self.config.fault(error))?;
        self.connection = Some(connection);
        Ok(result)
    }

    fn write(&mut self, batch: &Batch) -> Result<(), Fault> {
        let answer = self.attempt(|sink, connection| sink.invoke(connection, batch))?;
        let Some((number, held)) = answer else { return Ok(()) };
        let server = format!("Redis at {}", self.config.url);
        let held = held.and_then(|epoch| epoch.parse().ok());
        // A number that is gone went with everything else, when Redis was emptied.
        if number.and_then(|number| number.parse::<i64>().ok()).is_some_and(|number| number > self.number) {
            return Err(Fault::Lasting(fenced(&server, &self.name)));
        }
        Err(Fault::Lasting(rewound(&server, held, self.committed)))
    }

    /// Runs the script; None if the batch is in Redis now, else the run and the epoch that are there instead
    /// of ours.
    fn invoke(
        &self,
        connection: &mut Connection,
        batch: &Batch,
    ) -> RedisResult<Option<(Option<String>, Option<String>)>> {
        let mut script = self.scripts.commit.prepare_invoke();
        script.key(progress_key(&self.name)).key(rankings_key(&self.name));
        script
            .arg(self.number)
            .arg(self.committed.map_or(String::new(), |epoch| epoch.to_string()))
            .arg(batch.epoch);
        script.arg(ms(self.config.ttl)).arg(2 * batch.fields.len()).arg(&batch.fields);
        for (key, value) in &batch.rankings {
            // No ranking is an empty text, so that stands for deletion.
            script.key(key).arg(value.as_deref().unwrap_or_default());
        }
        script.invoke(connection)
    }

    /// Sets the rankings' time to live anew if a third of it has passed: only those of a run that is gone
    /// expire.
    fn refresh(&mut self) -> anyhow::Result<()> {
        let ttl = self.config.ttl;
        if ttl.is_zero() || self.refreshed.elapsed() < ttl / 3 {
            return Ok(());
        }
        persist("refreshing the rankings in Redis", None, || {
            self.attempt(|sink, connection| {
                let mut script = sink.scripts.refresh.prepare_invoke();
                script.key(progress_key(&sink.name)).key(rankings_key(&sink.name));
                script.arg(sink.number).arg(ms(ttl)).invoke::<()>(connection)
            })
        })?;
        self.refreshed = Instant::now();
        Ok(())
    }
}

impl Sink for RedisSink {
    fn name(&self) -> &'static str {
        "redis"
    }

    fn joins_late(&self) -> bool {
        true
    }

    fn stored(&self) -> Option<Stored> {
        self.stored.clone()
    }

    fn commit(&mut self, commit: Commit) -> anyhow::Result<()> {
        let batch = Batch::new(commit, &self.run)?;
        persist("writing to Redis", None, || self.write(&batch))?;
        self.committed = Some(batch.epoch);
        self.refresh()
    }

    fn tick(&mut self) -> anyhow::Result<()> {
        self.refresh()
    }
}

/// What the deployment `name` has committed; None if nothing yet. Only reads.
///
/// # Errors
/// It can't be read, or another version of adtide wrote it.
pub fn stored(connection: &mut Connection, name: &str) -> anyhow::Result<Option<Stored>> {
    let fields = read(connection, name).context("can't read the progress in Redis")?;
    fields.map(decode).transpose()
}

/// Where the ranking of a placement and a category is. A colon in the placement is written %3A, and a percent
/// sign %25; else two rankings could meet at one key.
pub fn ranking_key(placement: &str, category: &str) -> String {
    if placement.contains([':', '%']) {
        let placement = placement.replace('%', "%25").replace(':', "%3A");
        return format!("rtb:ranking:{placement}:{category}");
    }
    format!("rtb:ranking:{placement}:{category}")
}

/// The hash whose fields are the keys of all rankings of a deployment. Their values are empty, or, where
/// rankings have a time to live, copies of the rankings: from them one comes back that has expired while
/// nobody refreshed it.
pub fn rankings_key(name: &str) -> String {
    format!("adtide:rankings:{name}")
}

fn progress_key(name: &str) -> String {
    format!("adtide:progress:{name}")
}

/// The progress as it is stored: the values of [`FIELDS`].
type Held = (u64, String, String, String, String);

const FIELDS: [&str; 5] = ["epoch", "settings", "source", "watermarks", "partitions"];

/// None if nothing was committed yet: then there is a number only.
fn read(connection: &mut Connection, name: &str) -> RedisResult<Option<Held>> {
    // All fields are written together.
    let key = progress_key(name);
    if !redis::cmd("HEXISTS").arg(&key).arg("epoch").query::<bool>(connection)? {
        return Ok(None);
    }
    redis::cmd("HMGET").arg(&key).arg(&FIELDS).query(connection).map(Some)
}

fn decode((epoch, settings, source, watermarks, partitions): Held) -> anyhow::Result<Stored> {
    let read = || -> anyhow::Result<Stored> {
        let partitions = by_partition(serde_json::from_str(&partitions)?);
        let progress = Progress { epoch, watermarks: serde_json::from_str(&watermarks)?, partitions };
        Ok(Stored { run: Run { settings: serde_json::from_str(&settings)?, source }, progress })
    };
    read()
        .context("the progress in Redis is not of this version of adtide; use that version, or another name")
}

/// As the scripts take it; 0 is for ever.
fn ms(ttl: Duration) -> u64 {
    u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)
}

struct Scripts {
    commit: Script,
    refresh: Script,
    adopt: Script,
}

impl Scripts {
    fn new() -> Scripts {
        Scripts {
            commit: Script::new(include_str!("redis/commit.lua")),
            refresh: Script::new(include_str!("redis/refresh.lua")),
            adopt: Script::new(include_str!("redis/adopt.lua")),
        }
    }
}

/// A commit as it is sent.
struct Batch {
    epoch: Epoch,
    /// Of the progress: names ([`FIELDS`]) and values.
    fields: Vec<(&'static str, String)>,
    /// Key and value; None if there is no such ranking any more.
    rankings: Vec<(String, Option<String>)>,
}

impl Batch {
    fn new(commit: Commit, run: &Run) -> anyhow::Result<Batch> {
        let now = crate::now();
        let Progress { epoch, watermarks, partitions } = commit.progress;
        let values = [
            epoch.to_string(),
            serde_json::to_string(&run.settings)?,
            run.source.clone(),
            serde_json::to_string(&watermarks)?,
            serde_json::to_string(&partitions.into_values().collect::<Vec<_>>())?,
        ];
        let fields = FIELDS.into_iter().zip(values).collect();
        let key = |row: &RankingRow| (row.placement.clone(), row.category.clone());
        let rankings = latest(Rows::sort(commit.epochs).rankings, key).into_iter();
        let value = |((placement, category), row): ((Text, Text), Option<_>)| {
            (ranking_key(&placement, &category), row.map(|row| json::ranking(&row, now)))
        };
        Ok(Batch { epoch, fields, rankings: rankings.map(value).collect() })
    }
}
