//! Rankings and budgets in Redis.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, bail};
use redis::{Connection, RedisResult};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::connect::persist;
use crate::connect::redis::RedisConfig;
use crate::sink::{self, Stored};
use crate::verify::cells::{Cell, Row};

/// How often it is tried to read everything between two commits.
const ATTEMPTS: usize = 100;

/// How many keys are asked for at once.
const BATCH: usize = 500;

/// The rankings, and the progress that they stand for.
#[derive(Debug)]
pub struct Rankings {
    /// The rankings as rows of `rtb_ranking_cache`.
    pub rows: Vec<Row>,
    /// What they stand for.
    pub stored: Option<Stored>,
}

/// Opens a connection.
///
/// # Errors
/// The server can't be reached within `connect_timeout`, or refuses.
pub fn connect(config: &RedisConfig) -> anyhow::Result<Connection> {
    persist("opening Redis", Some(config.connect_timeout), || config.connect())
}

/// Reads the rankings of the deployment `name` as they were at one moment: it starts anew when there was a
/// commit meanwhile.
///
/// # Errors
/// The server can't be read, or there is a commit each time.
pub fn rankings(config: &RedisConfig, connection: &mut Connection, name: &str) -> anyhow::Result<Rankings> {
    let mut before = sink::redis::stored(connection, name)?;
    for _ in 0..ATTEMPTS {
        let rows = read(connection).map_err(|error| config.fault(error).into_error())?;
        let after = sink::redis::stored(connection, name)?;
        if epoch(&before) == epoch(&after) {
            return Ok(Rankings { rows, stored: after });
        }
        before = after;
    }
    bail!(
        "Redis at {}: the rankings change faster than they can be read; stop adtide, then verify",
        config.url
    )
}

/// What campaigns have spent and got back, and how far the budget worker is that says so.
#[derive(Debug, Default)]
pub struct Budgets {
    /// As rows of `campaign_budget`.
    pub rows: Vec<Row>,
    /// As rows of `worker_offsets`.
    pub offsets: Vec<Row>,
}

/// Reads the budgets of the deployment `name` as they were at one moment.
///
/// # Errors
/// The server can't be read, or the worker commits each time.
pub fn budgets(config: &RedisConfig, connection: &mut Connection, name: &str) -> anyhow::Result<Budgets> {
    let fault = |error| config.fault(error).into_error();
    let mut before = offsets(connection, name).map_err(fault)?;
    for _ in 0..ATTEMPTS {
        let rows = read_budgets(connection).map_err(fault)?;
        let after = offsets(connection, name).map_err(fault)?;
        if before == after {
            return Ok(Budgets {
                rows,
                offsets: after.iter().map(|(place, next)| offset_row(place, *next)).collect(),
            });
        }
        before = after;
    }
    bail!(
        "Redis at {}: the budgets change faster than they can be read; stop the worker, then verify",
        config.url
    )
}

/// How far the budget worker is, by `topic/partition`.
fn offsets(connection: &mut Connection, name: &str) -> RedisResult<BTreeMap<String, i64>> {
    let fields: BTreeMap<String, String> =
        redis::cmd("HGETALL").arg(format!("adtide:worker:{name}:budget")).query(connection)?;
    let next = |(field, value): (&String, &String)| {
        Some((field.strip_suffix(":next")?.to_owned(), value.parse().ok()?))
    };
    Ok(fields.iter().filter_map(next).collect())
}

fn offset_row(place: &str, next_offset: i64) -> Row {
    let (topic, partition) = place.rsplit_once('/').unwrap_or((place, ""));
    vec![
        ("worker".into(), Cell::Text("budget".into())),
        ("topic".into(), Cell::Text(topic.into())),
        ("partition".into(), partition.parse().map_or(Cell::Null, Cell::Integer)),
        ("next_offset".into(), Cell::Integer(next_offset)),
    ]
}

fn read_budgets(connection: &mut Connection) -> RedisResult<Vec<Row>> {
    const PREFIX: &str = "budget:campaign:";
    let keys = keys(connection, &format!("{PREFIX}*"))?;
    let mut rows = Vec::with_capacity(keys.len());
    for keys in keys.chunks(BATCH) {
        let mut pipe = redis::pipe();
        for key in keys {
            pipe.cmd("HMGET").arg(key).arg("spent").arg("refunded");
        }
        let values: Vec<(Option<String>, Option<String>)> = pipe.query(connection)?;
        for (key, (spent, refunded)) in keys.iter().zip(values) {
            let id = key.trim_start_matches(PREFIX);
            rows.push(vec![
                ("campaign_id".into(), id.parse().map_or_else(|_| Cell::Text(key.clone()), Cell::Integer)),
                ("spent".into(), spent.map_or(Cell::Null, Cell::Text)),
                ("refunded".into(), refunded.map_or(Cell::Null, Cell::Text)),
            ]);
        }
    }
    Ok(rows)
}

fn epoch(stored: &Option<Stored>) -> Option<u64> {
    stored.as_ref().map(|stored| stored.progress.epoch)
}

fn read(connection: &mut Connection) -> RedisResult<Vec<Row>> {
    let keys = keys(connection, "rtb:ranking:*")?;
    let mut rows = Vec::with_capacity(keys.len());
    for keys in keys.chunks(BATCH) {
        let values: Vec<Option<Vec<u8>>> = redis::cmd("MGET").arg(keys).query(connection)?;
        let there = keys.iter().zip(values).filter_map(|(key, value)| Some((key, value?)));
        rows.extend(there.map(|(key, value)| row(key, &value)));
    }
    Ok(rows)
}

/// The keys of a pattern, each once, in order.
pub fn keys(connection: &mut Connection, pattern: &str) -> RedisResult<Vec<String>> {
    let mut keys: BTreeSet<String> = BTreeSet::new();
    let mut cursor = 0u64;
    loop {
        let scan = redis::cmd("SCAN")
            .arg(cursor)
            .arg("MATCH")
            .arg(pattern)
            .arg("COUNT")
            .arg(1000)
            .query(connection)?;
        let (next, some): (u64, Vec<String>) = scan;
        keys.extend(some);
        if next == 0 {
            return Ok(keys.into_iter().collect());
        }
        cursor = next;
    }
}

/// The value of a ranking.
#[derive(Deserialize)]
struct Value {
    placement: String,
    category: String,
    total_campaigns: i64,
    ranking: Box<RawValue>,
}

/// A ranking as a row. One that is not what its key says comes under the key itself, where none is expected.
fn row(key: &str, value: &[u8]) -> Row {
    let parsed = serde_json::from_slice::<Value>(value).context("no ranking");
    let parsed =
        parsed.ok().filter(|value| sink::redis::ranking_key(&value.placement, &value.category) == key);
    let (placement, category, total, list) = match parsed {
        Some(Value { placement, category, total_campaigns, ranking }) => {
            (placement, Cell::Text(category), Cell::Integer(total_campaigns), ranking.get().to_owned())
        }
        None => (key.to_owned(), Cell::Null, Cell::Null, String::from_utf8_lossy(value).into_owned()),
    };
    vec![
        ("placement".into(), Cell::Text(placement)),
        ("category".into(), category),
        ("total_campaigns".into(), total),
        ("ranking_list".into(), Cell::Text(list)),
    ]
}
