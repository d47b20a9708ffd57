//! Changes of the input that must change nothing in the results.

use std::collections::BTreeMap;

use adtide_dataflows::conversion_matcher::AttributionRow;
use adtide_dataflows::duplicate_detector::oracle::RefundKey;
use adtide_dataflows::model::{Epoch, Topic, UnknownIds};
use adtide_dataflows::performance_aggregator::PerformanceRow;
use adtide_dataflows::record::{self, Scanner};
use adtide_dataflows::rtb_cache_updater::RankingRow;
use adtide_dataflows::{Emit, Settings};
use proptest::prelude::*;

use crate::support::{Disorder, History, RefundSum, Run, Step, check, histories, refund_sums, settings};

/// What is left when all is done.
#[derive(Debug, PartialEq)]
struct Results {
    rankings: Vec<RankingRow>,
    performance: Vec<PerformanceRow>,
    attributions: Vec<AttributionRow>,
    refunds: BTreeMap<RefundKey, RefundSum>,
}

fn results(history: &History, settings: &Settings, workers: usize) -> Results {
    let run = Run::of(history, settings, workers, false);
    Results {
        rankings: run.rankings.last(),
        performance: run.performance.last(),
        attributions: run.attributions.last(),
        refunds: refund_sums(&run.compensations, Epoch::MAX),
    }
}

/// The event time of a record, where its topic has one.
fn event_time(step: &Step) -> Option<i64> {
    let Step::Record((topic, _), bytes) = step else { return None };
    let unknown = UnknownIds::default();
    let time = Scanner::default().read(bytes, |fields| match topic {
        Topic::AdEvents => record::ad_event(fields, &unknown).map(|event| event.time.0),
        Topic::ConversionEvents => record::conversion_event(fields, &unknown).map(|event| event.time.0),
        Topic::CampaignEvents => record::campaign_event(fields, &unknown).map(|event| event.time.0),
        Topic::ProductMetrics | Topic::ProductMeta => {
            Err(record::BadRecord::NotJson("a topic without times".into()))
        }
    });
    time.ok()
}

/// Lets each record with a time come later by its part of these delays. A record without one stays where it
/// is among the others without.
fn delayed(history: &History, delays: &[i64]) -> History {
    let mut clock = 0;
    let mut timed: Vec<(i64, Step)> = Vec::new();
    for (step, delay) in history.steps.iter().zip(delays.iter().cycle()) {
        match event_time(step) {
            Some(time) => {
                clock = time;
                timed.push((time + delay, step.clone()));
            }
            None => timed.push((clock, step.clone())),
        }
    }
    timed.sort_by_key(|(arrival, _)| *arrival);
    History { steps: timed.into_iter().map(|(_, step)| step).collect() }
}

/// Sends the records that have a time to other partitions.
fn resplit(history: &History, partitions: &[u32]) -> History {
    let steps = history.steps.iter().zip(partitions.iter().cycle()).map(|(step, partition)| match step {
        Step::Record((topic, _), bytes) if event_time(step).is_some() => {
            Step::Record((*topic, *partition), bytes.clone())
        }
        other => other.clone(),
    });
    History { steps: steps.collect() }
}

#[test]
fn reordering_within_the_bound_changes_no_result() {
    let delays = prop::collection::vec(0..10_000i64, 100);
    check(30, (histories(150, Disorder::None), settings(), delays), |(history, settings, delays)| {
        let reordered = delayed(&history, &delays);
        assert!(Run::of(&reordered, &settings, 1, false).late.is_empty());
        assert_eq!(results(&history, &settings, 1), results(&reordered, &settings, 2));
    });
}

#[test]
fn other_partitions_change_no_result_of_records_in_order() {
    let partitions = prop::collection::vec(0..5u32, 100);
    check(30, (histories(150, Disorder::None), settings(), partitions), |(history, settings, partitions)| {
        assert_eq!(results(&history, &settings, 1), results(&resplit(&history, &partitions), &settings, 2));
    });
}

#[test]
fn other_epochs_change_no_result_not_even_of_late_records() {
    let cuts = prop::collection::vec(prop::bool::weighted(0.3), 100);
    check(30, (histories(150, Disorder::Any), settings(), cuts), |(history, settings, cuts)| {
        let whole = history.recut(|| false);
        let mut random = cuts.into_iter().cycle();
        let expected = results(&whole, &settings, 1);
        assert_eq!(expected, results(&history.recut(|| random.next() == Some(true)), &settings, 1));
        assert_eq!(expected, results(&history.recut(|| true), &settings, 1));
    });
}

#[test]
fn both_emit_modes_end_with_the_same_rows() {
    check(20, (histories(150, Disorder::Any), settings()), |(history, settings)| {
        let with = |emit| results(&history, &Settings { emit, ..settings.clone() }, 1);
        assert_eq!(with(Emit::OnUpdate), with(Emit::OnClose));
    });
}

#[test]
fn a_record_delivered_twice_to_statement_1_changes_nothing() {
    check(20, (histories(150, Disorder::Any), settings()), |(history, settings)| {
        let is_ranked = |step: &Step| {
            matches!(
                step,
                Step::Record((Topic::CampaignEvents | Topic::ProductMetrics | Topic::ProductMeta, _), _)
            )
        };
        let mut twice = History::new();
        for step in &history.steps {
            twice.steps.push(step.clone());
            if is_ranked(step) {
                twice.steps.push(step.clone());
            }
        }
        assert_eq!(results(&history, &settings, 1), results(&twice, &settings, 1));
    });
}
