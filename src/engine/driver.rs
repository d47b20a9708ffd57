//! One worker's loop, as a machine that takes a step at a time: it waits for nothing and asks no clock, so
//! that a simulation can run several in one thread.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use adtide_dataflows::model::{Epoch, EventTime};
use adtide_dataflows::operators::Watermarks;
use adtide_dataflows::{Ingest, Inputs, RESTORED, State, Statement};
use timely::dataflow::operators::probe::Handle;
use tracing::{debug, warn};

use super::checkpoint::Checkpointer;
use super::clock::EpochClock;
use super::restore::{Loader, Piece};
use super::{EpochConfig, Held, Monitor, Phase, Plan, WorkerStatus};
use crate::clock::{Moment, SteadyClock};
use crate::source::{Poll, Source, Start};

/// How often a worker that can't end an epoch says how it is doing, in milliseconds.
const REPORT: u64 = 1000;

/// How long there is no second warning of the same kind, in milliseconds.
const WARNING: u64 = 60_000;

/// The reason under which records that are too far ahead are counted.
const FUTURE: &str = "time_in_future";

/// How long a worker that waits for others may sleep.
const PAUSE: Duration = Duration::from_millis(10);

/// What a worker does after a step of its driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It steps the dataflow.
    Step,
    /// It steps the dataflow and may sleep for so long until something happens.
    Wait(Duration),
    /// It has done everything.
    Done,
    /// It was stopped before anything new was read. Half a replay says nothing that the sinks don't know
    /// better.
    Abandoned,
}

/// What a worker has in its hands.
pub struct Driver {
    index: usize,
    plan: Plan,
    ingest: Ingest,
    inputs: Inputs,
    state: State,
    probe: Handle<Epoch>,
    source: Box<dyn Source>,
    loader: Loader,
    checkpointer: Checkpointer,
    monitor: Arc<Monitor>,
    clock: EpochClock,
    steady: SteadyClock,
    max_bytes: u64,
    max_in_flight: usize,
    /// Ended epochs that are not committed everywhere yet, and since when what was read in them may have been
    /// there to read (ms); None of those in which nothing new was read.
    in_flight: VecDeque<(Epoch, Option<u64>)>,
    stage: Stage,
    now: Moment,
    last_report: u64,
    /// When records that were too far ahead were last warned of, and how many there were by then.
    warned: (u64, u64),
}

/// The parts that a driver is made of.
pub struct Parts {
    /// The worker's number.
    pub index: usize,
    /// How all of them start.
    pub plan: Plan,
    /// Its way in.
    pub ingest: Ingest,
    /// The dataflow's inputs, at epoch 0.
    pub inputs: Inputs,
    /// What its share of the statements holds.
    pub state: State,
    /// Behind all sinks: an epoch leaves it when it is committed everywhere.
    pub probe: Handle<Epoch>,
    /// Its share of the input.
    pub source: Box<dyn Source>,
    /// Its share of the plan's checkpoint.
    pub loader: Loader,
    /// Its part in taking checkpoints.
    pub checkpointer: Checkpointer,
    /// Whom it tells how it is doing.
    pub monitor: Arc<Monitor>,
}

/// What a worker is about.
enum Stage {
    /// It gives back what its share of the checkpoint holds.
    Restoring,
    /// It reads up to one of the plan's cuts, in epochs before that one, and ends the cut's own epoch exactly
    /// there.
    Replaying { cut: usize, bytes_before: u64 },
    /// It reads what is new, epoch by epoch.
    Running(Filling),
    /// It waits for the sinks to commit the last epochs, and for the frontier that says so.
    Stopping { frontier: Option<Epoch> },
    /// It waits for the last checkpoint.
    Leaving,
    /// It waits until all workers know that they are to stop: one that goes away before looks dead to the
    /// others.
    Abandoning,
}

/// An epoch of new records that is being filled.
#[derive(Clone, Copy, Debug)]
struct Filling {
    /// Whether all its reads found more.
    busy: bool,
    /// What had been read before it.
    bytes_before: u64,
    /// When the source was last looked at and had nothing (ms): what was read came later.
    since: u64,
}

impl Driver {
    /// A driver at the start of its plan.
    pub fn new(parts: Parts, epochs: &EpochConfig, now: Moment) -> Driver {
        let Parts { index, plan, ingest, inputs, state, probe, source, loader, checkpointer, monitor } =
            parts;
        let mut steady = SteadyClock::new(now, plan.last_epoch());
        let now = steady.moment(now);
        Driver {
            index,
            plan,
            ingest,
            inputs,
            state,
            probe,
            source,
            loader,
            checkpointer,
            monitor,
            clock: EpochClock::new(epochs),
            steady,
            max_bytes: epochs.max_bytes,
            max_in_flight: epochs.max_in_flight.max(1),
            in_flight: VecDeque::new(),
            stage: Stage::Restoring,
            now,
            last_report: now.wall,
            warned: (0, 0),
        }
    }

    /// Does a little, at `now`; `stop` is set when this process was asked to end, and with it all.
    ///
    /// # Errors
    /// The input or the checkpoint can't be read.
    pub fn step(&mut self, now: Moment, stop: bool) -> anyhow::Result<Next> {
        self.now = self.steady.moment(now);
        let now = self.now.wall;
        self.ingest.set_clock(EventTime(i64::try_from(now).unwrap_or(i64::MAX)));
        if stop {
            self.checkpointer.stop();
        }
        self.checkpointer.step(&self.probe, self.now.instant);
        let stop = self.checkpointer.is_stopping();
        if now >= self.last_report.saturating_add(REPORT) {
            self.report(now);
        }
        // Workers reach the end of the replay one by one: those that have must not wait for epochs that the
        // others give up.
        let gives_up = stop && matches!(self.stage, Stage::Restoring | Stage::Replaying { .. });
        if (gives_up || self.checkpointer.is_abandoning()) && !matches!(self.stage, Stage::Abandoning) {
            return Ok(self.abandon());
        }
        match self.stage {
            Stage::Restoring => self.restore(now),
            Stage::Replaying { cut, bytes_before } => self.replay(cut, bytes_before, now),
            Stage::Running(filling) => self.run(filling, now, stop),
            Stage::Stopping { frontier } => Ok(self.wait_for_sinks(frontier, now)),
            Stage::Abandoning => {
                Ok(if self.checkpointer.has_left() { Next::Abandoned } else { Next::Wait(PAUSE) })
            }
            Stage::Leaving => Ok(if self.checkpointer.has_left() { Next::Done } else { Next::Wait(PAUSE) }),
        }
    }

    fn abandon(&mut self) -> Next {
        self.checkpointer.abandon();
        self.stage = Stage::Abandoning;
        Next::Step
    }

    /// Gives a piece of the checkpoint back, or goes on to the topics when there is none left.
    fn restore(&mut self, now: u64) -> anyhow::Result<Next> {
        if self.is_behind() {
            return Ok(Next::Wait(PAUSE));
        }
        match self.loader.piece()? {
            Piece::StateDelta(delta) => {
                self.inputs.restore(*delta);
                let next = self.inputs.epoch() + 1;
                self.end_epoch(next, now);
                Ok(Next::Step)
            }
            Piece::NotYet => Ok(Next::Wait(PAUSE)),
            Piece::End => {
                self.begin(now)?;
                Ok(Next::Step)
            }
        }
    }

    /// Tells of all partitions that there are: in epoch 0, or in the one in which a restored state is
    /// complete. Then comes the replay, if there is one.
    fn begin(&mut self, now: u64) -> anyhow::Result<()> {
        let checkpoint = self.plan.checkpoint.as_ref();
        if checkpoint.is_some() {
            self.inputs.advance_to(RESTORED);
        }
        let start = Start {
            checkpoint: checkpoint.map(|checkpoint| &checkpoint.progress),
            backfill: self.plan.backfill_from,
            cuts: &self.plan.cuts,
            gaps: &self.plan.gaps,
        };
        self.source.start(&mut self.ingest, &start)?;
        self.inputs.send(self.ingest.batch());
        if self.plan.cuts.is_empty() {
            self.go_live(now);
            let first = now.max(self.plan.last_epoch() + 1).max(self.plan.start() + 1);
            self.inputs.advance_to(first);
        } else {
            // Behind the checkpoint's own epoch, and so behind what every sink without a cut has stored: it
            // takes these.
            self.inputs.advance_to(self.plan.start() + 1);
            self.replay_to(0);
        }
        self.report(now);
        Ok(())
    }

    fn replay_to(&mut self, at: usize) {
        let before = if at > 0 { self.plan.cuts.get(at - 1) } else { self.plan.checkpointed() };
        self.ingest.follow_all(before.and_then(|before| before.watermarks).unwrap_or(Watermarks::MIN));
        let cut = &self.plan.cuts[at];
        cut.partitions.values().for_each(|report| self.ingest.replay_as(report));
        debug!(worker = self.index, epoch = cut.epoch, "replaying what a sink has committed");
        self.source.replay_to(Some(cut));
        self.stage = Stage::Replaying { cut: at, bytes_before: self.source.bytes_read() };
    }

    /// From here on everything is new.
    fn go_live(&mut self, now: u64) {
        if let Some(last) = self.plan.last_progress() {
            self.source.replay_to(None);
            self.source.resume(&mut self.ingest, last);
        }
        self.fill(now);
    }

    /// Begins to fill an epoch.
    fn fill(&mut self, now: u64) {
        let bytes_before = self.source.bytes_read();
        self.stage = Stage::Running(Filling { busy: true, bytes_before, since: now });
    }

    fn replay(&mut self, at: usize, bytes_before: u64, now: u64) -> anyhow::Result<Next> {
        let cut = self.plan.cuts[at].epoch;
        let poll = self.poll()?;
        if poll == Poll::Finished {
            if self.inputs.epoch() < cut {
                self.end_epoch(cut, now);
            }
            self.end_epoch(cut + 1, now);
            if at + 1 < self.plan.cuts.len() {
                self.replay_to(at + 1)
            } else {
                self.go_live(now)
            }
            return Ok(Next::Step);
        }
        let is_full = self.source.bytes_read() - bytes_before >= self.max_bytes;
        if is_full && self.inputs.epoch() + 1 < cut && !self.is_behind() {
            self.stage = Stage::Replaying { cut: at, bytes_before: self.source.bytes_read() };
            self.end_epoch(self.inputs.epoch() + 1, now);
        }
        Ok(if poll == Poll::Pending { Next::Wait(PAUSE) } else { Next::Step })
    }

    /// Fills an epoch, and ends it when it is time.
    fn run(&mut self, mut filling: Filling, now: u64, stop: bool) -> anyhow::Result<Next> {
        let poll = self.poll()?;
        if poll == Poll::Finished || stop {
            self.stop(now);
            return Ok(Next::Step);
        }
        filling.busy &= poll == Poll::Ready;
        let has_news = self.source.has_news();
        if has_news {
            self.monitor.has_read(self.now.instant);
        } else {
            filling.since = now;
        }
        self.stage = Stage::Running(filling);
        let bytes = self.source.bytes_read() - filling.bytes_before;
        let quiet_for = self.monitor.quiet_for(self.now.instant);
        if !self.is_behind()
            && let Some(next) = self.clock.next(self.inputs.epoch(), now, filling.busy, bytes, quiet_for)
        {
            self.end(next, has_news.then_some(filling.since), now);
            self.fill(now);
            return Ok(Next::Step);
        }
        Ok(if poll == Poll::Ready { Next::Step } else { Next::Wait(self.clock.until_tick(now)) })
    }

    /// Reads a little, unless the sinks are behind.
    fn poll(&mut self) -> anyhow::Result<Poll> {
        if self.is_behind() || self.checkpointer.is_full() {
            return Ok(Poll::Pending);
        }
        self.source.poll(&mut self.ingest, self.inputs.epoch(), &self.state.watermarks.borrow())
    }

    /// Whether as many epochs wait for the sinks as may.
    fn is_behind(&mut self) -> bool {
        while let Some(&(epoch, since)) = self.in_flight.front()
            && !self.probe.less_equal(&epoch)
        {
            self.in_flight.pop_front();
            self.monitor.beat();
            if let Some(since) = since {
                self.monitor.committed(Duration::from_millis(self.now.wall.saturating_sub(since)));
            }
        }
        self.in_flight.len() >= self.max_in_flight
    }

    /// Ends an epoch in which nothing new was read.
    fn end_epoch(&mut self, next: Epoch, now: u64) {
        self.end(next, None, now);
    }

    /// Ends an epoch, in which there may have been new records to read since `since`.
    fn end(&mut self, next: Epoch, since: Option<u64>, now: u64) {
        self.send();
        self.in_flight.push_back((self.inputs.epoch(), since));
        self.inputs.advance_to(next);
        self.report(now);
    }

    fn send(&mut self) {
        self.source.report(&mut self.ingest);
        self.inputs.send(self.ingest.batch());
    }

    /// Ends the last epoch.
    fn stop(&mut self, now: u64) {
        self.send();
        self.inputs.advance_to(Epoch::MAX);
        self.stage = Stage::Stopping { frontier: None };
        self.report(now);
    }

    fn wait_for_sinks(&mut self, before: Option<Epoch>, now: u64) -> Next {
        if !self.probe.less_than(&Epoch::MAX) {
            self.checkpointer.leave();
            self.stage = Stage::Leaving;
            self.report(now);
            return Next::Step;
        }
        let frontier = self.probe.with_frontier(|frontier| frontier.first().copied());
        if frontier != before {
            self.monitor.beat();
        }
        self.stage = Stage::Stopping { frontier };
        Next::Wait(PAUSE)
    }

    fn phase(&self) -> Phase {
        match self.stage {
            Stage::Restoring if self.plan.checkpoint.is_some() => Phase::Restoring,
            Stage::Restoring => Phase::Starting,
            Stage::Replaying { .. } => Phase::Replaying,
            Stage::Running { .. } => Phase::Running,
            Stage::Stopping { .. } | Stage::Leaving | Stage::Abandoning => Phase::Stopping,
        }
    }

    /// Warns, once a minute at most, of records that were rejected because some clock is wrong; it may be
    /// this machine's.
    fn warn_of_clocks(&mut self, now: u64) {
        let rejected = self.ingest.counts().bad.get(FUTURE).copied().unwrap_or(0);
        let (at, before) = self.warned;
        if rejected > before && now >= at.saturating_add(WARNING) {
            self.warned = (now, rejected);
            warn!(
                worker = self.index,
                records = rejected - before,
                clock = %self.ingest.clock(),
                "records are too far in the future (key max_future_skew) and went to dead-letter; is a producer's clock wrong, \
                 or this machine's?"
            );
        }
    }

    fn report(&mut self, now: u64) {
        self.last_report = now;
        self.warn_of_clocks(now);
        if let Some(status) = self.source.status() {
            self.monitor.source(self.index, status);
        }
        self.monitor.report(WorkerStatus {
            worker: self.index,
            phase: self.phase(),
            restored: self.loader.restored(),
            counts: self.ingest.counts().clone(),
            partitions: self.ingest.partition_counts().collect(),
            bytes: self.source.bytes_read(),
            watermarks: Some(self.state.watermarks.borrow().reached),
            frontier: self.probe.with_frontier(|frontier| frontier.first().copied()),
            in_flight: self.in_flight.len(),
            unwritten: self.checkpointer.waiting() as u64,
            clock: Some(self.now),
            held: held(&self.state),
            repeats: self.state.matcher.openers.repeats.get(),
            refunds: self.state.duplicates.refunds.get(),
        });
        self.monitor.miss_ids(&self.plan.run.settings.statements);
    }
}

/// What a worker's share of the statements holds.
fn held(state: &State) -> Vec<Held> {
    let held = |statement, what, rows, bytes: Option<usize>| {
        let bytes = bytes.map(|bytes| bytes as u64);
        Held { statement, what, rows, bytes }
    };
    let (performance, matcher, duplicates) = (&state.performance, &state.matcher, &state.duplicates);
    let (clicks, openers) = (&matcher.as_of, &matcher.openers);
    let conversions = clicks.probes.get() + openers.settled.get();
    let conversion_bytes = clicks.probe_bytes.get() + openers.bytes.get();
    vec![
        held(Statement::RtbCacheUpdater, "ranked_campaigns", state.ranked_campaigns.get(), None),
        held(
            Statement::PerformanceAggregator,
            "window_rows",
            performance.rows.get() as u64,
            Some(performance.bytes.get()),
        ),
        held(
            Statement::ConversionMatcher,
            "clicks",
            clicks.candidates.get() as u64,
            Some(clicks.candidate_bytes.get()),
        ),
        held(Statement::ConversionMatcher, "conversions", conversions as u64, Some(conversion_bytes)),
        held(
            Statement::DuplicateDetector,
            "click_groups",
            duplicates.groups.rows.get() as u64,
            Some(duplicates.groups.bytes.get()),
        ),
    ]
}
