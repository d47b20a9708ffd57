//! Keyed operators that work an epoch at a time, under a watermark.

use differential_dataflow::{AsCollection, VecCollection};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::{ParallelizationContract, Pipeline};
use timely::dataflow::operators::generic::operator::Operator;

use super::{Stash, Watermarks};
use crate::delta::{DeltaLog, StateDelta};
use crate::model::{Epoch, EventTime};

/// What a keyed operator does in an epoch.
pub trait EpochLogic: 'static {
    /// The records it reads.
    type In: 'static;
    /// The rows of the collection it keeps.
    type Out: Clone + 'static;

    /// Takes the records of an epoch, in any order, and the watermark in effect, which never goes back. It first
    /// applies the records, then the watermark, and says how the collection changes.
    ///
    /// It is called once for every epoch that brought records or moved the watermark, in order.
    fn epoch(&mut self, records: Vec<Self::In>, watermark: EventTime, emit: impl FnMut(Self::Out, isize));

    /// Gives what entered its state since the last call. The first call has no place for it: what is there by then came
    /// from a checkpoint, and only what enters from then on has to be kept at hand. It is called between two epochs; never,
    /// if no checkpoints are taken.
    fn flush(&mut self, to: Option<&mut StateDelta>);
}

/// Runs [`EpochLogic`]: routes the records by `pact` and gives every complete epoch to `logic`, with the watermark that
/// `select` picks. `watermarks` must be there on each worker (see [`super::watermarks`]).
///
/// Changes come out at the epoch that caused them.
pub fn epochs<'scope, D, L, P>(
    records: StreamVec<'scope, Epoch, D>,
    pact: P,
    watermarks: StreamVec<'scope, Epoch, Watermarks>,
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
            watermarks,
            pact,
            Pipeline,
            name,
            move |_capability, _info| {
                let mut waiting = Stash::default();
                let mut marks = Stash::default();
                let mut watermark = EventTime::MIN;
                move |(input, input_frontier), (marks_input, marks_frontier), output| {
                    input.for_each(|capability, data| waiting.append(&capability, data));
                    marks_input.for_each(|capability, data| {
                        // An epoch whose watermark moves must run, with or without records.
                        if let Some(&epoch) = capability.least() {
                            waiting.at(&capability, epoch);
                        }
                        marks.append(&capability, data);
                    });
                    let frontiers = [input_frontier, marks_frontier];
                    while let Some((capability, batch)) = waiting.next_complete(&frontiers) {
                        let epoch = *capability.time();
                        recorder.reach(epoch, |to| logic.flush(to));
                        while let Some((_, reached)) = marks.next_until(epoch) {
                            watermark = reached.iter().map(select).fold(watermark, EventTime::max);
                        }
                        let mut session = output.session(&capability);
                        logic.epoch(batch, watermark, |row, diff| session.give((row, epoch, diff)));
                    }
                    let open = frontiers.iter().filter_map(|frontier| frontier.frontier().first().copied()).min();
                    recorder.reach(open.unwrap_or(Epoch::MAX), |to| logic.flush(to));
                }
            },
        )
        .as_collection()
}
