//! The operators against plain formulations of them: equal collections in every epoch.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use adtide_dataflows::model::{Epoch, EventTime, Money};
use adtide_dataflows::operators::{Ranked, left_join, newest, retain, top_k};
use adtide_dataflows::{DeltaLog, RoutingKey};
use differential_dataflow::AsCollection;
use proptest::prelude::*;

use crate::support::{Net, Turn, check, nets};

/// Epochs of some records each.
fn turns<D: std::fmt::Debug>(records: impl Strategy<Value = D>) -> impl Strategy<Value = Vec<Turn<D>>> {
    let batches = prop::collection::vec(prop::collection::vec(records, 0..8), 1..20);
    batches.prop_map(|batches| batches.into_iter().map(|records| Turn { records, watermark: None }).collect::<Vec<_>>())
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
            let values = streams.collection(all_records(turns));
            let ranked = values.reduce(move |_, values, output| {
                let cut = if limit == 0 { values.len() } else { limit };
                let first: Vec<i64> = values.iter().take(cut).map(|(value, _)| **value).collect();
                output.push(((first, values.len() as u64), 1));
            });
            let plain = ranked.map(|(group, (first, total))| Ranked { group, first, total });
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
            .map(|turn| Turn { records: turn.records.into_iter().map(&mut ordered).collect(), watermark: None })
            .collect();
        let [operator, plain] = nets(turns, |streams, turns| {
            let upserts = streams.all(turns, |(key, order, value)| Some((*key, (Reverse(*order), *value))));
            let plain = upserts.reduce(|_, upserts, output| {
                if let (_, Some(value)) = upserts[0].0 {
                    output.push((*value, 1));
                }
            });
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
            let matched = left.clone().join(right.clone()).map(|(key, (value, found))| (key, (value, Some(found))));
            let unmatched = left.antijoin(right.clone().map(|(key, _)| key)).map(|(key, value)| (key, (value, None)));
            [left_join(streams.records.as_collection(), right), matched.concat(unmatched)]
        });
        assert_eq!(operator, plain);
    });
}

#[test]
fn retain_lets_a_record_in_and_retracts_it_when_the_watermark_passes_its_deadline() {
    let deadlines = turns(0..100i64);
    let watermarks = prop::collection::vec(prop::option::of(0..12i64), 20);
    check(60, (deadlines, watermarks), |(mut turns, steps)| {
        let mut watermark = 0;
        for (turn, step) in turns.iter_mut().zip(steps) {
            turn.watermark = step.map(|step| {
                watermark += step;
                EventTime(watermark)
            });
        }
        let by_hand = filtered_by_hand(&turns);
        let [operator] = nets(turns, |streams, _| {
            let (live, _) = retain(
                streams.records,
                |deadline: &i64| EventTime(*deadline),
                streams.marks,
                |marks| marks.performance,
            );
            [live]
        });
        assert_eq!(operator, by_hand);
    });
}

/// In at +1, out at the first epoch whose watermark is greater than the deadline; not at all if that is the same.
fn filtered_by_hand(turns: &[Turn<i64>]) -> Net<i64> {
    let mut net = Net::new();
    for (enters, turn) in turns.iter().enumerate() {
        for deadline in &turn.records {
            let passed = |turn: &Turn<i64>| turn.watermark.is_some_and(|watermark| watermark.0 > *deadline);
            let already = turns[..enters].iter().any(passed);
            let leaves =
                if already { Some(enters) } else { (enters..turns.len()).find(|epoch| passed(&turns[*epoch])) };
            *net.entry((enters as Epoch, *deadline)).or_default() += 1;
            if let Some(leaves) = leaves {
                *net.entry((leaves as Epoch, *deadline)).or_default() -= 1;
            }
        }
    }
    net.retain(|_, count| *count != 0);
    net
}

#[test]
fn retain_counts_what_it_holds() {
    let at = |watermark| Some(EventTime(watermark));
    let turns = vec![Turn { records: vec![5, 5, 9], watermark: None }, Turn { records: vec![1], watermark: at(6) }];
    let held = timely::execute_directly(move |worker| {
        use timely::dataflow::operators::Input;
        let (mut records, mut marks, held, probe) = worker.dataflow::<Epoch, _, _>(|scope| {
            let (records_input, records) = scope.new_input();
            let (marks_input, marks) = scope.new_input();
            let (live, held) = retain(records, |deadline| EventTime(*deadline), marks, |marks| marks.performance);
            (records_input, marks_input, held, live.probe().0)
        });
        let mut seen = Vec::new();
        for (turn, epoch) in turns.into_iter().zip(1..) {
            turn.records.into_iter().for_each(|record: i64| records.send(record));
            if let Some(time) = turn.watermark {
                marks.send(adtide_dataflows::operators::Watermarks {
                    performance: time,
                    conversions: time,
                    duplicates: time,
                });
            }
            records.advance_to(epoch);
            marks.advance_to(epoch);
            worker.step_while(|| probe.less_than(&epoch));
            seen.push(held.get());
        }
        seen
    });
    assert_eq!(held, [3, 1]);
}
