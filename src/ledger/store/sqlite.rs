//! The ledger and the budgets in SQLite, for the embedded default: tables of `DATA_DIR/adtide.db`.
//!
//! Others write to the same file. Each step takes the write lock first and then reads, so what it has read
//! stays true.

mod campaigns;
mod values;

use std::path::{Path, PathBuf};

use adtide_dataflows::model::Money;
use anyhow::Context;
use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, Transaction, TransactionBehavior, params};

use campaigns::{
    campaigns, follow, is_due, move_balances, move_campaigns, open_advertisers, write_decisions,
};
use values::Cents;

use super::{
    BudgetChanges, Budgets, Campaign, Catalogue, Decision, Entry, Ledger, OUTBOX_BATCH, Offsets, Outcome,
    Posted, Settled, Step, Sums, Told, Waiting, judge,
};
use crate::connect::{self, Fault};
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
            format!(
                "can't use {} as the workers' database; is it writable, and an SQLite file?",
                path.display()
            )
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
            let mut credits = transaction
                .prepare("SELECT advertiser_id, amount FROM balance_ledger WHERE entry_type = 'CREDIT'")?;
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
            transaction
                .execute("INSERT INTO campaign_outbox_partition (id, partition) VALUES (1, ?1)", [free])?;
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

    fn transaction<T>(
        &mut self,
        run: impl FnOnce(&Transaction<'_>) -> anyhow::Result<T>,
    ) -> Result<T, Fault> {
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

/// Moves the offsets, if the step may.
fn advance(transaction: &Transaction<'_>, step: Step<'_>) -> anyhow::Result<Outcome<()>> {
    let mut select = transaction.prepare_cached(
        "SELECT owner, next_offset FROM worker_offsets WHERE worker = ?1 AND topic = ?2 AND partition = ?3",
    )?;
    let mut stored = Vec::with_capacity(step.advances.len());
    for advance in step.advances {
        let Partition { topic, number } = &advance.partition;
        let row = select
            .query_row(params![step.worker, topic, number], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?)));
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
    fn claim(
        &mut self,
        worker: &str,
        owner: &str,
        partition: &Partition,
        earliest: u64,
    ) -> Result<u64, Fault> {
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
            let mut select = transaction.prepare_cached(
                "SELECT topic, partition, next_offset FROM worker_offsets WHERE worker = ?1",
            )?;
            let position = |row: &Row<'_>| {
                Ok((Partition { topic: row.get(0)?, number: row.get(1)? }, row.get::<_, i64>(2)?))
            };
            let rows = select.query_map([worker], position)?;
            rows.map(|row| {
                row.map_err(anyhow::Error::from).and_then(|(key, next)| Ok((key, u64::try_from(next)?)))
            })
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
            let mut mark = transaction
                .prepare_cached("UPDATE campaign_outbox SET published_at = ?2 WHERE event_id = ?1")?;
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
