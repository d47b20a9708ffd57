//! The outer join of a collection with a keyed table.

use differential_dataflow::hashable::Hashable;
use differential_dataflow::{ExchangeData, VecCollection};

use crate::model::Epoch;

/// Every (key, left) once, with the right value of its key, or None where there is none.
///
/// `right` must have at most one value a key, as an upsert table has; then no distinct or antijoin is needed:
/// the rows without a partner are all rows less those that found one.
pub fn left_join<'scope, K, V, W>(
    left: VecCollection<'scope, Epoch, (K, V)>,
    right: VecCollection<'scope, Epoch, (K, W)>,
) -> VecCollection<'scope, Epoch, (K, (V, Option<W>))>
where
    K: ExchangeData + Hashable,
    V: ExchangeData,
    W: ExchangeData,
{
    let unmatched = left.clone().map(|(key, value)| (key, (value, None)));
    // One join gives both the partner and, as a second row, the retraction of "no partner".
    let matched = left
        .arrange_by_key_named("ArrangeLeft")
        .join_core(right.arrange_by_key_named("ArrangeRight"), |key, value, partner| {
            let with = (key.clone(), (value.clone(), Some(partner.clone())));
            let without = (key.clone(), (value.clone(), None));
            [(with, 1isize), (without, -1)]
        })
        .explode(Some);
    unmatched.concat(matched)
}
