//! The best of every group, kept in order.
//!
//! - **Ties.** There are none: values of a group are distinct, and the whole value decides.
//! - **Disorder.** Within an epoch only the net change counts; a group comes out once an epoch, if what is
//!   seen of it changed.
//! - **Repeats.** The input is a set: at most one of each (group, value) at any time.
//! - **State.** All values of all groups: one that leaves the best may come back.

use std::collections::BTreeSet;
use std::hash::Hash;

use differential_dataflow::consolidation::consolidate;
use differential_dataflow::{AsCollection, ExchangeData, VecCollection};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::generic::operator::Operator;

use super::Stash;
use crate::hash::{HashMap, HashSet, RoutingKey};
use crate::model::Epoch;

/// A group's best.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ranked<G, V> {
    /// The group.
    pub group: G,
    /// Its least values in ascending order, at most `limit`.
    pub first: Vec<V>,
    /// How many values the group has in all.
    pub total: u64,
}

struct Group<V> {
    values: BTreeSet<V>,
    emitted: Option<(Vec<V>, u64)>,
}

/// For every group that is not empty, its `limit` least values (0: all) and their total number.
///
/// A change costs the logarithm of the group's size and the length of the list.
///
/// # Examples
///
/// ```
/// use std::sync::mpsc::channel;
///
/// use adtide_dataflows::RoutingKey;
/// use adtide_dataflows::model::Epoch;
/// use adtide_dataflows::operators::top_k;
/// use differential_dataflow::input::Input as _;
///
/// let (rows, ranked) = channel();
/// timely::execute_directly(move |worker| {
///     worker.dataflow::<Epoch, _, _>(|scope| {
///         let (_, bids) = scope.new_collection_from([(1u8, 3), (1, 1), (1, 2)]);
///         top_k(bids, 2, RoutingKey::default(), "Cheapest")
///             .inspect(move |(ranked, _, _)| rows.send((ranked.first.clone(), ranked.total)).unwrap());
///     });
/// });
/// assert_eq!(ranked.iter().collect::<Vec<_>>(), [(vec![1, 2], 3)]);
/// ```
pub fn top_k<'scope, G, V>(
    values: VecCollection<'scope, Epoch, (G, V)>,
    limit: usize,
    routing: RoutingKey,
    name: &str,
) -> VecCollection<'scope, Epoch, Ranked<G, V>>
where
    G: ExchangeData + Hash,
    V: ExchangeData,
{
    let limit = if limit == 0 { usize::MAX } else { limit };
    let exchange = Exchange::new(move |((group, _), _, _): &((G, V), Epoch, isize)| routing.hash(group));
    values
        .inner
        .unary_frontier::<CapacityContainerBuilder<Vec<_>>, _, _, _>(exchange, name, |_capability, _info| {
            let mut stash = Stash::default();
            let mut groups: HashMap<G, Group<V>> = HashMap::default();
            move |(input, frontier), output| {
                input.for_each(|capability, changes| {
                    for (value, epoch, diff) in changes.drain(..) {
                        stash.at(&capability, epoch).push((value, diff));
                    }
                });
                while let Some((capability, mut changes)) = stash.next_complete(&[frontier]) {
                    let epoch = *capability.time();
                    let touched = apply(&mut groups, &mut changes);
                    let mut session = output.session(&capability);
                    for group in touched {
                        show(&mut groups, group, limit, |row, diff| session.give((row, epoch, diff)));
                    }
                }
            }
        })
        .as_collection()
}

/// Applies the net changes of an epoch and returns the groups they touch.
fn apply<G, V>(groups: &mut HashMap<G, Group<V>>, changes: &mut Vec<((G, V), isize)>) -> HashSet<G>
where
    G: ExchangeData + Hash,
    V: ExchangeData,
{
    consolidate(changes);
    let mut touched = HashSet::default();
    for ((name, value), diff) in changes.drain(..) {
        let group =
            groups.entry(name.clone()).or_insert_with(|| Group { values: BTreeSet::new(), emitted: None });
        if diff > 0 {
            group.values.insert(value);
        } else {
            group.values.remove(&value);
        }
        touched.insert(name);
    }
    touched
}

/// Emits how the visible part of a group changed, and forgets the group if it is empty.
fn show<G, V>(
    groups: &mut HashMap<G, Group<V>>,
    name: G,
    limit: usize,
    mut emit: impl FnMut(Ranked<G, V>, isize),
) where
    G: ExchangeData + Hash,
    V: ExchangeData,
{
    let Some(group) = groups.get_mut(&name) else { return };
    let total = group.values.len() as u64;
    let shown = (total > 0).then(|| (group.values.iter().take(limit).cloned().collect::<Vec<_>>(), total));
    if group.emitted != shown {
        if let Some((first, total)) = std::mem::replace(&mut group.emitted, shown.clone()) {
            emit(Ranked { group: name.clone(), first, total }, -1);
        }
        if let Some((first, total)) = shown {
            emit(Ranked { group: name.clone(), first, total }, 1);
        }
    }
    if total == 0 {
        groups.remove(&name);
    }
}

/// What [`top_k()`] computes, in plain differential operators: a reduce that sorts and cuts. A change costs
/// the whole group.
pub fn definition<'scope, G, V>(
    values: VecCollection<'scope, Epoch, (G, V)>,
    limit: usize,
) -> VecCollection<'scope, Epoch, Ranked<G, V>>
where
    G: ExchangeData + Hash,
    V: ExchangeData,
{
    let ranked = values.reduce_named("TopK", move |_, values, ranked| {
        let cut = if limit == 0 { values.len() } else { limit };
        let first: Vec<V> = values.iter().take(cut).map(|(value, _)| (*value).clone()).collect();
        ranked.push(((first, values.len() as u64), 1isize));
    });
    ranked.map(|(group, (first, total))| Ranked { group, first, total })
}
