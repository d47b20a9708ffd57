//! Compares what a run wrote, row by row, with what it must have written.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use adtide_dataflows::Settings;
use adtide_dataflows::model::{AttributionRow, EventTime, PerformanceRow, RankingRow, WINDOW_MS};
use anyhow::{Context, bail};
use rusqlite::{Connection, OpenFlags};
use serde::Deserialize;
use serde_json::json;

use super::cells::{Cell, Row, differing, in_full, ranking_cells};
use super::input::{Location, for_each_line};
use super::report::{Report, Section};
use super::{Recomputed, compensations};

/// Compares the results with what a run wrote to `data_dir`.
///
/// # Errors
/// Files that can't be read; what a run wrote wrongly is no error but a difference.
pub fn compare(recomputed: &Recomputed, data_dir: &Path) -> anyhow::Result<Report> {
    let database = Database::open(data_dir)?;
    let topics = data_dir.join("topics");
    Ok(Report {
        rankings: rankings(recomputed, &database)?,
        performance: performance(recomputed, &database)?,
        attributions: attributions(recomputed, &database)?,
        refunds: compensations::compare(&recomputed.refunds.groups, &topics)?,
        late_events: late_events(recomputed, &topics)?,
        dead_letters: dead_letters(recomputed, &topics)?,
        without_campaign: recomputed.performance.without_campaign,
        repeats: recomputed.attributions.repeats,
    })
}

/// Where a run keeps its tables.
///
/// # Errors
/// No file is there.
pub fn require_database(data_dir: &Path) -> anyhow::Result<PathBuf> {
    let path = data_dir.join("adtide.db");
    if !path.is_file() {
        bail!("{}: no such file; run the statements first, or name the folder that a run wrote to", path.display());
    }
    Ok(path)
}

/// The settings that the run worked by, and the time of its last commit.
///
/// # Errors
/// No database, or one without them.
pub fn settings_of_run(data_dir: &Path) -> anyhow::Result<(Settings, EventTime)> {
    let Database { path, connection } = Database::open(data_dir)?;
    let unreadable = || format!("{}: the settings of the run can't be read; was it written by adtide?", path.display());
    let sql = "SELECT settings, (SELECT max(updated_at) FROM adtide_progress) FROM adtide_run";
    let (settings, committed): (String, Option<String>) =
        connection.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?))).with_context(unreadable)?;
    let committed = committed.and_then(|time| EventTime::parse(&time).ok()).unwrap_or_else(crate::now);
    Ok((serde_json::from_str(&settings).with_context(unreadable)?, committed))
}

struct Database {
    path: PathBuf,
    connection: Connection,
}

impl Database {
    fn open(data_dir: &Path) -> anyhow::Result<Database> {
        let path = require_database(data_dir)?;
        let connection = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY)
            .with_context(|| format!("{}: can't be opened", path.display()))?;
        Ok(Database { path, connection })
    }

    /// Calls `each` with the key and the other columns of every row. The first `key` columns are the key.
    fn each_row(
        &self,
        table: &str,
        key: usize,
        columns: &[&'static str],
        mut each: impl FnMut(&str, Row),
    ) -> anyhow::Result<()> {
        let unreadable = || format!("{}: table {table} can't be read", self.path.display());
        let sql = format!("SELECT {} FROM {table}", columns.join(", "));
        let mut statement = self.connection.prepare(&sql).with_context(unreadable)?;
        let mut rows = statement.query([]).with_context(unreadable)?;
        while let Some(row) = rows.next().with_context(unreadable)? {
            let mut cells = Row::with_capacity(columns.len());
            for (at, column) in columns.iter().enumerate() {
                cells.push(((*column).into(), Cell::from(row.get_ref(at).with_context(unreadable)?)));
            }
            let others = cells.split_off(key);
            let key: Vec<_> = cells.iter().map(|(_, cell)| cell.to_json()).collect();
            each(&json!(key).to_string(), others);
        }
        Ok(())
    }
}

/// The rows that must be there, and whether they were found.
struct Expected<V> {
    rows: BTreeMap<String, (V, bool)>,
}

impl<V> Expected<V> {
    fn new(rows: impl Iterator<Item = (serde_json::Value, V)>) -> Expected<V> {
        Expected { rows: rows.map(|(key, row)| (key.to_string(), (row, false))).collect() }
    }

    /// What a row that was found must be; none if it should not be there, or not once more.
    fn find(&mut self, section: &mut Section, key: &str, found: impl fmt::Display) -> Option<&V> {
        section.compared += 1;
        match self.rows.get_mut(key) {
            None => section.unexpected(key, found),
            Some((_, true)) => section.unexpected(key, format_args!("it once more: {found}")),
            Some((row, seen)) => {
                *seen = true;
                return Some(row);
            }
        }
        None
    }

    /// Reports the rows that were not found.
    fn finish(self, section: &mut Section, describe: impl Fn(&V) -> String) {
        for (key, (row, seen)) in self.rows {
            if !seen {
                section.compared += 1;
                section.missing(key, describe(&row));
            }
        }
    }
}

/// Reports a row whose values are not those expected.
fn check(section: &mut Section, key: &str, expected: &Row, found: &Row) {
    if let Some((expected, found)) = differing(expected, found) {
        section.wrong(key, expected, found);
    }
}

fn rankings(recomputed: &Recomputed, database: &Database) -> anyhow::Result<Section> {
    let mut section = Section::default();
    let rows = recomputed.rankings.iter();
    let mut expected = Expected::new(rows.map(|((placement, category), row)| (json!([**placement, **category]), row)));
    let columns = ["placement", "category", "total_campaigns", "ranking_list"];
    database.each_row("rtb_ranking_cache", 2, &columns, |key, found| {
        let found = ranking_cells(found);
        if let Some(row) = expected.find(&mut section, key, in_full(&found)) {
            check(&mut section, key, &ranking_row(row), &found);
        }
    })?;
    expected.finish(&mut section, |row| in_full(&ranking_row(row)));
    Ok(section)
}

/// Named as [`ranking_cells`] names what was found.
fn ranking_row(row: &RankingRow) -> Row {
    let mut cells = vec![("total_campaigns".into(), Cell::Integer(i64::try_from(row.total_campaigns).unwrap_or(-1)))];
    for (at, entry) in row.list.iter().enumerate() {
        cells.push((format!("[{at}].campaign_id").into(), Cell::Integer(entry.campaign_id)));
        cells.push((format!("[{at}].score").into(), Cell::Real(entry.score.0)));
        cells.push((format!("[{at}].bid_price").into(), Cell::Text(entry.bid_price.to_string())));
        cells.push((format!("[{at}].product_id").into(), Cell::Integer(entry.product_id)));
        cells.push((format!("[{at}].advertiser_id").into(), Cell::Integer(entry.advertiser_id)));
    }
    cells
}

fn performance(recomputed: &Recomputed, database: &Database) -> anyhow::Result<Section> {
    let mut section = Section::default();
    let mut expected = Expected::new(recomputed.performance.rows.iter().map(|(key, row)| {
        (json!([key.campaign_id, key.product_id, *key.placement, key.window_start.to_string()]), row)
    }));
    let columns = [
        "campaign_id",
        "product_id",
        "placement",
        "window_start",
        "window_end",
        "impression_count",
        "click_count",
        "conversion_count",
        "total_spend",
        "total_revenue",
        "ctr",
        "cvr",
        "roas",
        "is_final",
    ];
    database.each_row("ad_performance_metrics_realtime", 4, &columns, |key, found| {
        if let Some(row) = expected.find(&mut section, key, in_full(&found)) {
            check(&mut section, key, &performance_row(row), &found);
        }
    })?;
    expected.finish(&mut section, |row| in_full(&performance_row(row)));
    Ok(section)
}

fn performance_row(row: &PerformanceRow) -> Row {
    let sums = &row.sums;
    vec![
        ("window_end".into(), Cell::Text(row.key.window_start.plus(WINDOW_MS).to_string())),
        ("impression_count".into(), Cell::Integer(sums.impressions)),
        ("click_count".into(), Cell::Integer(sums.clicks)),
        ("conversion_count".into(), Cell::Integer(sums.conversions)),
        ("total_spend".into(), Cell::Text(sums.spend.to_string())),
        ("total_revenue".into(), Cell::Text(sums.revenue.to_string())),
        ("ctr".into(), Cell::Real(quotient(sums.clicks * 100, sums.impressions))),
        ("cvr".into(), Cell::Real(quotient(sums.conversions * 100, sums.clicks))),
        ("roas".into(), Cell::Real(quotient(sums.revenue.0, sums.spend.0))),
        ("is_final".into(), Cell::Integer(i64::from(row.is_final))),
    ]
}

fn quotient(dividend: i64, divisor: i64) -> f64 {
    if divisor == 0 { 0.0 } else { dividend as f64 / divisor as f64 }
}

fn attributions(recomputed: &Recomputed, database: &Database) -> anyhow::Result<Section> {
    let mut section = Section::default();
    let rows = recomputed.attributions.rows.iter();
    let mut expected =
        Expected::new(rows.map(|((order_id, product_id), row)| (json!([**order_id, product_id, "LAST_CLICK"]), row)));
    let columns = [
        "order_id",
        "product_id",
        "attribution_model",
        "ad_id",
        "campaign_id",
        "advertiser_id",
        "revenue_amount",
        "time_to_conversion",
        "click_time",
        "conversion_time",
    ];
    database.each_row("conversion_attribution_results", 3, &columns, |key, found| {
        if let Some(row) = expected.find(&mut section, key, in_full(&found)) {
            check(&mut section, key, &attribution_row(row), &found);
        }
    })?;
    expected.finish(&mut section, |row| in_full(&attribution_row(row)));
    Ok(section)
}

fn attribution_row(row: &AttributionRow) -> Row {
    vec![
        ("ad_id".into(), row.ad_id.as_ref().map_or(Cell::Null, |id| Cell::Text(id.to_string()))),
        ("campaign_id".into(), row.campaign_id.map_or(Cell::Null, Cell::Integer)),
        ("advertiser_id".into(), Cell::Integer(row.advertiser_id)),
        ("revenue_amount".into(), Cell::Text(row.revenue_amount.to_string())),
        ("time_to_conversion".into(), Cell::Integer((row.conversion_time.0 - row.click_time.0) / 1000)),
        ("click_time".into(), Cell::Text(row.click_time.to_string())),
        ("conversion_time".into(), Cell::Text(row.conversion_time.to_string())),
    ]
}

/// A line of `late-events` or `dead-letter`, as far as it says which record it is about.
#[derive(Deserialize)]
struct Rejected {
    #[serde(default)]
    statement: String,
    topic: String,
    partition: u32,
    offset: u64,
}

fn late_events(recomputed: &Recomputed, topics: &Path) -> anyhow::Result<Section> {
    let by_statement = [
        ("performance_aggregator", &recomputed.performance.late),
        ("conversion_matcher", &recomputed.attributions.late),
        ("duplicate_detector", &recomputed.refunds.late),
    ];
    let expected = by_statement.iter().flat_map(|(statement, late)| {
        late.iter().map(move |Location { topic, partition, offset }| {
            (json!([statement, topic.name(), partition, offset]), "a late event".to_string())
        })
    });
    rejected(topics, "late-events", Expected::new(expected), |line| {
        json!([line.statement, line.topic, line.partition, line.offset])
    })
}

fn dead_letters(recomputed: &Recomputed, topics: &Path) -> anyhow::Result<Section> {
    let expected = recomputed.bad.iter().map(|(Location { topic, partition, offset }, why)| {
        (json!([topic.name(), partition, offset]), format!("a dead letter ({why})"))
    });
    rejected(topics, "dead-letter", Expected::new(expected), |line| json!([line.topic, line.partition, line.offset]))
}

/// Compares the records that an output topic names with those it must name, each once.
fn rejected(
    topics: &Path,
    topic: &str,
    mut expected: Expected<String>,
    key: impl Fn(&Rejected) -> serde_json::Value,
) -> anyhow::Result<Section> {
    let mut section = Section::default();
    for_each_line(topics, topic, |partition, offset, line| match serde_json::from_slice::<Rejected>(line) {
        Ok(line) => {
            expected.find(&mut section, &key(&line).to_string(), "a record");
        }
        Err(error) => section.unexpected(format_args!("{topic} [{partition}, {offset}]"), error),
    })?;
    expected.finish(&mut section, String::clone);
    Ok(section)
}
