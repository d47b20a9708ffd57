//! Where the workers keep their effects and, in the same step, how far they have read.

pub mod postgres;
pub mod redis;
pub mod sqlite;

use std::collections::BTreeMap;

use adtide_dataflows::model::{ActiveCampaign, EventTime, Money};
use serde_json::json;

use super::feed::{Mark, Partition, Positions};
use crate::connect::Fault;

/// How far a commit moves one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advance {
    /// The partition.
    pub partition: Partition,
    /// Where it must stand before.
    pub expected: u64,
    /// Where it stands afterwards.
    pub next: u64,
    /// What that place is recognised by.
    pub mark: Option<Mark>,
}

impl Advance {
    /// The mark, as stores keep it.
    pub(crate) fn mark_text(&self) -> Option<String> {
        self.mark.map(|mark| json!(mark).to_string())
    }
}

/// The guard of a commit: it is applied only if `owner` still owns each of the partitions and each stands
/// where it is expected to.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// The worker, by which offsets are kept.
    pub worker: &'a str,
    /// The process, as it has claimed the partitions.
    pub owner: &'a str,
    /// The partitions.
    pub advances: &'a [Advance],
}

/// What came of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome<T> {
    /// It is done.
    Applied(T),
    /// An attempt before, whose answer was lost, had done it.
    AppliedBefore,
    /// Another process owns one of the partitions. Nothing was changed.
    Fenced,
}

/// Keeps offsets.
pub trait Offsets {
    /// Makes `owner` the owner of a partition, whoever had it before, and says where to read on; at
    /// `earliest`, if the worker has never read it.
    ///
    /// # Errors
    /// The store can't do it.
    fn claim(
        &mut self,
        worker: &str,
        owner: &str,
        partition: &Partition,
        earliest: u64,
    ) -> Result<u64, Fault>;

    /// What the place of a claimed partition is recognised by, if that was known when it was committed.
    ///
    /// # Errors
    /// The store can't do it.
    fn mark(&mut self, worker: &str, partition: &Partition) -> Result<Option<Mark>, Fault>;

    /// The offset of a worker in every partition that it has ever read, whichever process owns it.
    ///
    /// # Errors
    /// The store can't do it.
    fn positions(&mut self, worker: &str) -> Result<Positions, Fault>;
}

/// DEBIT or CREDIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryType {
    /// A click that was paid for.
    Debit,
    /// A refund.
    Credit,
}

impl EntryType {
    /// As it stands in the ledger.
    pub fn name(self) -> &'static str {
        match self {
            EntryType::Debit => "DEBIT",
            EntryType::Credit => "CREDIT",
        }
    }
}

/// A row for the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Debit or credit.
    pub entry_type: EntryType,
    /// Whose balance changes.
    pub advertiser_id: i64,
    /// The campaign, where known.
    pub campaign_id: Option<i64>,
    /// Never negative.
    pub amount: Money,
    /// When it happened.
    pub event_time: EventTime,
    /// The record that it comes from.
    pub partition: Partition,
    /// Its offset.
    pub offset: u64,
    /// The refund's identity; of credits only.
    pub compensation_id: Option<String>,
}

/// What was posted: repeats of entries that are in the ledger already are not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Posted {
    /// How many entries.
    pub entries: u64,
    /// Their sum.
    pub amount: Money,
    /// How many of the advertisers were not known before.
    pub new_advertisers: u64,
}

/// What the entries of a batch do to the advertisers and campaigns, in minor units: sums of amounts need not
/// fit 64 bits.
#[derive(Debug, Default)]
pub(crate) struct Sums {
    /// Change of the balance.
    pub advertisers: BTreeMap<i64, i128>,
    /// Debits, credits, greatest event time.
    pub campaigns: BTreeMap<i64, (i128, i128, EventTime)>,
}

impl Sums {
    /// Takes in an amount.
    pub fn add(
        &mut self,
        entry_type: EntryType,
        advertiser: i64,
        campaign: Option<i64>,
        amount: i128,
        latest: EventTime,
    ) {
        let balance = self.advertisers.entry(advertiser).or_default();
        let change = match entry_type {
            EntryType::Debit => -amount,
            EntryType::Credit => amount,
        };
        *balance += change;
        let Some(campaign) = campaign else { return };
        let (debits, credits, last) = self.campaigns.entry(campaign).or_default();
        match entry_type {
            EntryType::Debit => *debits += amount,
            EntryType::Credit => *credits += amount,
        }
        *last = (*last).max(latest);
    }
}

/// What an owner wants of a campaign, by its newest event in a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnerState {
    /// Time, partition and offset: the greatest stands.
    pub order: (EventTime, u32, u64),
    /// ACTIVE, INACTIVE, PAUSED or DELETED.
    pub status: &'static str,
    /// What an active campaign bids for.
    pub active: Option<ActiveCampaign>,
}

/// What adtide itself tells of a campaign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Announcement {
    /// CAMPAIGN_PAUSE: its budget is exhausted.
    Pause,
    /// CAMPAIGN_ACTIVATE: a refund brought it back.
    Activate,
}

impl Announcement {
    /// The event type.
    pub fn name(self) -> &'static str {
        match self {
            Announcement::Pause => "CAMPAIGN_PAUSE",
            Announcement::Activate => "CAMPAIGN_ACTIVATE",
        }
    }

    /// The announcement of that event type.
    pub fn of(name: &str) -> Option<Announcement> {
        [Announcement::Pause, Announcement::Activate]
            .into_iter()
            .find(|announcement| announcement.name() == name)
    }
}

/// What `campaign-events` has told of some campaigns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// By the owners, by campaign.
    pub owners: BTreeMap<i64, OwnerState>,
    /// By adtide itself, by campaign: the newest.
    pub own: BTreeMap<i64, (EventTime, Announcement)>,
}

/// A campaign, as far as its status depends on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Campaign {
    /// Its id.
    pub campaign_id: i64,
    /// What its owner wants; None if `campaign-events` has not told.
    pub status: Option<String>,
    /// The time of the owner's newest event.
    pub state_time: Option<EventTime>,
    /// What it bids for, of the last event that told.
    pub active: Option<ActiveCampaign>,
    /// None for no limit.
    pub budget: Option<Money>,
    /// All debits, in minor units.
    pub debits: i128,
    /// All credits.
    pub credits: i128,
    /// The greatest event time among its entries.
    pub last_entry: Option<EventTime>,
    /// Whether it counts as exhausted.
    pub is_exhausted: bool,
    /// adtide's own newest event.
    pub announced: Option<(EventTime, Announcement)>,
    /// Whether all of `campaign-events` that is in here was seen by a decision before.
    pub is_settled: bool,
}

/// What becomes of a campaign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whether its budget is exhausted.
    pub is_exhausted: bool,
    /// What is to be told, and when that is said to have happened.
    pub announce: Option<(EventTime, Announcement)>,
}

impl Campaign {
    /// BUDGET_EXHAUSTED or WITHIN_BUDGET.
    pub(crate) fn budget_status(is_exhausted: bool) -> &'static str {
        if is_exhausted { "BUDGET_EXHAUSTED" } else { "WITHIN_BUDGET" }
    }
}

/// How many campaigns a pass over them paused and activated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// Paused.
    pub paused: u64,
    /// Activated.
    pub activated: u64,
}

impl Settled {
    /// Takes in an announcement.
    pub(crate) fn count(&mut self, announcement: Announcement) {
        match announcement {
            Announcement::Pause => self.paused += 1,
            Announcement::Activate => self.activated += 1,
        }
    }
}

/// An event that waits to be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Its place in the order.
    pub event_id: i64,
    /// The record's key.
    pub campaign_id: i64,
    /// The record.
    pub event: String,
}

/// An advertiser of the demonstration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The advertiser.
    pub advertiser_id: i64,
    /// Its name.
    pub name: String,
    /// What it has paid in.
    pub opening_balance: Money,
}

/// A campaign's budget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    /// The campaign.
    pub campaign_id: i64,
    /// Who pays.
    pub advertiser_id: i64,
    /// What may be spent.
    pub budget: Money,
}

/// What an ad platform has in its database before the first event.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Catalogue {
    /// The advertisers.
    pub accounts: Vec<Account>,
    /// The campaigns.
    pub budgets: Vec<Budget>,
    /// Products with ctr and cvr.
    pub rates: Vec<(i64, f64, f64)>,
    /// Products with their prices.
    pub prices: Vec<(i64, Money)>,
}

/// The ledger: PostgreSQL or SQLite. Every call is one transaction.
pub trait Ledger: Offsets {
    /// Posts entries: adds those that are not there yet, and moves balances and campaign sums by exactly
    /// those.
    ///
    /// # Errors
    /// The store can't do it.
    fn post(&mut self, step: Step<'_>, entries: &[Entry]) -> Result<Outcome<Posted>, Fault>;

    /// Takes in what `campaign-events` has told.
    ///
    /// # Errors
    /// The store can't do it.
    fn follow(&mut self, step: Step<'_>, told: &Told) -> Result<Outcome<()>, Fault>;

    /// Puts every campaign whose status may have to change before `decide`, and writes what that says: with
    /// an announcement goes an event into the outbox.
    ///
    /// # Errors
    /// The store can't do it.
    fn settle(&mut self, decide: fn(&Campaign) -> Decision) -> Result<Settled, Fault>;

    /// The first events of the outbox that were not published.
    ///
    /// # Errors
    /// The store can't do it.
    fn waiting(&mut self) -> Result<Vec<Waiting>, Fault>;

    /// Marks events as published.
    ///
    /// # Errors
    /// The store can't do it.
    fn published(&mut self, events: &[Waiting]) -> Result<(), Fault>;

    /// Fills in what a platform has before the first event. What is there is brought in line: an opening
    /// balance that changes changes the balance by as much.
    ///
    /// # Errors
    /// The store can't do it.
    fn open_accounts(&mut self, catalogue: &Catalogue) -> Result<(), Fault>;
}

/// How many events of the outbox are published together.
pub(crate) const OUTBOX_BATCH: i64 = 1000;

/// A refund, as budgets count it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refund {
    /// Its identity.
    pub compensation_id: String,
    /// The start of its window.
    pub window_start: EventTime,
    /// The campaign.
    pub campaign_id: i64,
    /// How much.
    pub amount: Money,
}

/// What a batch does to the budgets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BudgetChanges {
    /// Spent by campaign.
    pub spent: BTreeMap<i64, Money>,
    /// Refunds; repeats of those that count already change nothing.
    pub refunds: Vec<Refund>,
}

/// What campaigns have spent: Redis or SQLite.
pub trait Budgets: Offsets {
    /// Brings the campaigns' sums to what they are with these changes. Says how many refunds were no repeats,
    /// and their sum.
    ///
    /// # Errors
    /// The store can't do it.
    fn change(&mut self, step: Step<'_>, changes: &BudgetChanges) -> Result<Outcome<(u64, Money)>, Fault>;
}

/// Compares where partitions stand with what a step expects: whether it may go ahead, was applied before, or
/// comes from a process that no longer owns them. `stored` holds, in the order of the advances, owner and
/// next offset.
pub(crate) fn judge(step: Step<'_>, stored: &[Option<(String, u64)>]) -> Outcome<()> {
    let all = |test: fn(&Advance) -> u64| {
        step.advances.iter().zip(stored).all(|(advance, stored)| {
            stored.as_ref().is_some_and(|(owner, next)| owner == step.owner && *next == test(advance))
        })
    };
    if stored.len() != step.advances.len() {
        Outcome::Fenced
    } else if all(|advance| advance.expected) {
        Outcome::Applied(())
    } else if all(|advance| advance.next) {
        Outcome::AppliedBefore
    } else {
        Outcome::Fenced
    }
}
