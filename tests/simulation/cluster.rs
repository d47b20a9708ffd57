//! The workers of a run.
//!
//! Each lives on a thread, as timely's allocators wait for each other when they are built; but only one of
//! them ever runs, and only when it is told to.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use adtide::checkpoint::Store;
use adtide::clock::Moment;
use adtide::engine::checkpoint::{self, Checkpointer, Coordinator};
use adtide::engine::control::Control;
use adtide::engine::driver::{Driver, Next, Parts};
use adtide::engine::jobs::{Job, Jobs};
use adtide::engine::outlets::{self, Takes};
use adtide::engine::restart::Sharing;
use adtide::engine::restore::Loader;
use adtide::engine::{EngineConfig, Monitor, Plan};
use adtide_dataflows::model::Epoch;
use adtide_dataflows::{DeltaLog, Ingest, replay};
use anyhow::{Context, bail, ensure};
use timely::communication::WorkerGuards;
use timely::dataflow::operators::probe::Handle;
use timely::worker::Worker;

use crate::clock::Clock;
use crate::dice::Dice;
use crate::log::Log;
use crate::sinks::Server;
use crate::source::{LogSource, Reading};

/// What the servers take, in their order.
const OUTLETS: [Takes; 3] = [Takes::Rankings, Takes::Tables, Takes::Records];

/// Jobs that wait for their turn, each of a worker.
#[derive(Clone, Default)]
pub struct Queue(Arc<Mutex<VecDeque<(usize, Job)>>>);

/// A worker's end of the queue.
struct Share {
    queue: Queue,
    worker: usize,
}

impl Queue {
    fn jobs(&self) -> std::sync::MutexGuard<'_, VecDeque<(usize, Job)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn len(&self) -> usize {
        self.jobs().len()
    }

    /// Whose job it is.
    pub fn worker(&self, at: usize) -> usize {
        self.jobs()[at].0
    }

    pub fn take(&self, at: usize) -> Option<Job> {
        self.jobs().remove(at).map(|(_, job)| job)
    }

    pub fn clear(&self) {
        self.jobs().clear();
    }
}

impl Jobs for Share {
    fn start(&self, job: Job) {
        self.queue.jobs().push_back((self.worker, job));
    }

    fn room(&self, _meant: usize) -> usize {
        // More than a small checkpoint has pieces.
        256
    }
}

/// What a worker is made of that all have in common.
#[derive(Clone)]
pub struct Setup {
    pub config: EngineConfig,
    pub plan: Plan,
    pub reading: Reading,
    pub log: Arc<Log>,
    pub clock: Arc<Clock>,
    pub servers: [Arc<Server>; 3],
    pub store: Arc<Store>,
    pub queue: Queue,
    pub monitor: Arc<Monitor>,
}

/// A run's workers.
pub struct Cluster {
    workers: Vec<Handed>,
    threads: Option<WorkerGuards<()>>,
}

/// A worker that waits for its turn.
struct Handed {
    orders: Option<Sender<Order>>,
    turns: Receiver<anyhow::Result<Turn>>,
    frontier: Option<Epoch>,
    has_ended: bool,
}

/// What a worker is told.
enum Order {
    /// To build its dataflows.
    Build(Dice),
    /// To take a step.
    Step { now: Moment, stop: bool },
}

/// What came of it.
struct Turn {
    next: Next,
    /// None when everything is committed.
    frontier: Option<Epoch>,
}

/// A worker's end of the channels.
type Ear = (Receiver<Order>, Sender<anyhow::Result<Turn>>);

impl Cluster {
    pub fn start(workers: usize, setup: &Setup, dice: &mut Dice) -> anyhow::Result<Cluster> {
        let (mut handed, mut ears) = (Vec::new(), Vec::new());
        for _ in 0..workers {
            let (orders, told) = channel();
            let (answers, turns) = channel();
            handed.push(Handed { orders: Some(orders), turns, frontier: Some(0), has_ended: false });
            ears.push(Some((told, answers)));
        }
        let (setup, ears) = (setup.clone(), Mutex::new(ears));
        let live = move |worker: &mut Worker| {
            let ear = ears.lock().unwrap_or_else(PoisonError::into_inner)[worker.index()].take();
            if let Some(ear) = ear {
                live(worker, &setup, ear);
            }
        };
        let threads = timely::execute(timely::Config::process(workers), live).map_err(anyhow::Error::msg)?;
        let mut cluster = Cluster { workers: handed, threads: Some(threads) };
        for worker in 0..workers {
            cluster.tell(worker, Order::Build(dice.split()))?;
        }
        Ok(cluster)
    }

    pub fn len(&self) -> usize {
        self.workers.len()
    }

    /// Lets a worker take a step, unless it has ended.
    pub fn step(&mut self, worker: usize, now: Moment, stop: bool) -> anyhow::Result<Option<Next>> {
        if self.workers[worker].has_ended {
            return Ok(None);
        }
        let next = self.tell(worker, Order::Step { now, stop })?;
        self.workers[worker].has_ended = matches!(next, Next::Done | Next::Abandoned);
        Ok(Some(next))
    }

    pub fn has_ended(&self) -> bool {
        self.workers.iter().all(|worker| worker.has_ended)
    }

    fn tell(&mut self, at: usize, order: Order) -> anyhow::Result<Next> {
        let worker = &mut self.workers[at];
        let told = worker.orders.as_ref().and_then(|orders| orders.send(order).ok());
        let Some(answer) = told.and_then(|()| worker.turns.recv().ok()) else {
            bail!("worker {at} has panicked: {}", self.panics());
        };
        let Turn { next, frontier } = answer.with_context(|| format!("worker {at} can't go on"))?;
        let last = worker.frontier;
        ensure!(
            frontier.unwrap_or(Epoch::MAX) >= last.unwrap_or(Epoch::MAX),
            "the frontier of worker {at} goes back from {last:?} to {frontier:?}"
        );
        worker.frontier = frontier;
        Ok(next)
    }
}

impl Cluster {
    /// Ends the workers where they are; what they said when they panicked.
    fn panics(&mut self) -> String {
        // One after the other, or what they leave behind would depend on who is faster.
        for worker in &mut self.workers {
            worker.orders = None;
            while worker.turns.recv().is_ok() {}
        }
        let ends = self.threads.take().map(|threads| threads.join()).unwrap_or_default();
        ends.into_iter().filter_map(Result::err).collect::<Vec<_>>().join("; ")
    }
}

/// Where it stands, it falls.
impl Drop for Cluster {
    fn drop(&mut self) {
        self.panics();
    }
}

/// A worker's life.
fn live(worker: &mut Worker, setup: &Setup, (orders, answers): Ear) {
    let Ok(Order::Build(mut dice)) = orders.recv() else { return };
    let mut sharing = Sharing::new(worker);
    // The worker that opens the sinks takes a while.
    let mut opening = if worker.index() == 0 { dice.below(6) } else { 0 };
    let _ = answers.send(Ok(Turn { next: Next::Step, frontier: Some(0) }));
    let mut parts = None;
    while let Ok(Order::Step { now, stop }) = orders.recv() {
        let Some((driver, probe)) = &mut parts else {
            if opening == 0 {
                sharing.give((worker.index() == 0).then(|| setup.plan.clone()));
            }
            opening = opening.saturating_sub(1);
            worker.step();
            let plan = sharing.plan();
            let turn = plan.map(|plan| {
                parts = plan.map(|plan| build(worker, setup, plan, dice.split()));
                Turn { next: Next::Step, frontier: Some(0) }
            });
            let _ = answers.send(turn);
            continue;
        };
        let next = driver.step(now, stop);
        worker.step();
        let frontier = probe.with_frontier(|frontier| frontier.first().copied());
        let _ = answers.send(next.map(|next| Turn { next, frontier }));
    }
    drop((parts, sharing));
    // Or timely would wait for them to end.
    for dataflow in worker.installed_dataflows() {
        worker.drop_dataflow(dataflow);
    }
}

/// As the engine's own workers are put together.
fn build(worker: &mut Worker, setup: &Setup, plan: Plan, dice: Dice) -> (Driver, Handle<Epoch>) {
    let (index, peers) = (worker.index(), worker.peers());
    let Setup { config, store, queue, monitor, .. } = setup.clone();
    let checkpoints = config.checkpoints.as_ref();
    let (interval, keep, max_waiting) =
        checkpoints.map_or((0, 1, 0), |kept| (kept.interval_ms(), kept.keep, kept.max_waiting()));
    let openers = if index == 0 {
        setup.servers.iter().map(|server| server.opener(plan.run.clone())).collect()
    } else {
        Vec::new()
    };
    let delta_log = DeltaLog::new(interval);
    let probe = Handle::new();
    let (inputs, state, snapshots) = worker.dataflow(|scope| {
        let (inputs, outputs, state) =
            replay(scope, &config.settings, &plan.dataflow_cuts(), &delta_log, plan.routing);
        outlets::connect(&outputs, &OUTLETS, openers, plan.rewrites_rankings, &probe);
        (inputs, state, checkpoint::snapshots(&outputs, &delta_log))
    });
    let jobs: Rc<dyn Jobs> = Rc::new(Share { queue, worker: index });
    let coordinator = (index == 0).then(|| {
        let (store, jobs, monitor) = (Arc::clone(&store), Rc::clone(&jobs), Arc::clone(&monitor));
        Coordinator::new(&plan, peers, keep, store, jobs, snapshots, monitor)
    });
    let control = Control::new(worker);
    let checkpointer = Checkpointer::new(
        control,
        index,
        delta_log,
        Arc::clone(&store),
        Rc::clone(&jobs),
        max_waiting,
        coordinator,
    );
    let loader = match &plan.checkpoint {
        Some(checkpoint) => Loader::start(&store, checkpoint, index, peers, &*jobs),
        None => Loader::nothing(),
    };
    let mut ingest = Ingest::new(&config.settings);
    ingest.forget(plan.forgotten());
    let source = LogSource::new(&setup.log, &setup.clock, setup.reading, (index, peers), dice);
    let source = Box::new(source);
    let now = setup.clock.moment();
    let parts = Parts {
        index,
        plan,
        ingest,
        inputs,
        state,
        probe: probe.clone(),
        source,
        loader,
        checkpointer,
        monitor,
    };
    (Driver::new(parts, &config.epochs, now), probe)
}
