//! Topics in Kafka, read without a consumer group: each worker has its share of the partitions, assigned by
//! hand.
//!
//! A worker has a consumer of its own, and in it a queue for each partition, so that it can read next from
//! the partition whose event time is least. librdkafka fetches ahead by itself until a queue is full and then
//! waits: a worker that does not read, because the sinks are behind, holds the brokers back, and nothing that
//! was fetched is thrown away, as pausing would.

mod heads;
mod listener;
mod partition;
mod rest;
mod watch;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use adtide_dataflows::Ingest;
use adtide_dataflows::model::{Epoch, EventTime, Topic};
use adtide_dataflows::operators::WatermarkView;
use anyhow::{Context as _, anyhow, bail, ensure};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Message, Offset, TopicPartitionList};
use tracing::{info, warn};

use listener::Listener;
use partition::Partition;
use rest::Rest;

use super::life::{Life, Stage};
use super::{PartitionStatus, Poll, Source, SourceStatus, Start};
use crate::connect::Fault;
use crate::connect::kafka::{CATCHING_UP, KafkaConfig};
use crate::sink::Progress;
use crate::source::Gap;

pub use heads::heads;
pub use watch::Watch;

/// How many records are taken at once.
const BATCH: usize = 1024;

/// How much of a record that is too large goes to the dead letters.
const OVERSIZED_HEAD: usize = 64 * 1024;

/// What a Kafka source needs to know.
#[derive(Clone, Debug)]
pub struct KafkaSourceConfig {
    /// The brokers.
    pub kafka: KafkaConfig,
    /// The name of this deployment.
    pub name: String,
    /// The topics to read.
    pub topics: Vec<Topic>,
    /// Go on at the end; otherwise read to where the partitions end at the start.
    pub follow: bool,
    /// A partition that is caught up with the brokers counts as idle after this long.
    pub idle_timeout: Duration,
    /// Let the watermark follow the clock when everything is idle.
    pub idle_advance: bool,
}

/// One worker's partitions.
pub struct KafkaSource {
    config: KafkaSourceConfig,
    watch: Arc<Watch>,
    worker: usize,
    workers: usize,
    consumer: Option<Arc<BaseConsumer<Listener>>>,
    rest: Rest,
    partitions: Vec<Partition>,
    bytes_read: u64,
    replaying: bool,
}

impl KafkaSource {
    /// The source of worker `worker` of `workers`.
    pub fn new(config: KafkaSourceConfig, watch: Arc<Watch>, worker: usize, workers: usize) -> KafkaSource {
        KafkaSource {
            config,
            watch,
            worker,
            workers,
            consumer: None,
            rest: Rest::new(Instant::now()),
            partitions: Vec::new(),
            bytes_read: 0,
            replaying: false,
        }
    }

    /// Adds this worker's partitions that are not known yet; false if there are none.
    fn discover(&mut self, ingest: &mut Ingest, stage: Stage) -> bool {
        let before = self.partitions.len();
        for (topic, number) in self.watch.partitions() {
            let mine = (topic as usize + number as usize) % self.workers == self.worker;
            if !mine || self.partitions.iter().any(|known| (known.topic, known.number) == (topic, number)) {
                continue;
            }
            self.partitions.push(Partition {
                topic,
                number,
                handle: ingest.add_partition(topic, number, 0),
                queue: None,
                next_offset: 0,
                at_end: false,
                held: None,
                known: VecDeque::new(),
                until: None,
                last: (!self.config.follow).then(|| self.watch.end((topic, number)).unwrap_or(0)),
                hungry: None,
                life: Life::new(stage, Instant::now()),
            });
        }
        self.partitions.len() > before
    }

    /// Makes a consumer that goes on where each partition was left, in place of the one there was.
    fn connect(&mut self) -> anyhow::Result<()> {
        self.disconnect();
        let open: Vec<_> =
            self.partitions.iter_mut().filter(|known| known.life.stage() != Stage::Finished).collect();
        if open.is_empty() {
            return Ok(());
        }
        let kafka = &self.config.kafka;
        let mut client = kafka.client_with(self.rest.properties());
        let kilobytes = (kafka.prefetch_bytes / 1024 / open.len() as u64).max(1024);
        client
            // It joins no group and commits nothing, but librdkafka insists on a name.
            .set("group.id", kafka.topic(&self.config.name))
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("enable.partition.eof", "true")
            .set("isolation.level", "read_committed")
            .set("auto.offset.reset", "error")
            .set("statistics.interval.ms", "1000")
            .set("queued.max.messages.kbytes", kilobytes.to_string());
        let consumer: Arc<BaseConsumer<Listener>> = Arc::new(
            client
                .create_with_context(Listener::default())
                .map_err(|error| kafka.fault(error).into_error())?,
        );
        let mut assignment = TopicPartitionList::new();
        for partition in &open {
            // The last record that was read is read once more, and compared.
            let known = partition.known.front().map(|known| known.offset);
            let from = match known.map_or(partition.next_offset, |known| known.min(partition.next_offset)) {
                0 => Offset::Beginning,
                next => Offset::Offset(i64::try_from(next)?),
            };
            let name = kafka.topic(partition.topic.name());
            assignment.add_partition_offset(&name, partition.number as i32, from).context("can't assign")?;
        }
        // Before anything is fetched: a record would come outside its queue.
        for partition in open {
            let name = kafka.topic(partition.topic.name());
            let queue = consumer.split_partition_queue(&name, partition.number as i32);
            partition.queue =
                Some(queue.with_context(|| format!("can't read {name} [{}]", partition.number))?);
        }
        consumer.assign(&assignment).map_err(|error| kafka.fault(error).into_error())?;
        info!(worker = self.worker, partitions = self.partitions.len(), "reading from Kafka");
        self.consumer = Some(consumer);
        Ok(())
    }

    /// Starts the partitions of ads and conversions at the first record that was appended at `time` or later.
    /// What the sinks have not committed must not be passed over.
    fn backfill(
        &mut self,
        time: EventTime,
        committed: Option<&Progress>,
        gaps: &[Gap],
    ) -> anyhow::Result<()> {
        let kafka = &self.config.kafka;
        let lasting = |error| kafka.fault(error).into_error();
        let mut client = kafka.client_with(CATCHING_UP);
        client.set("group.id", kafka.topic(&self.config.name));
        let consumer: BaseConsumer = client.create().map_err(lasting)?;
        for partition in &mut self.partitions {
            if !matches!(partition.topic, Topic::AdEvents | Topic::ConversionEvents) {
                continue;
            }
            let name = kafka.topic(partition.topic.name());
            let mut wanted = TopicPartitionList::new();
            wanted.add_partition_offset(&name, partition.number as i32, Offset::Offset(time.0))?;
            let found = consumer.offsets_for_times(wanted, kafka.connect_timeout).map_err(lasting)?;
            let offset = found.find_partition(&name, partition.number as i32).map(|found| found.offset());
            let key = (partition.topic, partition.number);
            let accepts_loss = gaps.iter().any(|gap| gap.place() == key);
            let end = self.watch.end(key).unwrap_or(0);
            let first = match offset {
                Some(Offset::Offset(first)) => u64::try_from(first)?,
                _ => end,
            };
            let report = committed
                .and_then(|committed| committed.partitions.get(&(partition.topic, partition.number)));
            if let Some(next) = committed.map(|_| report.map_or(0, |report| report.next_offset)) {
                ensure!(
                    first <= next || accepts_loss,
                    "{name} [{}] would be read from offset {first} on, but the results hold it only up to {next}: give \
                     --backfill-from an earlier time",
                    partition.number
                );
            }
            partition.next_offset = first;
        }
        Ok(())
    }

    fn disconnect(&mut self) {
        for partition in &mut self.partitions {
            partition.queue = None;
            partition.held = None;
            partition.at_end = false;
            partition.hungry = None;
        }
        self.consumer = None;
    }

    /// Hears what librdkafka has to say beside records.
    fn listen(&self) -> anyhow::Result<()> {
        let Some(consumer) = &self.consumer else { return Ok(()) };
        while let Some(event) = consumer.poll(Duration::ZERO) {
            match event {
                Ok(message) => bail!("a record of {} came outside its partition's queue", message.topic()),
                Err(error) => self.judge(error)?,
            }
        }
        Ok(())
    }

    /// Whether an error of the consumer ends the run. A broker that is away comes back, and librdkafka with
    /// it.
    fn judge(&self, error: KafkaError) -> anyhow::Result<()> {
        let code = error.rdkafka_error_code();
        match code {
            Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => Err(anyhow!(error).context(
                "records were deleted from Kafka before they were read, or a topic was made anew; raise retention.ms of the \
                 topics, then start again",
            )),
            _ => match self.config.kafka.fault(error) {
                Fault::Passing(_) => Ok(()),
                Fault::Lasting(error) => Err(error),
            },
        }
    }

    /// The same for an error of a partition, which it names.
    fn judge_at(&self, at: usize, error: KafkaError) -> anyhow::Result<()> {
        let Partition { topic, number, next_offset, .. } = &self.partitions[at];
        let name = self.config.kafka.topic(topic.name());
        self.judge(error)
            .with_context(|| format!("{name} [{number}] can't be read from offset {next_offset} on"))
    }

    /// The partition to read next: of those that may have more, the one furthest behind in event time.
    fn furthest_behind(&self, ingest: &Ingest, skip: &[bool]) -> Option<usize> {
        (0..self.partitions.len())
            .filter(|&at| !skip[at] && self.partitions[at].is_wanted())
            .min_by_key(|&at| ingest.greatest(self.partitions[at].handle))
    }

    /// Lets partitions that woke up follow the others, puts quiet ones to sleep, and looks for new ones.
    fn look_after(&mut self, ingest: &mut Ingest, epoch: Epoch, view: &WatermarkView) -> anyhow::Result<()> {
        let now = Instant::now();
        for at in 0..self.partitions.len() {
            // Looked at only where it matters: this is called with every poll.
            let is_quiet = self.partitions[at].life.quiet_for(now) >= self.config.idle_timeout;
            // Of a bounded run, what has been read to its end waits to be told so.
            let may_sleep = self.config.follow && is_quiet && self.is_caught_up(at);
            let partition = &mut self.partitions[at];
            partition.life.follow((partition.topic, partition.number), partition.handle, ingest, view, now);
            match partition.life.stage() {
                Stage::Idle => {
                    if let Some(error) = partition.peek(&self.config.kafka)? {
                        self.judge_at(at, error)?;
                    } else if self.partitions[at].held.is_some() {
                        self.partitions[at].life.wake(epoch);
                    }
                }
                // One that woke up just now is active, and was not quiet since.
                Stage::Active if may_sleep && partition.life.quiet_for(now) >= self.config.idle_timeout => {
                    partition.life.go(Stage::Idle);
                }
                _ => {}
            }
        }
        if self.config.follow && self.discover(ingest, Stage::Waking(epoch)) {
            self.connect()?;
        }
        Ok(())
    }

    /// Whether everything that the brokers have of a partition was taken: they say so now, and the consumer
    /// has been to that very end. A partition that is slow, or whose broker does not answer, is not.
    fn is_caught_up(&self, at: usize) -> bool {
        let partition = &self.partitions[at];
        let end = self.watch.end_now((partition.topic, partition.number));
        partition.at_end && partition.held.is_none() && end.is_some_and(|end| self.position(partition) >= end)
    }

    /// Where a partition's consumer is: nothing readable before this offset is still to come.
    fn position(&self, partition: &Partition) -> u64 {
        let name = self.config.kafka.topic(partition.topic.name());
        let consumer = self.consumer.as_ref().filter(|_| partition.at_end);
        let reached = consumer.and_then(|consumer| consumer.context().end_reached(&name, partition.number));
        reached.unwrap_or(0).max(partition.next_offset)
    }

    /// Of a bounded run: ends the partitions that were read to where they end. True if all were.
    fn finish(&mut self) -> bool {
        let at_last = self.partitions.iter_mut().filter(|partition| partition.is_at_last());
        at_last
            .filter(|partition| partition.life.is_active())
            .for_each(|partition| partition.life.go(Stage::Finished));
        !self.config.follow
            && self.partitions.iter().all(|partition| partition.life.stage() == Stage::Finished)
    }

    /// After a poll that found nothing: lets the consumer rest if that has been so for long, and hurry if it keeps
    /// a partition waiting. One whose brokers do not answer stays as it is.
    fn pace(&mut self) -> anyhow::Result<()> {
        let now = Instant::now();
        let quiet = self.partitions.iter().map(|known| known.life.quiet_for(now)).min().unwrap_or_default();
        // One that is at its end may lack the offsets of transactions' markers only.
        let waiting = self.partitions.iter().filter(|partition| !partition.at_end);
        let waits = waiting.filter_map(|partition| partition.hungry).min();
        let may_change = self.config.follow && !self.replaying && self.rest.is_due(quiet, waits, now);
        if may_change && (self.rest.rests() || (0..self.partitions.len()).all(|at| self.is_caught_up(at))) {
            self.rest.turn(now);
            self.connect()?;
        }
        Ok(())
    }

    /// Replaces a consumer that gets nothing for long although the brokers have more for it.
    fn revive(&mut self, at: usize) -> anyhow::Result<()> {
        let partition = &self.partitions[at];
        let key = (partition.topic, partition.number);
        let more = self.watch.end_now(key).is_some_and(|end| end > self.position(partition));
        let partition = &mut self.partitions[at];
        if !more {
            partition.hungry = None;
            return Ok(());
        }
        let since = *partition.hungry.get_or_insert_with(Instant::now);
        if since.elapsed() >= self.config.kafka.stall_timeout {
            let (topic, partition, offset) = (key.0.name(), key.1, partition.next_offset);
            warn!(topic, partition, offset, "the consumer has stalled; a new one takes its place");
            self.connect()?;
        }
        Ok(())
    }

    /// After a replay that ends early: says so if the topic is not the one that was read before.
    fn check_replayed(&self, partition: &Partition) -> anyhow::Result<()> {
        let (Some(until), Some(end)) = (partition.until, self.watch.end((partition.topic, partition.number)))
        else {
            return Ok(());
        };
        ensure!(
            end >= until,
            "{} [{}] ends at offset {end}, but results up to {until} have been committed: the topic was made anew; set \
             another name (key name) to start over",
            self.config.kafka.topic(partition.topic.name()),
            partition.number
        );
        Ok(())
    }
}

impl Source for KafkaSource {
    fn start(&mut self, ingest: &mut Ingest, from: &Start<'_>) -> anyhow::Result<()> {
        self.discover(ingest, Stage::Active);
        for partition in &mut self.partitions {
            let known = from
                .checkpoint
                .and_then(|progress| progress.partitions.get(&(partition.topic, partition.number)));
            if let Some(report) = known {
                ingest.restore(partition.handle, report);
                partition.next_offset = report.next_offset;
            }
        }
        if let Some(time) = from.backfill {
            self.backfill(time, from.cuts.first(), from.gaps)?;
        }
        let extents = self.watch.extents();
        for partition in &mut self.partitions {
            let place = (partition.topic, partition.number);
            let start = extents.get(&place).map_or(0, |extent| extent.start);
            let (next, first) = from.offsets(place, partition.next_offset, start);
            partition.next_offset = next;
            ingest.start_at(partition.handle, next, first);
            partition.known = from.last_read(place, start);
        }
        self.connect()?;
        self.report(ingest);
        Ok(())
    }

    fn replay_to(&mut self, cut: Option<&Progress>) {
        self.replaying = cut.is_some();
        for partition in &mut self.partitions {
            let committed = |cut: &Progress| {
                cut.partitions.get(&(partition.topic, partition.number)).map(|at| at.next_offset)
            };
            partition.until = cut.map(|cut| committed(cut).unwrap_or(0));
        }
    }

    fn resume(&mut self, ingest: &mut Ingest, last: &Progress) {
        for partition in &mut self.partitions {
            let key = (partition.topic, partition.number);
            partition.life.resume(key, partition.handle, ingest, last, self.config.follow);
        }
    }

    fn poll(&mut self, ingest: &mut Ingest, epoch: Epoch, view: &WatermarkView) -> anyhow::Result<Poll> {
        self.listen()?;
        if !self.replaying {
            self.look_after(ingest, epoch, view)?;
        }
        let mut empty = vec![false; self.partitions.len()];
        while let Some(at) = self.furthest_behind(ingest, &empty) {
            let (taken, error) = self.partitions[at].read(ingest, &self.config)?;
            if let Some(error) = error {
                self.judge_at(at, error)?;
            }
            if taken > 0 {
                self.bytes_read += taken;
                return Ok(Poll::Ready);
            }
            empty[at] = true;
            if self.replaying && self.partitions[at].at_end {
                self.check_replayed(&self.partitions[at])?;
            } else {
                self.revive(at)?;
            }
        }
        let ended = if self.replaying {
            self.partitions.iter().all(|partition| !partition.is_wanted())
        } else {
            self.finish()
        };
        self.pace()?;
        Ok(if ended { Poll::Finished } else { Poll::Pending })
    }

    fn report(&mut self, ingest: &mut Ingest) {
        let clock = self.config.idle_advance.then(|| ingest.clock());
        for partition in &mut self.partitions {
            partition.life.report(partition.handle, ingest, clock);
        }
    }

    fn has_news(&self) -> bool {
        self.partitions.iter().any(|partition| partition.life.has_news())
    }

    fn bytes_read(&self) -> u64 {
        self.bytes_read
    }

    fn status(&self) -> Option<SourceStatus> {
        let partitions = self.partitions.iter().map(|partition| PartitionStatus {
            topic: partition.topic,
            partition: partition.number,
            // Behind the last record there may be markers of transactions: they are no lag.
            next_offset: self.position(partition),
            end_offset: self.watch.end((partition.topic, partition.number)),
            idle: partition.life.stage() == Stage::Idle,
        });
        let fault = self.watch.fault().map(|fault| format!("reading Kafka: {fault}"));
        Some(SourceStatus { partitions: partitions.collect(), lag_bytes: None, fault })
    }
}
