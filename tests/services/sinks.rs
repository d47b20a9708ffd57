//! The three sinks, each against its own server. Changes are built by hand.

mod kafka;
mod postgres;
mod proxy;
mod redis;

use std::fmt::Display;

use adtide::sink::{Change, Commit, Progress, Run, Stored};
use adtide_dataflows::conversion_matcher::AttributionRow;
use adtide_dataflows::model::{AdId, EventTime, Money, Topic};
use adtide_dataflows::operators::{PartitionReport, PartitionState, Watermarks};
use adtide_dataflows::performance_aggregator::{PerformanceKey, PerformanceRow, PerformanceSums};
use adtide_dataflows::{MetricsSource, Settings};

/// 2026-01-05 08:00:00.
const EIGHT: EventTime = EventTime(1_767_600_000_000);

/// The address in an environment variable; None, and a word about it, if it is not set.
fn address(variable: &str) -> Option<String> {
    let address = std::env::var(variable).ok().filter(|address| !address.is_empty());
    if address.is_none() {
        eprintln!("SKIPPED: {variable} is not set; see scripts/services");
    }
    address
}

/// A name that no other test has.
fn unique() -> String {
    format!("t{}", uuid::Uuid::new_v4().simple())
}

fn run() -> Run {
    let product_metrics = MetricsSource::Live { windows: 7 };
    Run {
        settings: Settings { lookback: 4711, product_metrics, ..Settings::default() },
        source: "there".to_owned(),
    }
}

/// A commit of several epochs, the last of which is `epoch`.
fn commit(epoch: u64, epochs: Vec<Vec<Change>>) -> Commit {
    Commit { epochs, progress: progress(epoch) }
}

/// Progress with something in every field, extremes included.
fn progress(epoch: u64) -> Progress {
    let watermarks =
        Watermarks { performance: EIGHT, conversions: EventTime::MIN, duplicates: EIGHT.plus(epoch as i64) };
    let report = |topic, partition, state| PartitionReport {
        topic,
        partition,
        next_offset: epoch * 10,
        greatest: (partition == 0).then_some(EIGHT),
        watermarks,
        state,
        wakes: Vec::new(),
        first_offset: 0,
        last: None,
        file: None,
        judgements: Vec::new(),
    };
    let reports = [
        report(Topic::AdEvents, 0, PartitionState::Active),
        report(Topic::AdEvents, 1, PartitionState::Idle(Some(EIGHT))),
        report(Topic::ProductMeta, 0, PartitionState::Finished),
    ];
    let partitions = reports.into_iter().map(|report| ((report.topic, report.partition), report)).collect();
    Progress { epoch, watermarks: Some(watermarks), partitions }
}

/// What is stored after a commit of `epoch`.
fn stored(epoch: u64) -> Option<Stored> {
    Some(Stored { run: run(), progress: progress(epoch) })
}

fn performance(placement: &str, clicks: i64) -> PerformanceRow {
    let key =
        PerformanceKey { campaign_id: 7, product_id: 8, placement: placement.into(), window_start: EIGHT };
    let sums =
        PerformanceSums { impressions: 3, clicks, conversions: 1, spend: Money(1234), revenue: Money(5) };
    PerformanceRow { key, sums, is_final: false }
}

fn attribution(order: &str, ad: Option<AdId>) -> AttributionRow {
    AttributionRow {
        order_id: order.into(),
        product_id: 8,
        campaign_id: ad.is_some().then_some(7),
        ad_id: ad,
        advertiser_id: 9,
        revenue_amount: Money(99_950),
        click_time: EIGHT,
        conversion_time: EIGHT.plus(61_999),
    }
}

/// Texts that are hard to write.
const TEXTS: [&str; 9] = [
    "a\tb\nc\rd",
    "back\\slash \\N \\t",
    "\\.",
    "'quotes' \"double\"",
    "🦀 emoji ß",
    "",
    "a:b%c",
    "{\"json\": [1]}",
    "nothing\u{FFFD}here",
];

/// Holds an error to what it has to say.
fn says(error: &anyhow::Error, words: &[&dyn Display]) {
    let text = format!("{error:#}");
    for word in words {
        assert!(text.contains(&word.to_string()), "{text:?} does not say {word}");
    }
}
