//! The four statements once more, as loops over all events: what a run must have written.
//!
//! Nothing here is shared with the dataflows but the model's types, so that a fault would have to be made twice.

use std::collections::BTreeMap;

use adtide_dataflows::Settings;
use adtide_dataflows::model::{EventTime, Topic, WINDOW_MS};

use super::input::{Located, Location};

mod attributions;
mod performance;
mod rankings;
mod refunds;
#[cfg(test)]
mod tests;

pub use attributions::{Attributions, Clicks, attributions};
pub use performance::{Performance, PerformanceRows, performance};
pub use rankings::{Rankings, rankings};
pub use refunds::{ClickGroups, Refund, RefundKey, Refunds, refunds};

/// The greatest event time of each partition of one topic, so far.
#[derive(Clone, Debug, Default)]
struct Progress(BTreeMap<u32, EventTime>);

impl Progress {
    /// Whether the partition's watermark has passed `last`, the last moment at which a record is in time.
    fn has_passed(&self, partition: u32, last: EventTime, bound: i64) -> bool {
        self.0.get(&partition).is_some_and(|greatest| *greatest > last.plus(bound))
    }

    /// Takes note of a record; only those after it are measured by it.
    fn see(&mut self, partition: u32, time: EventTime) {
        let greatest = self.0.entry(partition).or_insert(time);
        *greatest = time.max(*greatest);
    }
}

/// The last moment at which a window takes a record.
fn window_closes(time: EventTime, settings: &Settings) -> EventTime {
    time.window_start().plus(WINDOW_MS - 1).plus(settings.allowed_lateness)
}

fn ad_location<E>(located: &Located<E>) -> Location {
    Location { topic: Topic::AdEvents, partition: located.partition, offset: located.offset }
}

/// Lateness depends on the order within a partition, whatever order the events come in.
fn in_offset_order<E>(events: &[Located<E>]) -> Vec<&Located<E>> {
    let mut ordered: Vec<_> = events.iter().collect();
    ordered.sort_by_key(|located| (located.partition, located.offset));
    ordered
}
