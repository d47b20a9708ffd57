//! Holds a run against the batch recomputation and against what must be true at every moment.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use adtide::sink::Progress;
use adtide::verify::{Cut, Recomputed, Task, TopicFiles, recompute};
use adtide_dataflows::Judgement;
use adtide_dataflows::conversion_matcher::AttributionRow;
use adtide_dataflows::duplicate_detector::Compensation;
use adtide_dataflows::duplicate_detector::oracle::RefundKey;
use adtide_dataflows::model::{Epoch, EventTime, Money, Text, Topic};
use adtide_dataflows::operators::{PartitionReport, PartitionState, Watermarks};
use adtide_dataflows::oracle::{LateRecords, Location};
use adtide_dataflows::performance_aggregator::{PerformanceKey, PerformanceRow};
use adtide_dataflows::{Emit, LateEvent, Settings, Statement};

use super::{Changes, History, NOW, Run};

impl History {
    /// Runs the history on one worker, and holds the run against the batch recomputation at the end of every
    /// epoch.
    pub fn run(&self, settings: &Settings) -> Run {
        let run = Run::of(self, settings, 1, true);
        run.check_always(settings);
        if !self.has_states() {
            for epoch in (0..=self.last_epoch()).chain([Epoch::MAX]) {
                run.check_at(epoch, self, settings);
            }
        }
        run
    }
}

impl Run {
    /// Checks that the collections hold, at the end of an epoch, what the batch recomputation makes of the
    /// records until then; at [`Epoch::MAX`], of all of them.
    pub fn check_at(&self, epoch: Epoch, history: &History, settings: &Settings) {
        self.check_results_at(epoch, history, settings);
        if epoch == Epoch::MAX {
            self.check_counts(&recomputed(history, epoch, settings));
        }
    }

    /// As [`Run::check_at`], but not what the run counted: one that goes on from a checkpoint counts from
    /// there.
    pub fn check_results_at(&self, epoch: Epoch, history: &History, settings: &Settings) {
        let watermarks = history.watermarks(epoch, settings);
        let expected = recomputed(history, epoch, settings);
        let seen = self.watermarks_at(epoch).unwrap_or(Watermarks::MIN);
        assert_eq!(seen, watermarks, "the watermarks in epoch {epoch}");

        assert_eq!(
            by_key(&self.performance.at(epoch)),
            expected.performance.rows,
            "statement 2 in epoch {epoch}"
        );

        let attributions = self.table_of_attributions(epoch);
        assert_eq!(expected.attributions.rows, attributions, "statement 3 in epoch {epoch}");

        let owed = expected.refunds.groups.iter();
        let owed = owed.map(|(key, refund)| {
            (key.clone(), RefundSum { sum: refund.owed, clicks: refund.click_times.clone() })
        });
        assert_eq!(refund_sums(&self.compensations, epoch), owed.collect(), "statement 4 in epoch {epoch}");

        let rankings = self.rankings.at(epoch).into_iter();
        let rankings = rankings.map(|row| ((row.placement.clone(), row.category.clone()), row)).collect();
        assert_eq!(expected.rankings, rankings, "statement 1 in epoch {epoch}");

        assert_eq!(
            late_locations(&self.late, epoch),
            expected_late(&expected),
            "late events in epoch {epoch}"
        );
        self.check_dead_letters(epoch, &expected);
    }

    /// What the table of statement 3 holds at the end of an epoch: of the rows of each order and product the
    /// newest.
    pub fn table_of_attributions(&self, epoch: Epoch) -> BTreeMap<(Text, i64), AttributionRow> {
        let mut rows = self.attributions.at(epoch);
        rows.sort_by_key(|row| row.conversion_time);
        rows.into_iter().map(|row| ((row.order_id.clone(), row.product_id), row)).collect()
    }

    /// Checks, at the end, which records are bad, and nothing else.
    pub fn check_bad_records(&self, history: &History, settings: &Settings) {
        self.check_dead_letters(Epoch::MAX, &recomputed(history, Epoch::MAX, settings));
    }

    fn check_dead_letters(&self, epoch: Epoch, expected: &Recomputed) {
        let dead = self.dead.iter().filter(|(_, read)| *read <= epoch);
        let dead =
            dead.map(|(dead, _)| (location(dead.topic, dead.partition, dead.offset), dead.reason.as_str()));
        let dead: BTreeSet<_> = dead.collect();
        let bad: BTreeSet<_> = expected.bad.iter().map(|(location, bad)| (*location, bad.reason)).collect();
        let difference: Vec<_> = dead.symmetric_difference(&bad).collect();
        assert!(difference.is_empty(), "dead letters in epoch {epoch} differ in {difference:?}");
    }

    fn check_counts(&self, expected: &Recomputed) {
        assert_eq!(self.counts.without_campaign, expected.performance.without_campaign);
        assert_eq!(self.counts.ids, expected.ids);
        assert_eq!(self.repeats, expected.attributions.repeats);
        let refunds = self.compensations.0.iter().map(|(row, ..)| row.refund_amount).sum::<Money>();
        let ranked = self.rankings.last().iter().map(|row| row.total_campaigns).sum::<u64>();
        assert_eq!(self.told, (refunds, ranked), "metrics say what the results do");
        assert_eq!(self.counts.bad.values().sum::<u64>(), expected.bad.len() as u64);
        let late: u64 = self.counts.late.values().sum();
        assert_eq!(late, self.late.len() as u64);
    }

    /// Checks what holds at every moment, whatever came in: collections are sets with one row a key, what is
    /// final stays so, refunds are never taken back nor given twice, watermarks never go back.
    pub fn check_always(&self, settings: &Settings) {
        one_row_a_key(&self.rankings, |row| (row.placement.clone(), row.category.clone()));
        one_row_a_key(&self.attributions, |row| (row.order_id.clone(), row.product_id, row.conversion_time));
        one_row_a_key(&self.performance, |row| row.key.clone());
        one_row_a_key(&self.compensations, Compensation::id);
        let mut final_keys = BTreeSet::new();
        for (row, epoch, diff) in ordered(&self.performance) {
            if row.is_final {
                final_keys.insert(row.key.clone());
            } else {
                let reopened = diff > 0 && final_keys.contains(&row.key);
                assert!(!reopened, "in epoch {epoch} a final row becomes one that is not: {row:?}");
                assert_eq!(settings.emit, Emit::OnUpdate, "on_close writes only final rows: {row:?}");
            }
        }
        assert!(self.compensations.0.iter().all(|(_, _, diff)| *diff == 1), "a refund is taken back");
        for (before, after) in self.watermarks.iter().zip(self.watermarks.iter().skip(1)) {
            assert!(before.1 < after.1, "one change of the watermarks an epoch: {before:?}, {after:?}");
            assert_eq!(before.0.max(after.0), after.0, "the watermarks never go back");
        }
    }
}

/// The changes of a collection, within an epoch the removals first.
fn ordered<R: Clone>(changes: &Changes<R>) -> Vec<(R, Epoch, isize)> {
    let mut ordered = changes.0.clone();
    ordered.sort_by_key(|(_, epoch, diff)| (*epoch, *diff));
    ordered
}

fn one_row_a_key<R: Ord + Clone + std::fmt::Debug, K: Ord + Clone>(
    changes: &Changes<R>,
    key: impl Fn(&R) -> K,
) {
    let mut rows: BTreeMap<K, BTreeMap<R, isize>> = BTreeMap::new();
    for epoch_changes in changes.0.chunk_by(|one, other| one.1 == other.1) {
        for (row, _, diff) in epoch_changes {
            *rows.entry(key(row)).or_default().entry(row.clone()).or_default() += diff;
        }
        for (row, epoch, _) in epoch_changes {
            let Some(of_key) = rows.get_mut(&key(row)) else { continue };
            of_key.retain(|_, count| *count != 0);
            let is_set = of_key.len() <= 1 && of_key.values().all(|count| *count == 1);
            assert!(is_set, "in epoch {epoch} a key has these rows, each so many times: {of_key:?}");
        }
    }
}

/// What the records of a group of statement 4 add up to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefundSum {
    pub sum: Money,
    /// The clicks that they list, in order of time.
    pub clicks: Vec<EventTime>,
}

/// What was refunded by the end of an epoch.
pub fn refund_sums(compensations: &Changes<Compensation>, epoch: Epoch) -> BTreeMap<RefundKey, RefundSum> {
    let mut sums: BTreeMap<RefundKey, RefundSum> = BTreeMap::new();
    for row in compensations.at(epoch) {
        let key = RefundKey {
            advertiser_id: row.advertiser_id,
            campaign_id: row.campaign_id,
            ad_id: row.ad_id,
            device_id: row.device_id,
            actual_price: row.actual_price,
            window_start: row.window_start,
        };
        let group = sums.entry(key).or_insert(RefundSum { sum: Money::ZERO, clicks: Vec::new() });
        group.sum += row.refund_amount;
        assert!(!row.is_cut && row.click_times.is_sorted(), "{:?}", row.click_times);
        group.clicks.extend(row.click_times);
    }
    sums.values_mut().for_each(|group| group.clicks.sort());
    sums
}

/// The batch recomputation of what arrived until the end of an epoch.
fn recomputed(history: &History, epoch: Epoch, settings: &Settings) -> Recomputed {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut cut =
        Progress { epoch, watermarks: Some(history.watermarks(epoch, settings)), ..Progress::default() };
    for ((topic, partition), records) in history.until(epoch) {
        let report = PartitionReport {
            topic,
            partition,
            next_offset: records.len() as u64,
            greatest: None,
            watermarks: Watermarks::MIN,
            state: PartitionState::Active,
            wakes: Vec::new(),
            first_offset: 0,
            last: None,
            file: None,
            judgements: vec![Judgement::new(NOW, settings.max_future_skew)],
        };
        cut.partitions.insert((topic, partition), report);
        let folder = dir.path().join(topic.name());
        std::fs::create_dir_all(&folder).expect("a folder for the topic");
        write_lines(&folder.join(format!("{partition}.ndjson")), &records);
    }
    let mut input = TopicFiles::new(dir.path()).expect("the folder is there");
    let cuts = [Cut::of(Some(&cut))];
    let task = Task { cuts: &cuts, settings, claims: &[], watch: &mut |_, _| () };
    let recomputed = recompute(&mut input, task, None).expect("the files can be read");
    recomputed.into_iter().next().expect("one cut, one result")
}

fn write_lines(path: &Path, records: &[&[u8]]) {
    let is_line = |record: &&[u8]| !record.is_empty() && !record.contains(&b'\n') && !record.ends_with(b"\r");
    assert!(records.iter().all(is_line), "a record of the tests is one line");
    let mut text = records.join(&b'\n');
    text.push(b'\n');
    std::fs::write(path, text).expect("the file can be written");
}

fn by_key(rows: &[PerformanceRow]) -> BTreeMap<PerformanceKey, PerformanceRow> {
    rows.iter().map(|row| (row.key.clone(), row.clone())).collect()
}

/// Which statement leaves which record out.
type Late = BTreeSet<(Statement, Location)>;

fn late_locations(late: &[(LateEvent, Epoch)], epoch: Epoch) -> Late {
    let until = late.iter().filter(|(_, read)| *read <= epoch);
    until.map(|(late, _)| (late.statement, location(late.topic, late.partition, late.offset))).collect()
}

fn expected_late(expected: &Recomputed) -> Late {
    let of = |statement, late: &LateRecords| {
        late.locations.iter().map(move |at| (statement, *at)).collect::<Vec<_>>()
    };
    let mut late = Late::new();
    late.extend(of(Statement::PerformanceAggregator, &expected.performance.late));
    late.extend(of(Statement::ConversionMatcher, &expected.attributions.late));
    late.extend(of(Statement::DuplicateDetector, &expected.refunds.late));
    late
}

fn location(topic: Topic, partition: u32, offset: u64) -> Location {
    Location { topic, partition, offset }
}
