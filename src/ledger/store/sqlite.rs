//! The ledger and the budgets in SQLite, for the embedded default: tables of `DATA_DIR/adtide.db`.
//!
//! Others write to the same file. Each step takes the write lock first and then reads, so what it has read
//! stays true.

use std::path::{Path, PathBuf};

use adtide_dataflows::model::{ActiveCampaign, EventTime, Money};
use anyhow::Context;
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, Transaction, TransactionBehavior, params};

use super::{
    Announcement, BudgetChanges, Budgets, Campaign, Catalogue, Decision, Entry, Ledger, OUTBOX_BATCH, Offsets, Outcome,
    Posted, Settled, Step, Sums, Told, Waiting, judge,
};
use crate::connect::{self, Fault};
use crate::ledger::announcement::announcement as record_of;
use crate::ledger::feed::{Mark, Partition, Positions};
use crate::ledger::letter::{Letter, left_out};
use crate::sink::COMPENSATION_EVENTS;

/// The workers' tables in one database file.
pub struct SqliteStore {
    path: PathBuf,
    connection: Connection,
    /// The content in which no campaign had to change.
    settled: Option<Content>,
}

/// Distinguishes what a database holds from what it held before: its version, which others' commits change,
/// and the rows that this connection has changed.
type Content = (i64, u64);

/// The tables, for emptying them.
const TABLES: [&str; 11] = [
    "advertisers",
    "campaigns",
    "balance_ledger",
    "worker_offsets",
    "campaign_outbox",
    "campaign_outbox_partition",
    "campaign_budget",
    "campaign_budget_refunds",
    "product_metrics_cache",
    "product_meta_data",
    "worker_dead_letters",
];

impl SqliteStore {
    /// Opens the database and creates what is missing.
    ///
    /// # Errors
    /// The file can't be opened or written, or is no SQLite database.
    pub fn open(path: &Path) -> anyhow::Result<SqliteStore> {
        let open = || -> anyhow::Result<Connection> {
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder)?;
            }
            let connection = connect::sqlite::open(path)?;
            connection.set_prepared_statement_cache_capacity(32);
            Ok(connection)
        };
        let connection = open().with_context(|| {
            format!("can't use {} as the workers' database; is it writable, and an SQLite file?", path.display())
        })?;
        Ok(SqliteStore { path: path.to_owned(), connection, settled: None })
    }

    /// Takes back all refunds, for a run that starts over: it pays them again, and may divide them into other
    /// records.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn withdraw_refunds(&mut self) -> anyhow::Result<()> {
        let withdraw = |transaction: &Transaction<'_>| {
            let mut sums = Sums::default();
            let mut credits =
                transaction.prepare("SELECT advertiser_id, amount FROM balance_ledger WHERE entry_type = 'CREDIT'")?;
            let mut rows = credits.query([])?;
            while let Some(row) = rows.next()? {
                let Cents(amount) = row.get(1)?;
                *sums.advertisers.entry(row.get(0)?).or_default() -= amount;
            }
            move_balances(transaction, &sums, &crate::now().to_string())?;
            transaction.execute_batch(
                "DELETE FROM balance_ledger WHERE entry_type = 'CREDIT';
                 UPDATE campaigns SET credits = '0.00', is_settled = 0 WHERE credits <> '0.00';
                 UPDATE campaign_budget SET refunded = '0.00' WHERE refunded <> '0.00';
                 DELETE FROM campaign_budget_refunds;",
            )?;
            // Whoever reads them now finds its guard broken, and asks anew.
            transaction.execute("DELETE FROM worker_offsets WHERE topic = ?1", [COMPENSATION_EVENTS])?;
            Ok(())
        };
        self.transaction(withdraw).map_err(Fault::into_error)
    }

    /// Forgets everything, for topics that start over.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn reset(&mut self) -> anyhow::Result<()> {
        let reset = |transaction: &Transaction<'_>| {
            for table in TABLES {
                transaction.execute(&format!("DELETE FROM {table}"), [])?;
            }
            Ok(())
        };
        self.transaction(reset).map_err(Fault::into_error)
    }

    /// The partition of campaign-events that is adtide's own. `free` says which one it could be, if there is
    /// none yet.
    ///
    /// # Errors
    /// The store can't do it, or `free` fails.
    pub fn own_partition(&mut self, free: impl FnOnce() -> anyhow::Result<u32>) -> Result<u32, Fault> {
        self.transaction(|transaction| {
            let known = "SELECT partition FROM campaign_outbox_partition";
            if let Some(known) = transaction.query_row(known, [], |row| row.get(0)).optional()? {
                return Ok(known);
            }
            let free = free()?;
            transaction.execute("INSERT INTO campaign_outbox_partition (id, partition) VALUES (1, ?1)", [free])?;
            Ok(free)
        })
    }

    /// Keeps records that a worker has left out, each once.
    ///
    /// # Errors
    /// The store can't do it.
    pub fn write_dead_letters(&mut self, worker: &str, letters: &[Letter]) -> Result<(), Fault> {
        self.transaction(|transaction| {
            let now = crate::now().to_string();
            let mut insert = transaction.prepare_cached(
                "INSERT INTO worker_dead_letters (worker, topic, partition, \"offset\", reason, record, created_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT DO NOTHING",
            )?;
            for letter in letters {
                let Partition { topic, number } = &letter.partition;
                let (offset, reason) = (i64::try_from(letter.offset)?, letter.unfit.reason);
                let record = left_out(worker, topic, letter, usize::MAX);
                insert.execute(params![worker, topic, number, offset, reason, record, now])?;
            }
            Ok(())
        })
    }

    fn transaction<T>(&mut self, run: impl FnOnce(&Transaction<'_>) -> anyhow::Result<T>) -> Result<T, Fault> {
        let attempt = || {
            let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let result = run(&transaction)?;
            transaction.commit()?;
            Ok(result)
        };
        let result: anyhow::Result<T> = attempt();
        result.map_err(|error| {
            let code = error.downcast_ref::<rusqlite::Error>().and_then(rusqlite::Error::sqlite_error_code);
            let advice = if code == Some(ErrorCode::DiskFull) { "; make room on the disk" } else { "" };
            let error = error.context(format!("can't write {}{advice}", self.path.display()));
            match code {
                Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Fault::Passing(error),
                _ => Fault::Lasting(error),
            }
        })
    }

    fn step<T>(
        &mut self,
        step: Step<'_>,
        run: impl FnOnce(&Transaction<'_>) -> anyhow::Result<T>,
    ) -> Result<Outcome<T>, Fault> {
        self.transaction(|transaction| match advance(transaction, step)? {
            Outcome::Applied(()) => Ok(Outcome::Applied(run(transaction)?)),
            Outcome::AppliedBefore => Ok(Outcome::AppliedBefore),
            Outcome::Fenced => Ok(Outcome::Fenced),
        })
    }
}

/// Minor units as TEXT with two decimals; unlike amounts that come in, a balance may be negative, and need
/// not fit 64 bits.
struct Cents(i128);

impl From<Money> for Cents {
    fn from(money: Money) -> Cents {
        Cents(money.0.into())
    }
}

impl ToSql for Cents {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        let (sign, minor) = (if self.0 < 0 { "-" } else { "" }, self.0.unsigned_abs());
        Ok(format!("{sign}{}.{:02}", minor / 100, minor % 100).into())
    }
}

impl FromSql for Cents {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Cents> {
        let text = value.as_str()?;
        let cents = text.split_once('.').filter(|(_, decimals)| decimals.len() == 2);
        let cents = cents.and_then(|(whole, decimals)| format!("{whole}{decimals}").parse().ok());
        cents.map(Cents).ok_or_else(|| FromSqlError::Other(format!("{text:?} is no amount with two decimals").into()))
    }
}

/// What is no sum fits 64 bits.
fn saturated(cents: i128) -> Money {
    Money(i64::try_from(cents).unwrap_or(i64::MAX))
}

/// An event time as TEXT.
struct Time(EventTime);

impl FromSql for Time {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Time> {
        EventTime::parse(value.as_str()?).map(Time).map_err(|error| FromSqlError::Other(error.into()))
    }
}

/// Moves the offsets, if the step may.
fn advance(transaction: &Transaction<'_>, step: Step<'_>) -> anyhow::Result<Outcome<()>> {
    let mut select = transaction.prepare_cached(
        "SELECT owner, next_offset FROM worker_offsets WHERE worker = ?1 AND topic = ?2 AND partition = ?3",
    )?;
    let mut stored = Vec::with_capacity(step.advances.len());
    for advance in step.advances {
        let Partition { topic, number } = &advance.partition;
        let row = select.query_row(params![step.worker, topic, number], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?)));
        let row = row.optional()?.map(|(owner, next)| Ok::<_, anyhow::Error>((owner, u64::try_from(next)?)));
        stored.push(row.transpose()?);
    }
    let outcome = judge(step, &stored);
    if outcome == Outcome::Applied(()) {
        let mut update = transaction.prepare_cached(
            "UPDATE worker_offsets SET next_offset = ?4, updated_at = ?5, file = ?6
             WHERE worker = ?1 AND topic = ?2 AND partition = ?3",
        )?;
        let now = crate::now().to_string();
        for advance in step.advances {
            let Partition { topic, number } = &advance.partition;
            update.execute(params![
                step.worker,
                topic,
                number,
                i64::try_from(advance.next)?,
                now,
                advance.mark_text()
            ])?;
        }
    }
    Ok(outcome)
}

impl Offsets for SqliteStore {
    fn claim(&mut self, worker: &str, owner: &str, partition: &Partition, earliest: u64) -> Result<u64, Fault> {
        self.transaction(|transaction| {
            let next: i64 = transaction.query_row(
                "INSERT INTO worker_offsets (worker, topic, partition, owner, next_offset, updated_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                 ON CONFLICT DO UPDATE SET owner = excluded.owner, updated_at = excluded.updated_at
                 RETURNING next_offset",
                params![
                    worker,
                    partition.topic,
                    partition.number,
                    owner,
                    i64::try_from(earliest)?,
                    crate::now().to_string()
                ],
                |row| row.get(0),
            )?;
            Ok(u64::try_from(next)?)
        })
    }

    fn mark(&mut self, worker: &str, partition: &Partition) -> Result<Option<Mark>, Fault> {
        self.transaction(|transaction| {
            let mark: Option<Option<String>> = transaction
                .query_row(
                    "SELECT file FROM worker_offsets WHERE worker = ?1 AND topic = ?2 AND partition = ?3",
                    params![worker, partition.topic, partition.number],
                    |row| row.get(0),
                )
                .optional()?;
            Ok(mark.flatten().map(|mark| serde_json::from_str(&mark)).transpose()?)
        })
    }

    fn positions(&mut self, worker: &str) -> Result<Positions, Fault> {
        self.transaction(|transaction| {
            let mut select = transaction
                .prepare_cached("SELECT topic, partition, next_offset FROM worker_offsets WHERE worker = ?1")?;
            let position =
                |row: &Row<'_>| Ok((Partition { topic: row.get(0)?, number: row.get(1)? }, row.get::<_, i64>(2)?));
            let rows = select.query_map([worker], position)?;
            rows.map(|row| row.map_err(anyhow::Error::from).and_then(|(key, next)| Ok((key, u64::try_from(next)?))))
                .collect()
        })
    }
}

impl Ledger for SqliteStore {
    fn post(&mut self, step: Step<'_>, entries: &[Entry]) -> Result<Outcome<Posted>, Fault> {
        self.step(step, |transaction| {
            let now = crate::now().to_string();
            let mut posted = Posted::default();
            let mut sums = Sums::default();
            let mut insert = transaction.prepare_cached(
                "INSERT INTO balance_ledger (entry_type, advertiser_id, campaign_id, amount, event_time, topic, partition,
                     \"offset\", compensation_id, created_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) ON CONFLICT DO NOTHING",
            )?;
            for entry in entries {
                let inserted = insert.execute(params![
                    entry.entry_type.name(),
                    entry.advertiser_id,
                    entry.campaign_id,
                    Cents::from(entry.amount),
                    entry.event_time.to_string(),
                    entry.partition.topic,
                    entry.partition.number,
                    i64::try_from(entry.offset)?,
                    entry.compensation_id,
                    now,
                ])?;
                if inserted == 1 {
                    let Entry { entry_type, advertiser_id, campaign_id, amount, event_time, .. } = *entry;
                    posted.entries += 1;
                    posted.amount += amount;
                    sums.add(entry_type, advertiser_id, campaign_id, amount.0.into(), event_time);
                }
            }
            posted.new_advertisers = move_balances(transaction, &sums, &now)?;
            move_campaigns(transaction, &sums, &now)?;
            Ok(posted)
        })
    }

    fn follow(&mut self, step: Step<'_>, told: &Told) -> Result<Outcome<()>, Fault> {
        self.step(step, |transaction| follow(transaction, told, &crate::now().to_string()))
    }

    fn settle(&mut self, decide: fn(&Campaign) -> Decision) -> Result<Settled, Fault> {
        let content = self.content().map_err(Fault::Lasting)?;
        if self.settled == Some(content) {
            return Ok(Settled::default());
        }
        let unsettled = self.unsettled(decide).map_err(Fault::Lasting)?;
        if !unsettled {
            self.settled = Some(content);
            return Ok(Settled::default());
        }
        self.transaction(|transaction| {
            let campaigns = campaigns(transaction)?;
            write_decisions(transaction, &campaigns, decide)
        })
    }

    fn waiting(&mut self) -> Result<Vec<Waiting>, Fault> {
        let read = || -> anyhow::Result<Vec<Waiting>> {
            let mut select = self.connection.prepare_cached(
                "SELECT event_id, campaign_id, event FROM campaign_outbox WHERE published_at IS NULL
                 ORDER BY event_id LIMIT ?1",
            )?;
            let rows = select.query_map([OUTBOX_BATCH], |row| {
                Ok(Waiting { event_id: row.get(0)?, campaign_id: row.get(1)?, event: row.get(2)? })
            })?;
            Ok(rows.collect::<Result<_, _>>()?)
        };
        read().with_context(|| format!("can't read {}", self.path.display())).map_err(Fault::Lasting)
    }

    fn published(&mut self, events: &[Waiting]) -> Result<(), Fault> {
        self.transaction(|transaction| {
            let now = crate::now().to_string();
            let mut mark =
                transaction.prepare_cached("UPDATE campaign_outbox SET published_at = ?2 WHERE event_id = ?1")?;
            for event in events {
                mark.execute(params![event.event_id, now])?;
            }
            Ok(())
        })
    }

    fn open_accounts(&mut self, catalogue: &Catalogue) -> Result<(), Fault> {
        self.transaction(|transaction| {
            let now = crate::now().to_string();
            open_advertisers(transaction, catalogue, &now)?;
            let mut rates = transaction.prepare_cached(
                "INSERT OR REPLACE INTO product_metrics_cache (product_id, ctr, cvr) VALUES (?1, ?2, ?3)",
            )?;
            for (product_id, ctr, cvr) in &catalogue.rates {
                rates.execute(params![product_id, ctr, cvr])?;
            }
            let mut prices = transaction.prepare_cached(
                "INSERT OR REPLACE INTO product_meta_data (product_id, product_price) VALUES (?1, ?2)",
            )?;
            for (product_id, price) in &catalogue.prices {
                prices.execute(params![product_id, Cents::from(*price)])?;
            }
            Ok(())
        })
    }
}

impl SqliteStore {
    fn content(&self) -> anyhow::Result<Content> {
        let version = self.connection.pragma_query_value(None, "data_version", |row| row.get(0))?;
        Ok((version, self.connection.total_changes()))
    }

    /// Whether there is anything to decide: looked up without keeping others from writing.
    fn unsettled(&mut self, decide: fn(&Campaign) -> Decision) -> anyhow::Result<bool> {
        let transaction = self.connection.transaction()?;
        Ok(campaigns(&transaction)?.iter().any(|campaign| is_due(campaign, decide)))
    }
}

/// Whether something has to be written of a campaign.
fn is_due(campaign: &Campaign, decide: fn(&Campaign) -> Decision) -> bool {
    !campaign.is_settled || decide(campaign).is_exhausted != campaign.is_exhausted
}

fn move_balances(transaction: &Transaction<'_>, sums: &Sums, now: &str) -> anyhow::Result<u64> {
    let mut insert = transaction
        .prepare_cached("INSERT INTO advertisers (advertiser_id, updated_at) VALUES (?1, ?2) ON CONFLICT DO NOTHING")?;
    let mut select = transaction.prepare_cached("SELECT balance FROM advertisers WHERE advertiser_id = ?1")?;
    let mut update =
        transaction.prepare_cached("UPDATE advertisers SET balance = ?2, updated_at = ?3 WHERE advertiser_id = ?1")?;
    let mut new = 0;
    for (id, change) in &sums.advertisers {
        new += insert.execute(params![id, now])? as u64;
        let Cents(balance) = select.query_row([id], |row| row.get(0))?;
        update.execute(params![id, Cents(balance + change), now])?;
    }
    Ok(new)
}

fn move_campaigns(transaction: &Transaction<'_>, sums: &Sums, now: &str) -> anyhow::Result<()> {
    let mut insert = transaction
        .prepare_cached("INSERT INTO campaigns (campaign_id, updated_at) VALUES (?1, ?2) ON CONFLICT DO NOTHING")?;
    let mut select = transaction.prepare_cached("SELECT debits, credits FROM campaigns WHERE campaign_id = ?1")?;
    let mut update = transaction.prepare_cached(
        "UPDATE campaigns SET debits = ?2, credits = ?3, last_entry = max(coalesce(last_entry, ''), ?4), updated_at = ?5
         WHERE campaign_id = ?1",
    )?;
    for (id, (more_debits, more_credits, last)) in &sums.campaigns {
        insert.execute(params![id, now])?;
        let (Cents(debits), Cents(credits)) = select.query_row([id], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let (debits, credits) = (Cents(debits + more_debits), Cents(credits + more_credits));
        update.execute(params![id, debits, credits, last.to_string(), now])?;
    }
    Ok(())
}

fn follow(transaction: &Transaction<'_>, told: &Told, now: &str) -> anyhow::Result<()> {
    let mut upsert = transaction.prepare_cached(
        "INSERT INTO campaigns AS c (campaign_id, status, state_time, state_partition, state_offset, advertiser_id,
             product_id, placement, category, bid_price, is_settled, updated_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, 0, ?11)
         ON CONFLICT DO UPDATE SET status = excluded.status, state_time = excluded.state_time,
             state_partition = excluded.state_partition, state_offset = excluded.state_offset,
             advertiser_id = coalesce(excluded.advertiser_id, c.advertiser_id),
             product_id = coalesce(excluded.product_id, c.product_id),
             placement = coalesce(excluded.placement, c.placement),
             category = coalesce(excluded.category, c.category),
             bid_price = coalesce(excluded.bid_price, c.bid_price), is_settled = 0, updated_at = excluded.updated_at
         WHERE c.state_time IS NULL OR (c.state_time, c.state_partition, c.state_offset)
             < (excluded.state_time, excluded.state_partition, excluded.state_offset)",
    )?;
    for (id, state) in &told.owners {
        let (time, partition, offset) = state.order;
        let active = state.active.as_ref();
        upsert.execute(params![
            id,
            state.status,
            time.to_string(),
            partition,
            i64::try_from(offset)?,
            active.map(|active| active.advertiser_id),
            active.map(|active| active.product_id),
            active.map(|active| &active.placement),
            active.map(|active| &active.category),
            active.map(|active| Cents::from(active.bid_price)),
            now,
        ])?;
    }
    let mut announced = transaction.prepare_cached(
        "INSERT INTO campaigns AS c (campaign_id, announced, announced_time, is_settled, updated_at)
         VALUES (?1, ?2, ?3, 0, ?4)
         ON CONFLICT DO UPDATE SET announced = excluded.announced, announced_time = excluded.announced_time,
             is_settled = 0, updated_at = excluded.updated_at
         WHERE c.announced_time IS NULL OR c.announced_time < excluded.announced_time",
    )?;
    for (id, (time, announcement)) in &told.own {
        announced.execute(params![id, announcement.name(), time.to_string(), now])?;
    }
    Ok(())
}

/// The campaigns that may have to change: sums are TEXT, so which of those with a budget they are is not
/// asked in SQL.
fn campaigns(transaction: &Transaction<'_>) -> anyhow::Result<Vec<Campaign>> {
    let mut select = transaction.prepare_cached(
        "SELECT campaign_id, status, state_time, advertiser_id, product_id, placement, category, bid_price, budget, debits,
             credits, last_entry, budget_status = 'BUDGET_EXHAUSTED', announced, announced_time, is_settled
         FROM campaigns WHERE budget IS NOT NULL OR NOT is_settled OR budget_status = 'BUDGET_EXHAUSTED'
         ORDER BY campaign_id",
    )?;
    Ok(select.query_map([], campaign)?.collect::<Result<_, _>>()?)
}

fn campaign(row: &Row<'_>) -> rusqlite::Result<Campaign> {
    let time = |column| row.get::<_, Option<Time>>(column).map(|time| time.map(|Time(time)| time));
    let cents = |column| row.get::<_, Option<Cents>>(column).map(|cents| cents.map(|Cents(cents)| cents));
    let money = |column| cents(column).map(|cents| cents.map(saturated));
    let targeting = (row.get(3)?, row.get(4)?, row.get(5)?, row.get(6)?, money(7)?);
    let active = match targeting {
        (Some(advertiser_id), Some(product_id), Some(placement), Some(category), Some(bid_price)) => {
            Some(ActiveCampaign { advertiser_id, product_id, placement, category, bid_price })
        }
        _ => None,
    };
    let announcement = row.get::<_, Option<String>>(13)?.and_then(|name| Announcement::of(&name));
    Ok(Campaign {
        campaign_id: row.get(0)?,
        status: row.get(1)?,
        state_time: time(2)?,
        active,
        budget: money(8)?,
        debits: cents(9)?.unwrap_or_default(),
        credits: cents(10)?.unwrap_or_default(),
        last_entry: time(11)?,
        is_exhausted: row.get(12)?,
        announced: time(14)?.zip(announcement),
        is_settled: row.get(15)?,
    })
}

fn write_decisions(
    transaction: &Transaction<'_>,
    campaigns: &[Campaign],
    decide: fn(&Campaign) -> Decision,
) -> anyhow::Result<Settled> {
    let now = crate::now().to_string();
    let mut settled = Settled::default();
    let mut update = transaction.prepare_cached(
        "UPDATE campaigns SET budget_status = ?2, announced = coalesce(?3, announced),
             announced_time = coalesce(?4, announced_time), is_settled = 1, updated_at = ?5
         WHERE campaign_id = ?1",
    )?;
    let mut enqueue = transaction
        .prepare_cached("INSERT INTO campaign_outbox (campaign_id, event, created_at) VALUES (?1, ?2, ?3)")?;
    for campaign in campaigns.iter().filter(|campaign| is_due(campaign, decide)) {
        let decision = decide(campaign);
        let status = Campaign::budget_status(decision.is_exhausted);
        let (time, name) =
            decision.announce.map(|(time, announcement)| (time.to_string(), announcement.name())).unzip();
        update.execute(params![campaign.campaign_id, status, name, time, now])?;
        if let Some((time, announcement)) = decision.announce {
            settled.count(announcement);
            let event = record_of(campaign, announcement, time);
            enqueue.execute(params![campaign.campaign_id, event, now])?;
        }
    }
    Ok(settled)
}

fn open_advertisers(transaction: &Transaction<'_>, catalogue: &Catalogue, now: &str) -> anyhow::Result<()> {
    let mut insert = transaction
        .prepare_cached("INSERT INTO advertisers (advertiser_id, updated_at) VALUES (?1, ?2) ON CONFLICT DO NOTHING")?;
    let mut select =
        transaction.prepare_cached("SELECT opening_balance, balance FROM advertisers WHERE advertiser_id = ?1")?;
    let mut update = transaction.prepare_cached(
        "UPDATE advertisers SET name = ?2, opening_balance = ?3, balance = ?4, updated_at = ?5 WHERE advertiser_id = ?1",
    )?;
    for account in &catalogue.accounts {
        let (id, opening) = (account.advertiser_id, account.opening_balance);
        insert.execute(params![id, now])?;
        let (Cents(before), Cents(balance)) = select.query_row([id], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let moved = Cents(balance + i128::from(opening.0) - before);
        update.execute(params![id, account.name, Cents::from(opening), moved, now])?;
    }
    let mut budget = transaction.prepare_cached(
        "INSERT INTO campaigns AS c (campaign_id, advertiser_id, budget, updated_at) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT DO UPDATE SET budget = excluded.budget,
             advertiser_id = coalesce(c.advertiser_id, excluded.advertiser_id), updated_at = excluded.updated_at",
    )?;
    for row in &catalogue.budgets {
        budget.execute(params![row.campaign_id, row.advertiser_id, Cents::from(row.budget), now])?;
    }
    Ok(())
}

impl Budgets for SqliteStore {
    fn change(&mut self, step: Step<'_>, changes: &BudgetChanges) -> Result<Outcome<(u64, Money)>, Fault> {
        self.step(step, |transaction| {
            let now = crate::now().to_string();
            let mut remember = transaction.prepare_cached(
                "INSERT INTO campaign_budget_refunds (compensation_id) VALUES (?1) ON CONFLICT DO NOTHING",
            )?;
            let (mut number, mut total) = (0, Money::ZERO);
            for (campaign, spent) in &changes.spent {
                change_budget(transaction, *campaign, *spent, Money::ZERO, &now)?;
            }
            for refund in &changes.refunds {
                if remember.execute([&refund.compensation_id])? == 1 {
                    number += 1;
                    total += refund.amount;
                    change_budget(transaction, refund.campaign_id, Money::ZERO, refund.amount, &now)?;
                }
            }
            Ok((number, total))
        })
    }
}

fn change_budget(
    transaction: &Transaction<'_>,
    campaign: i64,
    more_spent: Money,
    more_refunded: Money,
    now: &str,
) -> anyhow::Result<()> {
    let mut select =
        transaction.prepare_cached("SELECT spent, refunded FROM campaign_budget WHERE campaign_id = ?1")?;
    let before = select.query_row([campaign], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    let (Cents(spent), Cents(refunded)) = before.unwrap_or((Cents(0), Cents(0)));
    let (spent, refunded) = (spent + i128::from(more_spent.0), refunded + i128::from(more_refunded.0));
    let mut write = transaction.prepare_cached(
        "INSERT OR REPLACE INTO campaign_budget (campaign_id, spent, refunded, updated_at) VALUES (?1, ?2, ?3, ?4)",
    )?;
    write.execute(params![campaign, Cents(spent), Cents(refunded), now])?;
    Ok(())
}
