//! A statement's input, as checkpoints keep it.

use differential_dataflow::{AsCollection, VecCollection};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::operator::Operator;

use super::Stash;
use crate::model::Epoch;
use crate::{DeltaLog, StateRow};

/// The rows as they are, and in checkpoints: what a statement in plain differential operators reads is its
/// state.
pub fn recorded<'scope, R: StateRow>(
    rows: StreamVec<'scope, Epoch, R>,
    delta_log: &DeltaLog,
) -> StreamVec<'scope, Epoch, R> {
    let mut recorder = delta_log.recorder();
    rows.unary_frontier::<CapacityContainerBuilder<Vec<R>>, _, _, _>(
        Pipeline,
        "Recorded",
        move |_capability, _info| {
            let (mut stash, mut unsaved) = (Stash::default(), Vec::new());
            move |(input, frontier), output| {
                input.for_each(|capability, rows| stash.append(&capability, rows));
                while let Some((capability, mut rows)) = stash.next_complete(&[frontier]) {
                    recorder.flush_before(*capability.time(), &mut unsaved);
                    if recorder.is_on() {
                        unsaved.extend_from_slice(&rows);
                    }
                    output.session(&capability).give_container(&mut rows);
                }
                let open = frontier.frontier().first().copied().unwrap_or(Epoch::MAX);
                recorder.flush_before(open, &mut unsaved);
            }
        },
    )
}

/// The records as a collection, each from its epoch on.
pub fn at_epochs<'scope, D: Clone + 'static>(
    records: StreamVec<'scope, Epoch, D>,
) -> VecCollection<'scope, Epoch, D> {
    let records =
        records.unary::<CapacityContainerBuilder<Vec<_>>, _, _, _>(Pipeline, "Collection", |_, _| {
            |input, output| {
                input.for_each(|capability, records| {
                    let Some(&epoch) = capability.least() else { return };
                    let records = records.drain(..);
                    output.session(&capability).give_iterator(records.map(|record| (record, epoch, 1)));
                });
            }
        });
    records.as_collection()
}

/// What `of` makes of a collection's changes and their multiplicities, each in its own epoch: a message of
/// differential may hold several epochs.
pub fn changes<'scope, D: Clone + 'static, E: Clone + 'static>(
    collection: VecCollection<'scope, Epoch, D>,
    of: impl Fn(D, isize) -> E + 'static,
) -> StreamVec<'scope, Epoch, E> {
    collection.inner.unary::<CapacityContainerBuilder<Vec<E>>, _, _, _>(Pipeline, "Changes", move |_, _| {
        move |input, output| {
            input.for_each(|capability, changes| {
                for (row, epoch, diff) in changes.drain(..) {
                    output.session(&capability.delayed(&epoch, 0)).give(of(row, diff));
                }
            });
        }
    })
}
