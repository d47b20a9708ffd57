//! What a comparison found.

use std::fmt;

use adtide_dataflows::IdCounts;

use crate::terminal::plain;

/// How many differences of a kind are kept to show.
const SHOWN: usize = 20;

/// How many lines all differences take in a report at most.
const LINES: usize = 20;

/// How many characters of a difference are shown.
const WIDTH: usize = 400;

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

    fn kinds(&self) -> [(&'static str, &Differences); 3] {
        [("wrong", &self.wrong), ("missing", &self.missing), ("unexpected", &self.unexpected)]
    }

    pub(super) fn wrong(
        &mut self,
        key: impl fmt::Display,
        expected: impl fmt::Display,
        found: impl fmt::Display,
    ) {
        self.wrong.add(|| format!("{key}: expected {expected}, found {found}"));
    }

    pub(super) fn missing(&mut self, key: impl fmt::Display, expected: impl fmt::Display) {
        self.missing.add(|| format!("{key}: expected {expected}, found nothing"));
    }

    pub(super) fn unexpected(&mut self, key: impl fmt::Display, found: impl fmt::Display) {
        self.unexpected.add(|| format!("{key}: expected nothing, found {found}"));
    }
}

/// Where a sink stood when it was looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// The sink.
    pub sink: &'static str,
    /// What it stood for, in words.
    pub at: String,
    /// How many records lay behind that in the topics.
    pub behind: u64,
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
    /// The ledger; None if there is none.
    pub ledger: Option<LedgerReport>,
    /// Events that statement 2 leaves out, having no campaign_id.
    pub without_campaign: u64,
    /// Records without the ids by which they would match others.
    pub ids: IdCounts,
    /// Conversions that repeat another one.
    pub repeats: u64,
    /// Late events that were late only because their partition had been idle: here the run is believed.
    pub late_by_idleness: u64,
    /// Where each sink stood.
    pub moments: Vec<Moment>,
    /// What else somebody should know, a sentence each.
    pub notes: Vec<String>,
}

/// The comparison of the workers' results.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LedgerReport {
    /// `advertisers`: each balance is what the ledger makes of the opening balance.
    pub balances: Section,
    /// The debits of `balance_ledger`, one a click.
    pub debits: Section,
    /// The credits of `balance_ledger`, one a compensation.
    pub credits: Section,
    /// What campaigns have spent and got back.
    pub budgets: Section,
    /// How many records of its topics each worker has not taken yet.
    pub behind: Vec<(&'static str, u64)>,
}

impl Report {
    /// Whether everything is as it must be, and there is anything.
    pub fn ok(&self) -> bool {
        self.differences() == 0 && self.compared() > 0
    }

    /// How many rows were compared in all.
    pub fn compared(&self) -> u64 {
        self.sections().iter().map(|(_, section)| section.compared).sum()
    }

    /// How many differences there are in all.
    pub fn differences(&self) -> u64 {
        self.sections().iter().map(|(_, section)| section.differences()).sum()
    }

    /// How many records lay behind what was verified, by the sink or worker that is furthest behind.
    pub fn behind(&self) -> u64 {
        let ledger = self.ledger.iter().flat_map(|ledger| &ledger.behind).map(|(_, behind)| *behind);
        self.moments.iter().map(|moment| moment.behind).chain(ledger).max().unwrap_or(0)
    }

    /// The results with their names, in the order of the statements, then those of the workers.
    pub fn sections(&self) -> Vec<(&'static str, &Section)> {
        let mut sections = vec![
            ("rankings", &self.rankings),
            ("performance", &self.performance),
            ("attributions", &self.attributions),
            ("refunds", &self.refunds),
            ("late events", &self.late_events),
            ("dead letters", &self.dead_letters),
        ];
        if let Some(ledger) = &self.ledger {
            sections.extend([
                ("balances", &ledger.balances),
                ("debits", &ledger.debits),
                ("credits", &ledger.credits),
                ("budgets", &ledger.budgets),
            ]);
        }
        sections
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.differences() {
            0 if self.compared() == 0 => {
                writeln!(
                    f,
                    "NOTHING verified: there are no rows, neither of the run nor in the recomputation"
                )?;
            }
            0 => match self.behind() {
                0 => writeln!(f, "verified up to the topics' ends: every row equals its recomputation")?,
                behind => writeln!(
                    f,
                    "verified up to {} before the topics' ends: every row equals its recomputation",
                    records(behind)
                )?,
            },
            1 => writeln!(f, "NOT verified: 1 difference")?,
            count => writeln!(f, "NOT verified: {count} differences")?,
        }
        let sections = self.sections();
        let mut shown = shares(&sections).into_iter();
        let mut hidden = self.differences();
        for (name, section) in sections {
            write!(
                f,
                "  {name:<13}{:>10} compared {:>8} different",
                section.compared,
                section.differences()
            )?;
            let there = section.kinds().into_iter().filter(|(_, found)| found.count > 0);
            let counts: Vec<_> = there.map(|(kind, found)| format!("{kind}: {}", found.count)).collect();
            writeln!(
                f,
                "{}",
                if counts.is_empty() { String::new() } else { format!(" ({})", counts.join(", ")) }
            )?;
            for (kind, found) in section.kinds() {
                for line in found.lines.iter().take(shown.next().unwrap_or_default()) {
                    writeln!(f, "    {kind} {}", shortened(line))?;
                    hidden -= 1;
                }
            }
        }
        if hidden > 0 {
            writeln!(f, "    and {hidden} more")?;
        }
        if self.ledger.is_none() {
            writeln!(f, "  ledger: there is none, so balances were not checked")?;
        }
        for Moment { sink, at, behind } in &self.moments {
            writeln!(f, "  {sink} as of {at}; {} behind the topics' ends", records(*behind))?;
        }
        if let Some(ledger) = &self.ledger {
            let behind: Vec<_> =
                ledger.behind.iter().map(|(worker, behind)| format!("{worker} {behind}")).collect();
            writeln!(f, "  ledger, records behind the topics' ends: {}", behind.join(", "))?;
        }
        if self.late_by_idleness > 0 {
            writeln!(f, "  late by idleness: {}", self.late_by_idleness)?;
        }
        for note in &self.notes {
            writeln!(f, "  note: {note}")?;
        }
        let without = self.ids.named().into_iter().filter(|(_, count)| *count > 0);
        let without: Vec<_> = without.map(|(what, count)| format!("{count} {what}")).collect();
        if !without.is_empty() {
            writeln!(f, "  no id: {}", without.join(", "))?;
        }
        write!(
            f,
            "  left out: {} ad events without campaign_id, {} repeated conversions",
            self.without_campaign, self.repeats
        )
    }
}

fn records(count: u64) -> String {
    format!("{count} record{}", if count == 1 { "" } else { "s" })
}

/// How many lines each kind of difference of each section gets: they take turns until there are enough.
fn shares(sections: &[(&'static str, &Section)]) -> Vec<usize> {
    let kinds: Vec<_> =
        sections.iter().flat_map(|(_, section)| section.kinds()).map(|(_, found)| found).collect();
    let total: u64 = kinds.iter().map(|found| found.count).sum();
    // The last line says how many more there are.
    let mut left = if total > LINES as u64 { LINES - 1 } else { LINES };
    let mut shares = vec![0; kinds.len()];
    let mut has_more = true;
    while has_more && left > 0 {
        has_more = false;
        for (share, found) in shares.iter_mut().zip(&kinds) {
            if left > 0 && *share < found.lines.len() {
                *share += 1;
                left -= 1;
                has_more = true;
            }
        }
    }
    shares
}

/// A difference as it is shown.
fn shortened(line: &str) -> String {
    match line.char_indices().nth(WIDTH) {
        Some((end, _)) => format!("{} ...", plain(&line[..end])),
        None => plain(line).into_owned(),
    }
}
