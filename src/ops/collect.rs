//! The metrics, computed when they are asked for from what the parts of the process know of themselves.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use adtide_dataflows::Statement;
use adtide_dataflows::model::{EventTime, Money};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use super::names::Metric;
use super::scrape::{Labels, Scrape};
use super::{names, usage};
use crate::connect;
use crate::engine::{CheckpointStatus, Monitor, WorkerStatus};
use crate::ledger::{Job, Jobs, WorkerStats};
use crate::sink;
use crate::source::SourceStatus;

/// The process itself.
#[derive(Debug)]
pub struct Process {
    started: EventTime,
}

impl Process {
    /// From now on.
    pub fn start() -> Process {
        Process { started: crate::now() }
    }
}

impl Collector for Process {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut scrape = Scrape::new(encoder);
        scrape.info(&names::BUILD, vec![env!("CARGO_PKG_VERSION").to_owned()])?;
        scrape.sample(&names::MEMORY, usage::resident_memory().map(|bytes| bytes as f64))?;
        scrape.sample(&names::CPU, usage::cpu_seconds())?;
        scrape.sample(&names::START, seconds(self.started))
    }
}

/// What is tried again and again.
#[derive(Debug)]
pub struct Trials;

impl Collector for Trials {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let trials = connect::trials().into_iter().map(|(what, trial)| (vec![what], trial.failures as f64));
        Scrape::new(encoder).samples(&names::RETRIES, trials)
    }
}

type Count = fn(&WorkerStats) -> &AtomicU64;

/// The workers of `adtide worker`.
#[derive(Debug)]
pub struct Workers(pub Jobs);

impl Collector for Workers {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut scrape = Scrape::new(encoder);
        let counts: [(&Metric, Count); 7] = [
            (&names::WORKER_RECORDS, |stats| &stats.records),
            (&names::WORKER_BAD, |stats| &stats.bad),
            (&names::WORKER_DEBITS, |stats| &stats.debits),
            (&names::WORKER_CREDITS, |stats| &stats.credits),
            (&names::WORKER_PAUSED, |stats| &stats.paused),
            (&names::WORKER_ACTIVATED, |stats| &stats.activated),
            (&names::WORKER_REFUSED, |stats| &stats.zombies),
        ];
        for (metric, count) in counts {
            let each =
                self.0.iter().map(|(job, stats)| (label(*job), count(stats).load(Ordering::Relaxed) as f64));
            scrape.samples(metric, each)?;
        }
        let lag = self.0.iter().filter_map(|(job, stats)| Some((label(*job), stats.lag()? as f64)));
        scrape.samples(&names::WORKER_LAG, lag)?;
        let debited = self.0.iter().map(|(job, stats)| (label(*job), stats.debited().to_f64()));
        scrape.samples(&names::WORKER_DEBITED, debited)?;
        let credited = self.0.iter().map(|(job, stats)| (label(*job), stats.credited().to_f64()));
        scrape.samples(&names::WORKER_CREDITED, credited)
    }
}

fn label(job: Job) -> Labels {
    vec![job.name().to_owned()]
}

/// The sinks.
#[derive(Debug)]
pub struct Sinks;

impl Collector for Sinks {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut scrape = Scrape::new(encoder);
        let sinks = sink::sinks();
        let each = |value: fn(&sink::SinkStatus) -> Option<f64>| {
            let samples = sinks
                .iter()
                .filter_map(move |(name, status)| Some((vec![(*name).to_owned()], value(status)?)));
            samples.collect::<Vec<_>>()
        };
        scrape.samples(&names::SINK_ROWS, each(|status| Some(status.rows as f64)))?;
        scrape.samples(&names::SINK_COMMITS, each(|status| Some(status.commits as f64)))?;
        scrape.samples(&names::SINK_EPOCHS, each(|status| Some(status.epochs as f64)))?;
        let histograms =
            sinks.iter().map(|(name, status)| (vec![(*name).to_owned()], status.seconds.clone()));
        scrape.histograms(&names::SINK_SECONDS, histograms)?;
        scrape.samples(&names::SINK_AGE, each(|status| Some(status.last_commit?.elapsed().as_secs_f64())))?;
        let writing = |status: &sink::SinkStatus| {
            Some(status.writing_since.map_or(0.0, |since| since.elapsed().as_secs_f64()))
        };
        scrape.samples(&names::SINK_WRITING, each(writing))
    }
}

/// The engine: workers, sources and statements.
#[derive(Debug)]
pub struct Engine(pub Arc<Monitor>);

impl Collector for Engine {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut scrape = Scrape::new(encoder);
        let (workers, sources) = (self.0.workers(), self.0.sources());
        records(&mut scrape, &self.0, &workers)?;
        progress(&mut scrape, &self.0, &workers)?;
        lag(&mut scrape, &sources)?;
        checkpoint(&mut scrape, self.0.checkpoint())?;
        held(&mut scrape, &workers)
    }
}

fn records(scrape: &mut Scrape<'_>, monitor: &Monitor, workers: &[WorkerStatus]) -> fmt::Result {
    let counts = monitor.counts();
    let outcomes = workers.iter().flat_map(|worker| &worker.partitions).flat_map(|partition| {
        let labels = |outcome: &str| {
            vec![partition.topic.name().to_owned(), partition.partition.to_string(), outcome.to_owned()]
        };
        [(labels("good"), partition.good as f64), (labels("dead"), partition.dead as f64)]
    });
    scrape.samples(&names::EVENTS, outcomes)?;
    let dead = counts.bad.into_iter().map(|(reason, count)| (vec![reason], count as f64));
    scrape.samples(&names::DEAD_LETTERS, dead)?;
    let late =
        counts.late.into_iter().map(|(statement, count)| (vec![statement.name().to_owned()], count as f64));
    scrape.samples(&names::LATE_EVENTS, late)?;
    scrape.sample(&names::WITHOUT_CAMPAIGN, counts.without_campaign as f64)?;
    let ids = counts.ids;
    let by_id = |counts: &[(&str, u64)]| {
        let samples = counts.iter().map(|(id, count)| (vec![(*id).to_owned()], *count as f64));
        samples.collect::<Vec<_>>()
    };
    let clicks = [
        ("device", ids.clicks_without_device),
        ("ad", ids.clicks_without_ad),
        ("session", ids.clicks_without_session),
    ];
    scrape.samples(&names::CLICKS_WITHOUT_ID, by_id(&clicks))?;
    let conversions =
        [("device", ids.conversions_without_device), ("session", ids.conversions_without_session)];
    scrape.samples(&names::CONVERSIONS_WITHOUT_ID, by_id(&conversions))?;
    let repeats: u64 = workers.iter().map(|worker| worker.repeats).sum();
    scrape.sample(&names::REPEATED_CONVERSIONS, repeats as f64)?;
    // Sums are exact; only what a metric shows of them is a float, as all that Prometheus knows is.
    scrape.sample(&names::SPEND, counts.spend.to_f64())?;
    scrape.sample(&names::REFUNDS, workers.iter().map(|worker| worker.refunds).sum::<Money>().to_f64())?;
    scrape.sample(&names::READ_BYTES, workers.iter().map(|worker| worker.bytes).sum::<u64>() as f64)
}

fn progress(scrape: &mut Scrape<'_>, monitor: &Monitor, workers: &[WorkerStatus]) -> fmt::Result {
    let marks = monitor.watermarks().into_iter().flat_map(|marks| {
        [
            (Statement::PerformanceAggregator, marks.performance),
            (Statement::ConversionMatcher, marks.conversions),
            (Statement::DuplicateDetector, marks.duplicates),
        ]
    });
    // Before the first event and after the end there is no time to tell.
    let known = marks.filter(|(_, mark)| *mark > EventTime::MIN && *mark <= EventTime::LAST);
    let known = known.map(|(statement, mark)| (vec![statement.name().to_owned()], seconds(mark)));
    scrape.samples(&names::WATERMARK, known)?;
    scrape.sample(&names::FRONTIER_LAG, monitor.frontier_age().map(|age| age.as_secs_f64()))?;
    scrape.histograms(&names::EPOCH_SECONDS, [(Vec::new(), monitor.epochs())])?;
    let waiting = (!workers.is_empty()).then(|| workers.iter().map(|worker| worker.unwritten as f64).sum());
    scrape.sample(&names::CHECKPOINT_WAITING, waiting)?;
    scrape.sample(
        &names::IN_FLIGHT,
        workers.iter().map(|worker| worker.in_flight).max().map(|epochs| epochs as f64),
    )
}

fn lag(scrape: &mut Scrape<'_>, sources: &[SourceStatus]) -> fmt::Result {
    let partitions: Vec<_> = sources.iter().flat_map(|source| &source.partitions).collect();
    let at = |status: &crate::source::PartitionStatus| -> Labels {
        vec![status.topic.name().to_owned(), status.partition.to_string()]
    };
    let lags = partitions.iter().filter_map(|status| {
        let lag = status.end_offset?.saturating_sub(status.next_offset);
        Some((at(status), lag as f64))
    });
    scrape.samples(&names::LAG_RECORDS, lags)?;
    let bytes: Vec<_> = sources.iter().filter_map(|source| source.lag_bytes).collect();
    scrape.sample(&names::LAG_BYTES, (!bytes.is_empty()).then(|| bytes.iter().sum::<u64>() as f64))?;
    scrape.samples(
        &names::NEXT_OFFSET,
        partitions.iter().map(|status| (at(status), status.next_offset as f64)),
    )?;
    scrape
        .samples(&names::IDLE, partitions.iter().map(|status| (at(status), f64::from(u8::from(status.idle)))))
}

fn held(scrape: &mut Scrape<'_>, workers: &[WorkerStatus]) -> fmt::Result {
    let (mut rows, mut bytes) = (BTreeMap::new(), BTreeMap::new());
    for held in workers.iter().flat_map(|worker| &worker.held) {
        let key = vec![held.statement.name().to_owned(), held.what.to_owned()];
        if let Some(more) = held.bytes {
            *bytes.entry(key.clone()).or_insert(0.0) += more as f64;
        }
        *rows.entry(key).or_insert(0.0) += held.rows as f64;
    }
    scrape.samples(&names::STATE_ROWS, rows)?;
    scrape.samples(&names::STATE_BYTES, bytes)
}

fn checkpoint(scrape: &mut Scrape<'_>, last: Option<CheckpointStatus>) -> fmt::Result {
    scrape.sample(&names::CHECKPOINTS, last.map(|last| last.count as f64))?;
    scrape.sample(&names::CHECKPOINT_EPOCH, last.map(|last| last.epoch as f64))?;
    scrape.sample(&names::CHECKPOINT_AGE, last.map(|last| last.at.elapsed().as_secs_f64()))?;
    scrape.sample(&names::CHECKPOINT_ROWS, last.map(|last| last.rows as f64))?;
    scrape.sample(&names::CHECKPOINT_BYTES, last.map(|last| last.bytes as f64))?;
    scrape.sample(&names::CHECKPOINT_WRITTEN, last.map(|last| last.written as f64))
}

/// A point of time in seconds since 1970.
fn seconds(time: EventTime) -> f64 {
    time.0 as f64 / 1000.0
}
