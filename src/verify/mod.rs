//! Checks what a run wrote: computes the four results once more, in one batch, and compares row by row.
//!
//! A run need not have ended. Each sink holds, with its results, how far the input had been read and which
//! windows had closed; the recomputation stops at the same point.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::PathBuf;

use adtide_dataflows::model::{EventTime, Topic};
use anyhow::Context;

mod bad;
mod cells;
mod compare;
#[cfg(test)]
mod compare_tests;
mod compensations;
mod copies;
mod cut;
mod fields;
mod forms;
mod found;
mod input;
mod kafka;
mod ledger;
#[cfg(test)]
mod ledger_tests;
mod owners;
mod paid_clicks;
mod parse;
#[cfg(test)]
mod parse_tests;
mod recompute;
mod report;

pub use bad::Bad;
pub use cut::Cut;
pub use found::ServicesConfig;
pub use input::{Input, Offsets, TopicFiles, TopicRecord};
pub use parse::BadRecords;
pub use recompute::{Recomputed, Task, recompute};
pub use report::{Differences, LedgerReport, Moment, Report, Section};

use crate::connect::kafka::KafkaConfig;
use compare::LeftOut;
use copies::Watched;
use found::{Embedded, Found, Services, Sinks, Standing};
use input::{Ends, KafkaTopics};

/// Where the input topics are.
#[derive(Clone, Debug)]
pub enum Topics {
    /// A folder of topic files.
    Files(PathBuf),
    /// Kafka.
    Kafka(KafkaConfig),
}

/// Where the results are.
#[derive(Clone, Debug)]
pub enum Results {
    /// A folder with SQLite and topic files.
    Embedded(PathBuf),
    /// PostgreSQL, Redis and Kafka.
    Services(Box<ServicesConfig>),
}

/// Recomputes what a run made of its topics, by the settings that it left with its results, and compares the
/// two. `watch` is told of how many records have been read, and of how many there are.
///
/// # Errors
/// Topics or results that can't be read; what a run wrote wrongly is no error but a difference.
pub fn verify(topics: &Topics, results: &Results, watch: &mut dyn FnMut(u64, u64)) -> anyhow::Result<Report> {
    let mut found: Box<dyn Found> = match results {
        Results::Embedded(data_dir) => Box::new(Embedded::open(data_dir)?),
        Results::Services(config) => Box::new(Services::open(config)?),
    };
    let mut input: Box<dyn Input> = match topics {
        Topics::Files(dir) => Box::new(TopicFiles::new(dir)?.read_last(marks(found.sinks()))),
        Topics::Kafka(config) => Box::new(KafkaTopics::new(config)),
    };
    let report = check(input.as_mut(), found.as_mut(), watch)?;
    Ok(Report { notes: [report.notes, input.notes()].concat(), ..report })
}

/// The files that were read last, of each partition by the sink that is furthest.
fn marks(sinks: &Sinks) -> input::Marks {
    let progress =
        [&sinks.rankings, &sinks.tables, &sinks.topics].into_iter().filter_map(|sink| sink.progress.as_ref());
    let mut reports: Vec<_> = progress.flat_map(|progress| progress.partitions.values()).collect();
    reports.sort_by_key(|report| report.next_offset);
    reports.into_iter().filter_map(|report| Some(((report.topic, report.partition), report.file?))).collect()
}

fn check(
    input: &mut dyn Input,
    found: &mut dyn Found,
    watch: &mut dyn FnMut(u64, u64),
) -> anyhow::Result<Report> {
    let sinks = found.sinks().clone();
    let standings = [&sinks.rankings, &sinks.tables, &sinks.topics];
    let at = standings.map(|standing| Cut::of(standing.progress.as_ref()));
    let mut cuts: Vec<Cut> = Vec::new();
    for cut in &at {
        if !cuts.contains(cut) {
            cuts.push(cut.clone());
        }
    }
    let LeftOut { claims, mut copies } = compare::left_out(found)?;
    let mut ledger = ledger::Ledger::open(found, &sinks.settings)?;
    let task = Task { cuts: &cuts, settings: &sinks.settings, claims: &claims, watch };
    let (clicks, owners) = ledger.as_mut().map(|ledger| (&mut ledger.clicks, &mut ledger.owners)).unzip();
    let recomputed = recompute(&mut Watched { input, copies: &mut copies, owners }, task, clicks)?;
    let of = |cut: &Cut| {
        let position = cuts.iter().position(|known| known == cut);
        position.and_then(|at| recomputed.get(at)).context("a cut was not recomputed")
    };
    let mut ends = TopicEnds::default();
    let behind = at.iter().map(|cut| ends.behind(input, cut)).collect::<anyhow::Result<Vec<_>>>()?;
    if let Some(ledger) = &mut ledger {
        ledger.look_behind(&mut |topic, offsets| ends.behind_offsets(input, topic, offsets), found)?;
    }
    let (rankings, tables, records) = (of(&at[0])?, of(&at[1])?, of(&at[2])?);
    let compensations = compensations::compare(&records.refunds.groups, found)?;
    Ok(Report {
        rankings: compare::rankings(rankings, found)?,
        performance: compare::performance(tables, found)?,
        attributions: compare::attributions(tables, found)?,
        late_events: compare::late_events(records, &copies, found)?,
        dead_letters: compare::dead_letters(records, &copies, found)?,
        ledger: ledger.map(|ledger| ledger.check(&compensations, records, found)).transpose()?,
        refunds: compensations.section,
        ids: tables.ids,
        without_campaign: tables.performance.without_campaign,
        repeats: tables.attributions.repeats,
        late_by_idleness: [&records.performance.late, &records.attributions.late, &records.refunds.late]
            .iter()
            .map(|late| late.by_idleness)
            .sum(),
        moments: moments(&sinks, &at, &behind, [rankings, tables, records]),
        notes: [notes(&sinks, &at), found.notes()].concat(),
    })
}

/// Where the input topics end, each looked up once.
#[derive(Default)]
struct TopicEnds(BTreeMap<Topic, Ends>);

impl TopicEnds {
    /// How many records lie behind a cut in the topics that it has read.
    fn behind(&mut self, input: &mut dyn Input, cut: &Cut) -> anyhow::Result<u64> {
        cut.topics().into_iter().map(|topic| self.behind_offsets(input, topic, &cut.offsets(topic))).sum()
    }

    /// How many lie behind these offsets.
    fn behind_offsets(
        &mut self,
        input: &mut dyn Input,
        topic: Topic,
        offsets: &Offsets,
    ) -> anyhow::Result<u64> {
        let ends = match self.0.entry(topic) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => unknown.insert(input.ends(topic)?),
        };
        let behind = ends.iter().map(|(partition, bounds)| {
            bounds.end.saturating_sub(offsets.get(partition).copied().unwrap_or(bounds.start))
        });
        Ok(behind.sum())
    }
}

/// Where each sink stood, a sink once.
fn moments(
    sinks: &Sinks,
    at: &[Cut; 3],
    behind: &[u64],
    [rankings, tables, records]: [&Recomputed; 3],
) -> Vec<Moment> {
    let parts = [(&sinks.rankings, rankings), (&sinks.tables, tables), (&sinks.topics, records)];
    let mut moments: Vec<Moment> = Vec::new();
    for (((standing, recomputed), cut), behind) in parts.into_iter().zip(at).zip(behind) {
        if moments.iter().all(|known| known.sink != standing.sink) {
            let at = describe(standing, cut, recomputed);
            moments.push(Moment { sink: standing.sink, at, behind: *behind });
        }
    }
    moments
}

fn describe(standing: &Standing, cut: &Cut, recomputed: &Recomputed) -> String {
    let Some(progress) = &standing.progress else { return "its start: nothing is committed yet".to_owned() };
    let epoch =
        format!("epoch {} ({})", progress.epoch, EventTime(progress.epoch.try_into().unwrap_or(i64::MAX)));
    if cut.has_ended() {
        return format!("{epoch}: the input had ended, everything is closed");
    }
    let (open, pending) = (recomputed.open_windows, recomputed.refunds.pending);
    format!(
        "{epoch}: watermark {}, {open} windows open, {pending} refunds in them",
        cut.watermarks.performance
    )
}

/// What the positions of the sinks mean for how much the report says.
fn notes(sinks: &Sinks, at: &[Cut; 3]) -> Vec<String> {
    let behind = [(&sinks.rankings, &at[0]), (&sinks.tables, &at[1])];
    let behind = behind.into_iter().find(|(_, cut)| cut.reads_more_than(&at[2]));
    let note = |(standing, _): (&Standing, _)| {
        format!(
            "{} has read more than {}; what was late only by idleness in between shows as a difference: verify again when \
             both have caught up",
            standing.sink, sinks.topics.sink
        )
    };
    behind.map(note).into_iter().collect()
}
