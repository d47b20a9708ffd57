//! What is left of rows that are brought together.

use std::collections::hash_map::Entry;
use std::hash::Hash;

use adtide_dataflows::operators::{Upsert, Watermarks};
use adtide_dataflows::performance_aggregator::PerformanceSums;
use adtide_dataflows::{HashMap, Memory, StateDelta};

/// Drops what has expired and brings together what has one key: increments are added up, of upserts the newest stays.
pub fn compact(delta: &mut StateDelta, forgotten: &Watermarks, memory: Memory) {
    delta.drop_expired(forgotten, memory);
    newest(&mut delta.campaigns);
    newest(&mut delta.rates);
    newest(&mut delta.prices);
    delta.sums = added(std::mem::take(&mut delta.sums)).collect();
    let rates = std::mem::take(&mut delta.live_rates).into_iter();
    let rates = added(rates.map(|(product, window, sums)| ((product, window), sums)));
    delta.live_rates = rates.map(|((product, window), sums)| (product, window, sums)).collect();
}

fn added<K: Eq + Hash>(
    rows: impl IntoIterator<Item = (K, PerformanceSums)>,
) -> impl Iterator<Item = (K, PerformanceSums)> {
    let mut totals: HashMap<K, PerformanceSums> = HashMap::default();
    for (key, sums) in rows {
        *totals.entry(key).or_default() += sums;
    }
    totals.into_iter()
}

fn newest<K: Eq + Hash + Clone, O: Ord, V>(rows: &mut Vec<Upsert<K, O, V>>) {
    let mut newest: HashMap<K, (O, Option<V>)> = HashMap::default();
    for (key, order, value) in rows.drain(..) {
        match newest.entry(key) {
            Entry::Occupied(mut known) if known.get().0 < order => drop(known.insert((order, value))),
            Entry::Occupied(_) => {}
            Entry::Vacant(free) => drop(free.insert((order, value))),
        }
    }
    rows.extend(newest.into_iter().map(|(key, (order, value))| (key, order, value)));
}
