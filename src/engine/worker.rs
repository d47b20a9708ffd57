//! One worker, from its share of the sources and sinks to their end.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use adtide_dataflows::{DeltaLog, Ingest, RoutingKey, replay};
use timely::dataflow::operators::probe::Handle;
use timely::worker::Worker;
use tracing::info;

use super::checkpoint::{self, Checkpointer, Coordinator};
use super::control::Control;
use super::driver::{Driver, Next, Parts};
use super::jobs::{Jobs, Threads};
use super::restore::Loader;
use super::{EngineConfig, Input, Monitor, loss, outlets, restart};
use crate::checkpoint::Store;
use crate::clock::Moment;
use crate::sink;

/// How a worker has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Everything is committed.
    Done,
    /// It was stopped before anything new was read.
    Abandoned,
}

/// Opens what this worker needs, agrees with the others on where to start, and drives the dataflow until the
/// input ends or `stop` is set; then waits for the sinks and the last checkpoint.
pub fn run(
    worker: &mut Worker,
    config: &EngineConfig,
    input: &Input,
    store: Option<&Arc<Store>>,
    monitor: &Arc<Monitor>,
    stop: &AtomicBool,
) -> anyhow::Result<End> {
    let (index, peers) = (worker.index(), worker.peers());
    let opened = if index == 0 {
        let (mut plan, sinks) =
            restart::open(config, input.describe()?, store.map(|store| &**store), monitor)?;
        // Asked for after the plan: until the sinks were taken over, another run may have committed to them.
        loss::check(&mut plan, &input.extents()?, |gaps| input.heads(gaps), config.accept_loss)?;
        plan.routing = RoutingKey::random();
        Some((plan, sinks))
    } else {
        None
    };
    let (plan, sinks) = opened.unzip();
    let plan = restart::share(worker, plan)?;
    if index == 0 {
        let epochs: Vec<_> = plan.cuts.iter().map(|cut| cut.epoch).collect();
        let checkpoint = plan.checkpoint.as_ref().map(|checkpoint| checkpoint.epoch);
        info!(source = plan.run.source, resume = plan.resume, ?checkpoint, replay_through = ?epochs, "restart plan");
    }
    let sinks = sinks.unwrap_or_default().into_iter().map(sink::on_thread).collect();
    let taken = config.checkpoints.as_ref().filter(|checkpoints| checkpoints.are_taken).zip(store);
    let delta_log =
        taken.map_or_else(DeltaLog::off, |(checkpoints, _)| DeltaLog::new(checkpoints.interval_ms()));
    let probe = Handle::new();
    let (inputs, state, snapshots) = worker.dataflow(|scope| {
        let (inputs, outputs, state) =
            replay(scope, &config.settings, &plan.dataflow_cuts(), &delta_log, plan.routing);
        let outlets = outlets::outlets(&config.sinks, &config.settings);
        outlets::connect(&outputs, &outlets, sinks, plan.rewrites_rankings, &probe);
        (inputs, state, checkpoint::snapshots(&outputs, &delta_log))
    });
    let jobs: Rc<dyn Jobs> = Rc::new(Threads);
    let control = Control::new(worker);
    let checkpointer = match taken {
        None => Checkpointer::off(control),
        Some((checkpoints, store)) => {
            let (store, jobs) = (Arc::clone(store), Rc::clone(&jobs));
            let coordinator = (index == 0).then(|| {
                let (store, jobs, monitor) = (Arc::clone(&store), Rc::clone(&jobs), Arc::clone(monitor));
                Coordinator::new(&plan, peers, checkpoints.keep, store, jobs, snapshots, monitor)
            });
            Checkpointer::new(control, index, delta_log, store, jobs, checkpoints.max_waiting(), coordinator)
        }
    };
    let loader = match (&plan.checkpoint, store) {
        (Some(checkpoint), Some(store)) => Loader::start(store, checkpoint, index, peers, &*jobs),
        _ => Loader::nothing(),
    };
    let mut ingest = Ingest::new(&config.settings);
    ingest.forget(plan.forgotten());
    let source = input.source(index, peers);
    let monitor = Arc::clone(monitor);
    let parts = Parts { index, plan, ingest, inputs, state, probe, source, loader, checkpointer, monitor };
    drive(worker, Driver::new(parts, &config.epochs, Moment::now()), stop)
}

fn drive(worker: &mut Worker, mut driver: Driver, stop: &AtomicBool) -> anyhow::Result<End> {
    loop {
        match driver.step(Moment::now(), stop.load(Ordering::Relaxed))? {
            Next::Step => worker.step(),
            Next::Wait(pause) => worker.step_or_park(Some(pause)),
            Next::Done => return Ok(End::Done),
            Next::Abandoned => return Ok(End::Abandoned),
        };
    }
}
