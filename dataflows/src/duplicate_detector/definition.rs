//! The statement in plain differential operators.

use std::cell::Cell;
use std::rc::Rc;

use differential_dataflow::consolidation::consolidate;
use differential_dataflow::{AsCollection, VecCollection};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::generic::operator::Operator;

use super::{ClickGroup, Compensation, DetectorState, PaidClick};
use crate::hash::{HashMap, RoutingKey};
use crate::model::{Epoch, EventTime, Money};
use crate::operators::{Stash, Watermarks, at_epochs, recorded, windowed_reduce};
use crate::{DeltaLog, Settings};

/// What [`duplicate_detector`](super::duplicate_detector) computes: the clicks of each group of a closed
/// window, and of each change of them the increase. It keeps all clicks for ever; they are not counted as
/// state.
pub fn definition<'scope>(
    clicks: StreamVec<'scope, Epoch, PaidClick>,
    watermarks: StreamVec<'scope, Epoch, Watermarks>,
    _settings: &Settings,
    routing: RoutingKey,
    delta_log: &DeltaLog,
) -> (VecCollection<'scope, Epoch, Compensation>, DetectorState) {
    let clicks = at_epochs(recorded(clicks, delta_log));
    let clicks = clicks.map(|click| ((click.time.window_start(), click.group), click.time));
    let groups = windowed_reduce::definition(clicks, all, watermarks, |marks| marks.duplicates);
    let duplicates =
        groups.flat_map(|(group, times, is_closed)| (is_closed && times.len() > 1).then_some((group, times)));
    let state = DetectorState::default();
    (increases(duplicates, routing, Rc::clone(&state.refunds)), state)
}

/// All times, ascending.
fn all(times: &[(&EventTime, isize)]) -> Vec<EventTime> {
    times.iter().flat_map(|(time, count)| (0..*count).map(|_| **time)).collect()
}

type Duplicates = ((EventTime, ClickGroup), Vec<EventTime>);

/// A record for each growth of a group, and for nothing else: records that are out are not taken back.
fn increases<'scope>(
    duplicates: VecCollection<'scope, Epoch, Duplicates>,
    routing: RoutingKey,
    refunds: Rc<Cell<Money>>,
) -> VecCollection<'scope, Epoch, Compensation> {
    let exchange =
        Exchange::new(move |(((_, group), _), _, _): &(Duplicates, Epoch, isize)| routing.hash(group));
    duplicates
        .inner
        .unary_frontier::<CapacityContainerBuilder<Vec<_>>, _, _, _>(exchange, "Increases", move |_, _| {
            let mut stash = Stash::default();
            move |(input, frontier), output| {
                input.for_each(|capability, changes| {
                    for (duplicates, epoch, diff) in changes.drain(..) {
                        stash.at(&capability, epoch).push((duplicates, diff));
                    }
                });
                while let Some((capability, mut changes)) = stash.next_complete(&[frontier]) {
                    consolidate(&mut changes);
                    let mut grown: HashMap<_, [Vec<EventTime>; 2]> = HashMap::default();
                    for ((group, times), diff) in changes {
                        grown.entry(group).or_default()[usize::from(diff > 0)] = times;
                    }
                    let mut session = output.session(&capability);
                    for ((start, group), [before, now]) in grown {
                        let (was, is) = (before.len() as u64, now.len() as u64);
                        let refund = Compensation::increase(&group, start, was, is, less(now, &before));
                        refunds.set(refunds.get() + refund.refund_amount);
                        session.give((refund, *capability.time(), 1));
                    }
                }
            }
        })
        .as_collection()
}

/// The ascending `times` without the `known` ones, each as often as it is there.
fn less(times: Vec<EventTime>, known: &[EventTime]) -> Vec<EventTime> {
    let mut known = known.iter().peekable();
    times.into_iter().filter(|time| known.next_if_eq(&time).is_none()).collect()
}
