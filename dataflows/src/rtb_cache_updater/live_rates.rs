//! Rates from a product's last closed windows.

use std::collections::BTreeMap;

use differential_dataflow::{AsCollection, VecCollection};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::generic::operator::Operator;

use super::Rates;
use crate::hash::{HashMap, HashSet, RoutingKey};
use crate::model::{Epoch, EventTime};
use crate::operators::{Stash, Watermarks, at_epochs, changes, recorded};
use crate::performance_aggregator::{self, PartialSums, PerformanceRow, PerformanceSums};
use crate::{Codec, CodecError, DeltaLog, Memory, StateDelta, StateRow};

/// What a closed window of statement 2 adds to a product's live rates: the product, the window's start, the
/// sums.
pub type RateSums = (i64, EventTime, PerformanceSums);

impl StateRow for RateSums {
    fn time(&self) -> Option<EventTime> {
        Some(self.1)
    }

    fn sort(rows: &mut [RateSums]) {
        rows.sort_by_key(|row| (row.0, row.1));
    }

    fn columns(rows: &mut [RateSums], codec: &mut Codec<'_>) -> Result<(), CodecError> {
        codec.column(rows, |row| &mut row.0)?;
        codec.column(rows, |row| &mut row.1)?;
        codec.column(rows, |row| &mut row.2)
    }

    fn compact(rows: &mut Vec<RateSums>) {
        let windows = rows.drain(..).map(|(product, window, sums)| ((product, window), sums));
        let windows = performance_aggregator::added(windows);
        rows.extend(windows.map(|((product, window), sums)| (product, window, sums)));
    }

    /// The windows that statement 2 still held are not given back: it will give them once more.
    fn is_restored(&self, forgotten: &Watermarks, memory: Memory) -> bool {
        PartialSums::EXPIRY.is_some_and(|expiry| expiry(self.1, forgotten, memory))
    }
}

#[derive(Default)]
struct Product {
    /// The last closed windows that have a row of this product.
    windows: BTreeMap<EventTime, PerformanceSums>,
    emitted: Option<Rates>,
}

/// For each product, ctr and cvr over its last `windows` closed windows of statement 2; 0 where the divisor
/// is 0.
///
/// A closed window only gains rows, so the oldest kept one can be dropped for good when a newer one closes.
/// In what order windows are `restored` is all the same: one that is to be kept never has so many newer ones
/// that it is dropped.
pub fn live_rates<'scope>(
    performance: VecCollection<'scope, Epoch, PerformanceRow>,
    restored: VecCollection<'scope, Epoch, RateSums>,
    windows: usize,
    routing: RoutingKey,
    delta_log: &DeltaLog,
) -> VecCollection<'scope, Epoch, (i64, Rates)> {
    let closed = closed(performance);
    let exchange =
        Exchange::new(move |((product_id, _, _), _, _): &(RateSums, Epoch, isize)| routing.hash(product_id));
    let mut recorder = delta_log.recorder();
    closed
        .concat(restored)
        .inner
        .unary_frontier::<CapacityContainerBuilder<Vec<_>>, _, _, _>(
            exchange,
            "LiveRates",
            move |_capability, _info| {
                let mut stash = Stash::default();
                let mut products: HashMap<i64, Product> = HashMap::default();
                let mut unsaved = Unsaved::default();
                move |(input, frontier), output| {
                    input.for_each(|capability, changes| {
                        for (sums, epoch, diff) in changes.drain(..) {
                            stash.at(&capability, epoch).push((sums, diff as i64));
                        }
                    });
                    while let Some((capability, changes)) = stash.next_complete(&[frontier]) {
                        let epoch = *capability.time();
                        recorder.reach(epoch, |to| flush(&mut unsaved, to));
                        let mut touched = HashSet::default();
                        for ((product_id, window_start, sums), diff) in changes {
                            touched.insert(product_id);
                            let product = products.entry(product_id).or_default();
                            add(product.windows.entry(window_start).or_default(), &sums, diff);
                            if recorder.is_on() {
                                add(unsaved.entry((product_id, window_start)).or_default(), &sums, diff);
                            }
                        }
                        let mut session = output.session(&capability);
                        for product_id in touched {
                            let Some(product) = products.get_mut(&product_id) else { continue };
                            while product.windows.len() > windows {
                                product.windows.pop_first();
                            }
                            let new = rates(product);
                            let old = product.emitted.replace(new);
                            if old == Some(new) {
                                continue;
                            }
                            if let Some(old) = old {
                                session.give(((product_id, old), epoch, -1));
                            }
                            session.give(((product_id, new), epoch, 1));
                        }
                    }
                    let open = frontier.frontier().first().copied().unwrap_or(Epoch::MAX);
                    recorder.reach(open, |to| flush(&mut unsaved, to));
                }
            },
        )
        .as_collection()
}

/// What the rows of closed windows count.
fn closed<'scope>(
    performance: VecCollection<'scope, Epoch, PerformanceRow>,
) -> VecCollection<'scope, Epoch, RateSums> {
    performance.filter(|row| row.is_final).map(|row| {
        let PerformanceSums { impressions, clicks, conversions, .. } = row.sums;
        let sums = PerformanceSums { impressions, clicks, conversions, ..PerformanceSums::default() };
        (row.key.product_id, row.key.window_start, sums)
    })
}

/// What [`live_rates`] computes, in plain differential operators: a reduce by product. It keeps all windows
/// for ever.
pub fn definition<'scope>(
    performance: VecCollection<'scope, Epoch, PerformanceRow>,
    restored: VecCollection<'scope, Epoch, RateSums>,
    windows: usize,
    delta_log: &DeltaLog,
) -> VecCollection<'scope, Epoch, (i64, Rates)> {
    // A checkpoint has increments: a row that is retracted is one of its negative.
    let increments = changes(closed(performance), |(product_id, window_start, sums), diff| {
        let mut increment = PerformanceSums::default();
        add(&mut increment, &sums, diff as i64);
        (product_id, window_start, increment)
    });
    let increments = at_epochs(recorded(increments, delta_log)).concat(restored);
    let by_product = increments.map(|(product_id, window_start, sums)| (product_id, (window_start, sums)));
    by_product.reduce_named("LiveRates", move |_, increments, current| {
        let mut product = Product::default();
        for ((window_start, sums), count) in increments {
            add(product.windows.entry(*window_start).or_default(), sums, *count as i64);
        }
        while product.windows.len() > windows {
            product.windows.pop_first();
        }
        current.push((rates(&product), 1isize));
    })
}

/// What was added to windows and is in no checkpoint.
type Unsaved = HashMap<(i64, EventTime), PerformanceSums>;

fn flush(unsaved: &mut Unsaved, to: Option<&mut StateDelta>) {
    let added = unsaved.drain().map(|((product_id, window_start), sums)| (product_id, window_start, sums));
    match to {
        Some(to) => to.extend(added),
        None => drop(added),
    }
}

fn add(to: &mut PerformanceSums, sums: &PerformanceSums, diff: i64) {
    to.impressions += sums.impressions * diff;
    to.clicks += sums.clicks * diff;
    to.conversions += sums.conversions * diff;
}

fn rates(product: &Product) -> Rates {
    let mut total = PerformanceSums::default();
    for sums in product.windows.values() {
        total += *sums;
    }
    // Not from the percentages of statement 2: a quotient rounded twice may rank two equals apart.
    Rates::new(fraction(total.clicks, total.impressions), fraction(total.conversions, total.clicks))
}

fn fraction(part: i64, whole: i64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}
