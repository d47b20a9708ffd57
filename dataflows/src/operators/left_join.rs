//! The outer join of a collection with a keyed table.
//!
//! Both sides may change in any epoch, in any order: the result is that of the two collections as they are.
//! Nothing is late. The state is both sides, arranged by key.

use differential_dataflow::hashable::Hashable;
use differential_dataflow::{ExchangeData, VecCollection};

use crate::model::Epoch;

/// Every (key, left) once, with the right value of its key, or None where there is none.
///
/// # Examples
///
/// ```
/// use std::sync::mpsc::channel;
///
/// use adtide_dataflows::model::Epoch;
/// use adtide_dataflows::operators::left_join;
/// use differential_dataflow::input::Input as _;
///
/// let (rows, joined) = channel();
/// timely::execute_directly(move |worker| {
///     worker.dataflow::<Epoch, _, _>(|scope| {
///         let (_, bids) = scope.new_collection_from([(7i64, 5), (8, 6)]);
///         let (_, prices) = scope.new_collection_from([(7i64, 250)]);
///         left_join(bids, prices).consolidate().inspect(move |(row, _, _)| rows.send(*row).unwrap());
///     });
/// });
/// let mut joined: Vec<_> = joined.iter().collect();
/// joined.sort();
/// assert_eq!(joined, [(7, (5, Some(250))), (8, (6, None))]);
/// ```
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

/// What [`left_join()`] computes, in plain differential operators: the join, and the antijoin for the rest.
pub fn definition<'scope, K, V, W>(
    left: VecCollection<'scope, Epoch, (K, V)>,
    right: VecCollection<'scope, Epoch, (K, W)>,
) -> VecCollection<'scope, Epoch, (K, (V, Option<W>))>
where
    K: ExchangeData + Hashable,
    V: ExchangeData,
    W: ExchangeData,
{
    let keys = right.clone().map(|(key, _)| key).distinct();
    let matched = left.clone().join(right).map(|(key, (value, partner))| (key, (value, Some(partner))));
    matched.concat(left.antijoin(keys).map(|(key, value)| (key, (value, None))))
}
