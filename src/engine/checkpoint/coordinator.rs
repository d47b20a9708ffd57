//! Which epochs become checkpoints, and when each is one.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use adtide_dataflows::model::Epoch;
use adtide_dataflows::operators::Watermarks;
use adtide_dataflows::{LAST, Memory};
use timely::dataflow::operators::probe::Handle;
use tracing::{debug, info, warn};

use super::Snapshots;
use crate::checkpoint::{Manifest, Segment, Store, live, to_merge};
use crate::engine::control::Saved;
use crate::engine::jobs::{Jobs, Task};
use crate::engine::{Monitor, Plan};
use crate::sink::{Progress, Run};

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

    /// Whether a checkpoint is being completed.
    pub(super) fn is_writing(&self) -> bool {
        self.writing.is_some()
    }

    pub(super) fn hear(&mut self, saved: Saved) {
        self.saved.entry(saved.boundary).or_default().push(saved);
    }

    /// A worker could not write up to an epoch: it writes what it has with one that is chosen anew.
    pub(super) fn give_up(&mut self, epoch: Epoch, now: Instant) {
        if self.chosen == (epoch, true) {
            self.chosen.1 = false;
            self.retry_at = Some(now + RETRY);
        }
    }

    /// Completes the checkpoint of the chosen epoch when all have written and committed up to it; then
    /// chooses the last one that this worker has `passed`. The others have passed it or will.
    pub(super) fn step(&mut self, probe: &Handle<Epoch>, passed: Epoch, now: Instant) -> Option<Epoch> {
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
            let saved: BTreeSet<_> =
                self.saved.get(&chosen).into_iter().flatten().map(|saved| saved.worker).collect();
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
        let is_new = |last: &Progress| {
            (&last.partitions, &last.watermarks) != (&progress.partitions, &progress.watermarks)
        };
        let is_restored = boundary <= self.last_epoch();
        if is_restored
            || progress.has_ended()
            || new.is_empty() && self.last.as_ref().is_some_and(|last| !is_new(last))
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
            info!(
                epoch = manifest.epoch,
                segments = segments.len(),
                written = manifest.written_bytes,
                "checkpoint"
            );
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
