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

mod coordinator;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use adtide_dataflows::model::Epoch;
use adtide_dataflows::operators::{Stash, Watermarks};
use adtide_dataflows::{DeltaLog, LAST, Memory, Outputs, StateDelta};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::generic::operator::Operator;
use timely::dataflow::operators::probe::Handle;
use tracing::{info, warn};

pub use coordinator::Coordinator;

use super::control::{Control, Saved, Word};
use super::jobs::{Jobs, Task};
use crate::checkpoint::{Segment, Store};
use crate::sink::{self, Progress};

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
        let chosen =
            coordinator.and_then(|coordinator| coordinator.step(probe, passed, now)).map(Word::Checkpoint);
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
        self.control.is_closed() && coordinator.is_none_or(|coordinator| !coordinator.is_writing())
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
                warn!(
                    "a checkpoint could not be written: {error:#}; the next one will hold what this one would have"
                );
                self.unwritten = delta;
                if boundary == LAST {
                    self.written = LAST;
                }
                Word::NotSaved(boundary)
            }
        }
    }
}
