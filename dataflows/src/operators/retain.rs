//! The temporal filter.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

use differential_dataflow::VecCollection;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Pipeline;

use super::{EpochLogic, Watermarks, epochs};
use crate::DeltaLog;
use crate::delta::StateDelta;
use crate::model::{Epoch, EventTime};

/// Records that are live: each enters at +1 in the epoch in which it comes, and is retracted in the epoch in which the
/// watermark passes its deadline, that is, is greater.
///
/// A record that comes when its deadline has passed is retracted at once and so is never seen: whoever must not lose it
/// has to check for lateness before. State is the live records, and nothing else; the second result counts them.
///
/// It takes no part in checkpoints: whoever uses it gives it its live records again.
///
/// Downstream operators see expiry as plain retractions, so their state is bounded too. What they emit because of an
/// expiry is for the sinks to forget, not to delete.
pub fn retain<'scope, D: Clone + 'static>(
    records: StreamVec<'scope, Epoch, D>,
    deadline: impl Fn(&D) -> EventTime + 'static,
    watermarks: StreamVec<'scope, Epoch, Watermarks>,
    select: fn(&Watermarks) -> EventTime,
) -> (VecCollection<'scope, Epoch, D>, Rc<Cell<usize>>) {
    let live = Rc::new(Cell::new(0));
    let logic = Retain { deadline, by_deadline: BTreeMap::new(), live: Rc::clone(&live) };
    (epochs(records, Pipeline, watermarks, select, "Retain", &DeltaLog::off(), logic), live)
}

struct Retain<D, F> {
    deadline: F,
    by_deadline: BTreeMap<EventTime, Vec<D>>,
    live: Rc<Cell<usize>>,
}

impl<D: Clone + 'static, F: Fn(&D) -> EventTime + 'static> EpochLogic for Retain<D, F> {
    type In = D;
    type Out = D;

    fn epoch(&mut self, records: Vec<D>, watermark: EventTime, mut emit: impl FnMut(D, isize)) {
        for record in records {
            let deadline = (self.deadline)(&record);
            if deadline < watermark {
                continue;
            }
            emit(record.clone(), 1);
            self.by_deadline.entry(deadline).or_default().push(record);
            self.live.set(self.live.get() + 1);
        }
        while let Some(bucket) = self.by_deadline.first_entry()
            && *bucket.key() < watermark
        {
            for record in bucket.remove() {
                emit(record, -1);
                self.live.set(self.live.get() - 1);
            }
        }
    }

    fn flush(&mut self, _to: Option<&mut StateDelta>) {}
}
