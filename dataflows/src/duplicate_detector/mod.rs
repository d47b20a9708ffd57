//! Statement 4: refunds for duplicate clicks.
//!
//! ```text
//! ad-events ── paid clicks ── windowed reduce: count and times ── increases ── refunds
//! ```
//!
//! Clicks of one device on one ad at one price within a window are one group; all but the first are owed
//! back. A group's refund is emitted when its window closes, and again, as the increase, whenever a late
//! click raises it.

use std::cell::Cell;
use std::rc::Rc;

use differential_dataflow::VecCollection;
use timely::dataflow::StreamVec;

use crate::hash::RoutingKey;
use crate::model::{Epoch, EventTime, Money};
use crate::operators::{Aggregate, Watermarks, WindowedState, windowed_reduce};
use crate::{DeltaLog, Settings};

mod definition;
mod input;
pub mod oracle;
mod row;

pub use definition::definition;
pub use input::{ClickGroup, PaidClick};
pub use row::Compensation;

/// How much the statement holds and has seen, for metrics and tests.
#[derive(Debug, Default)]
pub struct DetectorState {
    /// Groups of the windows that still take late clicks.
    pub groups: Rc<WindowedState>,
    /// The sum of the refunds emitted so far.
    pub refunds: Rc<Cell<Money>>,
}

/// The refunds owed: each record once, at +1, never retracted.
///
/// The refunds of a group add up to (n - 1) * price at every moment after its window closed, whatever the
/// order and batching of its clicks. Each record lists the clicks that are new since the one before, so all
/// clicks cost as much as each of them once, however many of a group come late and one by one.
pub fn duplicate_detector<'scope>(
    clicks: StreamVec<'scope, Epoch, PaidClick>,
    watermarks: StreamVec<'scope, Epoch, Watermarks>,
    settings: &Settings,
    routing: RoutingKey,
    delta_log: &DeltaLog,
) -> (VecCollection<'scope, Epoch, Compensation>, DetectorState) {
    let refunds = Rc::new(Cell::new(Money::ZERO));
    let increases = Increases { refunds: Rc::clone(&refunds) };
    let route = move |click: &PaidClick| click.route(routing);
    let (select, lateness) = (|marks: &Watermarks| marks.duplicates, settings.allowed_lateness);
    let (rows, groups) = windowed_reduce(clicks, route, watermarks, select, lateness, delta_log, increases);
    (rows, DetectorState { groups, refunds })
}

struct Increases {
    refunds: Rc<Cell<Money>>,
}

#[derive(Default)]
struct Clicks {
    count: u64,
    /// How many of them the records so far account for.
    refunded: u64,
    /// The times of the other clicks: of very many, the earliest.
    times: Vec<EventTime>,
}

impl Aggregate for Increases {
    const NAME: &'static str = "ClickWindows";
    type Record = PaidClick;
    type Key = ClickGroup;
    type Accumulator = Clicks;
    type Value = EventTime;
    type Row = Compensation;
    type Unsaved = EventTime;

    fn split(click: PaidClick) -> (EventTime, ClickGroup, EventTime) {
        (click.time.window_start(), click.group, click.time)
    }

    fn add(clicks: &mut Clicks, time: EventTime, records: bool) -> Option<EventTime> {
        clicks.count += 1;
        clicks.times.push(time);
        // Times that no record would list are dropped.
        if clicks.times.len() >= 2 * Compensation::LISTED {
            clicks.times.select_nth_unstable(Compensation::LISTED);
            clicks.times.truncate(Compensation::LISTED);
        }
        records.then_some(time)
    }

    fn record(_start: EventTime, group: &ClickGroup, _clicks: &mut Clicks, time: EventTime) -> PaidClick {
        PaidClick { group: group.clone(), time }
    }

    fn emits_open(&self) -> bool {
        false
    }

    fn change(
        &self,
        start: EventTime,
        group: &ClickGroup,
        clicks: &mut Clicks,
        _is_closed: bool,
        emit: &mut impl FnMut(Compensation, isize),
    ) {
        if clicks.count > clicks.refunded.max(1) {
            let times = std::mem::take(&mut clicks.times);
            let refund = Compensation::increase(group, start, clicks.refunded, clicks.count, times);
            clicks.refunded = clicks.count;
            self.refunds.set(self.refunds.get() + refund.refund_amount);
            emit(refund, 1);
        }
    }

    fn heap(clicks: &Clicks) -> usize {
        clicks.times.capacity() * size_of::<EventTime>()
    }
}
