//! Checks what a run wrote: computes the four results once more, in one batch, and compares row by row.

use std::path::Path;

use adtide_dataflows::model::{EventTime, Topic};
use adtide_dataflows::{Settings, Statement};
use anyhow::bail;

pub mod batch;
mod cells;
mod compare;
#[cfg(test)]
mod compare_tests;
mod compensations;
mod fields;
mod input;
#[cfg(test)]
mod input_tests;
mod report;

pub use compare::compare;
pub use input::{BadRecords, Located, Location};
pub use report::{Differences, Report, Section};

use batch::{Attributions, ClickGroups, Clicks, Performance, Rankings, Refunds};
use input::Clock;

/// Everything that a run over an input must have written.
#[derive(Clone, Debug)]
pub struct Recomputed {
    /// Statement 1.
    pub rankings: Rankings,
    /// Statement 2.
    pub performance: Performance,
    /// Statement 3.
    pub attributions: Attributions,
    /// Statement 4.
    pub refunds: Refunds,
    /// The dead letters.
    pub bad: BadRecords,
}

impl Recomputed {
    /// Drops the results of all other statements: a run without them writes none.
    fn keep_only(&mut self, statements: &[Statement]) {
        let drops = |statement| !statements.contains(&statement);
        if drops(Statement::RtbCacheUpdater) {
            self.rankings = Rankings::default();
        }
        if drops(Statement::PerformanceAggregator) {
            self.performance = Performance::default();
        }
        if drops(Statement::ConversionMatcher) {
            self.attributions = Attributions::default();
        }
        if drops(Statement::DuplicateDetector) {
            self.refunds = Refunds::default();
        }
    }
}

/// Reads the topic files in `from` and computes what the four statements make of them. A time is too far ahead
/// by the clock at `now`.
///
/// # Errors
/// A file or folder that can't be read.
pub fn recompute(from: &Path, settings: &Settings, now: EventTime) -> anyhow::Result<Recomputed> {
    if !from.is_dir() {
        bail!("{}: no such folder; name the one with the topic files that the run read", from.display());
    }
    let clock = Clock::new(now, settings.max_future_skew);
    let mut bad = BadRecords::new();
    let (mut performance, mut clicks, mut groups) = (Performance::default(), Clicks::default(), ClickGroups::default());
    // The one topic that may not fit in memory: each statement keeps what it needs.
    input::for_each_event(
        from,
        Topic::AdEvents,
        |line| input::ad_event(line, clock),
        &mut bad,
        |located| {
            performance.add(&located, settings);
            clicks.add(&located, settings);
            groups.add(&located, settings);
        },
    )?;
    let conversions =
        input::read_all(from, Topic::ConversionEvents, |line| input::conversion_event(line, clock), &mut bad)?;
    let campaigns = input::read_all(from, Topic::CampaignEvents, |line| input::campaign_event(line, clock), &mut bad)?;
    let metrics = input::read_all(from, Topic::ProductMetrics, input::product_metrics, &mut bad)?;
    let meta = input::read_all(from, Topic::ProductMeta, input::product_meta, &mut bad)?;
    Ok(Recomputed {
        rankings: batch::rankings(&campaigns, &metrics, &meta, &performance.rows, settings),
        performance,
        attributions: clicks.attribute(&conversions, settings),
        refunds: groups.refunds(),
        bad,
    })
}

/// As [`verify`], by the settings and the clock of the run itself, which it left with its results.
///
/// # Errors
/// Files that can't be read.
pub fn verify_run(from: &Path, data_dir: &Path) -> anyhow::Result<Report> {
    let (settings, committed) = compare::settings_of_run(data_dir)?;
    verify(from, data_dir, &settings, committed)
}

/// Computes the results of the topic files in `from` and compares them with what a run wrote to `data_dir`. A
/// time is too far ahead by the clock at `now`.
///
/// # Errors
/// Files that can't be read; what a run wrote wrongly is no error but a difference.
pub fn verify(from: &Path, data_dir: &Path, settings: &Settings, now: EventTime) -> anyhow::Result<Report> {
    compare::require_database(data_dir)?;
    let mut recomputed = recompute(from, settings, now)?;
    recomputed.keep_only(&settings.statements);
    compare(&recomputed, data_dir)
}
