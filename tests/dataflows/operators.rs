//! The operators against plain formulations of them: equal collections in every epoch.

use std::collections::BTreeSet;

use adtide_dataflows::model::{Epoch, Money};
use adtide_dataflows::operators::{at_epochs, left_join, newest, top_k};
use adtide_dataflows::{DeltaLog, RoutingKey};
use differential_dataflow::AsCollection;
use proptest::prelude::*;

use crate::support::{Turn, check, nets};

/// Epochs of some records each.
fn turns<D: std::fmt::Debug>(records: impl Strategy<Value = D>) -> impl Strategy<Value = Vec<Turn<D>>> {
    let batches = prop::collection::vec(prop::collection::vec(records, 0..8), 1..20);
    batches.prop_map(|batches| {
        batches.into_iter().map(|records| Turn { records, watermark: None }).collect::<Vec<_>>()
    })
}

/// Changes of a set: an element that is named enters it, or leaves it if it is there.
fn toggles<D: Ord + Clone + std::fmt::Debug>(
    elements: impl Strategy<Value = D>,
) -> impl Strategy<Value = Vec<Turn<(D, Epoch, isize)>>> {
    turns(elements).prop_map(|turns| {
        let mut set = BTreeSet::new();
        let mut toggle = |element: D, epoch| {
            let diff = if set.remove(&element) { -1 } else { 1 };
            if diff > 0 {
                set.insert(element.clone());
            }
            (element, epoch, diff)
        };
        let epochs = turns.into_iter().zip(0..);
        epochs
            .map(|(turn, epoch)| Turn {
                records: turn.records.into_iter().map(|element| toggle(element, epoch)).collect(),
                watermark: None,
            })
            .collect()
    })
}

fn all_records<D: Clone>(turns: &[Turn<D>]) -> Vec<D> {
    turns.iter().flat_map(|turn| turn.records.clone()).collect()
}

#[test]
fn top_k_is_a_reduce_that_sorts_and_cuts() {
    let cases = (toggles((0..3u8, 0..12i64)), 0..4usize);
    check(60, cases, |(turns, limit)| {
        let [operator, plain] = nets(turns, move |streams, turns| {
            let plain = top_k::definition(streams.collection(all_records(turns)), limit);
            let values = streams.records.as_collection();
            [top_k(values, limit, RoutingKey::default(), "Ranking"), plain]
        });
        assert_eq!(operator, plain);
    });
}

#[test]
fn newest_is_a_reduce_to_the_value_of_the_greatest_order() {
    let upserts = turns((0..4i64, 0..20u32, prop::option::weighted(0.7, (0..3i64).prop_map(Money))));
    check(60, upserts, |turns| {
        // No two upserts share an order: the place of a record makes it unique.
        let mut place = 0u64;
        let mut ordered = |(key, time, value)| {
            place += 1;
            (key, (time, place), value)
        };
        let turns: Vec<_> = turns
            .into_iter()
            .map(|turn| Turn {
                records: turn.records.into_iter().map(&mut ordered).collect(),
                watermark: None,
            })
            .collect();
        let [operator, plain] = nets(turns, |streams, _| {
            let plain = newest::definition(at_epochs(streams.records.clone()));
            [newest(streams.records, RoutingKey::default(), &DeltaLog::off(), "Newest"), plain]
        });
        assert_eq!(operator, plain);
    });
}

#[test]
fn left_join_is_join_and_antijoin() {
    // Left rows come and go; right values too, at most one a key.
    let left = toggles((0..4u8, 0..3u8));
    let right = prop::collection::vec((0..20u64, 0..4u8, prop::option::weighted(0.7, 0..3u8)), 0..20);
    check(60, (left, right), |(turns, mut upserts)| {
        upserts.sort_by_key(|(epoch, _, _)| *epoch);
        let mut table = [None; 4];
        let mut changes = Vec::new();
        for (epoch, key, value) in upserts {
            let old = std::mem::replace(&mut table[usize::from(key)], value);
            changes.extend(old.map(|old: u8| ((key, old), epoch, -1)));
            changes.extend(value.map(|value| ((key, value), epoch, 1)));
        }
        let [operator, plain] = nets(turns, move |streams, turns| {
            let left = streams.collection(all_records(turns));
            let right = streams.collection(changes.clone());
            let plain = left_join::definition(left, right.clone());
            [left_join(streams.records.as_collection(), right), plain]
        });
        assert_eq!(operator, plain);
    });
}
