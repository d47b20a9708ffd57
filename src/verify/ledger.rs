//! The ledger, held against the clicks and refunds that it must account for.

use std::collections::{BTreeMap, BTreeSet};

use adtide_dataflows::Settings;
use adtide_dataflows::duplicate_detector::oracle::RefundKey;
use adtide_dataflows::model::{Money, Topic};
use serde_json::json;

use super::cells::{Cell, Row, in_full};
use super::compare::{Expected, check, each_row};
use super::compensations::{Compensations, Refunded};
use super::found::{ADVERTISERS, BUDGETS, CAMPAIGNS, Found, LEDGER, WORKER_OFFSETS};
use super::input::Offsets;
use super::owners::Owners;
use super::paid_clicks::PaidClicks;
use super::recompute::Recomputed;
use super::report::{LedgerReport, Section};
use crate::connect::text::stored_text;
use crate::sink::COMPENSATION_EVENTS;

/// The workers, as they name their offsets.
const BALANCE: &str = "balance";
const COMPENSATION: &str = "compensation";
const BUDGET: &str = "budget";
const CAMPAIGN_STATUS: &str = "campaign-status";

/// All of them, with the input topic that each reads, and whether it reads `compensation-events`.
const WORKERS: [(&str, Option<Topic>, bool); 4] = [
    (BALANCE, Some(Topic::AdEvents), false),
    (BUDGET, Some(Topic::AdEvents), true),
    (CAMPAIGN_STATUS, Some(Topic::CampaignEvents), false),
    (COMPENSATION, None, true),
];

/// What the workers have done.
pub struct Ledger {
    /// The topics' full names.
    ad_events: String,
    compensation_events: String,
    /// How far each worker is in each topic.
    offsets: BTreeMap<(String, String), Offsets>,
    /// How many records each has not taken yet: see [`Ledger::look_behind`].
    behind: Vec<(&'static str, u64)>,
    /// The clicks that they have taken: to be filled before [`Ledger::check`].
    pub clicks: PaidClicks,
    /// What owners want of their campaigns: to be filled before, too.
    pub owners: Owners,
}

/// What the entries of a campaign add up to, debits and credits, and their greatest event time.
type CampaignSums = BTreeMap<i64, (i128, i128, String)>;

/// Amounts, in minor units. Sums of anything that can be owed fit.
type Sums<K> = BTreeMap<K, (i128, i128)>;

impl Ledger {
    /// Looks how far the workers are; None if none has ever run.
    ///
    /// # Errors
    /// The tables can't be read.
    pub fn open(found: &mut dyn Found, settings: &Settings) -> anyhow::Result<Option<Ledger>> {
        for table in [&LEDGER, &ADVERTISERS, &CAMPAIGNS, &WORKER_OFFSETS] {
            if !found.has(table)? {
                return Ok(None);
            }
        }
        let mut offsets: BTreeMap<(String, String), Offsets> = BTreeMap::new();
        found.each_row(&WORKER_OFFSETS, &mut |row| {
            if let [(_, Cell::Text(worker)), (_, Cell::Text(topic)), (_, partition), (_, next)] = &row[..] {
                let topic = offsets.entry((worker.clone(), topic.clone())).or_default();
                topic.insert(unsigned(partition) as u32, unsigned(next));
            }
        })?;
        if offsets.is_empty() {
            return Ok(None);
        }
        let (ad_events, compensation_events) =
            (found.topic(Topic::AdEvents.name()), found.topic(COMPENSATION_EVENTS));
        let campaign_events = found.topic(Topic::CampaignEvents.name());
        let followed =
            offsets.get(&(CAMPAIGN_STATUS.to_owned(), campaign_events)).cloned().unwrap_or_default();
        let owners = Owners::new(followed, settings);
        let mut ledger = Ledger {
            ad_events,
            compensation_events,
            offsets,
            behind: Vec::new(),
            clicks: PaidClicks::default(),
            owners,
        };
        for worker in [BALANCE, BUDGET] {
            for (partition, offset) in ledger.of(worker, &ledger.ad_events) {
                let known = ledger.clicks.until.entry(partition).or_default();
                *known = offset.max(*known);
            }
        }
        Ok(Some(ledger))
    }

    /// Looks up how many records of its topics each worker that has ever run has not taken yet. `behind`
    /// counts those of an input topic behind some offsets.
    ///
    /// # Errors
    /// A topic can't be read.
    pub fn look_behind(
        &mut self,
        behind: &mut dyn FnMut(Topic, &Offsets) -> anyhow::Result<u64>,
        found: &mut dyn Found,
    ) -> anyhow::Result<()> {
        for (worker, input, reads_refunds) in WORKERS {
            if !self.offsets.keys().any(|(known, _)| known == worker) {
                continue;
            }
            let mut waiting = match input {
                Some(topic) => behind(topic, &self.of(worker, &found.topic(topic.name())))?,
                None => 0,
            };
            if reads_refunds {
                let taken = self.of(worker, &self.compensation_events);
                found.each_record(COMPENSATION_EVENTS, &mut |partition, offset, _| {
                    waiting += u64::from(taken.get(&partition).is_none_or(|taken| offset >= *taken));
                })?;
            }
            self.behind.push((worker, waiting));
        }
        Ok(())
    }

    fn of(&self, worker: &str, topic: &str) -> Offsets {
        self.offsets.get(&(worker.to_owned(), topic.to_owned())).cloned().unwrap_or_default()
    }

    /// Compares what the workers wrote with what they must have written.
    ///
    /// # Errors
    /// The tables can't be read.
    pub fn check(
        &self,
        compensations: &Compensations,
        recomputed: &Recomputed,
        found: &mut dyn Found,
    ) -> anyhow::Result<LedgerReport> {
        let mut report = LedgerReport { behind: self.behind.clone(), ..LedgerReport::default() };
        let (by_advertiser, by_campaign) = self.entries(compensations, recomputed, found, &mut report)?;
        balances(by_advertiser, found, &mut report.balances)?;
        campaigns(by_campaign, &self.owners, found, &mut report.budgets)?;
        self.budgets(compensations, found, &mut report.budgets)?;
        Ok(report)
    }

    /// Compares the entries of the ledger. What they add up to, debits and credits, by advertiser and by
    /// campaign.
    fn entries(
        &self,
        compensations: &Compensations,
        recomputed: &Recomputed,
        found: &mut dyn Found,
        report: &mut LedgerReport,
    ) -> anyhow::Result<(Sums<i64>, CampaignSums)> {
        let until = self.of(BALANCE, &self.ad_events);
        let debits = self.clicks.before(&until).map(|((partition, offset), click)| {
            let key = json!([self.ad_events, partition, offset]);
            (key, entry(click.advertiser_id, click.campaign_id, click.price, click.time.to_string()))
        });
        let mut debits = Expected::new(debits);
        let credits = self.refunds_before(COMPENSATION, compensations).map(|(id, refunded)| {
            let Refunded { advertiser_id, campaign_id, amount, ref window_start, .. } = *refunded;
            (json!(stored_text(id)), entry(advertiser_id, campaign_id, amount, window_start.clone()))
        });
        let mut credits = Expected::new(credits);
        let (mut by_advertiser, mut by_campaign) = (Sums::new(), CampaignSums::new());
        let mut by_group: BTreeMap<&RefundKey, i128> = BTreeMap::new();
        each_row(found, &LEDGER, |entry_id, mut cells| {
            let place = cells.split_off(5);
            let (_, entry_type) = cells.remove(0);
            let amount = minor(&cells[2].1).unwrap_or(0);
            let is_credit = matches!(&entry_type, Cell::Text(text) if text == "CREDIT");
            if let Cell::Integer(advertiser_id) = &cells[0].1 {
                let (debits, credits) = by_advertiser.entry(*advertiser_id).or_default();
                *if is_credit { credits } else { debits } += amount;
            }
            if let (Cell::Integer(campaign_id), Cell::Text(time)) = (&cells[1].1, &cells[3].1) {
                let (debits, credits, last) = by_campaign.entry(*campaign_id).or_default();
                *if is_credit { credits } else { debits } += amount;
                if *time > *last {
                    last.clone_from(time);
                }
            }
            let [(_, topic), (_, partition), (_, offset), (_, compensation_id)] = &place[..] else { return };
            match &entry_type {
                Cell::Text(text) if text == "DEBIT" => {
                    let key = json!([topic.to_json(), partition.to_json(), offset.to_json()]).to_string();
                    compare(&mut report.debits, &mut debits, &key, &cells);
                }
                Cell::Text(text) if text == "CREDIT" => {
                    compare(
                        &mut report.credits,
                        &mut credits,
                        &compensation_id.to_json().to_string(),
                        &cells,
                    );
                    let Cell::Text(id) = compensation_id else { return };
                    if let Some(group) =
                        compensations.records.get(id).and_then(|refunded| refunded.group.as_ref())
                    {
                        *by_group.entry(group).or_default() += amount;
                    }
                }
                other => report.debits.unexpected(entry_id, format_args!("an entry of type {other}")),
            }
        })?;
        debits.finish(&mut report.debits, in_full);
        credits.finish(&mut report.credits, in_full);
        for (group, credited) in by_group {
            let owed = recomputed.refunds.groups.get(group).map_or(0, |refund| i128::from(refund.owed.0));
            if credited > owed {
                let name = super::compensations::name(group);
                report.credits.wrong(name, format_args!("credits of at most {}", text(owed)), text(credited));
            }
        }
        Ok((by_advertiser, by_campaign))
    }

    /// The refunds that a worker has taken.
    fn refunds_before<'a>(
        &self,
        worker: &str,
        compensations: &'a Compensations,
    ) -> impl Iterator<Item = (&'a String, &'a Refunded)> {
        let until = self.of(worker, &self.compensation_events);
        let is_before = move |at: &Refunded| until.get(&at.partition).is_some_and(|until| at.offset < *until);
        compensations.records.iter().filter(move |(_, refunded)| is_before(refunded))
    }

    /// Compares what each campaign has spent and got back, as the budget worker keeps it.
    fn budgets(
        &self,
        compensations: &Compensations,
        found: &mut dyn Found,
        section: &mut Section,
    ) -> anyhow::Result<()> {
        if !found.has(&BUDGETS)? {
            return Ok(());
        }
        let mut sums = Sums::new();
        for (_, click) in self.clicks.before(&self.of(BUDGET, &self.ad_events)) {
            if let Some(campaign_id) = click.campaign_id {
                sums.entry(campaign_id).or_default().0 += i128::from(click.price.0);
            }
        }
        for (_, refunded) in self.refunds_before(BUDGET, compensations) {
            if let Some(campaign_id) = refunded.campaign_id {
                sums.entry(campaign_id).or_default().1 += i128::from(refunded.amount.0);
            }
        }
        let rows = sums.into_iter().map(|(campaign_id, (spent, refunded))| {
            let row: Row = vec![
                ("spent".into(), Cell::Text(text(spent))),
                ("refunded".into(), Cell::Text(text(refunded))),
            ];
            (json!([campaign_id]), row)
        });
        let mut expected = Expected::new(rows);
        each_row(found, &BUDGETS, |key, found| compare(section, &mut expected, key, &found))?;
        expected.finish(section, in_full);
        Ok(())
    }
}

/// Compares a row with what it must be.
fn compare(section: &mut Section, expected: &mut Expected<Row>, key: &str, found: &Row) {
    if let Some(row) = expected.find(section, key, in_full(found)).cloned() {
        check(section, key, &row, found);
    }
}

/// The columns of an entry that come from its click or refund.
fn entry(advertiser_id: i64, campaign_id: Option<i64>, amount: Money, time: String) -> Row {
    vec![
        ("advertiser_id".into(), Cell::Integer(advertiser_id)),
        ("campaign_id".into(), campaign_id.map_or(Cell::Null, Cell::Integer)),
        ("amount".into(), Cell::Text(amount.to_string())),
        ("event_time".into(), Cell::Text(time)),
    ]
}

/// Checks opening balance - debits + credits = balance, for every advertiser.
fn balances(mut sums: Sums<i64>, found: &mut dyn Found, section: &mut Section) -> anyhow::Result<()> {
    each_row(found, &ADVERTISERS, |key, row| {
        section.compared += 1;
        let id: Option<[i64; 1]> = serde_json::from_str(key).ok();
        let (debits, credits) = id.and_then(|[id]| sums.remove(&id)).unwrap_or_default();
        let amounts = (minor(&row[0].1), minor(&row[1].1));
        let (Some(opening), Some(balance)) = amounts else {
            return section.wrong(key, "two amounts", in_full(&row));
        };
        let must = opening - debits + credits;
        if balance != must {
            let sum = format!("{} - {} + {}", text(opening), text(debits), text(credits));
            section.wrong(key, format_args!("a balance of {sum} = {}", text(must)), text(balance));
        }
    })?;
    for (advertiser_id, (debits, credits)) in sums {
        section.compared += 1;
        let sums = format!("an advertiser with debits of {} and credits of {}", text(debits), text(credits));
        section.missing(json!([advertiser_id]), sums);
    }
    Ok(())
}

/// Checks what campaigns keep: the sums of their entries in the ledger, and what their owners want. What
/// campaign-status itself decides is not compared: it follows the clock, a pass every few seconds.
fn campaigns(
    mut sums: CampaignSums,
    owners: &Owners,
    found: &mut dyn Found,
    section: &mut Section,
) -> anyhow::Result<()> {
    let held_text = found.held_text();
    let mut told: BTreeSet<i64> = owners.campaigns().collect();
    each_row(found, &CAMPAIGNS, |key, row| {
        section.compared += 1;
        let Some([id]) = serde_json::from_str::<[i64; 1]>(key).ok() else { return };
        told.remove(&id);
        let mut expected = sums.remove(&id).map_or_else(no_entries, |sums| entries(&sums));
        expected.extend(owners.columns(id, held_text));
        let found = row.into_iter().filter(|(name, _)| expected.iter().any(|(expected, _)| expected == name));
        check(section, key, &expected, &found.collect());
    })?;
    for (campaign_id, entry_sums) in sums {
        told.remove(&campaign_id);
        section.compared += 1;
        section.missing(json!([campaign_id]), in_full(&entries(&entry_sums)));
    }
    for campaign_id in told {
        section.compared += 1;
        section.missing(json!([campaign_id]), in_full(&owners.columns(campaign_id, held_text)));
    }
    Ok(())
}

/// The columns of a campaign that come from its entries.
fn entries((debits, credits, last): &(i128, i128, String)) -> Row {
    vec![
        ("debits".into(), Cell::Text(text(*debits))),
        ("credits".into(), Cell::Text(text(*credits))),
        ("last_entry".into(), Cell::Text(last.clone())),
    ]
}

fn no_entries() -> Row {
    let zero = || Cell::Text(text(0));
    vec![("debits".into(), zero()), ("credits".into(), zero()), ("last_entry".into(), Cell::Null)]
}

/// An amount in minor units; what an account holds may be negative.
fn minor(cell: &Cell) -> Option<i128> {
    let Cell::Text(text) = cell else { return None };
    let (sign, digits) = text.strip_prefix('-').map_or((1, text.as_str()), |digits| (-1, digits));
    let (whole, cents) = digits.split_once('.').filter(|(_, cents)| cents.len() == 2)?;
    let all_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !all_digits(whole) || !all_digits(cents) {
        return None;
    }
    Some(sign * (whole.parse::<i128>().ok()?.checked_mul(100)? + cents.parse::<i128>().ok()?))
}

/// The reverse.
fn text(minor: i128) -> String {
    let sign = if minor < 0 { "-" } else { "" };
    let minor = minor.unsigned_abs();
    format!("{sign}{}.{:02}", minor / 100, minor % 100)
}

/// A partition or offset; what is none is before everything.
fn unsigned(cell: &Cell) -> u64 {
    if let Cell::Integer(number) = cell { u64::try_from(*number).unwrap_or(0) } else { 0 }
}
