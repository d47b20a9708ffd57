//! Runs the dataflow over a history and keeps all that comes out.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use adtide_dataflows::conversion_matcher::AttributionRow;
use adtide_dataflows::duplicate_detector::Compensation;
use adtide_dataflows::model::{Epoch, Money};
use adtide_dataflows::operators::{Cut, PartitionReport, PartitionState, Watermarks};
use adtide_dataflows::performance_aggregator::PerformanceRow;
use adtide_dataflows::rtb_cache_updater::RankingRow;
use adtide_dataflows::{
    Counts, DeadLetter, DeltaLog, Ingest, Inputs, LateEvent, Outputs, PartitionHandle, RESTORED, RoutingKey,
    Settings, State, replay,
};
use differential_dataflow::VecCollection;
use timely::dataflow::operators::{Inspect, Probe};
use timely::dataflow::{ProbeHandle, StreamVec};
use timely::worker::Worker;

use super::checkpoint::{Checkpoint, FIRST, Kept};
use super::history::Place;
use super::{History, NOW, Step};

/// How a collection changed, in the order of epochs.
#[derive(Clone, Debug)]
pub struct Changes<R>(pub Vec<(R, Epoch, isize)>);

/// What the state held at the end of an epoch, on all workers together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    pub performance_rows: usize,
    pub clicks: usize,
    pub open_conversions: usize,
    pub closed_conversions: usize,
    pub duplicate_groups: usize,
}

/// All that came out of a run.
#[derive(Clone, Debug)]
pub struct Run {
    pub rankings: Changes<RankingRow>,
    pub performance: Changes<PerformanceRow>,
    pub attributions: Changes<AttributionRow>,
    pub compensations: Changes<Compensation>,
    pub late: Vec<(LateEvent, Epoch)>,
    pub dead: Vec<(DeadLetter, Epoch)>,
    /// From which epoch on each was in effect.
    pub watermarks: Vec<(Watermarks, Epoch)>,
    pub counts: Counts,
    pub repeats: u64,
    /// What statement 4 says it has refunded, and how many campaigns statement 1 says it ranks at the end.
    pub told: (Money, u64),
    /// At the end of each epoch, and at last after all of them; only of runs that settle.
    pub held: Vec<Held>,
    /// How far the partitions were read, and in which epoch.
    pub reports: Vec<(PartitionReport, Epoch)>,
    /// What each worker kept for checkpoints.
    pub kept: Vec<Kept>,
}

impl<R: Ord + Clone> Changes<R> {
    /// The collection at the end of an epoch, each row with how often it is there.
    pub fn counted(&self, epoch: Epoch) -> BTreeMap<R, isize> {
        let mut rows = BTreeMap::new();
        for (row, _, diff) in self.0.iter().filter(|(_, changed, _)| *changed <= epoch) {
            *rows.entry(row.clone()).or_default() += diff;
        }
        rows.retain(|_, count| *count != 0);
        rows
    }

    /// The collection at the end of an epoch. It must be a set.
    pub fn at(&self, epoch: Epoch) -> Vec<R> {
        let counted = self.counted(epoch).into_iter();
        counted
            .map(|(row, count)| if count == 1 { row } else { panic!("a row is there {count} times") })
            .collect()
    }

    /// The collection at the end.
    pub fn last(&self) -> Vec<R> {
        self.at(Epoch::MAX)
    }

    fn go_on(&mut self, other: Changes<R>, cut: Epoch) {
        self.0.retain(|(_, epoch, _)| *epoch <= cut);
        self.0.extend(other.0.into_iter().filter(|(_, epoch, _)| *epoch > cut));
    }

    /// The epochs in which something changed.
    pub fn epochs(&self) -> Vec<Epoch> {
        let mut epochs: Vec<_> = self.0.iter().map(|(_, epoch, _)| *epoch).collect();
        epochs.dedup();
        epochs
    }
}

impl Run {
    /// Runs a history on this many workers. A run that settles works each epoch off before it starts the next
    /// one; else epochs overlap.
    pub fn of(history: &History, settings: &Settings, workers: usize, settles: bool) -> Run {
        Run::with(history, settings, workers, Plan { settles, ..Plan::default() })
    }

    /// As [`Run::of`], and keeps what checkpoints need, with boundaries so many epochs apart.
    pub fn kept(history: &History, settings: &Settings, workers: usize, settles: bool, interval: u64) -> Run {
        Run::with(history, settings, workers, Plan { settles, interval: Some(interval), ..Plan::default() })
    }

    /// Runs a history as a replay that passes these cuts. `names` are those of the epochs after the first.
    pub fn replay(
        history: &History,
        settings: &Settings,
        workers: usize,
        names: Vec<Epoch>,
        cuts: Vec<Cut>,
    ) -> Run {
        Run::with(history, settings, workers, Plan { names, cuts, ..Plan::default() })
    }

    /// Runs a history by a plan.
    pub fn with(history: &History, settings: &Settings, workers: usize, plan: Plan) -> Run {
        let (history, settings) = (Arc::new(history.clone()), settings.clone());
        let config = if workers == 1 { timely::Config::thread() } else { timely::Config::process(workers) };
        let guards = timely::execute(config, move |worker| work(worker, &history, &settings, &plan));
        let parts = guards.expect("the workers start").join().into_iter();
        let runs = parts.map(|part| part.expect("a worker ends well"));
        let mut run = runs.reduce(Run::merge).expect("there is a worker");
        run.sort();
        run
    }

    /// What a sink has got that took this run up to the cut, and from there on another one.
    pub fn gone_on_with(mut self, other: Run, cut: Epoch) -> Run {
        self.rankings.go_on(other.rankings, cut);
        self.performance.go_on(other.performance, cut);
        self.attributions.go_on(other.attributions, cut);
        self.compensations.go_on(other.compensations, cut);
        go_on(&mut self.late, other.late, cut);
        go_on(&mut self.dead, other.dead, cut);
        go_on(&mut self.watermarks, other.watermarks, cut);
        self.watermarks.dedup_by_key(|(watermarks, _)| *watermarks);
        Run { counts: other.counts, repeats: other.repeats, told: other.told, ..self }
    }

    /// The watermarks in effect in an epoch.
    pub fn watermarks_at(&self, epoch: Epoch) -> Option<Watermarks> {
        self.watermarks.iter().take_while(|(_, since)| *since <= epoch).last().map(|(marks, _)| *marks)
    }

    fn merge(mut self, other: Run) -> Run {
        assert_eq!(self.watermarks, other.watermarks, "watermarks are the same on every worker");
        self.rankings.0.extend(other.rankings.0);
        self.performance.0.extend(other.performance.0);
        self.attributions.0.extend(other.attributions.0);
        self.compensations.0.extend(other.compensations.0);
        self.late.extend(other.late);
        self.dead.extend(other.dead);
        self.reports.extend(other.reports);
        self.kept.extend(other.kept);
        merge_counts(&mut self.counts, other.counts);
        self.repeats += other.repeats;
        self.told = (self.told.0 + other.told.0, self.told.1 + other.told.1);
        for (held, other) in self.held.iter_mut().zip(other.held) {
            held.add(other);
        }
        self
    }

    fn sort(&mut self) {
        self.rankings.0.sort_by_key(|change| change.1);
        self.performance.0.sort_by_key(|change| change.1);
        self.attributions.0.sort_by_key(|change| change.1);
        self.compensations.0.sort_by_key(|change| change.1);
        self.late.sort();
        self.dead.sort();
        self.reports.sort_by_key(|(_, epoch)| *epoch);
    }

    /// Names its epochs as the history does, and leaves out what came of a checkpoint.
    fn rename(&mut self) {
        rename(&mut self.rankings.0, |change| &mut change.1);
        rename(&mut self.performance.0, |change| &mut change.1);
        rename(&mut self.attributions.0, |change| &mut change.1);
        rename(&mut self.compensations.0, |change| &mut change.1);
        rename(&mut self.late, |late| &mut late.1);
        rename(&mut self.dead, |dead| &mut dead.1);
        // With what the checkpoint knew, the run has begun.
        self.reports.iter_mut().for_each(|(_, epoch)| *epoch = epoch.saturating_sub(FIRST));
        self.watermarks.iter_mut().for_each(|(_, epoch)| *epoch = epoch.saturating_sub(FIRST));
        self.watermarks = in_effect(std::mem::take(&mut self.watermarks));
    }
}

fn rename<D>(changes: &mut Vec<D>, epoch: impl Fn(&mut D) -> &mut Epoch) {
    changes.retain_mut(|change| {
        let epoch = epoch(change);
        let after = *epoch >= FIRST;
        *epoch = epoch.saturating_sub(FIRST);
        after
    });
}

impl Held {
    fn add(&mut self, other: Held) {
        self.performance_rows += other.performance_rows;
        self.clicks += other.clicks;
        self.open_conversions += other.open_conversions;
        self.closed_conversions += other.closed_conversions;
        self.duplicate_groups += other.duplicate_groups;
    }

    fn of(state: &State) -> Held {
        Held {
            performance_rows: state.performance.rows.get(),
            clicks: state.matcher.as_of.candidates.get(),
            open_conversions: state.matcher.as_of.probes.get(),
            closed_conversions: state.matcher.openers.settled.get(),
            duplicate_groups: state.duplicates.groups.rows.get(),
        }
    }
}

fn go_on<D>(records: &mut Vec<(D, Epoch)>, other: Vec<(D, Epoch)>, cut: Epoch) {
    records.retain(|(_, epoch)| *epoch <= cut);
    records.extend(other.into_iter().filter(|(_, epoch)| *epoch > cut));
}

fn merge_counts(counts: &mut Counts, other: Counts) {
    for (good, other) in counts.good.iter_mut().zip(other.good) {
        *good += other;
    }
    for (reason, other) in other.bad {
        *counts.bad.entry(reason).or_default() += other;
    }
    for (statement, other) in other.late {
        *counts.late.entry(statement).or_default() += other;
    }
    counts.without_campaign += other.without_campaign;
    counts.ids.add(&other.ids);
    counts.spend += other.spend;
}

/// How a history is run.
#[derive(Clone, Default)]
pub struct Plan {
    /// Each epoch is worked off before the next one starts.
    pub settles: bool,
    /// The names of the epochs after the first; each by one greater than the one before if there are none.
    pub names: Vec<Epoch>,
    pub cuts: Vec<Cut>,
    /// How many epochs the boundaries lie apart at which checkpoints can be taken; none are taken without.
    pub interval: Option<u64>,
    /// Where it goes on; then the history is what comes after it.
    pub restore: Option<Checkpoint>,
}

impl Plan {
    /// What is added to the names of epochs: real ones come after what is restored.
    fn first(&self) -> Epoch {
        if self.interval.is_some() || self.restore.is_some() { FIRST } else { 0 }
    }

    fn dataflow_cuts(&self) -> Vec<Cut> {
        let restored = self.restore.iter();
        let restored =
            restored.flat_map(|from| Cut::of_checkpoint(self.first() + from.epoch, from.watermarks));
        restored.chain(self.cuts.iter().map(|cut| Cut { epoch: self.first() + cut.epoch, ..*cut })).collect()
    }
}

/// One worker's run.
fn work(worker: &mut Worker, history: &History, settings: &Settings, plan: &Plan) -> Run {
    let probe = ProbeHandle::new();
    let delta_log = plan.interval.map_or(DeltaLog::off(), DeltaLog::new);
    let (inputs, state, captured) = worker.dataflow::<Epoch, _, _>(|scope| {
        let (inputs, outputs, state) =
            replay(scope, settings, &plan.dataflow_cuts(), &delta_log, RoutingKey::default());
        (inputs, state, Captured::new(outputs, &probe))
    });
    let (index, peers) = (worker.index(), worker.peers());
    let mut feeder = Feeder {
        worker,
        ingest: Ingest::new(settings),
        inputs,
        state: &state,
        probe: &probe,
        partitions: BTreeMap::new(),
        settles: plan.settles,
        first: plan.first(),
        names: plan.names.iter(),
        held: Vec::new(),
        kept: Kept::new(),
    };
    // Partitions are dealt out as by the source of files.
    let mine = |place: &Place| (place.0 as usize + place.1 as usize) % peers == index;
    feeder.ingest.set_clock(NOW);
    match &plan.restore {
        Some(checkpoint) => feeder.restore(checkpoint, mine),
        None => feeder.start(history.initial_partitions().into_iter().filter(mine)),
    }
    for step in &history.steps {
        match step {
            Step::Record(place, bytes) if mine(place) => {
                let partition = feeder.partitions.get_mut(place).expect("it is there");
                feeder.ingest.record(partition.handle, partition.next_offset, bytes);
                partition.next_offset += 1;
                partition.changed = true;
            }
            Step::State(place, state) if mine(place) => feeder.set_state(*place, *state),
            Step::Record(..) | Step::State(..) => {}
            Step::Cut => {
                feeder.end_epoch();
                let passed = delta_log.passed();
                if feeder.kept.last().map_or(0, |(boundary, _)| *boundary) < passed {
                    feeder.kept.push((passed, delta_log.take(passed)));
                }
            }
        }
    }
    for partition in feeder.partitions.values_mut() {
        partition.state = PartitionState::Finished;
        partition.changed = true;
    }
    feeder.end_epoch();
    let Feeder { worker, ingest, inputs, mut held, kept, .. } = feeder;
    drop(inputs);
    worker.step_while(|| !probe.done());
    held.push(Held::of(&state));
    let mut run = captured.finish(ingest.counts().clone(), &state, held, kept);
    if plan.first() > 0 {
        run.rename();
    } else if !plan.cuts.is_empty() {
        run.watermarks = in_effect(run.watermarks);
    }
    run
}

/// What a replay says of its watermarks, in order: ahead of the cuts it may say how much takes effect behind
/// them, and more than once; the most counts.
fn in_effect(mut said: Vec<(Watermarks, Epoch)>) -> Vec<(Watermarks, Epoch)> {
    said.sort_by_key(|(_, since)| *since);
    let mut in_effect: Vec<(Watermarks, Epoch)> = Vec::new();
    for (watermarks, since) in said {
        let before = in_effect.last().map_or(Watermarks::MIN, |(before, _)| *before);
        in_effect.pop_if(|(_, last)| *last == since);
        in_effect.push((before.max(watermarks), since));
    }
    in_effect.dedup_by_key(|(watermarks, _)| *watermarks);
    in_effect
}

/// A partition that a worker feeds.
struct Partition {
    handle: PartitionHandle,
    next_offset: u64,
    state: PartitionState,
    changed: bool,
    /// It has just appeared or woken up, and must follow the others before its next record.
    wakes: bool,
}

/// Feeds one worker, as the engine does.
struct Feeder<'a> {
    worker: &'a mut Worker,
    ingest: Ingest,
    inputs: Inputs,
    state: &'a State,
    probe: &'a ProbeHandle<Epoch>,
    partitions: BTreeMap<Place, Partition>,
    settles: bool,
    /// The name of the history's first epoch.
    first: Epoch,
    names: std::slice::Iter<'a, Epoch>,
    held: Vec<Held>,
    kept: Kept,
}

impl Feeder<'_> {
    /// Epoch 0 says which partitions there are.
    fn start(&mut self, initial: impl Iterator<Item = Place>) {
        for place in initial {
            self.set_state(place, PartitionState::Active);
            self.partitions.get_mut(&place).expect("it was added").wakes = false;
        }
        self.report();
        self.inputs.send(self.ingest.batch());
        self.inputs.advance_to(self.first);
    }

    /// Gives back this worker's share of a checkpoint, in epochs of its own, and goes on with these
    /// partitions.
    fn restore(&mut self, checkpoint: &Checkpoint, mine: impl Fn(&Place) -> bool) {
        let share = checkpoint.pieces.iter().skip(self.worker.index()).step_by(self.worker.peers());
        for piece in share.cloned() {
            let next = self.inputs.epoch() + 1;
            self.inputs.restore(piece);
            self.inputs.advance_to(next);
            self.worker.step();
        }
        self.inputs.advance_to(RESTORED);
        self.ingest.forget(checkpoint.forgotten);
        for report in checkpoint.reports.iter().filter(|report| mine(&(report.topic, report.partition))) {
            let place = (report.topic, report.partition);
            let handle = self.ingest.add_partition(place.0, place.1, 0);
            self.ingest.restore(handle, report);
            self.ingest.follow(handle, checkpoint.watermarks);
            let (next_offset, state) = (report.next_offset, report.state);
            self.partitions
                .insert(place, Partition { handle, next_offset, state, changed: true, wakes: false });
        }
        self.report();
        self.inputs.send(self.ingest.batch());
        self.inputs.advance_to(self.first + checkpoint.epoch + 1);
    }

    fn set_state(&mut self, place: Place, state: PartitionState) {
        let ingest = &mut self.ingest;
        let partition = self.partitions.entry(place).or_insert_with(|| Partition {
            handle: ingest.add_partition(place.0, place.1, 0),
            next_offset: 0,
            state: PartitionState::Idle(None),
            changed: true,
            wakes: false,
        });
        partition.wakes = partition.state != PartitionState::Active && state == PartitionState::Active;
        partition.state = state;
        partition.changed = true;
    }

    fn report(&mut self) {
        for partition in self.partitions.values_mut() {
            if std::mem::take(&mut partition.changed) {
                self.ingest.report(partition.handle, partition.state);
            }
        }
    }

    fn end_epoch(&mut self) {
        self.report();
        self.inputs.send(self.ingest.batch());
        let next = self.names.next().map_or(self.inputs.epoch() + 1, |name| self.first + name);
        self.inputs.advance_to(next);
        let waking = self.partitions.values().any(|partition| partition.wakes);
        if self.settles || waking {
            self.worker.step_while(|| self.probe.less_than(&next));
            self.held.push(Held::of(self.state));
        } else {
            self.worker.step();
        }
        if waking {
            let view = self.state.watermarks.borrow();
            for (place, partition) in &mut self.partitions {
                if std::mem::take(&mut partition.wakes) {
                    self.ingest.follow(partition.handle, view.floors[place]);
                }
            }
        }
    }
}

/// What came out on one worker, as it comes.
struct Captured {
    rankings: Shared<(RankingRow, Epoch, isize)>,
    performance: Shared<(PerformanceRow, Epoch, isize)>,
    attributions: Shared<(AttributionRow, Epoch, isize)>,
    compensations: Shared<(Compensation, Epoch, isize)>,
    late: Shared<(LateEvent, Epoch)>,
    dead: Shared<(DeadLetter, Epoch)>,
    watermarks: Shared<(Watermarks, Epoch)>,
    reports: Shared<(PartitionReport, Epoch)>,
}

type Shared<D> = Rc<RefCell<Vec<D>>>;

impl Captured {
    fn new(outputs: Outputs<'_>, probe: &ProbeHandle<Epoch>) -> Captured {
        Captured {
            rankings: changes(outputs.rankings, probe),
            performance: changes(outputs.performance, probe),
            attributions: changes(outputs.attributions, probe),
            compensations: changes(outputs.compensations, probe),
            late: records(outputs.late, probe),
            dead: records(outputs.dead, probe),
            watermarks: records(outputs.watermarks, probe),
            reports: records(outputs.reports, probe),
        }
    }

    fn finish(self, counts: Counts, state: &State, held: Vec<Held>, kept: Kept) -> Run {
        Run {
            rankings: Changes(self.rankings.take()),
            performance: Changes(self.performance.take()),
            attributions: Changes(self.attributions.take()),
            compensations: Changes(self.compensations.take()),
            late: self.late.take(),
            dead: self.dead.take(),
            watermarks: self.watermarks.take(),
            counts,
            repeats: state.matcher.openers.repeats.get(),
            told: (state.duplicates.refunds.get(), state.ranked_campaigns.get()),
            held,
            reports: self.reports.take(),
            kept: vec![kept],
        }
    }
}

fn changes<D: Clone + 'static>(
    collection: VecCollection<'_, Epoch, D>,
    probe: &ProbeHandle<Epoch>,
) -> Shared<(D, Epoch, isize)> {
    let shared = Shared::default();
    let captured = Rc::clone(&shared);
    collection.inner.inspect(move |change| captured.borrow_mut().push(change.clone())).probe_with(probe);
    shared
}

/// Records with the epoch of their message.
fn records<D: Clone + 'static>(
    stream: StreamVec<'_, Epoch, D>,
    probe: &ProbeHandle<Epoch>,
) -> Shared<(D, Epoch)> {
    let shared = Shared::default();
    let captured = Rc::clone(&shared);
    let watched = stream.inspect_core(move |event| {
        if let Ok((stamp, records)) = event {
            let epoch = *stamp.expect_singleton();
            captured.borrow_mut().extend(records.iter().map(|record| (record.clone(), epoch)));
        }
    });
    watched.probe_with(probe);
    shared
}
