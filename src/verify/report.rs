//! What a comparison found.

use std::fmt;

/// How many differences of a kind are kept to show.
const SHOWN: usize = 20;

/// Differences of one kind: all counted, the first ones kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Differences {
    /// How many there are.
    pub count: u64,
    /// The first twenty, a line each.
    pub lines: Vec<String>,
}

impl Differences {
    fn add(&mut self, line: impl FnOnce() -> String) {
        self.count += 1;
        if self.lines.len() < SHOWN {
            self.lines.push(line());
        }
    }
}

/// The comparison of one result.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Section {
    /// How many rows were compared: those found and those missing.
    pub compared: u64,
    /// Rows that have wrong values.
    pub wrong: Differences,
    /// Rows that are not there.
    pub missing: Differences,
    /// Rows that should not be there.
    pub unexpected: Differences,
}

impl Section {
    /// How many differences there are, of all kinds.
    pub fn differences(&self) -> u64 {
        self.wrong.count + self.missing.count + self.unexpected.count
    }

    pub(super) fn wrong(&mut self, key: impl fmt::Display, expected: impl fmt::Display, found: impl fmt::Display) {
        self.wrong.add(|| format!("{key}: expected {expected}, found {found}"));
    }

    pub(super) fn missing(&mut self, key: impl fmt::Display, expected: impl fmt::Display) {
        self.missing.add(|| format!("{key}: expected {expected}, found nothing"));
    }

    pub(super) fn unexpected(&mut self, key: impl fmt::Display, found: impl fmt::Display) {
        self.unexpected.add(|| format!("{key}: expected nothing, found {found}"));
    }
}

/// What [`verify`](super::verify) found, result by result.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Statement 1: `rtb_ranking_cache`.
    pub rankings: Section,
    /// Statement 2: `ad_performance_metrics_realtime`.
    pub performance: Section,
    /// Statement 3: `conversion_attribution_results`.
    pub attributions: Section,
    /// Statement 4: the topic `compensation-events`, a row a group.
    pub refunds: Section,
    /// The topic `late-events`.
    pub late_events: Section,
    /// The topic `dead-letter`.
    pub dead_letters: Section,
    /// Events that statement 2 leaves out, having no campaign_id.
    pub without_campaign: u64,
    /// Conversions that repeat another one.
    pub repeats: u64,
}

impl Report {
    /// Whether everything is as it must be.
    pub fn ok(&self) -> bool {
        self.differences() == 0
    }

    /// How many differences there are in all.
    pub fn differences(&self) -> u64 {
        self.sections().iter().map(|(_, section)| section.differences()).sum()
    }

    /// The results with their names, in the order of the statements.
    pub fn sections(&self) -> [(&'static str, &Section); 6] {
        [
            ("rankings", &self.rankings),
            ("performance", &self.performance),
            ("attributions", &self.attributions),
            ("refunds", &self.refunds),
            ("late events", &self.late_events),
            ("dead letters", &self.dead_letters),
        ]
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.differences() {
            0 => writeln!(f, "verified: every row equals its recomputation")?,
            1 => writeln!(f, "NOT verified: 1 difference")?,
            count => writeln!(f, "NOT verified: {count} differences")?,
        }
        for (name, section) in self.sections() {
            writeln!(f, "  {name:<13}{:>10} compared {:>8} different", section.compared, section.differences())?;
            for (kind, found) in
                [("wrong", &section.wrong), ("missing", &section.missing), ("unexpected", &section.unexpected)]
            {
                write_differences(f, kind, found)?;
            }
        }
        write!(
            f,
            "  left out: {} ad events without campaign_id, {} repeated conversions",
            self.without_campaign, self.repeats
        )
    }
}

fn write_differences(f: &mut fmt::Formatter<'_>, kind: &str, found: &Differences) -> fmt::Result {
    if found.count == 0 {
        return Ok(());
    }
    writeln!(f, "    {kind}: {}", found.count)?;
    for line in &found.lines {
        writeln!(f, "      {line}")?;
    }
    match found.count.saturating_sub(found.lines.len() as u64) {
        0 => Ok(()),
        more => writeln!(f, "      and {more} more"),
    }
}
