//! What servers hold against what the batch recomputation makes of the log.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use adtide::sink::Stored;
use adtide::verify::{Cut, Recomputed, Task, recompute};
use adtide_dataflows::duplicate_detector::Compensation;
use adtide_dataflows::duplicate_detector::oracle::RefundKey;
use adtide_dataflows::model::{EventTime, Money};
use adtide_dataflows::oracle::{Claims, Location};
use adtide_dataflows::{LateEvent, Settings, Statement};
use anyhow::ensure;

use crate::log::Log;
use crate::sinks::Tables;

/// What must be in a sink that holds `reached`; `settings` are those of a run that has none yet. `late` is
/// what the run says was late: of partitions that slept nobody else can tell.
pub fn expected(
    log: &Log,
    settings: &Settings,
    reached: Option<&Stored>,
    late: &[LateEvent],
) -> anyhow::Result<Recomputed> {
    let claims = Statement::ALL.map(|statement| (statement, claims(late, statement)));
    let settings = reached.map_or(settings, |reached| &reached.run.settings);
    let cuts = [Cut::of(reached.map(|reached| &reached.progress))];
    let task = Task { cuts: &cuts, settings, claims: &claims, watch: &mut |_, _| () };
    Ok(recompute(&mut { log }, task, None)?.remove(0))
}

fn claims(late: &[LateEvent], statement: Statement) -> Claims {
    late.iter()
        .filter(|late| late.statement == statement)
        .map(|late| (location(late), late.watermark))
        .collect()
}

fn location(late: &LateEvent) -> Location {
    Location { topic: late.topic, partition: late.partition, offset: late.offset }
}

pub fn rankings(tables: &Tables, expected: &Recomputed) -> anyhow::Result<()> {
    same("rankings", &tables.rankings, &expected.rankings)
}

pub fn tables(tables: &Tables, expected: &Recomputed) -> anyhow::Result<()> {
    same("performance", &tables.performance, &expected.performance.rows)?;
    let newest = tables
        .attributions
        .iter()
        .filter_map(|(key, rows)| Some((key.clone(), rows.last_key_value()?.1.clone())));
    same("attributions", &newest.collect(), &expected.attributions.rows)
}

pub fn records(tables: &Tables, expected: &Recomputed) -> anyhow::Result<()> {
    let owed = expected.refunds.groups.iter();
    let owed = owed.map(|(key, refund)| (key.clone(), (refund.owed, refund.click_times.clone()))).collect();
    same("refunds", &refunded(&tables.compensations), &owed)?;
    let late_by = [
        (Statement::PerformanceAggregator, &expected.performance.late),
        (Statement::ConversionMatcher, &expected.attributions.late),
        (Statement::DuplicateDetector, &expected.refunds.late),
    ];
    let late =
        late_by.iter().flat_map(|(statement, late)| late.locations.iter().map(move |at| (*statement, *at)));
    each_once(
        "late events",
        tables.late.iter().map(|late| (late.statement, location(late))),
        late.collect(),
    )?;
    let dead = tables.dead.iter().map(|dead| Location {
        topic: dead.topic,
        partition: dead.partition,
        offset: dead.offset,
    });
    each_once("dead letters", dead, expected.bad.keys().copied().collect())
}

/// What each group was given in all, and for which clicks.
fn refunded(compensations: &[Compensation]) -> BTreeMap<RefundKey, (Money, Vec<EventTime>)> {
    let mut sums: BTreeMap<RefundKey, (Money, Vec<EventTime>)> = BTreeMap::new();
    for row in compensations {
        let key = RefundKey {
            advertiser_id: row.advertiser_id,
            campaign_id: row.campaign_id,
            ad_id: row.ad_id.clone(),
            device_id: row.device_id.clone(),
            actual_price: row.actual_price,
            window_start: row.window_start,
        };
        let (sum, clicks) = sums.entry(key).or_insert((Money::ZERO, Vec::new()));
        *sum += row.refund_amount;
        clicks.extend(&row.click_times);
    }
    sums.values_mut().for_each(|(_, clicks)| clicks.sort());
    sums
}

fn same<K: Ord + Debug, V: PartialEq + Debug>(
    what: &str,
    found: &BTreeMap<K, V>,
    expected: &BTreeMap<K, V>,
) -> anyhow::Result<()> {
    for (key, value) in found {
        let right = expected.get(key);
        ensure!(right == Some(value), "{what} of {key:?}: {value:?} where the recomputation has {right:?}");
    }
    let missing = expected.keys().find(|key| !found.contains_key(key));
    ensure!(missing.is_none(), "{what}: missing is {missing:?}");
    Ok(())
}

fn each_once<K: Ord + Debug>(
    what: &str,
    found: impl Iterator<Item = K>,
    mut expected: BTreeSet<K>,
) -> anyhow::Result<()> {
    for key in found {
        ensure!(expected.remove(&key), "{what}: {key:?} is one too many");
    }
    ensure!(expected.is_empty(), "{what}: missing is {:?}", expected.first());
    Ok(())
}
