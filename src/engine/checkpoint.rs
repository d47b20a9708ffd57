//! Taking checkpoints while the dataflow goes on.
//!
//! What entered a worker's state is written by that worker, boundary by boundary (see
//! [`Journal`]), beside the dataflow. Each tells worker 0 what it wrote. Worker 0 writes the
//! manifest, which makes it a checkpoint, when all have written up to a boundary and all sinks have committed all epochs
//! up to it: then no sink will ever have to be told again what the checkpoint no longer knows.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use adtide_dataflows::model::Epoch;
use adtide_dataflows::operators::{Stash, Watermarks};
use adtide_dataflows::{Entered, Journal, LAST, Memory, Outputs};
use serde::{Deserialize, Serialize};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::generic::operator::Operator;
use timely::dataflow::operators::probe::Handle;
use tracing::{debug, info, warn};

use super::control::{Control, Word};
use super::jobs::{Jobs, Task};
use super::{Monitor, Plan};
use crate::checkpoint::{Manifest, Segment, Store, live, to_merge};
use crate::sink::{self, Progress, Run};

/// The worker that writes manifests.
const COORDINATOR: usize = 0;

/// What a worker has written: all that entered its state since the boundary before.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Saved {
    /// The worker.
    pub worker: usize,
    /// The boundary up to which it is; [`LAST`] after the last epoch.
    pub boundary: Epoch,
    /// Where it is.
    pub segments: Vec<Segment>,
}

/// How far the sources had read by each boundary, at the worker that has to know it.
pub type Snapshots = Rc<RefCell<BTreeMap<Epoch, Progress>>>;

/// Keeps, on the worker that writes manifests, what a sink would store as its progress at each boundary.
pub fn snapshots(outputs: &Outputs<'_>, journal: &Journal) -> Snapshots {
    let progress = sink::progress(outputs);
    let is_mine = progress.scope().index() == COORDINATOR;
    let snapshots = Snapshots::default();
    let shared = Rc::clone(&snapshots);
    let mut keeper = is_mine.then(|| journal.keeper());
    progress.unary_frontier::<CapacityContainerBuilder<Vec<()>>, _, _, _>(
        Exchange::new(|_| COORDINATOR as u64),
        "Snapshots",
        move |_capability, _info| {
            let mut stash = Stash::default();
            let mut progress = Progress::default();
            move |(input, frontier), _output| {
                input.for_each(|capability, changes| stash.append(&capability, changes));
                let Some(keeper) = &mut keeper else { return };
                let mut reach = |epoch, progress: &Progress| {
                    let boundary = keeper.boundary();
                    keeper.reach(epoch, |_| drop(shared.borrow_mut().insert(boundary, progress.clone())));
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
    journal: Journal,
    store: Arc<Store>,
    jobs: Rc<dyn Jobs>,
    /// What was taken from the journal and is not being written yet.
    waiting: Option<(Epoch, Entered)>,
    writing: Option<Task<Written>>,
    /// The last boundary up to which everything is written, or was given up.
    written: Epoch,
    coordinator: Option<Coordinator>,
}

struct Written {
    boundary: Epoch,
    result: Result<Vec<Segment>, (anyhow::Error, Entered)>,
}

impl Checkpointer {
    /// Takes no checkpoints.
    pub fn off(control: Control) -> Checkpointer {
        Checkpointer { control, keeping: None, is_leaving: false }
    }

    /// Takes what the journal gives. `coordinator` is there on worker 0.
    pub fn new(
        control: Control,
        worker: usize,
        journal: Journal,
        store: Arc<Store>,
        jobs: Rc<dyn Jobs>,
        coordinator: Option<Coordinator>,
    ) -> Checkpointer {
        let keeping = Keeping { worker, journal, store, jobs, waiting: None, writing: None, written: 0, coordinator };
        Checkpointer { control, keeping: Some(keeping), is_leaving: false }
    }

    /// Goes on with what is under way.
    pub fn step(&mut self, probe: &Handle<Epoch>) {
        while let Some(word) = self.control.hear() {
            if let (Word::Saved(saved), Some(Keeping { coordinator: Some(coordinator), .. })) =
                (word, &mut self.keeping)
            {
                coordinator.hear(saved);
            }
        }
        let Some(keeping) = &mut self.keeping else { return };
        if let Some(saved) = keeping.step() {
            self.control.say(Word::Saved(saved));
        }
        if let Some(coordinator) = &mut keeping.coordinator {
            coordinator.step(probe);
        }
        if self.is_leaving && keeping.written == LAST {
            self.control.close();
        }
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

    /// After [`Checkpointer::leave`]: whether the last checkpoint is there, as far as this worker has to care.
    pub fn has_left(&self) -> bool {
        let coordinator = self.keeping.as_ref().and_then(|keeping| keeping.coordinator.as_ref());
        self.control.is_closed() && coordinator.is_none_or(|coordinator| coordinator.writing.is_none())
    }
}

impl Keeping {
    /// Takes what there is and writes it; gives what was written.
    fn step(&mut self) -> Option<Saved> {
        if let Some((boundary, entered)) = self.journal.take() {
            let mut waiting = self.waiting.take().unwrap_or_default();
            waiting.0 = boundary;
            waiting.1.append(entered);
            self.waiting = Some(waiting);
        }
        let saved = self.writing.as_ref().and_then(Task::poll).and_then(|written| self.take_note(written));
        if self.writing.is_none()
            && let Some((boundary, entered)) = self.waiting.take_if(|(boundary, _)| *boundary > self.written)
        {
            let (store, worker, mut entered) = (Arc::clone(&self.store), self.worker, entered);
            self.writing = Some(Task::start(&*self.jobs, move || {
                let result = store.write(boundary, worker, &mut entered).map_err(|error| (error, entered));
                Written { boundary, result }
            }));
        }
        saved
    }

    fn take_note(&mut self, written: Written) -> Option<Saved> {
        let Written { boundary, result } = written;
        self.writing = None;
        self.written = boundary;
        match result {
            Ok(segments) => Some(Saved { worker: self.worker, boundary, segments }),
            Err((error, entered)) => {
                warn!("a checkpoint could not be written: {error:#}; the next one will hold what this one would have");
                // It goes with the next boundary.
                let (later, more) = self.waiting.take().unwrap_or_default();
                let mut all = entered;
                all.append(more);
                self.waiting = Some((later.max(boundary), all));
                None
            }
        }
    }
}

/// What came of a checkpoint: the segments to go on with, and why there is none if so.
type Completed = Result<Vec<Segment>, (anyhow::Error, Vec<Segment>)>;

/// Makes checkpoints of what the workers have written.
pub struct Coordinator {
    store: Arc<Store>,
    jobs: Rc<dyn Jobs>,
    monitor: Arc<Monitor>,
    run: Run,
    workers: usize,
    keep: usize,
    /// The epochs of the checkpoints that are kept, the newest last.
    kept: Vec<Epoch>,
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
            kept: checkpoint.map(|checkpoint| checkpoint.epoch).into_iter().collect(),
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

    fn step(&mut self, probe: &Handle<Epoch>) {
        if let Some(result) = self.writing.as_ref().and_then(Task::poll) {
            self.writing = None;
            self.segments = result.unwrap_or_else(|(error, segments)| {
                warn!("a checkpoint could not be completed: {error:#}; the one before stands");
                self.last = None;
                segments
            });
        }
        if self.writing.is_some() {
            return;
        }
        // All have written up to it, and every sink has committed up to it.
        let is_complete =
            |boundary: Epoch, saved: &[Saved]| saved.len() == self.workers && !probe.less_equal(&boundary);
        let complete = self.saved.iter().rev().find(|(boundary, saved)| is_complete(**boundary, saved));
        if let Some((&boundary, _)) = complete {
            self.complete(boundary);
        }
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
        let mut snapshots = self.snapshots.borrow_mut();
        let progress = snapshots.range(..=boundary).next_back().map(|(_, progress)| progress.clone());
        let progress = progress.or_else(|| self.last.clone()).unwrap_or_default();
        *snapshots = snapshots.split_off(&boundary);
        snapshots.insert(boundary, progress.clone());
        progress
    }

    fn write(&mut self, manifest: Manifest) {
        self.kept.push(manifest.epoch);
        let surplus = self.kept.len().saturating_sub(self.keep);
        self.kept.drain(..surplus);
        let (store, kept, memory) = (Arc::clone(&self.store), self.kept.clone(), self.run.settings.memory());
        let monitor = Arc::clone(&self.monitor);
        self.writing = Some(Task::start(&*self.jobs, move || {
            let segments = manifest.segments.clone();
            store.commit(&manifest).map_err(|error| (error, segments.clone()))?;
            info!(epoch = manifest.epoch, segments = segments.len(), written = manifest.written_bytes, "checkpoint");
            monitor.has_checkpoint(&manifest);
            let segments = merge(&store, segments, &manifest.forgotten, memory);
            if let Err(error) = store.prune(&kept, &segments) {
                warn!("old checkpoints could not be deleted: {error:#}");
            }
            Ok(segments)
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
