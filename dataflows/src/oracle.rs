//! What the statements' oracles share: each computes its statement once more, as a loop over all events, and
//! so says what a run must have written.
//!
//! Nothing here is shared with the dataflows but the model, the settings and the rows, so that a fault would
//! have to be made twice.

use std::collections::BTreeMap;

use crate::Settings;
use crate::model::{EventTime, Topic, WINDOW_MS};

#[cfg(test)]
mod tests;

/// An event and where it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located<E> {
    /// The partition of the event's topic.
    pub partition: u32,
    /// The offset within the partition; in a file, the line's number from 0.
    pub offset: u64,
    /// What was read there.
    pub event: E,
}

/// The place of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Location {
    /// The topic.
    pub topic: Topic,
    /// The partition.
    pub partition: u32,
    /// The offset within the partition; in a file, the line's number from 0.
    pub offset: u64,
}

/// The records that a run says were late for one statement, each with the watermark that it says they met.
///
/// A partition that was idle and wakes up follows the others, so a record of it may be late although its own
/// partition's watermark says otherwise. When that happened depends on the clock, so no recomputation can
/// tell: here the run is believed, as far as what it says is possible.
pub type Claims = BTreeMap<Location, EventTime>;

/// Tells which records of one topic are too late for a statement.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lateness {
    /// The greatest event time of each partition, so far.
    greatest: BTreeMap<u32, EventTime>,
    pub(crate) claims: Claims,
}

/// How a record is too late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Late {
    event_time: EventTime,
    /// What it met: the watermark of its partition's events, or the one that its partition, waking from
    /// idleness, had to follow.
    watermark: EventTime,
    /// Whether only the latter makes it late.
    by_idleness: bool,
}

impl Lateness {
    pub(crate) fn new(claims: Claims) -> Lateness {
        Lateness { greatest: BTreeMap::new(), claims }
    }

    /// Takes the next record of its partition, and says whether it is too late. `last` is the last moment at
    /// which it is in time; only records after it are measured by its own time.
    pub(crate) fn see(
        &mut self,
        location: Location,
        time: EventTime,
        last: EventTime,
        bound: i64,
    ) -> Option<Late> {
        let greatest = self.greatest.get(&location.partition).copied();
        self.greatest.insert(location.partition, greatest.map_or(time, |greatest| greatest.max(time)));
        let own = greatest.map_or(EventTime::MIN, |greatest| greatest.plus(-bound));
        let watermark = self.claims.get(&location).map_or(own, |met| own.max(*met));
        (watermark > last).then_some(Late { event_time: time, watermark, by_idleness: own <= last })
    }
}

/// The records that came too late for a statement.
#[derive(Clone, Debug, Default)]
pub struct LateRecords {
    /// All of them.
    pub locations: Vec<Location>,
    /// Of each, its event time and the watermark that it met.
    pub times: Vec<(EventTime, EventTime)>,
    /// How many of them came too late only because their partition had been idle.
    pub by_idleness: u64,
}

impl LateRecords {
    pub(crate) fn add(&mut self, location: Location, late: Late) {
        self.locations.push(location);
        self.times.push((late.event_time, late.watermark));
        self.by_idleness += u64::from(late.by_idleness);
    }

    pub(crate) fn append(&mut self, mut others: LateRecords) {
        self.locations.append(&mut others.locations);
        self.times.append(&mut others.times);
        self.by_idleness += others.by_idleness;
    }
}

/// The last moment at which a window takes a record.
pub(crate) fn window_closes(time: EventTime, settings: &Settings) -> EventTime {
    time.window_start().plus(WINDOW_MS - 1).plus(settings.allowed_lateness)
}

pub(crate) fn location<E>(topic: Topic, located: &Located<E>) -> Location {
    Location { topic, partition: located.partition, offset: located.offset }
}

/// Lateness depends on the order within a partition, whatever order the events come in.
pub(crate) fn in_offset_order<E>(events: &[Located<E>]) -> Vec<&Located<E>> {
    let mut ordered: Vec<_> = events.iter().collect();
    ordered.sort_by_key(|located| (located.partition, located.offset));
    ordered
}

/// Whether a window is closed under a watermark.
pub(crate) fn is_closed(window_start: EventTime, watermark: EventTime) -> bool {
    window_start.plus(WINDOW_MS) <= watermark
}
