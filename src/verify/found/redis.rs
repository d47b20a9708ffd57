//! Rankings and budgets in Redis.

use std::collections::BTreeSet;

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

/// Reads the rankings of the deployment `name` as they were at one moment: it starts anew when there was a commit meanwhile.
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
    bail!("Redis at {}: the rankings change faster than they can be read; stop adtide, then verify", config.url)
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
        let scan = redis::cmd("SCAN").arg(cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(1000).query(connection)?;
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
    let parsed = parsed.ok().filter(|value| sink::redis::ranking_key(&value.placement, &value.category) == key);
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
