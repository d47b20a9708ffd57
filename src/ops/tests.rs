use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use adtide_dataflows::model::{EventTime, Money, Topic};
use adtide_dataflows::operators::Watermarks;
use adtide_dataflows::{Counts, IdCounts, PartitionCounts, Statement};

use super::names::{self, Kind};
use super::*;
use crate::clock::Moment;
use crate::engine::{Held, Phase, WorkerStatus};
use crate::source::{PartitionStatus, SourceStatus};

const FOREVER: Duration = Duration::from_secs(1_000_000);

/// The samples of a text, by name and labels as they are written. Every sample must be of a known metric and
/// have its labels, and every family must be announced with its type.
fn parse(text: &str) -> BTreeMap<String, f64> {
    let metrics: BTreeMap<_, _> = names::ALL.iter().map(|metric| (metric.name, *metric)).collect();
    let mut samples = BTreeMap::new();
    let mut family = None;
    for line in text.lines() {
        if let Some(announced) = line.strip_prefix("# TYPE ") {
            let (name, kind) = announced.split_once(' ').unwrap();
            let metric = metrics[name];
            assert_eq!(kind, format!("{:?}", metric.kind).to_lowercase(), "{line}");
            family = Some(metric);
        }
        if line.starts_with('#') {
            continue;
        }
        let (sample, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = sample.split_once('{').unwrap_or((sample, "}"));
        let metric = family.unwrap();
        let ending = name.strip_prefix(metric.name).unwrap();
        let endings: &[&str] = match metric.kind {
            Kind::Counter => &["_total"],
            Kind::Gauge => &[""],
            Kind::Histogram => &["_sum", "_count", "_bucket"],
            Kind::Info => &["_info"],
        };
        assert!(endings.contains(&ending), "{line}");
        let pairs = labels.trim_end_matches('}').split("\",").filter(|pair| !pair.is_empty());
        let found: BTreeSet<_> =
            pairs.map(|pair| pair.split_once('=').unwrap().0).filter(|name| *name != "le").collect();
        assert_eq!(found, metric.labels.iter().copied().collect(), "{line}");
        assert!(samples.insert(sample.to_owned(), value.parse().unwrap()).is_none(), "twice: {line}");
    }
    assert!(text.ends_with("# EOF\n"), "{text}");
    samples
}

fn worker(number: usize, phase: Phase) -> WorkerStatus {
    let mark = |ms| EventTime(1_767_600_000_000 + ms);
    let mut counts = Counts { spend: Money(12_345), without_campaign: 3, ..Counts::default() };
    counts.bad.insert("not_json".to_owned(), 2);
    counts.ids = IdCounts {
        clicks: 9,
        clicks_without_device: 4,
        conversions_without_session: 1,
        ..IdCounts::default()
    };
    counts.late.insert(Statement::DuplicateDetector, 5);
    WorkerStatus {
        restored: (0, 0),
        worker: number,
        phase,
        counts,
        partitions: vec![PartitionCounts {
            topic: Topic::AdEvents,
            partition: number as u32,
            good: 40,
            dead: 2,
        }],
        bytes: 1000,
        watermarks: Some(Watermarks {
            performance: mark(number as i64),
            conversions: mark(500),
            duplicates: EventTime::MIN,
        }),
        frontier: Some(crate::now().0 as u64 - 2000),
        in_flight: number + 1,
        unwritten: 700,
        clock: Some(Moment::now()),
        held: vec![
            Held { statement: Statement::ConversionMatcher, what: "clicks", rows: 10, bytes: Some(1580) },
            Held { statement: Statement::RtbCacheUpdater, what: "ranked_campaigns", rows: 7, bytes: None },
        ],
        repeats: 1,
        refunds: Money(99),
    }
}

fn source(number: u32, fault: Option<&str>) -> SourceStatus {
    let partition = PartitionStatus {
        topic: Topic::AdEvents,
        partition: number,
        next_offset: 42,
        end_offset: (number == 0).then_some(142),
        idle: number == 1,
    };
    SourceStatus { partitions: vec![partition], lag_bytes: None, fault: fault.map(str::to_owned) }
}

#[test]
fn the_metrics_tell_what_workers_and_sources_have_reported() {
    let monitor = Arc::new(Monitor::default());
    for number in 0..2 {
        monitor.report(worker(number, Phase::Running));
        monitor.source(number, source(number as u32, None));
    }
    let samples = parse(&Ops::of_run(&monitor, FOREVER, FOREVER).metrics().unwrap());
    let expected = [
        ("adtide_events_total{topic=\"ad-events\",partition=\"0\",outcome=\"good\"}", 40.0),
        ("adtide_events_total{topic=\"ad-events\",partition=\"1\",outcome=\"dead\"}", 2.0),
        ("adtide_dead_letters_total{reason=\"not_json\"}", 4.0),
        ("adtide_late_events_total{statement=\"duplicate_detector\"}", 10.0),
        ("adtide_events_without_campaign_total", 6.0),
        ("adtide_clicks_without_id_total{id=\"device\"}", 8.0),
        ("adtide_clicks_without_id_total{id=\"ad\"}", 0.0),
        ("adtide_conversions_without_id_total{id=\"session\"}", 2.0),
        ("adtide_repeated_conversions_total", 2.0),
        ("adtide_spend_total", 246.9),
        ("adtide_refunds_total", 1.98),
        ("adtide_source_read_bytes_total", 2000.0),
        ("adtide_source_lag_records{topic=\"ad-events\",partition=\"0\"}", 100.0),
        ("adtide_source_next_offset{topic=\"ad-events\",partition=\"1\"}", 42.0),
        ("adtide_source_idle{topic=\"ad-events\",partition=\"0\"}", 0.0),
        ("adtide_source_idle{topic=\"ad-events\",partition=\"1\"}", 1.0),
        ("adtide_watermark_seconds{statement=\"performance_aggregator\"}", 1_767_600_000.0),
        ("adtide_watermark_seconds{statement=\"conversion_matcher\"}", 1_767_600_000.5),
        ("adtide_epochs_in_flight", 2.0),
        ("adtide_checkpoint_waiting_bytes", 1400.0),
        ("adtide_state_rows{statement=\"conversion_matcher\",what=\"clicks\"}", 20.0),
        ("adtide_state_rows{statement=\"rtb_cache_updater\",what=\"ranked_campaigns\"}", 14.0),
        ("adtide_state_bytes{statement=\"conversion_matcher\",what=\"clicks\"}", 3160.0),
        (concat!("adtide_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"}"), 1.0),
    ];
    for (sample, value) in expected {
        assert_eq!(samples.get(sample), Some(&value), "{sample} in {samples:#?}");
    }
    // What is not known is left out and not told as 0: the end of a partition, bytes of a state, a watermark.
    for sample in [
        "adtide_source_lag_records{topic=\"ad-events\",partition=\"1\"}",
        "adtide_source_lag_bytes",
        "adtide_state_bytes{statement=\"rtb_cache_updater\",what=\"ranked_campaigns\"}",
        "adtide_watermark_seconds{statement=\"duplicate_detector\"}",
    ] {
        assert!(!samples.contains_key(sample), "{sample} in {samples:#?}");
    }
    let lag = samples["adtide_frontier_lag_seconds"];
    assert!((2.0..60.0).contains(&lag), "{lag}");
}

#[test]
fn a_run_is_unready_until_all_its_workers_are_past_the_replay() {
    let monitor = Monitor::default();
    let says = |words: &str| health::unready(&monitor, FOREVER).iter().any(|cause| cause.contains(words));
    assert!(says("starting: opening"));
    monitor.report(worker(0, Phase::Running));
    assert!(!says("starting"));
    monitor.report(worker(1, Phase::Replaying));
    assert!(says("starting: replaying"));
    // A frontier among old epochs says nothing of how far results lag.
    monitor.report(worker(0, Phase::Replaying));
    assert_eq!(monitor.frontier(), None);
    monitor.report(worker(0, Phase::Running));
    monitor.report(worker(1, Phase::Running));
    assert!(!says("starting"));
    monitor.report(worker(1, Phase::Stopping));
    assert!(says("stopping"));
}

#[test]
fn a_fault_of_several_sources_is_told_once_and_only_while_it_lasts() {
    let monitor = Monitor::default();
    monitor.report(worker(0, Phase::Running));
    let faults =
        || health::unready(&monitor, FOREVER).into_iter().filter(|cause| cause.contains("no broker")).count();
    for number in 0..2 {
        monitor.source(number, source(number as u32, Some("reading Kafka: no broker answers")));
    }
    assert_eq!(faults(), 1);
    for number in 0..2 {
        monitor.source(number, source(number as u32, None));
    }
    assert_eq!(faults(), 0);
}

/// Other tests of this binary try things that fail for a moment: then standing still is excused.
fn eventually(mut is_true: impl FnMut() -> bool) -> bool {
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(30) {
        if is_true() {
            return true;
        }
        std::thread::yield_now();
    }
    false
}

#[test]
fn standing_still_makes_a_run_unready_and_in_the_end_dead() {
    let monitor = Monitor::default();
    monitor.report(worker(0, Phase::Running));
    assert!(eventually(|| health::unready(&monitor, Duration::ZERO)
        .iter()
        .any(|cause| cause.contains("no epoch"))));
    assert!(eventually(|| health::hung(&monitor, Duration::ZERO).is_some()));
    assert!(health::hung(&monitor, FOREVER).is_none());
    monitor.beat();
    assert!(monitor.still_for() < Duration::from_secs(30));
}

#[test]
fn the_page_about_metrics_describes_each_of_them_as_it_is() {
    let page = include_str!("../../docs/metrics.md");
    let rows: BTreeMap<_, _> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .map(|row| row.split_once('`').unwrap())
        .filter(|(name, _)| !name.starts_with('/'))
        .map(|(name, rest)| (name.to_owned(), rest.split('|').map(str::trim).collect::<Vec<_>>()))
        .collect();
    let known: BTreeSet<_> = names::ALL.iter().map(|metric| metric.seen_as()).collect();
    assert_eq!(rows.keys().cloned().collect::<BTreeSet<_>>(), known);
    for metric in names::ALL {
        let row = &rows[&metric.seen_as()];
        assert_eq!(row[1], format!("{:?}", metric.kind).to_lowercase(), "{}", metric.name);
        let labels = metric.labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
        assert_eq!(row[3], labels, "{}", metric.name);
        assert!(!row[4].is_empty(), "{} is not explained", metric.name);
    }
}
