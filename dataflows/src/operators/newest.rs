//! Upserts whose order is in the data.
//!
//! - **Ties.** Two upserts of one key must not share an order: the position in the topic breaks ties of event
//!   time.
//! - **Disorder and lateness.** An upsert of a lesser order than one already seen changes nothing, whenever
//!   it comes.
//! - **Repeats.** The same upsert a second time changes nothing.
//! - **State.** The greatest upsert of each key, deletions included, for ever: it grows with the keys, not
//!   with the upserts.

use std::collections::hash_map::Entry;
use std::hash::Hash;

use differential_dataflow::{AsCollection, ExchangeData, VecCollection};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::generic::operator::Operator;

use super::Stash;
use crate::hash::{HashMap, HashSet, RoutingKey};
use crate::model::Epoch;
use crate::{Codec, CodecError, Column, DeltaLog, KindOfRow, StateDelta, StateRow};

/// A key, an order and a value, or None for its end.
pub type Upsert<K, O, V> = (K, O, Option<V>);

/// The newest value of each key: the collection of (key, value) in which every key has the value of its
/// greatest order, and is missing if that value is None.
///
/// Checkpoints take, of each key that changed, the upsert that is current.
///
/// # Examples
///
/// ```
/// use std::sync::mpsc::channel;
///
/// use adtide_dataflows::model::{Epoch, Money};
/// use adtide_dataflows::operators::newest;
/// use adtide_dataflows::{DeltaLog, RoutingKey};
/// use timely::dataflow::operators::Input as _;
///
/// let (rows, changes) = channel();
/// timely::execute_directly(move |worker| {
///     let mut prices = worker.dataflow::<Epoch, _, _>(|scope| {
///         let (prices, upserts) = scope.new_input();
///         let current = newest(upserts, RoutingKey::default(), &DeltaLog::off(), "NewestPrice");
///         current.inspect(move |((product, price), _, diff): &((i64, Money), _, _)| {
///             rows.send((*product, price.0, *diff)).unwrap();
///         });
///         prices
///     });
///     prices.send((7i64, (0u32, 2u64), Some(Money(250))));
///     prices.send((7i64, (0u32, 1u64), Some(Money(199))));
/// });
/// assert_eq!(changes.iter().collect::<Vec<_>>(), [(7, 250, 1)]);
/// ```
pub fn newest<'scope, K, O, V>(
    upserts: StreamVec<'scope, Epoch, Upsert<K, O, V>>,
    routing: RoutingKey,
    delta_log: &DeltaLog,
    name: &str,
) -> VecCollection<'scope, Epoch, (K, V)>
where
    K: ExchangeData + Hash,
    O: ExchangeData,
    V: ExchangeData,
    Upsert<K, O, V>: StateRow,
{
    let exchange = Exchange::new(move |(key, _, _): &Upsert<K, O, V>| routing.hash(key));
    let mut recorder = delta_log.recorder();
    upserts
        .unary_frontier::<CapacityContainerBuilder<Vec<_>>, _, _, _>(
            exchange,
            name,
            move |_capability, _info| {
                let mut stash = Stash::default();
                let mut standing: HashMap<K, (O, Option<V>)> = HashMap::default();
                let mut unsaved = HashSet::default();
                let flush = move |standing: &HashMap<K, (O, Option<V>)>,
                                  unsaved: &mut HashSet<K>,
                                  to: Option<&mut StateDelta>| {
                    let changed = unsaved.drain().filter_map(|key| {
                        let (order, value) = standing.get(&key)?.clone();
                        Some((key, order, value))
                    });
                    match to {
                        Some(to) => to.extend(changed),
                        None => drop(changed),
                    }
                };
                move |(input, frontier), output| {
                    input.for_each(|capability, upserts| stash.append(&capability, upserts));
                    while let Some((capability, upserts)) = stash.next_complete(&[frontier]) {
                        let epoch = *capability.time();
                        recorder.reach(epoch, |to| flush(&standing, &mut unsaved, to));
                        let mut before: HashMap<K, Option<V>> = HashMap::default();
                        for (key, order, value) in upserts {
                            let known = standing.get_mut(&key);
                            if known.as_ref().is_some_and(|known| known.0 >= order) {
                                continue;
                            }
                            let old = match known {
                                Some(known) => std::mem::replace(known, (order, value)).1,
                                None => {
                                    standing.insert(key.clone(), (order, value));
                                    None
                                }
                            };
                            if recorder.is_on() {
                                unsaved.insert(key.clone());
                            }
                            before.entry(key).or_insert(old);
                        }
                        let mut session = output.session(&capability);
                        for (key, old) in before {
                            let new = standing.get(&key).and_then(|known| known.1.clone());
                            if old == new {
                                continue;
                            }
                            if let Some(old) = old {
                                session.give(((key.clone(), old), epoch, -1));
                            }
                            if let Some(new) = new {
                                session.give(((key, new), epoch, 1));
                            }
                        }
                    }
                    let open = frontier.frontier().first().copied().unwrap_or(Epoch::MAX);
                    recorder.reach(open, |to| flush(&standing, &mut unsaved, to));
                }
            },
        )
        .as_collection()
}

impl<K, O, V> StateRow for Upsert<K, O, V>
where
    K: Column + Ord + Hash + Clone + Default + 'static,
    O: Column + Ord + Clone + Default + 'static,
    V: Column + Clone + Default + 'static,
    Upsert<K, O, V>: KindOfRow,
{
    fn sort(upserts: &mut [Self]) {
        upserts.sort_by(|one, other| one.0.cmp(&other.0));
    }

    fn columns(upserts: &mut [Self], codec: &mut Codec<'_>) -> Result<(), CodecError> {
        codec.column(upserts, |upsert| &mut upsert.0)?;
        codec.column(upserts, |upsert| &mut upsert.1)?;
        codec.column(upserts, |upsert| &mut upsert.2)
    }

    fn compact(upserts: &mut Vec<Self>) {
        let mut newest: HashMap<K, (O, Option<V>)> = HashMap::default();
        for (key, order, value) in upserts.drain(..) {
            match newest.entry(key) {
                Entry::Occupied(mut known) if known.get().0 < order => drop(known.insert((order, value))),
                Entry::Occupied(_) => {}
                Entry::Vacant(free) => drop(free.insert((order, value))),
            }
        }
        upserts.extend(newest.into_iter().map(|(key, (order, value))| (key, order, value)));
    }
}

/// What [`newest()`] computes, in plain differential operators: a reduce to the greatest order. It keeps all
/// upserts for ever.
pub fn definition<'scope, K, O, V>(
    upserts: VecCollection<'scope, Epoch, Upsert<K, O, V>>,
) -> VecCollection<'scope, Epoch, (K, V)>
where
    K: ExchangeData + Hash,
    O: ExchangeData,
    V: ExchangeData,
{
    let by_order = upserts.map(|(key, order, value)| (key, (order, value)));
    by_order.reduce_named("Newest", |_, upserts, current| {
        if let Some(((_, Some(value)), _)) = upserts.last() {
            current.push((value.clone(), 1isize));
        }
    })
}
