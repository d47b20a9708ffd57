//! Compares what was found, row by row, with what must be there. Knows neither where it was found nor what it
//! was computed from.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use adtide_dataflows::Statement;
use adtide_dataflows::conversion_matcher::AttributionRow;
use adtide_dataflows::model::{AdId, EventTime, Topic};
use adtide_dataflows::oracle::{Claims, Location};
use adtide_dataflows::performance_aggregator::PerformanceRow;
use adtide_dataflows::rtb_cache_updater::RankingRow;
use serde::Deserialize;
use serde_json::json;

use super::cells::{Cell, Row, differing, in_full, ranking_cells};
use super::copies::{Copied, Copies};
use super::found::{ATTRIBUTIONS, Found, PERFORMANCE, RANKINGS, Table};
use super::recompute::Recomputed;
use super::report::Section;
use crate::sink::{DEAD_LETTER, LATE_EVENTS};

/// Calls `each` with the key and the other columns of every row of a table.
///
/// # Errors
/// The table can't be read.
pub fn each_row(found: &mut dyn Found, table: &Table, mut each: impl FnMut(&str, Row)) -> anyhow::Result<()> {
    found.each_row(table, &mut |mut cells| {
        let others = cells.split_off(table.key.len());
        let key: Vec<_> = cells.iter().map(|(_, cell)| cell.to_json()).collect();
        each(&json!(key).to_string(), others);
    })
}

/// The rows that must be there, and whether they were found.
pub struct Expected<V> {
    rows: BTreeMap<String, (V, bool)>,
}

impl<V> Expected<V> {
    /// None of them found yet.
    pub fn new(rows: impl Iterator<Item = (serde_json::Value, V)>) -> Expected<V> {
        Expected { rows: rows.map(|(key, row)| (key.to_string(), (row, false))).collect() }
    }

    /// What a row that was found must be; none if it should not be there, or not once more.
    pub fn find(&mut self, section: &mut Section, key: &str, found: impl fmt::Display) -> Option<&V> {
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
    pub fn finish(self, section: &mut Section, describe: impl Fn(&V) -> String) {
        for (key, (row, seen)) in self.rows {
            if !seen {
                section.compared += 1;
                section.missing(key, describe(&row));
            }
        }
    }
}

/// Reports a row whose values are not those expected.
pub fn check(section: &mut Section, key: &str, expected: &Row, found: &Row) {
    if let Some((expected, found)) = differing(expected, found) {
        section.wrong(key, expected, found);
    }
}

/// Compares the rankings.
///
/// # Errors
/// Those of [`each_row`].
pub fn rankings(recomputed: &Recomputed, found: &mut dyn Found) -> anyhow::Result<Section> {
    let mut section = Section::default();
    let rows = recomputed.rankings.iter();
    let mut expected =
        Expected::new(rows.map(|((placement, category), row)| (json!([**placement, **category]), row)));
    each_row(found, &RANKINGS, |key, row| {
        let found = ranking_cells(row);
        if let Some(row) = expected.find(&mut section, key, in_full(&found)) {
            check(&mut section, key, &ranking_row(row), &found);
        }
    })?;
    expected.finish(&mut section, |row| in_full(&ranking_row(row)));
    Ok(section)
}

/// Named as [`ranking_cells`] names what was found.
fn ranking_row(row: &RankingRow) -> Row {
    let mut cells =
        vec![("total_campaigns".into(), Cell::Integer(i64::try_from(row.total_campaigns).unwrap_or(-1)))];
    for (at, entry) in row.list.iter().enumerate() {
        cells.push((format!("[{at}].campaign_id").into(), Cell::Integer(entry.campaign_id)));
        cells.push((format!("[{at}].score").into(), Cell::Real(entry.score.0)));
        cells.push((format!("[{at}].bid_price").into(), Cell::Text(entry.bid_price.to_string())));
        cells.push((format!("[{at}].product_id").into(), Cell::Integer(entry.product_id)));
        cells.push((format!("[{at}].advertiser_id").into(), Cell::Integer(entry.advertiser_id)));
    }
    cells
}

/// Compares the table of statement 2.
///
/// # Errors
/// Those of [`each_row`].
pub fn performance(recomputed: &Recomputed, found: &mut dyn Found) -> anyhow::Result<Section> {
    let mut section = Section::default();
    let stored_text = found.stored_text();
    let mut expected = Expected::new(recomputed.performance.rows.iter().map(|(key, row)| {
        let placement = stored_text(&key.placement);
        (json!([key.campaign_id, key.product_id, placement, key.window_start.to_seconds()]), row)
    }));
    each_row(found, &PERFORMANCE, |key, found| {
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

/// Compares the table of statement 3.
///
/// # Errors
/// Those of [`each_row`].
pub fn attributions(recomputed: &Recomputed, found: &mut dyn Found) -> anyhow::Result<Section> {
    let mut section = Section::default();
    let stored_text = found.stored_text();
    let rows = recomputed.attributions.rows.iter();
    let mut expected = Expected::new(rows.map(|((order_id, product_id), row)| {
        (json!([stored_text(order_id), product_id, "LAST_CLICK"]), row)
    }));
    each_row(found, &ATTRIBUTIONS, |key, found| {
        if let Some(row) = expected.find(&mut section, key, in_full(&found)) {
            check(&mut section, key, &attribution_row(row, stored_text), &found);
        }
    })?;
    expected.finish(&mut section, |row| in_full(&attribution_row(row, stored_text)));
    Ok(section)
}

fn attribution_row(row: &AttributionRow, stored_text: fn(&str) -> Cow<'_, str>) -> Row {
    let ad_id = |id: &AdId| Cell::Text(stored_text(&id.to_string()).into_owned());
    vec![
        ("ad_id".into(), row.ad_id.as_ref().map_or(Cell::Null, ad_id)),
        ("campaign_id".into(), row.campaign_id.map_or(Cell::Null, Cell::Integer)),
        ("advertiser_id".into(), Cell::Integer(row.advertiser_id)),
        ("revenue_amount".into(), Cell::Text(row.revenue_amount.to_string())),
        ("time_to_conversion".into(), Cell::Integer((row.conversion_time.0 - row.click_time.0) / 1000)),
        ("click_time".into(), Cell::Text(row.click_time.to_string())),
        ("conversion_time".into(), Cell::Text(row.conversion_time.to_string())),
    ]
}

/// A record of `late-events` or `dead-letter`.
#[derive(Deserialize)]
struct Rejected {
    /// The ledger worker that has left the record out; none for those of the run.
    #[serde(default)]
    worker: Option<String>,
    #[serde(default)]
    statement: String,
    topic: String,
    partition: u32,
    offset: u64,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    event_time: String,
    #[serde(default)]
    watermark: String,
    #[serde(flatten)]
    copied: Copied,
}

impl Rejected {
    /// The record that it is about; None if there can't be one.
    fn location(&self) -> Option<Location> {
        let topic = Topic::ALL.into_iter().find(|topic| topic.name() == self.topic)?;
        Some(Location { topic, partition: self.partition, offset: self.offset })
    }
}

/// What the run says of the records that it left out.
#[derive(Default)]
pub struct LeftOut {
    /// Those that were late, by statement.
    pub claims: Vec<(Statement, Claims)>,
    /// The copies of all.
    pub copies: Copies,
}

/// Reads what the run says of the records that it left out. What is not readable is found by [`late_events`]
/// and [`dead_letters`].
///
/// # Errors
/// The topics can't be read.
pub fn left_out(found: &mut dyn Found) -> anyhow::Result<LeftOut> {
    let mut claims = Statement::ALL.map(|statement| (statement, Claims::new()));
    let mut copies = Copies::default();
    for topic in [LATE_EVENTS, DEAD_LETTER] {
        found.each_record(topic, &mut |_, _, value| {
            let Ok(record) = serde_json::from_slice::<Rejected>(value) else { return };
            let Some(location) = record.location() else { return };
            copies.add(topic, location, &record.copied);
            let of = claims.iter_mut().find(|(statement, _)| statement.name() == record.statement);
            if let (Some((_, claims)), Ok(met)) = (of, EventTime::parse(&record.watermark)) {
                claims.insert(location, met);
            }
        })?;
    }
    Ok(LeftOut { claims: claims.into(), copies })
}

/// Compares the topic of late events.
///
/// # Errors
/// The topic can't be read.
pub fn late_events(
    recomputed: &Recomputed,
    copies: &Copies,
    found: &mut dyn Found,
) -> anyhow::Result<Section> {
    let by_statement = [
        (Statement::PerformanceAggregator, &recomputed.performance.late),
        (Statement::ConversionMatcher, &recomputed.attributions.late),
        (Statement::DuplicateDetector, &recomputed.refunds.late),
    ];
    let expected = by_statement.iter().flat_map(|(statement, late)| {
        let times = late.times.iter().map(|(time, watermark)| (time.to_string(), watermark.to_string()));
        late.locations.iter().zip(times).map(
            move |(Location { topic, partition, offset }, (time, watermark))| {
                (json!([statement.name(), topic.name(), partition, offset]), late_row(&time, &watermark))
            },
        )
    });
    rejected(found, LATE_EVENTS, copies, Expected::new(expected), |late| {
        let row = vec![
            ("event_time".into(), Cell::Text(late.event_time.clone())),
            ("watermark".into(), Cell::Text(late.watermark.clone())),
            ("reason".into(), Cell::Text(late.reason.clone())),
        ];
        (json!([late.statement, late.topic, late.partition, late.offset]), row)
    })
}

fn late_row(time: &str, watermark: &str) -> Row {
    let reason =
        format!("its partition's watermark, {watermark}, had passed its deadline and the allowed lateness");
    vec![
        ("event_time".into(), Cell::Text(time.to_owned())),
        ("watermark".into(), Cell::Text(watermark.to_owned())),
        ("reason".into(), Cell::Text(reason)),
    ]
}

/// Compares the topic of records that can't be read.
///
/// # Errors
/// The topic can't be read.
pub fn dead_letters(
    recomputed: &Recomputed,
    copies: &Copies,
    found: &mut dyn Found,
) -> anyhow::Result<Section> {
    let row = |reason: &str| vec![("reason".into(), Cell::Text(reason.to_owned()))];
    let expected = recomputed.bad.iter().map(|(Location { topic, partition, offset }, bad)| {
        (json!([topic.name(), partition, offset]), row(bad.reason))
    });
    rejected(found, DEAD_LETTER, copies, Expected::new(expected), |dead| {
        (json!([dead.topic, dead.partition, dead.offset]), row(&dead.reason))
    })
}

/// Compares the records that an output topic names with those it must name, each once, with all that it says
/// of them.
fn rejected(
    found: &mut dyn Found,
    topic: &str,
    copies: &Copies,
    mut expected: Expected<Row>,
    row: impl Fn(&Rejected) -> (serde_json::Value, Row),
) -> anyhow::Result<Section> {
    let mut section = Section::default();
    found.each_record(
        topic,
        &mut |partition, offset, value| match serde_json::from_slice::<Rejected>(value) {
            Ok(record) if record.worker.is_some() => {}
            Ok(record) => {
                let (key, mut found) = row(&record);
                let key = key.to_string();
                let Some(mut expected) = expected.find(&mut section, &key, in_full(&found)).cloned() else {
                    return;
                };
                if let Some(part) = record.location().and_then(|location| copies.differs(topic, location)) {
                    expected.push((part.into(), Cell::Text("as in the topic".into())));
                    found.push((part.into(), Cell::Text("another".into())));
                }
                check(&mut section, &key, &expected, &found);
            }
            Err(error) => section.unexpected(format_args!("{topic} [{partition}, {offset}]"), error),
        },
    )?;
    expected.finish(&mut section, in_full);
    Ok(section)
}
