//! Keyed operators that work an epoch at a time, under a watermark.

use std::convert::Infallible;

use differential_dataflow::{AsCollection, VecCollection};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::{ParallelizationContract, Pipeline};
use timely::dataflow::operators::generic::operator::Operator;
use timely::dataflow::operators::vec::Map;

use super::{Stash, Watermarks};
use crate::model::{Epoch, EventTime};
use crate::{DeltaLog, StateDelta};

/// What a keyed operator does in an epoch.
pub trait EpochLogic: 'static {
    /// The records it reads.
    type In: 'static;
    /// What comes beside the records: on the worker that is to have it.
    type Beside: Clone + 'static;
    /// The rows of the collection it keeps.
    type Out: Clone + 'static;

    /// Takes what came beside the records of an epoch, before them.
    fn beside(&mut self, _beside: Self::Beside) {}

    /// Takes the records of an epoch, in any order, and the watermark in effect, which never goes back. It
    /// first applies the records, then the watermark, and says how the collection changes.
    ///
    /// It is called once for every epoch that brought records, or anything beside them, or moved the
    /// watermark, in order.
    fn epoch(&mut self, records: Vec<Self::In>, watermark: EventTime, emit: impl FnMut(Self::Out, isize));

    /// Gives what entered its state since the last call. The first call has no place for it: what is there by
    /// then came from a checkpoint, and only what enters from then on has to be kept at hand. It is called
    /// between two epochs; never, if no checkpoints are taken.
    fn flush(&mut self, to: Option<&mut StateDelta>);
}

/// The second input of an [`EpochLogic`].
#[derive(Clone)]
pub enum Beside<B> {
    /// The watermarks from this epoch on.
    Watermarks(Watermarks),
    /// Anything else.
    Other(B),
}

/// As [`epochs_beside`], where there are watermarks only.
pub fn epochs<'scope, D, L, P>(
    records: StreamVec<'scope, Epoch, D>,
    pact: P,
    watermarks: StreamVec<'scope, Epoch, Watermarks>,
    select: fn(&Watermarks) -> EventTime,
    name: &str,
    delta_log: &DeltaLog,
    logic: L,
) -> VecCollection<'scope, Epoch, L::Out>
where
    D: Clone + 'static,
    L: EpochLogic<In = D, Beside = Infallible>,
    P: ParallelizationContract<Epoch, Vec<D>>,
{
    epochs_beside(records, pact, watermarks.map(Beside::Watermarks), select, name, delta_log, logic)
}

/// Runs [`EpochLogic`]: routes the records by `pact` and gives every complete epoch to `logic`, with the
/// watermark that `select` picks. Watermarks must be there on each worker (see [`super::watermarks`]).
///
/// Changes come out at the epoch that caused them.
pub fn epochs_beside<'scope, D, L, P>(
    records: StreamVec<'scope, Epoch, D>,
    pact: P,
    beside: StreamVec<'scope, Epoch, Beside<L::Beside>>,
    select: fn(&Watermarks) -> EventTime,
    name: &str,
    delta_log: &DeltaLog,
    mut logic: L,
) -> VecCollection<'scope, Epoch, L::Out>
where
    D: Clone + 'static,
    L: EpochLogic<In = D>,
    P: ParallelizationContract<Epoch, Vec<D>>,
{
    let mut recorder = delta_log.recorder();
    records
        .binary_frontier::<_, CapacityContainerBuilder<Vec<(L::Out, Epoch, isize)>>, _, _, _, _>(
            beside,
            pact,
            Pipeline,
            name,
            move |_capability, _info| {
                let mut waiting = Stash::default();
                let mut beside = Stash::default();
                let mut watermark = EventTime::MIN;
                move |(input, input_frontier), (beside_input, beside_frontier), output| {
                    input.for_each(|capability, data| waiting.append(&capability, data));
                    beside_input.for_each(|capability, data| {
                        // Such an epoch must run, with or without records.
                        if let Some(&epoch) = capability.least() {
                            waiting.at(&capability, epoch);
                        }
                        beside.append(&capability, data);
                    });
                    let frontiers = [input_frontier, beside_frontier];
                    while let Some((capability, batch)) = waiting.next_complete(&frontiers) {
                        let epoch = *capability.time();
                        recorder.reach(epoch, |to| logic.flush(to));
                        while let Some((_, came)) = beside.next_until(epoch) {
                            for came in came {
                                match came {
                                    Beside::Watermarks(marks) => watermark = watermark.max(select(&marks)),
                                    Beside::Other(other) => logic.beside(other),
                                }
                            }
                        }
                        let mut session = output.session(&capability);
                        logic.epoch(batch, watermark, |row, diff| session.give((row, epoch, diff)));
                    }
                    let open =
                        frontiers.iter().filter_map(|frontier| frontier.frontier().first().copied()).min();
                    recorder.reach(open.unwrap_or(Epoch::MAX), |to| logic.flush(to));
                }
            },
        )
        .as_collection()
}
