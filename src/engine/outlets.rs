//! The sinks of a run: what each takes of the results, and how they are opened.

use adtide_dataflows::model::Epoch;
use adtide_dataflows::{Outputs, Settings, Statement};
use timely::dataflow::operators::Concat;
use timely::dataflow::operators::probe::{Handle, Probe};

use super::{Monitor, Plan, Services, SinkConfig};
use crate::ledger;
use crate::sink::kafka::KafkaSink;
use crate::sink::postgres::PostgresSink;
use crate::sink::redis::RedisSink;
use crate::sink::sqlite::SqliteSink;
use crate::sink::topics::{self, TopicSink};
use crate::sink::{self, Opener, Run, Sink};

/// The worker that all sinks belong to.
const OWNER: usize = 0;

/// What a sink takes of the results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// Statement 1.
    Rankings,
    /// Statements 2 and 3.
    Tables,
    /// Statements 1 to 3.
    RankingsAndTables,
    /// Statement 4, late events and dead letters.
    Records,
}

/// What the sinks take, one entry a sink: the same on every worker.
pub fn outlets(sinks: &SinkConfig, settings: &Settings) -> Vec<Takes> {
    match sinks {
        SinkConfig::None => Vec::new(),
        SinkConfig::Embedded(_) => vec![Takes::RankingsAndTables, Takes::Records],
        SinkConfig::Services(_) => {
            let wanted = needed(settings).into_iter().zip([Takes::Rankings, Takes::Tables, Takes::Records]);
            wanted.filter(|(needed, _)| *needed).map(|(_, takes)| takes).collect()
        }
    }
}

/// Whether Redis, PostgreSQL and Kafka are needed: a server that no statement writes to has no sink.
fn needed(settings: &Settings) -> [bool; 3] {
    let runs = |statement| settings.statements.contains(&statement);
    let tables = runs(Statement::PerformanceAggregator) || runs(Statement::ConversionMatcher);
    [runs(Statement::RtbCacheUpdater), tables, true]
}

/// Opens the servers' sinks. From now on no earlier run can write to them any more.
///
/// # Errors
/// One can't be reached, or refuses.
pub fn open_services(
    services: &Services,
    settings: &Settings,
    run: &Run,
    monitor: &Monitor,
) -> anyhow::Result<Vec<Box<dyn Sink>>> {
    let Services { name, redis, postgres, kafka } = services;
    let [rankings, tables, records] = needed(settings);
    let mut sinks: Vec<Box<dyn Sink>> = Vec::new();
    // In the order of `outlets`. Each may take a while, which is no standing still.
    if rankings {
        sinks.push(Box::new(RedisSink::open(redis, name, run.clone())?));
        monitor.beat();
    }
    if tables {
        sinks.push(Box::new(PostgresSink::open(postgres, name, run.clone())?));
        monitor.beat();
    }
    if records {
        sinks.push(Box::new(KafkaSink::open(kafka, name, run.clone())?));
    }
    Ok(sinks)
}

/// Opens the embedded sinks; what they hold has been looked at before.
///
/// # Errors
/// A file can't be written.
pub fn open_embedded(data_dir: &std::path::Path, plan: &Plan) -> anyhow::Result<Vec<Box<dyn Sink>>> {
    let topics = data_dir.join("topics");
    if !plan.resume {
        topics::forget(&topics)?;
    }
    if topics::committed(&topics)?.is_none() {
        // In this order: what is read of the old refunds from now on comes to nothing.
        ledger::withdraw_refunds(data_dir)?;
    }
    Ok(vec![
        Box::new(SqliteSink::open(&data_dir.join("adtide.db"), &plan.run, plan.resume)?),
        Box::new(TopicSink::open(&topics, &plan.run, plan.resume)?),
    ])
}

/// Attaches the sinks, which are there on their owner only, to the outlets; where there are none, only the
/// probe.
pub fn connect(
    outputs: &Outputs<'_>,
    outlets: &[Takes],
    sinks: Vec<Opener>,
    rewrites_rankings: bool,
    probe: &Handle<Epoch>,
) {
    if outlets.is_empty() {
        sink::rankings(outputs)
            .concat(sink::tables(outputs))
            .concat(sink::records(outputs))
            .probe_with(probe);
        return;
    }
    let mut sinks = sinks.into_iter();
    for takes in outlets {
        let (results, has_rankings) = match takes {
            Takes::Rankings => (sink::rankings(outputs), true),
            Takes::Tables => (sink::tables(outputs), false),
            Takes::RankingsAndTables => (sink::rankings(outputs).concat(sink::tables(outputs)), true),
            Takes::Records => (sink::records(outputs), false),
        };
        let changes = results.concat(sink::progress(outputs));
        sink::attach(changes, OWNER, sinks.next(), rewrites_rankings && has_rankings).probe_with(probe);
    }
}
