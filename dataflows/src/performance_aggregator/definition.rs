//! The statement in plain differential operators.

use std::rc::Rc;

use differential_dataflow::VecCollection;
use timely::dataflow::StreamVec;

use super::{PartialSums, PerformanceKey, PerformanceRow, PerformanceSums};
use crate::hash::RoutingKey;
use crate::model::Epoch;
use crate::operators::{Watermarks, WindowedState, at_epochs, recorded, windowed_reduce};
use crate::{DeltaLog, Emit, Settings};

/// What [`performance_aggregator`](super::performance_aggregator) computes: a sum by window and key. It keeps
/// all partial sums for ever; they are not counted as state.
pub fn definition<'scope>(
    sums: StreamVec<'scope, Epoch, PartialSums>,
    watermarks: StreamVec<'scope, Epoch, Watermarks>,
    settings: &Settings,
    _routing: RoutingKey,
    delta_log: &DeltaLog,
) -> (VecCollection<'scope, Epoch, PerformanceRow>, Rc<WindowedState>) {
    let sums = at_epochs(recorded(sums, delta_log)).map(|(key, sums)| {
        let PerformanceKey { campaign_id, product_id, placement, window_start } = key;
        ((window_start, (campaign_id, product_id, placement)), sums)
    });
    let rows = windowed_reduce::definition(sums, total, watermarks, |marks| marks.performance);
    let rows =
        rows.map(|((window_start, (campaign_id, product_id, placement)), sums, is_final)| PerformanceRow {
            key: PerformanceKey { campaign_id, product_id, placement, window_start },
            sums,
            is_final,
        });
    let emits_open = settings.emit == Emit::OnUpdate;
    (rows.filter(move |row| row.is_final || emits_open), Rc::default())
}

fn total(sums: &[(&PerformanceSums, isize)]) -> PerformanceSums {
    let mut total = PerformanceSums::default();
    for (sums, count) in sums {
        (0..*count).for_each(|_| total += **sums);
    }
    total
}
