//! What sinks are told.

use std::collections::BTreeMap;
use std::hash::Hash;

use adtide_dataflows::conversion_matcher::AttributionRow;
use adtide_dataflows::duplicate_detector::Compensation;
use adtide_dataflows::model::{Epoch, EventTime, Topic};
use adtide_dataflows::operators::{PartitionReport, Watermarks};
use adtide_dataflows::performance_aggregator::PerformanceRow;
use adtide_dataflows::rtb_cache_updater::RankingRow;
use adtide_dataflows::{DeadLetter, HashMap, LateEvent, Outputs, Settings};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use timely::PartialOrder;
use timely::dataflow::StreamVec;
use timely::dataflow::operators::Concatenate;
use timely::dataflow::operators::vec::{Filter, Map};

/// A change of one of the results, or a piece of progress.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Change {
    /// Statement 1; +1 is the row from now on, a lone -1 deletes it.
    Ranking(RankingRow, isize),
    /// Statement 2, likewise.
    Performance(PerformanceRow, isize),
    /// Statement 3, likewise, by order, product and conversion time; of the rows of an order and product the
    /// newest is the result.
    Attribution(AttributionRow, isize),
    /// Statement 4.
    Compensation(Compensation),
    /// A record that came too late.
    Late(LateEvent),
    /// A record that can't be read.
    Dead(DeadLetter),
    /// How far a partition was read.
    Report(PartitionReport),
    /// The watermarks in effect.
    Watermarks(Watermarks),
}

/// The changes of a run of epochs.
#[derive(Debug, Default)]
pub struct Commit {
    /// The changes by epoch, in order; within an epoch in no order.
    pub epochs: Vec<Vec<Change>>,
    /// Where this leaves the sink.
    pub progress: Progress,
}

/// How far a sink has got: what a restart goes by.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// The last epoch.
    pub epoch: Epoch,
    /// The watermarks that had taken effect.
    pub watermarks: Option<Watermarks>,
    /// How far each partition was read.
    #[serde(with = "as_list")]
    pub partitions: BTreeMap<(Topic, u32), PartitionReport>,
}

/// The partitions as a list: each report holds its own key.
mod as_list {
    use super::*;

    pub fn serialize<S: Serializer>(
        partitions: &BTreeMap<(Topic, u32), PartitionReport>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(partitions.values())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<(Topic, u32), PartitionReport>, D::Error> {
        Ok(by_partition(Vec::deserialize(deserializer)?))
    }
}

/// The reports under their partitions.
pub(super) fn by_partition(reports: Vec<PartitionReport>) -> BTreeMap<(Topic, u32), PartitionReport> {
    reports.into_iter().map(|report| ((report.topic, report.partition), report)).collect()
}

/// A run, as its results remember it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// The statements' settings.
    pub settings: Settings,
    /// The folder of topics, or the Kafka cluster.
    pub source: String,
}

/// What a sink holds of an earlier run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stored {
    /// The run that wrote it.
    pub run: Run,
    /// How far it got.
    pub progress: Progress,
}

impl Progress {
    /// Takes in a piece of progress; false for any other change.
    pub fn note(&mut self, change: &Change) -> bool {
        match change {
            Change::Report(report) => {
                self.partitions.insert((report.topic, report.partition), report.clone());
            }
            // A replay says ahead of a cut what takes effect behind it, and more than once: the most counts.
            Change::Watermarks(watermarks) => {
                self.watermarks = Some(self.watermarks.map_or(*watermarks, |before| before.max(*watermarks)));
            }
            _ => return false,
        }
        true
    }

    /// Whether it is nowhere behind another.
    pub fn covers(&self, other: &Progress) -> bool {
        let watermarks = |progress: &Progress| progress.watermarks.unwrap_or(Watermarks::MIN);
        watermarks(other).less_equal(&watermarks(self))
            && other.partitions.iter().all(|(key, report)| {
                self.partitions.get(key).is_some_and(|own| own.next_offset >= report.next_offset)
            })
    }

    /// Whether the input had ended: every window is closed, and nothing can be added.
    pub fn has_ended(&self) -> bool {
        self.watermarks.is_some_and(|watermarks| watermarks.duplicates == EventTime::MAX)
    }
}

/// Statement 1's result.
pub fn rankings<'scope>(outputs: &Outputs<'scope>) -> StreamVec<'scope, Epoch, Change> {
    outputs.rankings.clone().inner.map(|(row, _, diff)| Change::Ranking(row, diff))
}

/// The results of statements 2 and 3.
pub fn tables<'scope>(outputs: &Outputs<'scope>) -> StreamVec<'scope, Epoch, Change> {
    let performance = outputs.performance.clone().inner.map(|(row, _, diff)| Change::Performance(row, diff));
    let attributions =
        outputs.attributions.clone().inner.map(|(row, _, diff)| Change::Attribution(row, diff));
    outputs.late.scope().concatenate([performance, attributions])
}

/// The results that are records: statement 4, late events and dead letters.
pub fn records<'scope>(outputs: &Outputs<'scope>) -> StreamVec<'scope, Epoch, Change> {
    let compensations = outputs.compensations.clone().inner.map(|(row, _, _)| Change::Compensation(row));
    let late = outputs.late.clone().map(Change::Late);
    let dead = outputs.dead.clone().map(Change::Dead);
    outputs.late.scope().concatenate([compensations, late, dead])
}

/// What every sink must know to store its progress. Watermarks are the same on every worker; worker 0 tells
/// them.
pub fn progress<'scope>(outputs: &Outputs<'scope>) -> StreamVec<'scope, Epoch, Change> {
    let is_first = outputs.late.scope().index() == 0;
    let watermarks = outputs.watermarks.clone().filter(move |_| is_first).map(Change::Watermarks);
    let reports = outputs.reports.clone().map(Change::Report);
    outputs.late.scope().concatenate([reports, watermarks])
}

/// The rows to write for a run of changes, one a key: the row that stands at the end, or None if it is gone.
///
/// The changes come epoch by epoch; within an epoch an update is a -1 and a +1 in either order.
pub fn latest<K: Eq + Hash, R>(
    epochs: impl IntoIterator<Item = Vec<(R, isize)>>,
    key: impl Fn(&R) -> K,
) -> HashMap<K, Option<R>> {
    let mut latest = HashMap::default();
    for changes in epochs {
        let (added, removed): (Vec<_>, Vec<_>) = changes.into_iter().partition(|(_, diff)| *diff > 0);
        latest.extend(removed.iter().map(|(row, _)| (key(row), None)));
        latest.extend(added.into_iter().map(|(row, _)| (key(&row), Some(row))));
    }
    latest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_progress_covers_another_if_each_of_its_watermarks_does() {
        let at = |performance, conversions| {
            let all = Watermarks::all(EventTime(0));
            let (performance, conversions) = (EventTime(performance), EventTime(conversions));
            Progress {
                watermarks: Some(Watermarks { performance, conversions, ..all }),
                ..Progress::default()
            }
        };
        assert!(
            at(2, 1).covers(&at(2, 1)) && at(2, 1).covers(&at(1, 1)) && at(1, 1).covers(&Progress::default())
        );
        assert!(
            !at(2, 1).covers(&at(1, 2))
                && !at(1, 2).covers(&at(2, 1))
                && !Progress::default().covers(&at(1, 1))
        );
    }
}
