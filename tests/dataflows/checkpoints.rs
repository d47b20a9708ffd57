//! Runs that go on from a checkpoint, on another number of workers: what comes out of them is what would have
//! come out of the run before, row by row and epoch by epoch.

use std::collections::{BTreeMap, BTreeSet};

use adtide_dataflows::model::{Epoch, EventTime, Topic, WINDOW_MS};
use adtide_dataflows::operators::{Cut, PartitionState, Watermarks};
use adtide_dataflows::performance_aggregator::{PerformanceKey, PerformanceSums};
use adtide_dataflows::{Settings, Statement, StatementPlan};
use proptest::prelude::*;
use proptest::sample::{Index, select};

use crate::support::{
    Changes, Checkpoint, Dice, Disorder, Held, History, Line, MINUTE, Plan, Run, SECOND, Step, check, click,
    histories, impression, refund_sums, sale, settings, small,
};

/// How a run goes on.
#[derive(Clone, Debug)]
struct Restart {
    workers: usize,
    settles: bool,
    /// At which of the boundaries there are.
    at: Index,
    seed: u64,
}

fn restart() -> impl Strategy<Value = Restart> {
    (select(vec![1, 2, 4]), any::<bool>(), any::<Index>(), any::<u64>())
        .prop_map(|(workers, settles, at, seed)| Restart { workers, settles, at, seed })
}

impl Restart {
    /// The checkpoint of a run that began with the one `before`; None if there is none to be had.
    fn checkpoint(&self, run: &Run, before: Option<&Checkpoint>, settings: &Settings) -> Option<Checkpoint> {
        let boundaries = run.boundaries();
        let epoch = *boundaries.get(self.at.index(boundaries.len().max(1)))?;
        Some(run.checkpoint(epoch, before, settings, &mut Dice::new(self.seed)))
    }

    /// Goes on from there with the rest of the history, in the same epochs.
    fn run(&self, history: &History, settings: &Settings, from: &Checkpoint, interval: Option<u64>) -> Run {
        let rest = history.after(from.epoch as usize + 1);
        let plan = Plan { settles: self.settles, interval, restore: Some(from.clone()), ..Plan::default() };
        Run::with(&rest, settings, self.workers, plan)
    }
}

/// What changes after an epoch, net.
fn after<R: Ord + Clone>(changes: &Changes<R>, epoch: Epoch) -> BTreeMap<(Epoch, R), isize> {
    let mut net = BTreeMap::new();
    for (row, changed, diff) in changes.0.iter().filter(|(_, changed, _)| *changed > epoch) {
        *net.entry((*changed, row.clone())).or_default() += diff;
    }
    net.retain(|_, count| *count != 0);
    net
}

/// Checks that from an epoch on two runs are the same.
fn same_after(one: &Run, other: &Run, epoch: Epoch, last: Epoch) {
    for epoch in (epoch + 1..=last + 1).chain([Epoch::MAX]) {
        let of = |run: &Run| run.watermarks_at(epoch).unwrap_or(Watermarks::MIN);
        assert_eq!(of(one), of(other), "the watermarks in epoch {epoch}");
    }
    assert_eq!(after(&one.performance, epoch), after(&other.performance, epoch), "statement 2");
    assert_eq!(after(&one.attributions, epoch), after(&other.attributions, epoch), "statement 3");
    assert_eq!(after(&one.compensations, epoch), after(&other.compensations, epoch), "statement 4");
    assert_eq!(after(&one.rankings, epoch), after(&other.rankings, epoch), "statement 1");
    let late = |run: &Run| run.late.iter().filter(|(_, read)| *read > epoch).cloned().collect::<Vec<_>>();
    assert_eq!(late(one), late(other), "late events");
    let dead = |run: &Run| run.dead.iter().filter(|(_, read)| *read > epoch).cloned().collect::<Vec<_>>();
    assert_eq!(dead(one), dead(other), "dead letters");
}

/// A history in which partitions of events fall idle and wake up again, as chance will have it, and one
/// appears late.
fn with_idle_partitions(history: &History, dice: &mut Dice) -> History {
    let (mut steps, mut seen, mut idle) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
    let appears = dice.below(history.steps.len());
    for (at, step) in history.steps.iter().enumerate() {
        let step = match step {
            Step::Record((topic, 1), bytes) if at > appears => Step::Record((*topic, 2), bytes.clone()),
            step => step.clone(),
        };
        match &step {
            Step::Record(place, _) => {
                if idle.remove(place) || place.1 == 2 && !seen.contains(place) {
                    steps.extend([Step::State(*place, PartitionState::Active), Step::Cut]);
                }
                seen.insert(*place);
            }
            Step::Cut if dice.below(3) == 0 => {
                let place = (*dice.pick(&[Topic::AdEvents, Topic::ConversionEvents]), dice.below(3) as u32);
                if seen.contains(&place) && idle.insert(place) {
                    steps.push(Step::State(place, PartitionState::Idle(None)));
                }
            }
            Step::Cut | Step::State(..) => {}
        }
        steps.push(step);
    }
    History { steps }
}

#[test]
fn a_restored_run_goes_on_in_the_same_epochs_with_the_same_rows() {
    let cases = (histories(160, Disorder::Any), settings(), 1..6u64, any::<u64>(), restart(), restart());
    check(12, cases, |(history, settings, interval, seed, second, third)| {
        let history = with_idle_partitions(&history, &mut Dice::new(seed));
        let last = history.last_epoch();
        let one = Run::kept(&history, &settings, 2, true, interval);
        let Some(from) = second.checkpoint(&one, None, &settings) else { return };
        let other = Settings { plan: swapped(&settings), ..settings.clone() };
        let swapped = second.run(&history, &other, &from, None);
        same_after(&one, &swapped, from.epoch, last);
        let two = second.run(&history, &settings, &from, Some(interval));
        same_after(&one, &two, from.epoch, last);
        same_state(&one, &two, &from);
        // And once more, from a checkpoint that adds to the one before.
        let Some(from) = third.checkpoint(&two, Some(&from), &settings) else { return };
        let three = third.run(&history, &settings, &from, None);
        same_after(&one, &three, from.epoch, last);
        same_state(&one, &three, &from);
    });
}

/// The other plan for each statement: a checkpoint is of either.
fn swapped(settings: &Settings) -> BTreeMap<Statement, StatementPlan> {
    let operators =
        Statement::ALL.into_iter().filter(|statement| settings.plan(*statement) == StatementPlan::Operators);
    operators.map(|statement| (statement, StatementPlan::Definition)).collect()
}

/// Checks that a restored run holds what the run before held, at the end of each epoch.
fn same_state(before: &Run, restored: &Run, from: &Checkpoint) {
    let expected = before.held.iter().skip(from.epoch as usize + 1);
    // Of runs that do not settle, only what is left at the end is known.
    if restored.held.len() != expected.len() {
        return;
    }
    for (expected, held) in expected.zip(&restored.held) {
        // A click that is of no use is in memory until its bucket goes, and not in a checkpoint.
        assert!(held.clicks <= expected.clicks, "{held:?}, {expected:?}");
        assert_eq!(*held, Held { clicks: held.clicks, ..*expected });
    }
}

#[test]
fn behind_the_cut_of_each_sink_a_restored_run_goes_on_as_if_nothing_had_happened() {
    let cuts = prop::collection::vec(any::<Index>(), 0..4);
    let epochs = prop::collection::vec(prop::bool::weighted(0.3), 50);
    let cases = (histories(160, Disorder::Any), settings(), 1..6u64, restart(), cuts, epochs);
    check(10, cases, |(history, settings, interval, restart, cuts, epochs)| {
        let last = history.last_epoch();
        let one = Run::kept(&history, &settings, 3, restart.settles, interval);
        one.check_at(Epoch::MAX, &history, &settings);
        let Some(from) = restart.checkpoint(&one, None, &settings) else { return };
        let of_sink = |at: &Index| from.epoch + at.index((last - from.epoch + 1) as usize) as Epoch;
        let cuts: BTreeSet<Epoch> = cuts.iter().map(of_sink).chain([from.epoch]).collect();
        let mut more = epochs.into_iter().cycle();
        let (again, names) = history.replayed(&cuts, || more.next() == Some(true));
        let read = names.iter().position(|name| *name == from.epoch + 1).expect("its end is a cut") + 1;
        let passed = cuts.iter().filter(|cut| **cut > from.epoch);
        let passed = passed
            .map(|&epoch| Cut { epoch, watermarks: one.watermarks_at(epoch).unwrap_or(Watermarks::MIN) });
        let plan = Plan {
            settles: false,
            names: names[read..].to_vec(),
            cuts: passed.collect(),
            interval: None,
            restore: Some(from.clone()),
        };
        let two = Run::with(&again.after(read), &settings, restart.workers, plan);
        for cut in &cuts {
            let whole = one.clone().gone_on_with(two.clone(), *cut);
            whole.check_always(&settings);
            whole.check_results_at(Epoch::MAX, &history, &settings);
        }
        same_after(&one, &two, cuts.last().copied().unwrap_or(from.epoch), last);
    });
}

#[test]
fn another_lateness_opens_nothing_again_that_was_forgotten() {
    let lateness = select(vec![0, MINUTE, 4 * MINUTE, 20 * MINUTE]);
    let cases = (histories(160, Disorder::Any), settings(), lateness, 1..6u64, restart(), restart());
    check(12, cases, |(history, settings, allowed_lateness, interval, second, third)| {
        let one = Run::kept(&history, &settings, 2, true, interval);
        let Some(from) = second.checkpoint(&one, None, &settings) else { return };
        let changed = Settings { allowed_lateness, ..settings.clone() };
        let two = second.run(&history, &changed, &from, Some(interval));
        nothing_is_opened(&two, &from);
        let whole = one.gone_on_with(two.clone(), from.epoch);
        whole.check_always(&changed);
        rows_only_grow(&whole);
        refunds_add_up(&whole);
        let Some(from) = third.checkpoint(&two, Some(&from), &changed) else { return };
        let three = third.run(&history, &changed, &from, None);
        same_after(&two, &three, from.epoch, history.last_epoch());
    });
}

/// Checks that nothing comes out any more of what was forgotten.
fn nothing_is_opened(run: &Run, from: &Checkpoint) {
    let window_end = |start: EventTime| start.plus(WINDOW_MS - 1);
    for (_, row) in after(&run.performance, from.epoch).keys() {
        assert!(window_end(row.key.window_start) >= from.forgotten.performance, "{row:?}");
    }
    for (_, row) in after(&run.compensations, from.epoch).keys() {
        assert!(window_end(row.window_start) >= from.forgotten.duplicates, "{row:?}");
    }
    for (_, row) in after(&run.attributions, from.epoch).keys() {
        assert!(row.conversion_time >= from.forgotten.conversions, "{row:?}");
    }
}

/// Checks that no record is missing in a row that was in it before.
fn rows_only_grow(run: &Run) {
    let mut rows: BTreeMap<PerformanceKey, PerformanceSums> = BTreeMap::new();
    for ((epoch, row), count) in after(&run.performance, 0) {
        if count < 0 {
            continue;
        }
        let before = rows.insert(row.key.clone(), row.sums).unwrap_or_default();
        let grows = row.sums.impressions >= before.impressions
            && row.sums.clicks >= before.clicks
            && row.sums.conversions >= before.conversions;
        assert!(grows, "in epoch {epoch} a row has less than before, {before:?}: {row:?}");
    }
}

fn refunds_add_up(run: &Run) {
    for (group, refund) in refund_sums(&run.compensations, Epoch::MAX) {
        assert_eq!(refund.sum, group.actual_price * (refund.clicks.len() as i64 - 1), "{group:?}");
    }
}

#[test]
fn a_repeat_that_may_still_open_a_conversion_is_in_a_checkpoint() {
    let device = |line: Line| line.with("device_id", "q");
    let history = History::new()
        .epoch([device(click(44 * MINUTE)), device(sale("a", 46 * MINUTE)), sale("z", 0).to(1)])
        .epoch([device(sale("a", 55 * MINUTE + SECOND))])
        // Now the second opens a conversion.
        .epoch([device(sale("a", 45 * MINUTE)).to(1)])
        .epoch([impression(54 * MINUTE), sale("y", 54 * MINUTE).to(1)])
        .epoch([])
        .epoch([device(click(54 * MINUTE))])
        .epoch([impression(58 * MINUTE), sale("w", 64 * MINUTE).to(1), sale("x", 64 * MINUTE)])
        // And this one repeats it, when all others are settled.
        .epoch([device(sale("a", 65 * MINUTE + SECOND))])
        .epoch([]);
    let one = Run::kept(&history, &small(), 1, true, 1);
    one.check_at(Epoch::MAX, &history, &small());
    assert_eq!((one.attributions.last().len(), one.repeats), (2, 2));
    for epoch in one.boundaries() {
        let from = one.checkpoint(epoch, None, &small(), &mut Dice::new(epoch));
        let plan = Plan { settles: true, restore: Some(from.clone()), ..Plan::default() };
        let two = Run::with(&history.after(epoch as usize + 1), &small(), 2, plan);
        same_after(&one, &two, epoch, history.last_epoch());
        same_state(&one, &two, &from);
    }
}
