//! Histories: what arrives, where, in which order and in which epoch.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use adtide_dataflows::model::{Epoch, EventTime, Topic};
use adtide_dataflows::operators::{PartitionState, Watermarks};
use adtide_dataflows::record::{self, Scanner};
use adtide_dataflows::{Settings, record::BadRecord};

use super::{Line, NOW};

/// A partition of a topic.
pub type Place = (Topic, u32);

/// What happens next.
#[derive(Clone)]
pub enum Step {
    /// A record arrives.
    Record(Place, Vec<u8>),
    /// A partition appears, falls idle or wakes up.
    State(Place, PartitionState),
    /// The epoch ends.
    Cut,
}

/// All that arrives. Partitions are there from the start if a record is the first that happens to them. When
/// the history ends, all of them have.
#[derive(Clone, Default)]
pub struct History {
    pub steps: Vec<Step>,
}

impl History {
    /// An empty history.
    pub fn new() -> History {
        History::default()
    }

    /// Adds an epoch with these records.
    pub fn epoch(mut self, lines: impl IntoIterator<Item = Line>) -> History {
        self.steps.extend(lines.into_iter().map(Step::from));
        self.steps.push(Step::Cut);
        self
    }

    /// Adds an epoch with one record, given as bytes.
    pub fn bytes(mut self, topic: Topic, bytes: impl Into<Vec<u8>>) -> History {
        self.steps.extend([Step::Record((topic, 0), bytes.into()), Step::Cut]);
        self
    }

    /// Adds an epoch in which a partition appears, falls idle or wakes up.
    pub fn state(mut self, topic: Topic, partition: u32, state: PartitionState) -> History {
        self.steps.extend([Step::State((topic, partition), state), Step::Cut]);
        self
    }

    /// The same records in the same order, with other ends of epochs: after each record for which `cut` says
    /// so.
    pub fn recut(&self, mut cut: impl FnMut() -> bool) -> History {
        let mut steps = Vec::new();
        for step in self.steps.iter().filter(|step| !matches!(step, Step::Cut)) {
            steps.push(step.clone());
            if cut() {
                steps.push(Step::Cut);
            }
        }
        History { steps }
    }

    /// The history for a replay with these cuts: up to each of them in other epochs, of which `more` says
    /// where they end, and the cuts' own epochs where they were. Also the name of each next epoch.
    pub fn replayed(&self, cuts: &BTreeSet<Epoch>, mut more: impl FnMut() -> bool) -> (History, Vec<Epoch>) {
        let (mut steps, mut names) = (Vec::new(), Vec::new());
        let (mut before, mut now) = (0, 0);
        for step in &self.steps {
            let cut = cuts.range(before..).next();
            let next = match (step, cut) {
                // The end of an epoch of the first run: of a cut's, or of one behind them all.
                (Step::Cut, Some(cut)) if before == *cut => Some(cut + 1),
                (Step::Cut, None) => Some(now + 1),
                (Step::Cut, Some(_)) => None,
                // Between cuts there may be as many epochs as there are names.
                (_, Some(cut)) if now < *cut && more() => Some(now + 1),
                _ => None,
            };
            match step {
                Step::Cut => before += 1,
                other => steps.push(other.clone()),
            }
            if let Some(next) = next {
                steps.push(Step::Cut);
                names.push(next);
                now = next;
            }
        }
        names.push(now + 1);
        (History { steps }, names)
    }

    /// What comes after so many epochs.
    pub fn after(&self, epochs: usize) -> History {
        let ends =
            self.steps.iter().enumerate().filter(|(_, step)| matches!(step, Step::Cut)).map(|(at, _)| at + 1);
        let start = std::iter::once(0).chain(ends).nth(epochs).expect("it has as many epochs");
        History { steps: self.steps[start..].to_vec() }
    }

    /// The partitions that are there from the start.
    pub fn initial_partitions(&self) -> BTreeSet<Place> {
        let mut first_step = BTreeMap::new();
        for step in &self.steps {
            match step {
                Step::Record(place, _) => first_step.entry(*place).or_insert(true),
                Step::State(place, _) => first_step.entry(*place).or_insert(false),
                Step::Cut => continue,
            };
        }
        first_step.into_iter().filter(|(_, is_record)| *is_record).map(|(place, _)| place).collect()
    }

    /// Whether partitions come and go. The batch recomputation knows nothing of that.
    pub fn has_states(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::State(..)))
    }

    /// The last epoch; in it, all partitions end.
    pub fn last_epoch(&self) -> Epoch {
        self.steps.iter().filter(|step| matches!(step, Step::Cut)).count() as Epoch
    }

    /// The records that arrive until the end of an epoch: by partition, in the order of their offsets.
    pub fn until(&self, last: Epoch) -> BTreeMap<Place, Vec<&[u8]>> {
        let mut records: BTreeMap<Place, Vec<&[u8]>> = BTreeMap::new();
        let mut epoch = 0;
        for step in &self.steps {
            match step {
                Step::Record(place, bytes) if epoch <= last => records.entry(*place).or_default().push(bytes),
                Step::Record(..) | Step::State(..) => {}
                Step::Cut => epoch += 1,
            }
        }
        records
    }

    /// The watermarks in effect in an epoch, from their definition: by what arrived in the epochs before it.
    /// Partitions must not come and go.
    pub fn watermarks(&self, epoch: Epoch, settings: &Settings) -> Watermarks {
        let ended = epoch > self.last_epoch();
        let records = if epoch == 0 { BTreeMap::new() } else { self.until(epoch - 1) };
        let least = |topic| {
            let partitions = self.initial_partitions().into_iter().filter(move |place| place.0 == topic);
            let greatest = |place| records.get(&place).and_then(|records| greatest(topic, records, settings));
            partitions
                .map(|place| if ended { EventTime::MAX } else { greatest(place).unwrap_or(EventTime::MIN) })
                .min()
        };
        let of = |greatest: EventTime| match greatest {
            EventTime::MIN | EventTime::MAX => {
                Watermarks { performance: greatest, conversions: greatest, duplicates: greatest }
            }
            greatest => Watermarks::of(greatest, settings),
        };
        let (ads, sales) = (least(Topic::AdEvents), least(Topic::ConversionEvents));
        let both = [ads, sales].into_iter().flatten().min().unwrap_or(EventTime::MIN);
        Watermarks { conversions: of(both).conversions, ..of(ads.unwrap_or(EventTime::MIN)) }
    }
}

/// The greatest event time of the good ones among these records.
fn greatest(topic: Topic, records: &[&[u8]], settings: &Settings) -> Option<EventTime> {
    let mut scanner = Scanner::default();
    let mut time = |record: &[u8]| -> Result<EventTime, BadRecord> {
        scanner.read_full(record, |fields| match topic {
            Topic::AdEvents => record::ad_event(fields, &settings.unknown_ids).map(|event| event.time),
            _ => record::conversion_event(fields, &settings.unknown_ids).map(|event| event.time),
        })
    };
    let latest = NOW.plus(settings.max_future_skew);
    records.iter().filter_map(|record| time(record).ok()).filter(|time| *time <= latest).max()
}

impl From<Line> for Step {
    fn from(line: Line) -> Step {
        Step::Record((line.topic, line.partition), line.json().into_bytes())
    }
}

/// One step a line.
impl fmt::Debug for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            match step {
                Step::Record((topic, partition), bytes) => {
                    writeln!(f, "{} {partition}: {}", topic.name(), String::from_utf8_lossy(bytes))?;
                }
                Step::State((topic, partition), state) => {
                    writeln!(f, "{} {partition} is {state:?}", topic.name())?
                }
                Step::Cut => writeln!(f, "--")?,
            }
        }
        Ok(())
    }
}
