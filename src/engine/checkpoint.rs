//! Taking checkpoints while the dataflow goes on.
//!
//! What entered a worker's state is kept by that worker, boundary by boundary (see [`DeltaLog`]), beside the
//! dataflow. Worker 0 chooses one of the boundaries, the checkpoint epoch, and each worker writes what it has
//! kept up to it, in its own time. Worker 0 writes the manifest, which makes it a checkpoint, when all have
//! written up to the epoch and all sinks have committed up to it: then no sink will ever need again what the
//! checkpoint no longer knows. Then it chooses the next.
//!
//! While the store is slow or away, what waits for it is counted in bytes. Above a bound the worker stops
//! reading.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use adtide_dataflows::model::Epoch;
use adtide_dataflows::operators::{Stash, Watermarks};
use adtide_dataflows::{DeltaLog, LAST, Memory, Outputs, StateDelta};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::generic::operator::Operator;
use timely::dataflow::operators::probe::Handle;
use tracing::{debug, info, warn};

use super::control::{Control, Saved, Word};
use super::jobs::{Jobs, Task};
use super::{Monitor, Plan};
use crate::checkpoint::{Manifest, Segment, Store, live, to_merge};
use crate::sink::{self, Progress, Run};

/// The worker that writes manifests.
const COORDINATOR: usize = 0;

/// How far the sources had read by each boundary, at the worker that has to know it.
pub type Snapshots = Rc<RefCell<BTreeMap<Epoch, Progress>>>;

/// Keeps, on the worker that writes manifests, what a sink would store as its progress at each boundary.
pub fn snapshots(outputs: &Outputs<'_>, delta_log: &DeltaLog) -> Snapshots {
    let progress = sink::progress(outputs);
    let is_mine = progress.scope().index() == COORDINATOR;
    let snapshots = Snapshots::default();
    let shared = Rc::clone(&snapshots);
    let mut recorder = is_mine.then(|| delta_log.recorder());
    progress.unary_frontier::<CapacityContainerBuilder<Vec<()>>, _, _, _>(
        Exchange::new(|_| COORDINATOR as u64),
        "Snapshots",
        move |_capability, _info| {
            let mut stash = Stash::default();
            let mut progress = Progress::default();
            move |(input, frontier), _output| {
                input.for_each(|capability, changes| stash.append(&capability, changes));
                let Some(recorder) = &mut recorder else { return };
                let mut reach = |epoch, progress: &Progress| {
                    let boundary = recorder.boundary();
                    recorder.reach(epoch, |_| drop(shared.borrow_mut().insert(boundary, progress.clone())));
                };
                while let Some((capability, changes)) = stash.next_complete(&[frontier]) {
                    let epoch = *capability.time();
                    reach(epoch, &progress);
                    progress.epoch = epoch;
                    for change in &changes {
                        progress.note(change);
                    }
                }
                reach(frontier.frontier().first().copied().unwrap_or(Epoch::MAX), &progress);
            }
        },
    );
    snapshots
}

/// A worker's part in taking checkpoints, and its ear for what the others say.
pub struct Checkpointer {
    control: Control,
    keeping: Option<Keeping>,
    is_leaving: bool,
}

/// What is needed where checkpoints are taken.
struct Keeping {
    worker: usize,
    delta_log: DeltaLog,
    store: Arc<Store>,
    jobs: Rc<dyn Jobs>,
    /// The checkpoint epoch up to which is to be written next, once this worker has passed it.
    chosen: Option<Epoch>,
    /// What was taken from the delta log and could not be written.
    unwritten: StateDelta,
    writing: Option<Task<Written>>,
    /// About how many bytes are being written.
    writing_bytes: usize,
    /// The last checkpoint epoch up to which everything is written, or was given up.
    written: Epoch,
    /// How many bytes may wait to be written before nothing more is read.
    max_waiting: usize,
    is_full: bool,
    coordinator: Option<Coordinator>,
}

struct Written {
    boundary: Epoch,
    result: Result<Vec<Segment>, (anyhow::Error, StateDelta)>,
}

impl Checkpointer {
    /// Takes no checkpoints.
    pub fn off(control: Control) -> Checkpointer {
        Checkpointer { control, keeping: None, is_leaving: false }
    }

    /// Writes what the delta log gives. No more than about `max_waiting` bytes wait for the store.
    /// `coordinator` is there on worker 0.
    pub fn new(
        control: Control,
        worker: usize,
        delta_log: DeltaLog,
        store: Arc<Store>,
        jobs: Rc<dyn Jobs>,
        max_waiting: usize,
        coordinator: Option<Coordinator>,
    ) -> Checkpointer {
        let keeping = Keeping {
            worker,
            delta_log,
            store,
            jobs,
            chosen: None,
            unwritten: StateDelta::default(),
            writing: None,
            writing_bytes: 0,
            written: 0,
            max_waiting,
            is_full: false,
            coordinator,
        };
        Checkpointer { control, keeping: Some(keeping), is_leaving: false }
    }

    /// Continues what is under way, at `now`.
    pub fn step(&mut self, probe: &Handle<Epoch>, now: Instant) {
        while let Some(word) = self.control.hear() {
            if let Some(keeping) = &mut self.keeping {
                keeping.hear(word, now);
            }
        }
        let Some(keeping) = &mut self.keeping else { return };
        let passed = keeping.delta_log.passed();
        let coordinator = keeping.coordinator.as_mut();
        let chosen = coordinator.and_then(|coordinator| coordinator.step(probe, passed, now)).map(Word::Checkpoint);
        for word in chosen.into_iter().chain(keeping.step()) {
            self.control.say(word);
        }
        if self.is_leaving && keeping.written == LAST {
            self.control.close();
        }
    }

    /// Whether as much waits to be written as may: nothing more is to be read.
    pub fn is_full(&self) -> bool {
        self.keeping.as_ref().is_some_and(|keeping| keeping.is_full)
    }

    /// About how many bytes wait to be written, or are being written.
    pub fn waiting(&self) -> usize {
        self.keeping.as_ref().map_or(0, Keeping::waiting)
    }

    /// Whether somebody has said that all are to stop.
    pub fn is_stopping(&self) -> bool {
        self.control.is_stopping()
    }

    /// Says to all workers of all processes that they are to stop.
    pub fn stop(&mut self) {
        self.control.stop();
    }

    /// Whether some worker ends without completing its epochs.
    pub fn is_abandoning(&self) -> bool {
        self.control.is_abandoning()
    }

    /// Makes all workers end as they are, and takes no last checkpoint: nothing new will be committed.
    pub fn abandon(&mut self) {
        self.keeping = None;
        self.control.say(Word::Abandon);
        self.control.close();
    }

    /// Says that all epochs are done: what is left is the last checkpoint.
    pub fn leave(&mut self) {
        self.is_leaving = true;
        if self.keeping.is_none() {
            self.control.close();
        }
    }

    /// After [`Checkpointer::leave`]: whether the last checkpoint is there, as far as this worker has to
    /// care.
    pub fn has_left(&self) -> bool {
        let coordinator = self.keeping.as_ref().and_then(|keeping| keeping.coordinator.as_ref());
        self.control.is_closed() && coordinator.is_none_or(|coordinator| coordinator.writing.is_none())
    }
}

impl Keeping {
    fn hear(&mut self, word: Word, now: Instant) {
        match (word, &mut self.coordinator) {
            (Word::Checkpoint(epoch), _) => self.chosen = Some(epoch).filter(|epoch| *epoch > self.written),
            (Word::Saved(saved), Some(coordinator)) => coordinator.hear(saved),
            (Word::NotSaved(epoch), Some(coordinator)) => coordinator.give_up(epoch, now),
            _ => {}
        }
    }

    fn waiting(&self) -> usize {
        self.delta_log.bytes() + self.unwritten.bytes() + self.writing_bytes
    }

    /// Writes what entered by the chosen epoch; what came of that, if it is done.
    fn step(&mut self) -> Option<Word> {
        let word = self.writing.as_ref().and_then(Task::poll).map(|written| self.take_note(written));
        if self.writing.is_none()
            && let Some(boundary) = self.chosen.take_if(|chosen| *chosen <= self.delta_log.passed())
        {
            let mut delta = std::mem::take(&mut self.unwritten);
            if !delta.is_empty() {
                // It may have failed for long: of many increments and upserts of one key only one is left.
                delta.append(self.delta_log.take(boundary));
                delta.compact(&Watermarks::MIN, Memory { lookback: 0, repeat_within: 0 });
            } else {
                delta = self.delta_log.take(boundary);
            }
            self.writing_bytes = delta.bytes();
            let (store, worker) = (Arc::clone(&self.store), self.worker);
            self.writing = Some(Task::start(&*self.jobs, move || {
                let result = store.write(boundary, worker, &mut delta).map_err(|error| (error, delta));
                Written { boundary, result }
            }));
        }
        self.look_after_room();
        word
    }

    fn look_after_room(&mut self) {
        let waiting = self.waiting();
        let is_full = waiting > self.max_waiting;
        if is_full && !self.is_full {
            let store = self.store.place();
            warn!(
                waiting,
                "{store} does not take what is to be written for checkpoints; nothing more is read until it has (the key is \
                 checkpoint.max_waiting_bytes)"
            );
        } else if !is_full && self.is_full {
            info!(waiting, "reading again: {} has taken what was to be written", self.store.place());
        }
        self.is_full = is_full;
    }

    fn take_note(&mut self, written: Written) -> Word {
        let Written { boundary, result } = written;
        self.writing = None;
        self.writing_bytes = 0;
        match result {
            Ok(segments) => {
                self.written = boundary;
                // It may have been chosen once more meanwhile, because another worker failed.
                self.chosen = self.chosen.filter(|chosen| *chosen > boundary);
                Word::Saved(Saved { worker: self.worker, boundary, segments })
            }
            Err((error, delta)) => {
                warn!("a checkpoint could not be written: {error:#}; the next one will hold what this one would have");
                self.unwritten = delta;
                if boundary == LAST {
                    self.written = LAST;
                }
                Word::NotSaved(boundary)
            }
        }
    }
}

/// How long after a failure the next checkpoint is tried.
const RETRY: Duration = Duration::from_secs(5);

/// What came of a checkpoint.
struct Completed {
    /// The segments that the next one continues.
    segments: Vec<Segment>,
    /// Whether it is there.
    is_committed: bool,
    /// The old ones that are gone.
    pruned: Vec<Epoch>,
}

/// Chooses the epochs of checkpoints, one at a time, and makes a checkpoint of what all workers have written
/// up to it.
///
/// Each worker writes when it has passed the epoch that was chosen, however far it is by then, and however
/// long the others take. Were each to choose for itself, slow writers might never meet on one.
pub struct Coordinator {
    store: Arc<Store>,
    jobs: Rc<dyn Jobs>,
    monitor: Arc<Monitor>,
    run: Run,
    workers: usize,
    keep: usize,
    /// The epochs of the checkpoints of these results, the newest last. Others are none of this run's
    /// business.
    kept: Vec<Epoch>,
    /// The epoch that was chosen last, and whether all are still at it.
    chosen: (Epoch, bool),
    /// After a failure: when to try again.
    retry_at: Option<Instant>,
    /// Whether this run has made one.
    has_committed: bool,
    snapshots: Snapshots,
    /// What was written since the last checkpoint, by boundary.
    saved: BTreeMap<Epoch, Vec<Saved>>,
    /// The segments that hold the state by the last checkpoint.
    segments: Vec<Segment>,
    /// What was forgotten by the last checkpoint.
    forgotten: Watermarks,
    last: Option<Progress>,
    writing: Option<Task<Completed>>,
}

impl Coordinator {
    /// Goes on from the plan's checkpoint.
    pub fn new(
        plan: &Plan,
        workers: usize,
        keep: usize,
        store: Arc<Store>,
        jobs: Rc<dyn Jobs>,
        snapshots: Snapshots,
        monitor: Arc<Monitor>,
    ) -> Coordinator {
        let checkpoint = plan.checkpoint.as_ref();
        Coordinator {
            store,
            jobs,
            monitor,
            run: plan.run.clone(),
            workers,
            keep,
            kept: plan.lineage.clone(),
            chosen: (0, false),
            retry_at: None,
            has_committed: false,
            snapshots,
            saved: BTreeMap::new(),
            segments: checkpoint.map(|checkpoint| checkpoint.segments.clone()).unwrap_or_default(),
            forgotten: plan.forgotten(),
            last: checkpoint.map(|checkpoint| checkpoint.progress.clone()),
            writing: None,
        }
    }

    fn hear(&mut self, saved: Saved) {
        self.saved.entry(saved.boundary).or_default().push(saved);
    }

    /// A worker could not write up to an epoch: it writes what it has with one that is chosen anew.
    fn give_up(&mut self, epoch: Epoch, now: Instant) {
        if self.chosen == (epoch, true) {
            self.chosen.1 = false;
            self.retry_at = Some(now + RETRY);
        }
    }

    /// Completes the checkpoint of the chosen epoch when all have written and committed up to it; then
    /// chooses the last one that this worker has `passed`. The others have passed it or will.
    fn step(&mut self, probe: &Handle<Epoch>, passed: Epoch, now: Instant) -> Option<Epoch> {
        if let Some(completed) = self.writing.as_ref().and_then(Task::poll) {
            self.writing = None;
            self.segments = completed.segments;
            self.has_committed |= completed.is_committed;
            if !completed.is_committed {
                self.last = None;
            }
            self.kept.retain(|epoch| !completed.pruned.contains(epoch));
        }
        if self.writing.is_some() {
            return None;
        }
        let (chosen, is_open) = self.chosen;
        if is_open {
            let saved: BTreeSet<_> = self.saved.get(&chosen).into_iter().flatten().map(|saved| saved.worker).collect();
            if saved.len() == self.workers && !probe.less_equal(&chosen) {
                self.chosen.1 = false;
                self.complete(chosen);
            }
            return None;
        }
        let is_retried = self.retry_at.is_some_and(|at| now >= at) && chosen != LAST;
        if is_retried || self.retry_at.is_none() && passed > chosen || passed == LAST && chosen != LAST {
            self.retry_at = None;
            self.chosen = (passed.max(chosen), true);
            self.forget_snapshots(self.chosen.0);
            return Some(self.chosen.0);
        }
        None
    }

    /// Makes a checkpoint of a boundary.
    fn complete(&mut self, boundary: Epoch) {
        let later = self.saved.split_off(&(boundary + 1));
        let saved = std::mem::replace(&mut self.saved, later);
        let progress = self.progress_at(boundary);
        let new: Vec<_> = saved.into_values().flatten().flat_map(|saved| saved.segments).collect();
        let is_new =
            |last: &Progress| (&last.partitions, &last.watermarks) != (&progress.partitions, &progress.watermarks);
        let is_restored = boundary <= self.last_epoch();
        if is_restored || progress.has_ended() || new.is_empty() && self.last.as_ref().is_some_and(|last| !is_new(last))
        {
            debug!(boundary, "nothing for a checkpoint");
            self.segments.extend(new);
            return;
        }
        let written = new.iter().map(|segment| segment.bytes).sum();
        let settings = &self.run.settings;
        let watermarks = progress.watermarks.unwrap_or(Watermarks::MIN);
        // For good: settings may allow more lateness after a restart.
        self.forgotten = self.forgotten.max(watermarks.earlier(settings.allowed_lateness));
        let mut segments = std::mem::take(&mut self.segments);
        segments.extend(new);
        let segments = live(segments, &self.forgotten, settings.memory());
        // The last boundary has no name of its own.
        let epoch = if boundary == LAST { progress.epoch.max(self.last_epoch() + 1) } else { boundary };
        let progress = Progress { epoch, ..progress };
        self.last = Some(progress.clone());
        let manifest = Manifest::new(epoch, self.run.clone(), progress, self.forgotten, segments, written);
        self.write(manifest);
    }

    fn last_epoch(&self) -> Epoch {
        self.last.as_ref().map_or(0, |last| last.epoch)
    }

    /// How far the sources had read by a boundary: what was kept at the last one up to it.
    fn progress_at(&mut self, boundary: Epoch) -> Progress {
        self.forget_snapshots(boundary);
        let snapshots = self.snapshots.borrow();
        let progress = snapshots.range(..=boundary).next_back().map(|(_, progress)| progress.clone());
        progress.or_else(|| self.last.clone()).unwrap_or_default()
    }

    /// Drops the snapshots before the last one up to a boundary.
    fn forget_snapshots(&self, boundary: Epoch) {
        let mut snapshots = self.snapshots.borrow_mut();
        let newest = snapshots.range(..=boundary).next_back().map(|(epoch, _)| *epoch);
        if let Some(newest) = newest {
            *snapshots = snapshots.split_off(&newest);
        }
    }

    fn write(&mut self, manifest: Manifest) {
        self.kept.push(manifest.epoch);
        let surplus = self.kept.len().saturating_sub(self.keep);
        let surplus = self.kept[..surplus].to_vec();
        let (store, memory) = (Arc::clone(&self.store), self.run.settings.memory());
        let (monitor, is_first) = (Arc::clone(&self.monitor), !self.has_committed);
        self.writing = Some(Task::start(&*self.jobs, move || {
            let segments = manifest.segments.clone();
            let committed = if is_first { store.check_there(&segments) } else { Ok(()) };
            if let Err(error) = committed.and_then(|()| store.commit(&manifest)) {
                warn!("a checkpoint could not be completed: {error:#}; the one before is current");
                return Completed { segments, is_committed: false, pruned: vec![manifest.epoch] };
            }
            info!(epoch = manifest.epoch, segments = segments.len(), written = manifest.written_bytes, "checkpoint");
            monitor.has_checkpoint(&manifest);
            let segments = merge(&store, segments, &manifest.forgotten, memory);
            let pruned = store.prune(&surplus, &segments).map(|()| surplus);
            let pruned = pruned.unwrap_or_else(|error| {
                warn!("old checkpoints could not be deleted: {error:#}");
                Vec::new()
            });
            Completed { segments, is_committed: true, pruned }
        }));
    }
}

/// Merges small segments for the next checkpoint; what can't be merged stays as it is.
fn merge(store: &Store, mut segments: Vec<Segment>, forgotten: &Watermarks, memory: Memory) -> Vec<Segment> {
    while let Some(group) = to_merge(&segments) {
        match store.merge(&group, forgotten, memory) {
            Ok(merged) => {
                segments.retain(|segment| !group.iter().any(|part| part.name == segment.name));
                segments.extend(merged);
            }
            Err(error) => {
                warn!("segments of a checkpoint could not be merged: {error:#}");
                break;
            }
        }
    }
    segments
}
