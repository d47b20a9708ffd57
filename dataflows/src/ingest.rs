//! The way in: from the bytes of a record to the inputs of the statements, once for all of them.
//!
//! Beside its source, each worker parses a record, turns it away if it can't be read or comes too late, and
//! passes on to each statement no more than that one needs: statement 2 gets sums, statements 3 and 4 only
//! clicks.

use crate::conversion_matcher;
use crate::counts::{Counts, PartitionCounts};
use crate::duplicate_detector::PaidClick;
use crate::envelope::Envelope;
use crate::judgement::Judge;
use crate::model::{
    AdEvent, AdEventType, CampaignEvent, ConversionEvent, EventTime, ProductMeta, ProductMetrics, Topic,
    UnknownIds,
};
use crate::operators::{FileMark, Fingerprint, PartitionReport, PartitionState, Wake, Watermarks};
use crate::performance_aggregator::{self, PreAggregate};
use crate::record::{self, BadRecord, Scanner};
use crate::rejected::{DeadLetter, LateEvent};
use crate::rtb_cache_updater;
use crate::wakes::Wakes;
use crate::{MetricsSource, Settings, StateDelta, Statement};

/// The input of the dataflow for one epoch.
#[derive(Debug, Default)]
pub struct Batch {
    pub(crate) entered: StateDelta,
    pub(crate) dead: Vec<DeadLetter>,
    pub(crate) late: Vec<LateEvent>,
    pub(crate) reports: Vec<PartitionReport>,
}

impl Batch {
    /// Empties the batch.
    pub fn clear(&mut self) {
        *self = Batch::default();
    }
}

/// A partition that an [`Ingest`] reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionHandle(usize);

struct Partition {
    topic: Topic,
    number: u32,
    next_offset: u64,
    first_offset: u64,
    greatest: Option<EventTime>,
    /// The partition's own watermarks: by these its records are late.
    watermarks: Watermarks,
    /// What it has followed beside its own records, or will in a replay.
    wakes: Wakes,
    /// The last record, where the source says which it was.
    last: Option<Fingerprint>,
    /// The file that it is read from, if it is in files.
    file: Option<FileMark>,
    judge: Judge,
    good: u64,
    dead: u64,
}

/// One worker's way in.
pub struct Ingest {
    unknown_ids: UnknownIds,
    scanners: [Scanner; Topic::ALL.len()],
    partitions: Vec<Partition>,
    router: Router,
}

/// What is between a parsed record and the batch.
struct Router {
    settings: Settings,
    clock: EventTime,
    runs: [bool; Statement::ALL.len()],
    forgotten: Watermarks,
    sums: PreAggregate,
    batch: Batch,
    counts: Counts,
}

/// A record, where it is from and what its partition knows.
struct Arrival<'a> {
    partition: &'a mut Partition,
    envelope: Envelope<'a>,
    bytes: &'a [u8],
}

impl Ingest {
    /// An ingest without partitions.
    pub fn new(settings: &Settings) -> Ingest {
        let router = Router {
            runs: Statement::ALL.map(|statement| settings.statements.contains(&statement)),
            settings: settings.clone(),
            clock: EventTime::MIN,
            forgotten: Watermarks::MIN,
            sums: PreAggregate::default(),
            batch: Batch::default(),
            counts: Counts::default(),
        };
        let unknown_ids = settings.unknown_ids.clone();
        Ingest { unknown_ids, scanners: Default::default(), partitions: Vec::new(), router }
    }

    /// Sets the clock by which the records that follow are judged. It is to go on steadily: what is too far
    /// ahead of it is bad.
    pub fn set_clock(&mut self, now: EventTime) {
        self.router.clock = now;
    }

    /// The clock.
    pub fn clock(&self) -> EventTime {
        self.router.clock
    }

    /// Adds a partition, to be read from `next_offset` on.
    pub fn add_partition(&mut self, topic: Topic, number: u32, next_offset: u64) -> PartitionHandle {
        let watermarks = Watermarks::MIN;
        self.partitions.push(Partition {
            topic,
            number,
            next_offset,
            first_offset: next_offset,
            greatest: None,
            watermarks,
            wakes: Wakes::default(),
            last: None,
            file: None,
            judge: Judge::default(),
            good: 0,
            dead: 0,
        });
        PartitionHandle(self.partitions.len() - 1)
    }

    /// Goes on with what a checkpoint knows of a partition that was added.
    pub fn restore(&mut self, partition: PartitionHandle, report: &PartitionReport) {
        let partition = &mut self.partitions[partition.0];
        partition.next_offset = report.next_offset;
        partition.first_offset = report.first_offset;
        partition.greatest = report.greatest;
        partition.watermarks = report.watermarks;
        partition.wakes = Wakes::again(&report.wakes);
        partition.last = report.last;
        partition.file = report.file;
        partition.judge = Judge::again(&report.judgements, report.next_offset, report.greatest);
    }

    /// Reads a partition from `next_offset` on; results of it began with `first_offset`.
    pub fn start_at(&mut self, partition: PartitionHandle, next_offset: u64, first_offset: u64) {
        let partition = &mut self.partitions[partition.0];
        (partition.next_offset, partition.first_offset) = (next_offset, first_offset);
    }

    /// Notes which record of a partition was read last, for its next report.
    pub fn note_last(&mut self, partition: PartitionHandle, last: Fingerprint) {
        self.partitions[partition.0].last = Some(last);
    }

    /// Says which file a partition is read from, for its next report.
    pub fn note_file(&mut self, partition: PartitionHandle, file: FileMark) {
        self.partitions[partition.0].file = Some(file);
    }

    /// Takes records for late that belong to a state from before `forgotten`: their window ends, or they
    /// happened, earlier. An earlier run has forgotten it, under an allowed lateness that may have been less;
    /// or a part of its input is lost.
    pub fn forget(&mut self, forgotten: Watermarks) {
        self.router.forgotten = forgotten;
    }

    /// A partition that was added.
    pub fn partition(&self, topic: Topic, number: u32) -> Option<PartitionHandle> {
        let at = self.partitions.iter().position(|known| (known.topic, known.number) == (topic, number));
        at.map(PartitionHandle)
    }

    /// The greatest event time of a partition's good records.
    pub fn greatest(&self, partition: PartitionHandle) -> Option<EventTime> {
        self.partitions[partition.0].greatest
    }

    /// Lets a partition that appeared late or was idle follow the watermarks that the others have reached:
    /// what they have closed is closed for it too.
    pub fn follow(&mut self, partition: PartitionHandle, floor: Watermarks) {
        let partition = &mut self.partitions[partition.0];
        let followed = partition.watermarks.max(floor);
        // What it has reached already does not make it wake up a second time.
        if followed != partition.watermarks {
            partition.watermarks = followed;
            partition.wakes.add(Wake { offset: partition.next_offset, floor: followed });
        }
    }

    /// For a replay of what an earlier run had read by its `report`. The partition's records are judged by
    /// the clocks by which they were judged then. Where it woke up, it follows the same watermarks, so that
    /// the same of its records are late.
    pub fn replay_as(&mut self, report: &PartitionReport) {
        let key = (report.topic, report.partition);
        if let Some(partition) = self.partitions.iter_mut().find(|known| (known.topic, known.number) == key) {
            partition.wakes = Wakes::again(&report.wakes);
            partition.judge = Judge::again(&report.judgements, report.next_offset, report.greatest);
        }
    }

    /// Lets all partitions follow watermarks that have taken effect: what they closed is closed for all. Of
    /// those that did not sleep then, none was behind.
    pub fn follow_all(&mut self, effective: Watermarks) {
        for partition in &mut self.partitions {
            partition.watermarks = partition.watermarks.max(effective);
        }
    }

    /// Takes the next record of a partition.
    #[inline]
    pub fn record(&mut self, partition: PartitionHandle, offset: u64, bytes: &[u8]) {
        self.record_in(partition, Envelope::at(offset), bytes);
    }

    /// As [`Ingest::record`], for a record with a key or a timestamp: both are kept if it is turned away.
    #[inline]
    pub fn record_in(&mut self, partition: PartitionHandle, envelope: Envelope<'_>, bytes: &[u8]) {
        let partition = &mut self.partitions[partition.0];
        while let Some(floor) = partition.wakes.next(envelope.offset) {
            partition.watermarks = partition.watermarks.max(floor);
        }
        partition.next_offset = envelope.offset + 1;
        let topic = partition.topic;
        let scanner = &mut self.scanners[topic as usize];
        let (router, unknown) = (&mut self.router, &self.unknown_ids);
        let mut arrival = Arrival { partition, envelope, bytes };
        let from = &mut arrival;
        let read = match topic {
            Topic::AdEvents => {
                scanner.read(bytes, |fields| router.ad_event(record::ad_event(fields, unknown)?, from))
            }
            Topic::CampaignEvents => scanner
                .read(bytes, |fields| router.campaign_event(record::campaign_event(fields, unknown)?, from)),
            Topic::ConversionEvents => scanner.read(bytes, |fields| {
                router.conversion_event(record::conversion_event(fields, unknown)?, from)
            }),
            Topic::ProductMetrics => scanner.read(bytes, |fields| {
                router.product_metrics(record::product_metrics(fields, unknown)?, from)
            }),
            Topic::ProductMeta => scanner
                .read(bytes, |fields| router.product_meta(record::product_meta(fields, unknown)?, from)),
        };
        match read {
            Ok(()) => {
                router.counts.good[topic as usize] += 1;
                arrival.partition.good += 1;
            }
            Err(bad) => router.turn_away(&bad, &mut arrival),
        }
    }

    /// Takes a record of which only the first bytes are known, because it is longer than
    /// [`record::MAX_RECORD_BYTES`].
    pub fn oversized(
        &mut self,
        partition: PartitionHandle,
        envelope: Envelope<'_>,
        head: &[u8],
        length: u64,
    ) {
        let partition = &mut self.partitions[partition.0];
        partition.next_offset = envelope.offset + 1;
        let mut arrival = Arrival { partition, envelope, bytes: head };
        self.router.turn_away(&BadRecord::TooLarge(length), &mut arrival);
    }

    /// Says in this epoch's batch how far a partition has been read.
    pub fn report(&mut self, partition: PartitionHandle, state: PartitionState) {
        let known = &self.partitions[partition.0];
        let report = PartitionReport {
            topic: known.topic,
            partition: known.number,
            next_offset: known.next_offset,
            first_offset: known.first_offset,
            greatest: known.greatest,
            watermarks: known.watermarks,
            state,
            wakes: known.wakes.decisive().to_vec(),
            last: known.last,
            file: known.file,
            judgements: known.judge.judgements().to_vec(),
        };
        self.router.batch.reports.push(report);
    }

    /// The input of the epoch that ends now.
    pub fn batch(&mut self) -> &mut Batch {
        self.router.sums.drain_into(&mut self.router.batch.entered.sums);
        &mut self.router.batch
    }

    /// What came of the records so far.
    pub fn counts(&self) -> &Counts {
        &self.router.counts
    }

    /// The same by partition.
    pub fn partition_counts(&self) -> impl Iterator<Item = PartitionCounts> {
        self.partitions.iter().map(|&Partition { topic, number, good, dead, .. }| PartitionCounts {
            topic,
            partition: number,
            good,
            dead,
        })
    }
}

impl Arrival<'_> {
    /// Accepts an event time: checks it against the clock, moves the partition on, and gives the partition's
    /// own watermarks as they were before this record.
    #[inline]
    fn accept(
        &mut self,
        time: EventTime,
        clock: EventTime,
        settings: &Settings,
    ) -> Result<Watermarks, BadRecord> {
        let Envelope { offset, stamp, .. } = self.envelope;
        self.partition.judge.judge(offset, time, stamp, clock, settings.max_future_skew)?;
        let before = self.partition.watermarks;
        if self.partition.greatest.is_none_or(|greatest| time > greatest) {
            self.partition.greatest = Some(time);
            self.partition.watermarks = before.max(Watermarks::of(time, settings));
        }
        Ok(before)
    }

    fn position(&self) -> (u32, u64) {
        (self.partition.number, self.envelope.offset)
    }
}

impl Router {
    fn runs(&self, statement: Statement) -> bool {
        self.runs[statement as usize]
    }

    #[inline]
    fn ad_event(&mut self, event: AdEvent<&str>, from: &mut Arrival<'_>) -> Result<(), BadRecord> {
        let own = from.accept(event.time, self.clock, &self.settings)?;
        if self.runs(Statement::PerformanceAggregator) {
            self.aggregate(&event, own.performance, from);
        }
        if event.event_type == AdEventType::Click {
            self.counts.spend += event.actual_price;
            let ids = &mut self.counts.ids;
            ids.clicks += 1;
            ids.clicks_without_device += u64::from(event.device_id.is_none());
            ids.clicks_without_ad += u64::from(event.ad_id.is_none());
            ids.clicks_without_session += u64::from(event.session_id.is_none());
            if self.runs(Statement::DuplicateDetector) {
                self.paid_click(&event, own.duplicates, from);
            }
            if self.runs(Statement::ConversionMatcher) {
                self.match_click(event, own.conversions, from);
            }
        }
        Ok(())
    }

    #[inline]
    fn aggregate(&mut self, event: &AdEvent<&str>, watermark: EventTime, from: &mut Arrival<'_>) {
        let Some(campaign_id) = event.campaign_id else {
            self.counts.without_campaign += 1;
            return;
        };
        let deadline = performance_aggregator::deadline(event);
        if self.is_late(Statement::PerformanceAggregator, event.time, deadline, watermark, from) {
            return;
        }
        self.sums.add(campaign_id, event);
    }

    fn paid_click(&mut self, event: &AdEvent<&str>, watermark: EventTime, from: &mut Arrival<'_>) {
        let is_late =
            |deadline| self.is_late(Statement::DuplicateDetector, event.time, deadline, watermark, from);
        let click = PaidClick::of(event, is_late);
        self.batch.entered.paid_clicks.extend(click);
    }

    fn match_click(&mut self, event: AdEvent<&str>, watermark: EventTime, from: &mut Arrival<'_>) {
        let is_of_somebody = event.advertiser_id.is_some();
        if is_of_somebody
            && !self.is_late(Statement::ConversionMatcher, event.time, event.time, watermark, from)
        {
            self.batch.entered.clicks.extend(conversion_matcher::click(event));
        }
    }

    fn conversion_event(
        &mut self,
        event: ConversionEvent<&str>,
        from: &mut Arrival<'_>,
    ) -> Result<(), BadRecord> {
        let own = from.accept(event.time, self.clock, &self.settings)?.conversions;
        self.counts.ids.conversions_without_device += u64::from(event.device_id.is_none());
        self.counts.ids.conversions_without_session += u64::from(event.session_id.is_none());
        if !self.runs(Statement::ConversionMatcher)
            || self.is_late(Statement::ConversionMatcher, event.time, event.time, own, from)
        {
            return Ok(());
        }
        self.batch.entered.conversions.push(conversion_matcher::conversion(&event, from.position()));
        Ok(())
    }

    fn campaign_event(
        &mut self,
        event: CampaignEvent<&str>,
        from: &mut Arrival<'_>,
    ) -> Result<(), BadRecord> {
        from.accept(event.time, self.clock, &self.settings)?;
        if self.runs(Statement::RtbCacheUpdater) {
            self.batch.entered.campaigns.push(rtb_cache_updater::campaign(event, from.position()));
        }
        Ok(())
    }

    fn product_metrics(&mut self, event: ProductMetrics, from: &mut Arrival<'_>) -> Result<(), BadRecord> {
        if self.runs(Statement::RtbCacheUpdater) && self.settings.product_metrics == MetricsSource::Topic {
            self.batch.entered.rates.push(rtb_cache_updater::rates(&event, from.position()));
        }
        Ok(())
    }

    fn product_meta(&mut self, event: ProductMeta, from: &mut Arrival<'_>) -> Result<(), BadRecord> {
        if self.runs(Statement::RtbCacheUpdater) {
            self.batch.entered.prices.push(rtb_cache_updater::price(&event, from.position()));
        }
        Ok(())
    }

    /// Whether the partition's own watermark has passed `deadline` and the allowed lateness; if so, the
    /// record goes to `late-events`.
    ///
    /// The global watermark is the least of the partitions', so a record that is not late finds its window
    /// open.
    #[inline]
    fn is_late(
        &mut self,
        statement: Statement,
        event_time: EventTime,
        deadline: EventTime,
        watermark: EventTime,
        from: &mut Arrival<'_>,
    ) -> bool {
        let by_watermark = watermark > deadline.plus(self.settings.allowed_lateness);
        let late = by_watermark || deadline < self.forgotten.of_statement(statement);
        if late {
            from.partition.wakes.decide();
            *self.counts.late.entry(statement).or_default() += 1;
            self.batch.late.push(LateEvent {
                statement,
                topic: from.partition.topic,
                partition: from.partition.number,
                offset: from.envelope.offset,
                event_time,
                watermark,
                // A run that was restored has forgotten more, and gives the same reason.
                is_closed: !by_watermark,
                key: from.envelope.key.map(<[u8]>::to_vec),
                timestamp: from.envelope.stamp.time(),
                value: from.bytes.to_vec(),
            });
        }
        late
    }

    #[cold]
    fn turn_away(&mut self, bad: &BadRecord, from: &mut Arrival<'_>) {
        from.partition.dead += 1;
        *self.counts.bad.entry(bad.reason().to_owned()).or_default() += 1;
        self.batch.dead.push(DeadLetter {
            topic: from.partition.topic,
            partition: from.partition.number,
            offset: from.envelope.offset,
            key: from.envelope.key.map(<[u8]>::to_vec),
            timestamp: from.envelope.stamp.time(),
            reason: bad.reason().to_owned(),
            detail: bad.to_string(),
            value: from.bytes.to_vec(),
        });
    }
}

#[cfg(test)]
mod tests;
