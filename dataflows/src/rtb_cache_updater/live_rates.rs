//! Rates from a product's last closed windows.

use std::collections::BTreeMap;

use differential_dataflow::{AsCollection, VecCollection};
use rustc_hash::{FxHashMap, FxHashSet};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::generic::operator::Operator;

use super::Rates;
use crate::hash::mix;
use crate::model::{Epoch, EventTime, PerformanceRow, PerformanceSums};
use crate::operators::Stash;

struct Product {
    /// The last closed windows that have a row of this product.
    windows: BTreeMap<EventTime, PerformanceSums>,
    emitted: Option<Rates>,
}

/// For each product, ctr and cvr over its last `windows` closed windows of statement 2; 0 where the divisor is 0.
///
/// A closed window only gains rows, so the oldest kept one can be dropped for good when a newer one closes.
pub fn live_rates<'scope>(
    performance: VecCollection<'scope, Epoch, PerformanceRow>,
    windows: usize,
) -> VecCollection<'scope, Epoch, (i64, Rates)> {
    let exchange = Exchange::new(|(row, _, _): &(PerformanceRow, Epoch, isize)| mix(&[row.key.product_id]));
    performance
        .filter(|row| row.is_final)
        .inner
        .unary_frontier::<CapacityContainerBuilder<Vec<_>>, _, _, _>(
            exchange,
            "LiveRates",
            move |_capability, _info| {
                let mut stash = Stash::default();
                let mut products: FxHashMap<i64, Product> = FxHashMap::default();
                move |(input, frontier), output| {
                    input.for_each(|capability, changes| {
                        for (row, epoch, diff) in changes.drain(..) {
                            stash.at(&capability, epoch).push((row, diff));
                        }
                    });
                    while let Some((capability, changes)) = stash.next_complete(&[frontier]) {
                        let epoch = *capability.time();
                        let mut touched = FxHashSet::default();
                        for (row, diff) in changes {
                            touched.insert(row.key.product_id);
                            apply(&mut products, row, diff as i64);
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
                }
            },
        )
        .as_collection()
}

fn apply(products: &mut FxHashMap<i64, Product>, row: PerformanceRow, diff: i64) {
    let product =
        products.entry(row.key.product_id).or_insert_with(|| Product { windows: BTreeMap::new(), emitted: None });
    let sums = product.windows.entry(row.key.window_start).or_default();
    sums.impressions += row.sums.impressions * diff;
    sums.clicks += row.sums.clicks * diff;
    sums.conversions += row.sums.conversions * diff;
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
