//! A worker's share of the log, read as from Kafka.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use adtide::sink::Progress;
use adtide::source::life::{Life, Stage};
use adtide::source::{Poll, Source, Start};
use adtide_dataflows::model::{Epoch, EventTime};
use adtide_dataflows::operators::WatermarkView;
use adtide_dataflows::{Envelope, Ingest, PartitionHandle};

use crate::clock::Clock;
use crate::dice::Dice;
use crate::log::{Log, Place};

/// How the log is read.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// Go on at the end.
    pub follow: bool,
    pub idle_timeout: Duration,
    /// Let the watermark follow the clock when everything is idle.
    pub idle_advance: bool,
    /// Records at once, at most.
    pub batch: usize,
}

pub struct LogSource {
    log: Arc<Log>,
    clock: Arc<Clock>,
    reading: Reading,
    worker: usize,
    workers: usize,
    partitions: BTreeMap<Place, Partition>,
    replaying: bool,
    bytes_read: u64,
    dice: Dice,
}

struct Partition {
    handle: PartitionHandle,
    next_offset: u64,
    /// Of a replay: the offset to stop before.
    until: Option<u64>,
    life: Life,
}

impl LogSource {
    pub fn new(
        log: &Arc<Log>,
        clock: &Arc<Clock>,
        reading: Reading,
        (worker, workers): (usize, usize),
        dice: Dice,
    ) -> LogSource {
        let (log, clock) = (Arc::clone(log), Arc::clone(clock));
        let partitions = BTreeMap::new();
        LogSource { log, clock, reading, worker, workers, partitions, replaying: false, bytes_read: 0, dice }
    }

    fn discover(&mut self, ingest: &mut Ingest, stage: Stage) {
        let now = self.clock.instant();
        for place in self.log.places(self.clock.log_time()) {
            if (place.0 as usize + place.1 as usize) % self.workers == self.worker {
                self.partitions.entry(place).or_insert_with(|| Partition {
                    handle: ingest.add_partition(place.0, place.1, 0),
                    next_offset: 0,
                    until: None,
                    life: Life::new(stage, now),
                });
            }
        }
    }

    /// Lets partitions that woke up follow the others, puts quiet ones to sleep, and looks for new ones.
    fn look_after(&mut self, ingest: &mut Ingest, epoch: Epoch, view: &WatermarkView, now: Instant) {
        let Reading { follow, idle_timeout, .. } = self.reading;
        for (place, partition) in &mut self.partitions {
            partition.life.follow(*place, partition.handle, ingest, view, now);
            let has_more = self.log.record(*place, partition.next_offset, self.clock.log_time()).is_some();
            match partition.life.stage() {
                Stage::Idle if has_more => partition.life.wake(epoch),
                Stage::Active if follow && !has_more && partition.life.quiet_for(now) >= idle_timeout => {
                    partition.life.go(Stage::Idle);
                }
                _ => {}
            }
        }
        if follow {
            self.discover(ingest, Stage::Waking(epoch));
        }
    }

    /// The next record of the partition that is furthest behind in event time.
    fn read(&mut self, ingest: &mut Ingest, now: Instant) -> bool {
        let log_time = self.clock.log_time();
        let ready = self.partitions.iter_mut().filter_map(|(place, partition)| {
            let is_wanted = partition.is_wanted();
            let record = self.log.record(*place, partition.next_offset, log_time).filter(|_| is_wanted)?;
            Some((ingest.greatest(partition.handle), partition, record))
        });
        let Some((_, partition, record)) = ready.min_by_key(|(greatest, ..)| *greatest) else { return false };
        let envelope = Envelope { offset: partition.next_offset, key: None, stamp: record.stamp };
        ingest.record_in(partition.handle, envelope, &record.value);
        partition.next_offset += 1;
        partition.life.has_read(now);
        self.bytes_read += record.value.len() as u64 + 1;
        true
    }

    /// Of a bounded run: ends the partitions that were read to their end. True if all were.
    fn finish(&mut self) -> bool {
        if self.reading.follow {
            return false;
        }
        let log_time = self.clock.log_time();
        for (place, partition) in &mut self.partitions {
            let at_end = self.log.record(*place, partition.next_offset, log_time).is_none();
            if at_end && partition.life.is_active() {
                partition.life.go(Stage::Finished);
            }
        }
        self.partitions.values().all(|partition| partition.life.stage() == Stage::Finished)
    }
}

impl Partition {
    fn is_wanted(&self) -> bool {
        self.life.is_active() && self.until.is_none_or(|until| self.next_offset < until)
    }
}

impl Source for LogSource {
    fn start(&mut self, ingest: &mut Ingest, from: &Start<'_>) -> anyhow::Result<()> {
        self.discover(ingest, Stage::Active);
        for (place, partition) in &mut self.partitions {
            if let Some(report) = from.checkpoint.and_then(|progress| progress.partitions.get(place)) {
                ingest.restore(partition.handle, report);
                partition.next_offset = report.next_offset;
            }
        }
        self.report(ingest);
        Ok(())
    }

    fn replay_to(&mut self, cut: Option<&Progress>) {
        self.replaying = cut.is_some();
        for (place, partition) in &mut self.partitions {
            let committed =
                |cut: &Progress| cut.partitions.get(place).map_or(0, |committed| committed.next_offset);
            partition.until = cut.map(committed);
        }
    }

    fn resume(&mut self, ingest: &mut Ingest, last: &Progress) {
        for (place, partition) in &mut self.partitions {
            partition.life.resume(*place, partition.handle, ingest, last, self.reading.follow);
        }
    }

    fn poll(&mut self, ingest: &mut Ingest, epoch: Epoch, view: &WatermarkView) -> anyhow::Result<Poll> {
        let now = self.clock.instant();
        if !self.replaying {
            self.look_after(ingest, epoch, view, now);
        }
        let records = 1 + self.dice.below(self.reading.batch);
        let read = (0..records).take_while(|_| self.read(ingest, now)).count();
        if read > 0 {
            return Ok(Poll::Ready);
        }
        let ended = if self.replaying { true } else { self.finish() };
        Ok(if ended { Poll::Finished } else { Poll::Pending })
    }

    fn report(&mut self, ingest: &mut Ingest) {
        let clock = self.reading.idle_advance.then(|| EventTime(self.clock.wall() as i64));
        for partition in self.partitions.values_mut() {
            partition.life.report(partition.handle, ingest, clock);
        }
    }

    fn has_news(&self) -> bool {
        self.partitions.values().any(|partition| partition.life.has_news())
    }

    fn bytes_read(&self) -> u64 {
        self.bytes_read
    }
}
