//! The loop of a worker: read a little, commit it with its offsets, act on what came or went.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tracing::{debug, info, warn};
use uuid::Uuid;

use super::dead_letters::DeadLetters;
use super::feed::{Change, Feed, Partition, Record, Start};
use super::letter::{Letter, Unfit};
use super::stats::WorkerStats;
use super::store::{Advance, Offsets, Outcome, Step};
use crate::connect::{Fault, persist_unless};

/// How long records are gathered for one commit.
const GATHER: Duration = Duration::from_millis(100);

/// How long a worker waits at once for records when it has nothing else to do.
const IDLE: Duration = Duration::from_millis(500);

/// How many effects are committed together at most, or a little more.
const EFFECTS: usize = 5_000;

/// How long offsets may wait that come without effects: reading those records again changes nothing.
const OFFSETS_ONLY: Duration = Duration::from_secs(1);

/// How many bytes of records that are left out are kept for one commit, or a little more.
const LETTERS_BYTES: usize = 8 << 20;

/// How often the lag is looked up, and how often what was done is logged.
const LAG: Duration = Duration::from_secs(5);
const REPORT: Duration = Duration::from_secs(10);

/// What one worker does with its records.
pub trait Work {
    /// Takes a record into the batch.
    ///
    /// # Errors
    /// It can't be read, or nothing can be made of it. It has no effect, and goes to the dead letters.
    fn take(&mut self, record: &Record<'_>, value: &[u8]) -> Result<(), Unfit>;

    /// How many effects the batch has.
    fn pending(&self) -> usize;

    /// Drops the batch.
    fn clear(&mut self);

    /// Where it is kept how far the worker has got, in the store of its effects.
    fn offsets(&mut self) -> &mut dyn Offsets;

    /// Commits the batch in one step. It is kept, so that a commit that failed can be tried again.
    ///
    /// # Errors
    /// The store can't do it.
    fn commit(&mut self, step: Step<'_>) -> Result<Outcome<()>, Fault>;

    /// What is to be done beside the records, once those that are there were committed. False if it was not
    /// its time, or if more records may come of it.
    ///
    /// # Errors
    /// The store or the topic can't be written.
    fn turn(&mut self, _is_last: bool) -> Result<bool, Fault> {
        Ok(true)
    }
}

/// Drives a worker.
pub struct Driver<'a> {
    job: &'static str,
    /// The server that holds its effects, for messages.
    store: &'static str,
    owner: String,
    feeds: Vec<Box<dyn Feed>>,
    /// What this process owns, and up to where it is committed.
    committed: BTreeMap<Partition, u64>,
    /// Up to where it was read, where that is further.
    reached: BTreeMap<Partition, u64>,
    /// What was left out of that.
    letters: Vec<Letter>,
    dead_letters: Box<dyn DeadLetters>,
    /// How many were left out, and when it was last said.
    left_out: (u64, Option<Instant>),
    last_commit: Instant,
    last_lag: Option<Instant>,
    last_report: Instant,
    reported: u64,
    stop: &'a AtomicBool,
    stats: &'a Arc<WorkerStats>,
}

impl<'a> Driver<'a> {
    /// A driver of the worker `job`, whose effects are in `store`. Offsets are kept by its name, with the
    /// ledger and whatever the deployment is called: no click may be debited twice.
    pub fn new(
        job: &'static str,
        store: &'static str,
        feeds: Vec<Box<dyn Feed>>,
        dead_letters: Box<dyn DeadLetters>,
        stop: &'a AtomicBool,
        stats: &'a Arc<WorkerStats>,
    ) -> Driver<'a> {
        let now = Instant::now();
        Driver {
            job,
            store,
            owner: Uuid::new_v4().to_string(),
            feeds,
            committed: BTreeMap::new(),
            reached: BTreeMap::new(),
            letters: Vec::new(),
            dead_letters,
            left_out: (0, None),
            last_commit: now,
            last_lag: None,
            last_report: now,
            reported: 0,
            stop,
            stats,
        }
    }

    /// Works until `stop` is set; with `until_end`, until everything that is there has had its effect.
    ///
    /// # Errors
    /// A fault that lasts.
    pub fn run(mut self, work: &mut dyn Work, until_end: bool) -> anyhow::Result<()> {
        info!(worker = self.job, "worker started");
        while !self.stop.load(Ordering::Relaxed) {
            let looked = Instant::now();
            self.stats.turned();
            self.gather(work)?;
            let must = until_end && self.has_been_at_end()
                || self.feeds.iter_mut().any(|feed| feed.change().is_some());
            self.commit(work, must)?;
            let changed = self.change(work)?;
            self.stats.set_assigned(self.feeds.iter().all(|feed| feed.is_assigned()));
            if changed {
                continue;
            }
            let is_ending = until_end && self.has_been_at_end();
            let at_end = self.is_at_end(work);
            if at_end || is_ending {
                let is_settled = self.turn(work, is_ending)?;
                if is_settled && at_end {
                    self.stats.set_caught_up(looked);
                }
                if is_settled && is_ending {
                    break;
                }
            }
            self.report(work);
        }
        self.commit(work, true)?;
        self.say("worker stopped");
        Ok(())
    }

    fn is_at_end(&self, work: &dyn Work) -> bool {
        self.feeds.iter().all(|feed| feed.at_end()) && work.pending() == 0
    }

    fn has_been_at_end(&self) -> bool {
        self.feeds.iter().all(|feed| feed.has_been_at_end())
    }

    /// Tries until it succeeds. None if the worker is to stop while it does not.
    fn persist<T>(&self, what: &str, attempt: impl FnMut() -> Result<T, Fault>) -> anyhow::Result<Option<T>> {
        patiently(self.job, self.stop, self.stats, what, attempt)
    }

    /// Reads for a while.
    fn gather(&mut self, work: &mut dyn Work) -> anyhow::Result<()> {
        let end = Instant::now() + GATHER;
        let is_idle = self.reached.is_empty() && self.is_at_end(work);
        let mut feeds = std::mem::take(&mut self.feeds);
        let share = if is_idle { IDLE } else { GATHER / 5 } / u32::try_from(feeds.len().max(1)).unwrap_or(1);
        let mut read = || -> anyhow::Result<()> {
            while Instant::now() < end && self.has_room(work) && !self.stop.load(Ordering::Relaxed) {
                for feed in &mut feeds {
                    match feed.poll(share, &mut |record| self.take(work, &record)) {
                        Err(Fault::Lasting(error)) => return Err(error),
                        Err(Fault::Passing(error)) => self.cannot_read(&error),
                        Ok(()) => {}
                    }
                }
                if feeds.iter_mut().any(|feed| feed.change().is_some()) {
                    break;
                }
            }
            Ok(())
        };
        let result = read();
        if let Some(since) = self.stats.unread_since()
            && feeds.iter().all(|feed| feed.answered_since(since))
        {
            self.stats.set_read();
            info!(worker = self.job, "reading again");
        }
        self.feeds = feeds;
        result
    }

    /// Whether a commit may become larger.
    fn has_room(&self, work: &dyn Work) -> bool {
        let bytes: usize = self.letters.iter().map(|letter| letter.value.len()).sum();
        work.pending() + self.letters.len() < EFFECTS && bytes < LETTERS_BYTES
    }

    /// Logs what passes by itself, and not each time that it is met.
    fn cannot_read(&self, error: &anyhow::Error) {
        let error = format!("{error:#}");
        if self.stats.set_unread(error.clone()) {
            warn!(worker = self.job, error, "reading is interrupted");
        }
    }

    fn take(&mut self, work: &mut dyn Work, record: &Record<'_>) {
        let Some(committed) = self.committed.get(record.partition) else { return };
        let reached = self.reached.get_mut(record.partition);
        if record.offset < reached.as_ref().map_or(*committed, |reached| **reached) {
            return;
        }
        match reached {
            Some(reached) => *reached = record.offset + 1,
            None => {
                self.reached.insert(record.partition.clone(), record.offset + 1);
            }
        }
        let Some(value) = &record.value else { return };
        self.stats.records.fetch_add(1, Ordering::Relaxed);
        let taken = match value {
            Ok(value) => work.take(record, value),
            Err(bad) => Err(bad.clone().into()),
        };
        if let Err(unfit) = taken {
            self.stats.bad.fetch_add(1, Ordering::Relaxed);
            self.letters.push(Letter::new(record, unfit));
        }
    }

    /// Writes what was left out, before the offsets pass over it. False if the worker is to stop while it
    /// can't.
    fn write_letters(&mut self) -> anyhow::Result<bool> {
        let letters = std::mem::take(&mut self.letters);
        let Some(last) = letters.last() else { return Ok(true) };
        let (job, place) = (self.job, self.dead_letters.place());
        let Driver { stop, stats, dead_letters, .. } = self;
        let write = || dead_letters.write(job, &letters);
        if patiently(job, stop, stats, &format!("writing to {place}"), write)?.is_none() {
            return Ok(false);
        }
        self.left_out.0 += letters.len() as u64;
        if self.left_out.1.is_none_or(|said| said.elapsed() >= REPORT) {
            warn!(
                worker = job,
                records = self.left_out.0,
                partition = %last.partition,
                offset = last.offset,
                reason = last.unfit.reason,
                detail = last.unfit.detail,
                "records had no effect; they are in {place}, and the last one was this"
            );
            self.left_out = (0, Some(Instant::now()));
        }
        Ok(true)
    }

    /// Commits what was read. Offsets without effects may wait, unless they must not.
    fn commit(&mut self, work: &mut dyn Work, must: bool) -> anyhow::Result<()> {
        let may_wait = !must && work.pending() == 0 && self.last_commit.elapsed() < OFFSETS_ONLY;
        if self.reached.is_empty() || may_wait {
            return Ok(());
        }
        let advances: Vec<Advance> = self
            .reached
            .iter()
            .filter_map(|(partition, next)| {
                let expected = *self.committed.get(partition)?;
                let mark = self.feeds.iter_mut().find_map(|feed| feed.mark(partition));
                Some(Advance { partition: partition.clone(), expected, next: *next, mark })
            })
            .collect();
        if !self.write_letters()? {
            work.clear();
            self.reached.clear();
            return Ok(());
        }
        let step = Step { worker: self.job, owner: &self.owner, advances: &advances };
        let outcome = self.persist(&format!("committing to {}", self.store), || work.commit(step))?;
        work.clear();
        self.reached.clear();
        self.last_commit = Instant::now();
        match outcome {
            Some(Outcome::Applied(()) | Outcome::AppliedBefore) => {
                self.committed.extend(advances.into_iter().map(|advance| (advance.partition, advance.next)));
                self.stats.set_succeeded();
            }
            Some(Outcome::Fenced) => self.step_back()?,
            // Told to stop while the store is away: nothing was committed, so the next start reads it again.
            None => {}
        }
        Ok(())
    }

    /// Another process has taken a partition over. Nothing of the batch was applied; who reads what is asked
    /// anew.
    fn step_back(&mut self) -> anyhow::Result<()> {
        self.stats.zombies.fetch_add(1, Ordering::Relaxed);
        warn!(
            worker = self.job,
            "another process has taken over a partition; what was read of it is dropped"
        );
        self.committed.clear();
        let mut feeds = std::mem::take(&mut self.feeds);
        let rejoined = feeds.iter_mut().map(|feed| self.persist("joining anew", || feed.rejoin()));
        let rejoined = rejoined.collect::<anyhow::Result<Vec<_>>>();
        self.feeds = feeds;
        rejoined.map(drop)
    }

    /// Acts on what came or went. Whether there was anything.
    fn change(&mut self, work: &mut dyn Work) -> anyhow::Result<bool> {
        let mut any = false;
        let mut feeds = std::mem::take(&mut self.feeds);
        for feed in &mut feeds {
            while let Some(change) = feed.change() {
                any = true;
                let done = match change {
                    Change::Lost => self.persist("letting go", || feed.release())?,
                    Change::Gained(partitions) => self.claim(work, feed.as_mut(), &partitions)?,
                };
                if done.is_none() {
                    self.feeds = feeds;
                    return Ok(true);
                }
            }
        }
        self.feeds = feeds;
        Ok(any)
    }

    fn claim(
        &mut self,
        work: &mut dyn Work,
        feed: &mut dyn Feed,
        partitions: &[Partition],
    ) -> anyhow::Result<Option<()>> {
        let mut claimed = Vec::with_capacity(partitions.len());
        for partition in partitions {
            let place = self.persist("claiming a partition", || {
                let earliest = feed.earliest(partition)?;
                let next = work.offsets().claim(self.job, &self.owner, partition, earliest)?;
                Ok(Start {
                    partition: partition.clone(),
                    next,
                    mark: work.offsets().mark(self.job, partition)?,
                })
            })?;
            let Some(place) = place else { return Ok(None) };
            info!(worker = self.job, %partition, next = place.next, "partition assigned");
            claimed.push(place);
        }
        self.committed.extend(claimed.iter().map(|place| (place.partition.clone(), place.next)));
        self.persist("starting to read", || feed.start(&claimed))
    }

    fn turn(&mut self, work: &mut dyn Work, is_last: bool) -> anyhow::Result<bool> {
        Ok(self.persist("looking after the campaigns", || work.turn(is_last))?.unwrap_or(false))
    }

    /// Looks up the lag and logs what was done, now and then.
    fn report(&mut self, work: &mut dyn Work) {
        if self.last_lag.is_none_or(|last| last.elapsed() >= LAG) {
            self.last_lag = Some(Instant::now());
            match self.lag(work) {
                Ok(Some(lag)) => self.stats.set_lag(lag),
                Ok(None) => self.last_lag = None,
                Err(fault) => debug!(error = format!("{:#}", fault.into_error()), "the lag is not known"),
            }
        }
        if self.last_report.elapsed() >= REPORT && self.stats.records.load(Ordering::Relaxed) > self.reported
        {
            self.last_report = Instant::now();
            self.say("progress");
        }
    }

    fn lag(&mut self, work: &mut dyn Work) -> Result<Option<u64>, Fault> {
        let (job, stats) = (self.job, self.stats);
        let mut positions = || {
            stats.set_waits(Some("looking up the offsets".to_owned()));
            let positions = work.offsets().positions(job);
            stats.set_waits(None);
            positions
        };
        self.feeds.iter_mut().map(|feed| feed.lag(&mut positions)).sum()
    }

    fn say(&mut self, what: &str) {
        let stats = self.stats;
        let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        self.reported = count(&stats.records);
        info!(
            worker = self.job,
            records = self.reported,
            bad = count(&stats.bad),
            debits = count(&stats.debits),
            debited = %stats.debited(),
            credits = count(&stats.credits),
            credited = %stats.credited(),
            paused = count(&stats.paused),
            activated = count(&stats.activated),
            lag = stats.lag(),
            "{what}"
        );
    }
}

/// Tries until it succeeds, and has it known meanwhile. None if the worker `job` is to stop while it does
/// not.
fn patiently<T>(
    job: &str,
    stop: &AtomicBool,
    stats: &WorkerStats,
    what: &str,
    attempt: impl FnMut() -> Result<T, Fault>,
) -> anyhow::Result<Option<T>> {
    stats.set_waits(Some(what.to_owned()));
    let result = persist_unless(stop, &format!("worker {job}: {what}"), attempt);
    stats.set_waits(None);
    result
}
