//! Watermarks: from what the partitions report to one event time for each statement.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use serde::{Deserialize, Serialize};
use timely::PartialOrder;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::operator::Operator;
use timely::dataflow::operators::vec::Broadcast;

use super::Stash;
use crate::model::{Epoch, EventTime, Topic};
use crate::{Judgement, RESTORED, Settings, Statement};

/// Whether a partition holds the watermark back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum PartitionState {
    /// It has, or may at any moment have, more records.
    Active,
    /// It is caught up with its end and has been quiet: it follows the others. With a clock, its reader
    /// lets the watermark follow that clock while all partitions everywhere are idle.
    Idle(Option<EventTime>),
    /// It has ended.
    Finished,
}

/// How far a source has read a partition by the end of an epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionReport {
    /// The partition's topic.
    pub topic: Topic,
    /// Its number.
    pub partition: u32,
    /// The offset of the first record that was not read.
    pub next_offset: u64,
    /// Where the first run began to read it, of those that this one continues.
    #[serde(default)]
    pub first_offset: u64,
    /// The greatest event time of its good records.
    pub greatest: Option<EventTime>,
    /// The watermarks by which its records are late.
    pub watermarks: Watermarks,
    /// Whether it holds the watermark back.
    pub state: PartitionState,
    /// What it followed beside its own records, where that made any of them late.
    #[serde(default)]
    pub wakes: Vec<Wake>,
    /// The last record that was read; None before the first, and of a source that can't be made anew
    /// unnoticed.
    #[serde(default)]
    pub last: Option<Fingerprint>,
    /// The file that it was read from, if it is in files.
    #[serde(default)]
    pub file: Option<FileMark>,
    /// By which clock its records were judged, from which offset on.
    #[serde(default)]
    pub judgements: Vec<Judgement>,
}

/// A record that can be recognised when it is read again: a topic that was deleted and created anew has
/// another one there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Fingerprint {
    /// Its offset.
    pub offset: u64,
    /// A hash of its timestamp, its length and a sample of its bytes. It is stored: it never changes.
    pub hash: u64,
}

impl Fingerprint {
    /// Of a record with this timestamp, in milliseconds, and value.
    pub fn of(offset: u64, timestamp: Option<i64>, value: Option<&[u8]>) -> Fingerprint {
        /// Words of eight bytes, evenly spread over the value. The timestamp alone distinguishes nearly all
        /// records.
        const SAMPLE: usize = 5;
        let mix = |hash: u64, word: u64| (hash.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
        let length = value.map_or(u64::MAX, |value| value.len() as u64);
        let mut hash = mix(mix(0, timestamp.unwrap_or(-1) as u64), length);
        let value = value.unwrap_or_default();
        match value.len().checked_sub(size_of::<u64>()) {
            Some(last) => {
                for at in (0..SAMPLE).map(|sample| last * sample / (SAMPLE - 1)) {
                    let word = value[at..].first_chunk().copied().unwrap_or_default();
                    hash = mix(hash, u64::from_le_bytes(word));
                }
            }
            None => hash = value.iter().fold(hash, |hash, byte| mix(hash, u64::from(*byte))),
        }
        Fingerprint { offset, hash }
    }
}

/// What a file of a partition is recognised by, whatever it is called by then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FileMark {
    /// The device that it is on.
    pub device: u64,
    /// Its inode there.
    pub inode: u64,
    /// The CRC-32 of its first bytes.
    pub head: u32,
    /// How many bytes that is of.
    pub head_bytes: u32,
    /// The offset of its first line: lines before it were in files that have been rotated away.
    pub first: u64,
}

/// A partition that slept, or appeared after the others, has followed them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wake {
    /// The first record that it could bring then.
    pub offset: u64,
    /// The watermarks that it followed.
    pub floor: Watermarks,
}

/// A watermark for each statement that has one: no record of an earlier event time is expected, and one that
/// comes all the same is late.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watermarks {
    /// Statement 2.
    pub performance: EventTime,
    /// Statement 3.
    pub conversions: EventTime,
    /// Statement 4.
    pub duplicates: EventTime,
}

impl Watermarks {
    /// Before any input.
    pub const MIN: Watermarks = Watermarks::all(EventTime::MIN);

    /// The same for all statements.
    pub const fn all(time: EventTime) -> Watermarks {
        Watermarks { performance: time, conversions: time, duplicates: time }
    }

    /// The watermarks that a greatest event time gives rise to.
    pub fn of(greatest: EventTime, settings: &Settings) -> Watermarks {
        Watermarks {
            performance: greatest.plus(-settings.performance_bound),
            conversions: greatest.plus(-settings.conversions_bound),
            duplicates: greatest.plus(-settings.duplicates_bound),
        }
    }

    /// That of a statement; of statement 1, which has none, the earliest time.
    pub fn of_statement(&self, statement: Statement) -> EventTime {
        match statement {
            Statement::RtbCacheUpdater => EventTime::MIN,
            Statement::PerformanceAggregator => self.performance,
            Statement::ConversionMatcher => self.conversions,
            Statement::DuplicateDetector => self.duplicates,
        }
    }

    /// All of them by so many milliseconds earlier.
    pub fn earlier(self, ms: i64) -> Watermarks {
        self.zip(self, |time, _| time.plus(ms.saturating_neg()))
    }

    /// The later of both, statement by statement.
    pub fn max(self, other: Watermarks) -> Watermarks {
        self.zip(other, EventTime::max)
    }

    fn min(self, other: Watermarks) -> Watermarks {
        self.zip(other, EventTime::min)
    }

    fn zip(self, other: Watermarks, pick: impl Fn(EventTime, EventTime) -> EventTime) -> Watermarks {
        Watermarks {
            performance: pick(self.performance, other.performance),
            conversions: pick(self.conversions, other.conversions),
            duplicates: pick(self.duplicates, other.duplicates),
        }
    }
}

impl PartialOrder for Watermarks {
    /// Whether they are no later for any statement.
    fn less_equal(&self, other: &Watermarks) -> bool {
        self.max(*other) == *other
    }
}

/// A point up to which an earlier run has committed, and which a replay must pass in the same state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The epoch that ends there.
    pub epoch: Epoch,
    /// The watermarks that had taken effect by then.
    pub watermarks: Watermarks,
}

impl Cut {
    /// The cuts of a checkpoint: when it has been given back its watermarks take effect, and nothing beyond
    /// them before the epoch after its own. What closes there is new to a sink that has committed the
    /// checkpoint's epoch and no other.
    pub fn of_checkpoint(epoch: Epoch, watermarks: Watermarks) -> [Cut; 2] {
        [RESTORED, epoch].map(|epoch| Cut { epoch, watermarks })
    }
}

/// What this worker knows of the watermarks: for its sources (a partition that wakes up follows them) and for
/// metrics.
#[derive(Debug)]
pub struct WatermarkView {
    /// Every report up to this epoch is accounted for.
    pub through: Option<Epoch>,
    /// The watermarks reached by then; they take effect one epoch later.
    pub reached: Watermarks,
    /// For each partition, the watermarks it found when it appeared or woke up.
    pub floors: BTreeMap<(Topic, u32), Watermarks>,
}

/// Broadcasts the partitions' reports to all workers and computes the watermarks on each of them.
///
/// * The watermark of a partition is its greatest event time minus the statement's bound, but never before
///   the watermark that stood when the partition appeared or woke from idleness.
/// * The watermark of a source is the least over its partitions that are not idle; that of statement 3 is the
///   lesser of its two sources'. A source without any such partition does not hold the other back; if no
///   source has one, the watermark stays.
/// * It never goes back, and it is [`EventTime::MAX`] once every partition has finished.
/// * What is reached in epoch E comes out at E + 1.
///
/// Every partition there is at the start must be reported at epoch 0, by whichever worker reads it.
///
/// A replay may batch the records before a cut in any way, and so reach the watermarks there earlier or later
/// than the run before it did. Up to each of the `cuts` (in ascending order) nothing beyond that cut's
/// watermarks takes effect, and at the cut exactly they do: what had been closed there is closed, and nothing
/// else.
pub fn watermarks<'scope>(
    reports: StreamVec<'scope, Epoch, PartitionReport>,
    settings: &Settings,
    cuts: &[Cut],
) -> (StreamVec<'scope, Epoch, Watermarks>, Rc<RefCell<WatermarkView>>) {
    let view = Rc::new(RefCell::new(WatermarkView {
        through: None,
        reached: Watermarks::MIN,
        floors: BTreeMap::new(),
    }));
    let shared = Rc::clone(&view);
    let settings = settings.clone();
    let cuts = cuts.to_vec();
    let stream = reports.broadcast().unary_frontier::<CapacityContainerBuilder<Vec<_>>, _, _, _>(
        Pipeline,
        "Watermarks",
        move |capability, _info| {
            let mut start = Some(capability);
            let mut stash = Stash::default();
            let mut partitions = BTreeMap::new();
            move |(input, frontier), output| {
                if let Some(start) = start.take() {
                    for cut in &cuts {
                        output.session(&start.delayed(&cut.epoch)).give(cut.watermarks);
                    }
                }
                input.for_each(|capability, reports| stash.append(&capability, reports));
                let view = &mut *shared.borrow_mut();
                while let Some((capability, reports)) = stash.next_complete(&[frontier]) {
                    for report in reports {
                        update(&mut partitions, view, report);
                    }
                    let epoch = *capability.time();
                    let (passed, ahead) = cuts.split_at(cuts.partition_point(|cut| cut.epoch <= epoch));
                    let reached = view.reached.max(reached(&partitions, view, &settings));
                    let reached = passed.last().map_or(reached, |cut| reached.max(cut.watermarks));
                    if reached != view.reached {
                        view.reached = reached;
                        for (from, watermarks) in effects(epoch + 1, reached, ahead) {
                            output.session(&capability.delayed(&from)).give(watermarks);
                        }
                    }
                }
                view.through = match frontier.frontier().first() {
                    Some(&open) => open.checked_sub(1),
                    None => Some(Epoch::MAX),
                };
            }
        },
    );
    (stream, view)
}

/// From when on how much of `reached` takes effect: no more than each cut ahead allows, and all of it after
/// the last.
fn effects(from: Epoch, reached: Watermarks, ahead: &[Cut]) -> Vec<(Epoch, Watermarks)> {
    let starts = std::iter::once(from).chain(ahead.iter().map(|cut| cut.epoch + 1));
    let limits = ahead.iter().map(|cut| reached.min(cut.watermarks)).chain(std::iter::once(reached));
    starts.zip(limits).collect()
}

type Partitions = BTreeMap<(Topic, u32), PartitionReport>;

fn update(partitions: &mut Partitions, view: &mut WatermarkView, report: PartitionReport) {
    let key = (report.topic, report.partition);
    let (state, own) = (report.state, report.watermarks);
    let before = partitions.insert(key, report);
    let was_awake = before.is_some_and(|before| !matches!(before.state, PartitionState::Idle(_)));
    if !was_awake && state == PartitionState::Active {
        // Its own watermarks are later where it goes on from a checkpoint; else its floor before or its
        // greatest time gave them.
        view.floors.insert(key, view.reached.max(own));
    }
}

fn reached(partitions: &Partitions, view: &WatermarkView, settings: &Settings) -> Watermarks {
    let ads = source_watermark(partitions, view, settings, Topic::AdEvents);
    let conversions = source_watermark(partitions, view, settings, Topic::ConversionEvents);
    let Some(both) = (match (ads, conversions) {
        (Some(ads), Some(conversions)) => Some(ads.min(conversions)),
        (one, other) => one.or(other),
    }) else {
        return idle_clock(partitions, settings);
    };
    // Statements 2 and 4 read ad-events only.
    let ads = ads.unwrap_or(Watermarks::MIN);
    Watermarks { conversions: both.conversions, ..ads }
}

/// The least over the topic's partitions that are not idle; None if there is none.
fn source_watermark(
    partitions: &Partitions,
    view: &WatermarkView,
    settings: &Settings,
    topic: Topic,
) -> Option<Watermarks> {
    partitions
        .range((topic, 0)..=(topic, u32::MAX))
        .filter_map(|(key, report)| match report.state {
            PartitionState::Idle(_) => None,
            PartitionState::Finished => Some(Watermarks::all(EventTime::MAX)),
            PartitionState::Active => {
                let floor = view.floors.get(key).copied().unwrap_or(Watermarks::MIN);
                Some(report.greatest.map_or(floor, |greatest| Watermarks::of(greatest, settings).max(floor)))
            }
        })
        .reduce(Watermarks::min)
}

/// Where everything is idle: the clock that all idle partitions agree to follow.
fn idle_clock(partitions: &Partitions, settings: &Settings) -> Watermarks {
    let clocks = partitions
        .values()
        .filter(|report| matches!(report.topic, Topic::AdEvents | Topic::ConversionEvents));
    let clock = clocks
        .map(|report| match report.state {
            PartitionState::Idle(clock) => clock,
            PartitionState::Active | PartitionState::Finished => None,
        })
        .min()
        .flatten();
    clock.map_or(Watermarks::MIN, |clock| Watermarks::of(clock, settings))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_tells_records_apart_and_never_changes() {
        let value = br#"{"event_type":"CLICK","timestamp_field":"2026-01-05 09:00:00","device_id":"d-17"}"#;
        let print = |timestamp, value: &[u8]| Fingerprint::of(5, timestamp, Some(value));
        assert_eq!(
            print(Some(1), value).hash,
            12_620_754_102_878_769_357,
            "stored ones must still be recognised"
        );
        assert_eq!(print(Some(1), value), print(Some(1), value));
        assert_ne!(print(Some(1), value), print(Some(2), value));
        assert_ne!(print(Some(1), value), print(None, value));
        assert_ne!(print(Some(1), value), print(Some(1), &value[..value.len() - 1]));
        assert_ne!(print(Some(1), b"1234567"), print(Some(1), b"1234568"));
        assert_ne!(print(Some(1), b""), Fingerprint::of(5, Some(1), None));
    }
}
