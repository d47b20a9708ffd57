//! Statement 2: five-minute sums of each (campaign, product, placement).
//!
//! ```text
//! ad-events ── sums of an epoch, beside the source ── windowed reduce: sums ── rows
//! ```
//!
//! A row is final once the watermark has reached the end of its window; late events correct it.

use std::rc::Rc;

use differential_dataflow::VecCollection;
use timely::dataflow::StreamVec;

use crate::hash::RoutingKey;
use crate::model::{Epoch, EventTime};
use crate::operators::{Aggregate, Watermarks, WindowedState, windowed_reduce};
use crate::{DeltaLog, Emit, Settings};

mod definition;
mod input;
pub mod oracle;
mod row;

pub use definition::definition;
pub use input::{PartialSums, PreAggregate, added, deadline, route};
pub use row::{PerformanceKey, PerformanceRow, PerformanceSums};

/// The metrics of every window, final once the watermark has passed its end. With [`Emit::OnClose`], only
/// final rows are in the collection. Rows of windows that no longer take corrections stay in it.
pub fn performance_aggregator<'scope>(
    sums: StreamVec<'scope, Epoch, PartialSums>,
    watermarks: StreamVec<'scope, Epoch, Watermarks>,
    settings: &Settings,
    routing: RoutingKey,
    delta_log: &DeltaLog,
) -> (VecCollection<'scope, Epoch, PerformanceRow>, Rc<WindowedState>) {
    let metrics = Metrics { emits_open: settings.emit == Emit::OnUpdate };
    let route = move |sums: &PartialSums| route(sums, routing);
    let (select, lateness) = (|marks: &Watermarks| marks.performance, settings.allowed_lateness);
    windowed_reduce(sums, route, watermarks, select, lateness, delta_log, metrics)
}

struct Metrics {
    emits_open: bool,
}

#[derive(Default)]
struct Totals {
    sums: PerformanceSums,
    /// The part of them that no checkpoint has.
    unsaved: PerformanceSums,
    /// What is in the result: the sums and whether as final.
    emitted: Option<(PerformanceSums, bool)>,
}

/// A key without the window.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Group {
    campaign_id: i64,
    product_id: i64,
    placement: crate::model::Text,
}

impl Group {
    fn key(&self, window_start: EventTime) -> PerformanceKey {
        let Group { campaign_id, product_id, placement } = self.clone();
        PerformanceKey { campaign_id, product_id, placement, window_start }
    }
}

impl Aggregate for Metrics {
    const NAME: &'static str = "PerformanceWindows";
    type Record = PartialSums;
    type Key = Group;
    type Accumulator = Totals;
    type Value = PerformanceSums;
    type Row = PerformanceRow;
    type Unsaved = ();

    fn split((key, sums): PartialSums) -> (EventTime, Group, PerformanceSums) {
        let PerformanceKey { campaign_id, product_id, placement, window_start } = key;
        (window_start, Group { campaign_id, product_id, placement }, sums)
    }

    fn add(totals: &mut Totals, sums: PerformanceSums, records: bool) -> Option<()> {
        totals.sums += sums;
        if !records {
            return None;
        }
        // Partial sums count at least one event, so a row without increments has none at all.
        let is_first = totals.unsaved == PerformanceSums::default();
        totals.unsaved += sums;
        is_first.then_some(())
    }

    fn record(start: EventTime, group: &Group, totals: &mut Totals, (): ()) -> PartialSums {
        (group.key(start), std::mem::take(&mut totals.unsaved))
    }

    fn emits_open(&self) -> bool {
        self.emits_open
    }

    fn change(
        &self,
        start: EventTime,
        group: &Group,
        totals: &mut Totals,
        is_final: bool,
        emit: &mut impl FnMut(PerformanceRow, isize),
    ) {
        let now = (totals.sums, is_final);
        let before = totals.emitted.replace(now);
        if before == Some(now) {
            return;
        }
        let row = |(sums, is_final)| PerformanceRow { key: group.key(start), sums, is_final };
        if let Some(before) = before {
            emit(row(before), -1);
        }
        emit(row(now), 1);
    }
}
