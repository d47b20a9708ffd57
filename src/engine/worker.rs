//! One worker's loop.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use adtide_dataflows::model::Epoch;
use adtide_dataflows::{Ingest, Inputs, State, Statement, replay};
use timely::dataflow::operators::probe::Handle;
use timely::worker::Worker;
use tracing::{debug, info};

use super::clock::EpochClock;
use super::control::{Control, Word};
use super::{EngineConfig, Held, Input, Monitor, Phase, Plan, WorkerStatus, outlets, restart};
use crate::sink::Progress;
use crate::source::{Poll, Source};

/// How often a worker that can't end an epoch says how it is doing.
const REPORT: Duration = Duration::from_secs(1);

/// How a worker has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Everything is committed.
    Done,
    /// It was stopped before anything new was read.
    Abandoned,
}

/// Replays what the sinks have committed, then reads, cuts epochs and steps the dataflow until the input ends or `stop`
/// is set, here or in another process; then waits for the sinks.
pub fn run(
    worker: &mut Worker,
    config: &EngineConfig,
    input: &Input,
    monitor: &Monitor,
    stop: &AtomicBool,
) -> anyhow::Result<End> {
    let opened = if worker.index() == 0 { Some(restart::open(config, input.describe()?, monitor)?) } else { None };
    let (plan, sinks) = opened.unzip();
    let plan = restart::share(worker, plan)?;
    if worker.index() == 0 {
        let epochs: Vec<_> = plan.cuts.iter().map(|cut| cut.epoch).collect();
        info!(source = plan.run.source, resume = plan.resume, replay_through = ?epochs, "restart plan");
    }
    let probe = Handle::new();
    let (inputs, state) = worker.dataflow(|scope| {
        let (inputs, outputs, state) = replay(scope, &config.settings, &plan.dataflow_cuts());
        outlets::connect(&outputs, &config.sinks, &config.settings, sinks.unwrap_or_default(), &probe);
        (inputs, state)
    });
    let last = plan.cuts.last().map_or(0, |cut| cut.epoch);
    let mut driver = Driver {
        ingest: Ingest::new(&config.settings),
        clock: EpochClock::new(&config.epochs, last, now_ms()),
        max_bytes: config.epochs.max_bytes,
        max_in_flight: config.epochs.max_in_flight.max(1),
        in_flight: VecDeque::new(),
        index: worker.index(),
        inputs,
        state,
        probe,
        source: input.source(worker.index(), worker.peers()),
        control: Control::new(worker),
        stop,
        monitor,
        phase: Phase::Starting,
        last_report: Instant::now(),
    };
    if driver.start(worker, &plan)? == Start::Stopped {
        driver.abandon(worker);
        return Ok(End::Abandoned);
    }
    while driver.turn(worker)? {}
    driver.finish(worker);
    Ok(End::Done)
}

/// What a worker has in its hands.
struct Driver<'a> {
    ingest: Ingest,
    clock: EpochClock,
    max_bytes: u64,
    max_in_flight: usize,
    /// Ended epochs that are not committed everywhere yet.
    in_flight: VecDeque<Epoch>,
    index: usize,
    inputs: Inputs,
    state: State,
    probe: Handle<Epoch>,
    source: Box<dyn Source>,
    control: Control,
    /// Set when this process was asked to stop.
    stop: &'a AtomicBool,
    monitor: &'a Monitor,
    phase: Phase,
    last_report: Instant,
}

/// How the replay has ended.
#[derive(PartialEq, Eq)]
enum Start {
    Complete,
    Stopped,
}

/// What has happened in the epoch that is being filled.
struct Filling {
    busy: bool,
    bytes_before: u64,
}

impl Driver<'_> {
    /// Epoch 0 holds nothing but the word of all partitions that there are. Then comes the replay, if there is one.
    fn start(&mut self, worker: &mut Worker, plan: &Plan) -> anyhow::Result<Start> {
        self.source.start(&mut self.ingest)?;
        self.inputs.send(self.ingest.batch());
        let Some(last) = plan.cuts.last() else {
            self.inputs.advance_to(now_ms().max(1));
            self.enter(Phase::Running);
            return Ok(Start::Complete);
        };
        self.inputs.advance_to(1);
        self.enter(Phase::Replaying);
        for cut in &plan.cuts {
            if self.replay(worker, cut)? == Start::Stopped {
                return Ok(Start::Stopped);
            }
        }
        self.source.replay_to(None);
        self.source.resume(&mut self.ingest, last);
        self.enter(Phase::Running);
        Ok(Start::Complete)
    }

    /// Reads up to a cut, in epochs before it, and ends the cut's own epoch exactly there.
    fn replay(&mut self, worker: &mut Worker, cut: &Progress) -> anyhow::Result<Start> {
        debug!(worker = self.index, epoch = cut.epoch, "replaying what a sink has committed");
        self.source.replay_to(Some(cut));
        let mut bytes_before = self.source.bytes_read();
        loop {
            if self.is_to_stop() {
                return Ok(Start::Stopped);
            }
            let poll = self.poll()?;
            if poll == Poll::Finished {
                break;
            }
            if self.source.bytes_read() - bytes_before >= self.max_bytes
                && self.inputs.epoch() + 1 < cut.epoch
                && !self.is_behind()
            {
                bytes_before = self.source.bytes_read();
                self.end_epoch(self.inputs.epoch() + 1);
            }
            if poll == Poll::Pending || self.is_behind() {
                worker.step_or_park(Some(Duration::from_millis(10)));
            } else {
                worker.step();
            }
        }
        if self.inputs.epoch() < cut.epoch {
            self.end_epoch(cut.epoch);
        }
        self.end_epoch(cut.epoch + 1);
        Ok(Start::Complete)
    }

    /// Fills and ends one epoch; false when it was the last.
    fn turn(&mut self, worker: &mut Worker) -> anyhow::Result<bool> {
        let mut filling = Filling { busy: true, bytes_before: self.source.bytes_read() };
        loop {
            let poll = self.poll()?;
            if poll == Poll::Finished || self.is_to_stop() {
                return Ok(false);
            }
            filling.busy &= poll == Poll::Ready;
            if self.last_report.elapsed() >= REPORT {
                self.report();
            }
            let now = now_ms();
            let bytes = self.source.bytes_read() - filling.bytes_before;
            if !self.is_behind()
                && let Some(next) = self.clock.next(self.inputs.epoch(), now, filling.busy, bytes)
            {
                self.end_epoch(next);
                worker.step();
                return Ok(true);
            }
            if poll == Poll::Ready {
                worker.step();
            } else {
                worker.step_or_park(Some(self.clock.until_tick(now)));
            }
        }
    }

    /// Reads a little, unless the sinks are behind.
    fn poll(&mut self) -> anyhow::Result<Poll> {
        if self.is_behind() {
            return Ok(Poll::Pending);
        }
        self.source.poll(&mut self.ingest, self.inputs.epoch(), &self.state.watermarks.borrow())
    }

    /// Whether all are to stop. Tells the others when it is this process that was asked to.
    fn is_to_stop(&mut self) -> bool {
        if self.stop.load(Ordering::Relaxed) {
            self.control.stop();
        }
        while let Some(Word::Stop) = self.control.hear() {
            debug!(worker = self.index, "stopping");
        }
        self.control.is_stopping()
    }

    /// Waits until all workers know that they are to stop: none that goes away before looks dead to another.
    fn abandon(mut self, worker: &mut Worker) {
        self.control.close();
        while !self.control.is_closed() {
            worker.step_or_park(Some(Duration::from_millis(10)));
        }
    }

    /// Whether as many epochs wait for the sinks as may.
    fn is_behind(&mut self) -> bool {
        while let Some(epoch) = self.in_flight.front()
            && !self.probe.less_equal(epoch)
        {
            self.in_flight.pop_front();
            self.monitor.beat();
        }
        self.in_flight.len() >= self.max_in_flight
    }

    fn end_epoch(&mut self, next: Epoch) {
        self.send();
        self.in_flight.push_back(self.inputs.epoch());
        self.inputs.advance_to(next);
        self.report();
    }

    fn send(&mut self) {
        self.source.report(&mut self.ingest);
        self.inputs.send(self.ingest.batch());
    }

    /// Ends the last epoch and steps until everything is committed.
    fn finish(mut self, worker: &mut Worker) {
        self.send();
        self.inputs.advance_to(Epoch::MAX);
        self.control.close();
        self.enter(Phase::Stopping);
        let mut frontier = None;
        while self.probe.less_than(&Epoch::MAX) {
            worker.step_or_park(Some(Duration::from_millis(100)));
            let now = self.probe.with_frontier(|frontier| frontier.first().copied());
            if now != frontier {
                frontier = now;
                self.monitor.beat();
            }
        }
        self.report();
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.report();
    }

    fn report(&mut self) {
        self.last_report = Instant::now();
        if let Some(status) = self.source.status() {
            self.monitor.source(self.index, status);
        }
        self.monitor.report(WorkerStatus {
            worker: self.index,
            phase: self.phase,
            counts: self.ingest.counts().clone(),
            partitions: self.ingest.partition_counts().collect(),
            bytes: self.source.bytes_read(),
            watermarks: Some(self.state.watermarks.borrow().reached),
            frontier: self.probe.with_frontier(|frontier| frontier.first().copied()),
            in_flight: self.in_flight.len(),
            held: held(&self.state),
            repeats: self.state.matcher.repeats.get(),
            refunds: self.state.duplicates.refunds.get(),
        });
    }
}

/// What a worker's share of the statements holds.
fn held(state: &State) -> Vec<Held> {
    let held = |statement, what, rows, bytes: Option<usize>| {
        let bytes = bytes.map(|bytes| bytes as u64);
        Held { statement, what, rows, bytes }
    };
    let (performance, matcher, duplicates) = (&state.performance, &state.matcher, &state.duplicates);
    let conversions = matcher.open_conversions.get() + matcher.closed_conversions.get();
    vec![
        held(Statement::RtbCacheUpdater, "ranked_campaigns", state.ranked_campaigns.get(), None),
        held(
            Statement::PerformanceAggregator,
            "window_rows",
            performance.rows.get() as u64,
            Some(performance.bytes.get()),
        ),
        held(Statement::ConversionMatcher, "clicks", matcher.clicks.get() as u64, Some(matcher.click_bytes.get())),
        held(Statement::ConversionMatcher, "conversions", conversions as u64, Some(matcher.conversion_bytes.get())),
        held(
            Statement::DuplicateDetector,
            "click_groups",
            duplicates.groups.get() as u64,
            Some(duplicates.bytes.get()),
        ),
    ]
}

fn now_ms() -> u64 {
    u64::try_from(crate::now().0).unwrap_or(0)
}
