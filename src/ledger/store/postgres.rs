//! The ledger in PostgreSQL. The tables are in `migrations/V2__ledger.sql`.
//!
//! Locks are always taken in the same order: offsets, advertisers by id, campaigns by id. Where two processes
//! still meet in a deadlock, one is rolled back and tries again.

mod catalogue;

use std::collections::HashMap;

use adtide_dataflows::model::{ActiveCampaign, EventTime, Money};
use anyhow::{Context, anyhow};
use tokio_postgres::Row;

use catalogue::{open_advertisers, open_products};

use super::{
    Advance, Announcement, Campaign, Catalogue, Decision, Entry, EntryType, Ledger, OUTBOX_BATCH, Offsets,
    Outcome, Posted, Settled, Step, Sums, Told, Waiting, judge,
};
use crate::connect::Fault;
use crate::connect::migrate;
use crate::connect::postgres::{Client, PostgresConfig, Transaction};
use crate::connect::text::{held_text, read_text};
use crate::ledger::announcement::announcement as record_of;
use crate::ledger::feed::{Mark, Partition, Positions};

/// Turns milliseconds since 1970 into a TIMESTAMP, exactly.
macro_rules! timestamp {
    ($ms:literal) => {
        concat!("('epoch'::timestamp + ", $ms, " * interval '1 millisecond')")
    };
}

/// The ledger in PostgreSQL.
pub struct PostgresLedger {
    config: PostgresConfig,
    application: String,
    client: Option<Client>,
    has_tables: bool,
}

impl PostgresLedger {
    /// A ledger that connects when it is needed; `worker` tells the connection from others in the server's
    /// views.
    pub fn new(config: PostgresConfig, worker: &str) -> PostgresLedger {
        PostgresLedger { config, application: format!("adtide {worker}"), client: None, has_tables: false }
    }

    /// Connects, and the first time creates the tables that are missing.
    fn connect(&mut self) -> Result<Client, Fault> {
        let mut client = self.config.connect(&self.application)?;
        if !self.has_tables {
            migrate::apply(&mut client, &self.config)?;
            self.has_tables = true;
        }
        Ok(client)
    }

    /// Runs one transaction. A connection that failed is opened anew by the next call.
    fn transaction<T>(
        &mut self,
        run: impl FnOnce(&mut Transaction<'_>) -> Result<T, Error>,
    ) -> Result<T, Fault> {
        let mut client = match self.client.take() {
            Some(client) if !client.is_closed() => client,
            _ => self.connect()?,
        };
        let attempt = || {
            let mut transaction = client.transaction()?;
            let result = run(&mut transaction)?;
            transaction.commit()?;
            Ok(result)
        };
        let result = attempt();
        // After a failover the same connection would find the same read-only server.
        if result.is_ok() {
            self.client = Some(client);
        }
        result.map_err(|error| match error {
            Error::Postgres(error) => self.config.fault(error),
            Error::Other(error) => {
                Fault::Lasting(error.context(format!("PostgreSQL at {}", self.config.url)))
            }
        })
    }

    /// One guarded step.
    fn step<T>(
        &mut self,
        step: Step<'_>,
        run: impl FnOnce(&mut Transaction<'_>) -> Result<T, Error>,
    ) -> Result<Outcome<T>, Fault> {
        self.transaction(|transaction| match advance(transaction, step)? {
            Outcome::Applied(()) => Ok(Outcome::Applied(run(transaction)?)),
            Outcome::AppliedBefore => Ok(Outcome::AppliedBefore),
            Outcome::Fenced => Ok(Outcome::Fenced),
        })
    }
}

/// What goes wrong in a transaction.
enum Error {
    Postgres(tokio_postgres::Error),
    Other(anyhow::Error),
}

impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Error {
        Error::Postgres(error)
    }
}

impl From<anyhow::Error> for Error {
    fn from(error: anyhow::Error) -> Error {
        Error::Other(error)
    }
}

impl From<std::num::TryFromIntError> for Error {
    fn from(error: std::num::TryFromIntError) -> Error {
        Error::Other(anyhow!(error))
    }
}

/// Moves the offsets, if the step may.
fn advance(transaction: &mut Transaction<'_>, step: Step<'_>) -> Result<Outcome<()>, Error> {
    let topics: Vec<&str> = step.advances.iter().map(|advance| &*advance.partition.topic).collect();
    let numbers = step.advances.iter().map(|advance| i32::try_from(advance.partition.number));
    let numbers = numbers.collect::<Result<Vec<_>, _>>()?;
    let next =
        step.advances.iter().map(|advance| i64::try_from(advance.next)).collect::<Result<Vec<_>, _>>()?;
    let rows = transaction.query(
        "SELECT topic, partition, owner, next_offset FROM worker_offsets
         WHERE worker = $1 AND (topic, partition) IN (SELECT * FROM UNNEST($2::text[], $3::int[]))
         ORDER BY topic, partition FOR UPDATE",
        &[&step.worker, &topics, &numbers],
    )?;
    let mut stored = HashMap::new();
    for row in rows {
        let partition = Partition { topic: row.get(0), number: u32::try_from(row.get::<_, i32>(1))? };
        stored.insert(partition, (row.get::<_, String>(2), u64::try_from(row.get::<_, i64>(3))?));
    }
    let stored: Vec<_> =
        step.advances.iter().map(|Advance { partition, .. }| stored.remove(partition)).collect();
    let outcome = judge(step, &stored);
    if outcome == Outcome::Applied(()) {
        let marks: Vec<_> = step.advances.iter().map(Advance::mark_text).collect();
        transaction.execute(
            "UPDATE worker_offsets o SET next_offset = n.next, mark = n.mark, updated_at = now()
             FROM UNNEST($2::text[], $3::int[], $4::bigint[], $5::text[]) AS n (topic, partition, next, mark)
             WHERE o.worker = $1 AND o.topic = n.topic AND o.partition = n.partition",
            &[&step.worker, &topics, &numbers, &next, &marks],
        )?;
    }
    Ok(outcome)
}

impl Offsets for PostgresLedger {
    fn claim(
        &mut self,
        worker: &str,
        owner: &str,
        partition: &Partition,
        earliest: u64,
    ) -> Result<u64, Fault> {
        self.transaction(|transaction| {
            let row = transaction.query_one(
                "INSERT INTO worker_offsets (worker, topic, partition, owner, next_offset) VALUES ($1, $2, $3, $4, $5)
                 ON CONFLICT (worker, topic, partition) DO UPDATE SET owner = excluded.owner, updated_at = now()
                 RETURNING next_offset",
                &[&worker, &partition.topic, &i32::try_from(partition.number)?, &owner, &i64::try_from(earliest)?],
            )?;
            Ok(u64::try_from(row.get::<_, i64>(0))?)
        })
    }

    fn mark(&mut self, worker: &str, partition: &Partition) -> Result<Option<Mark>, Fault> {
        self.transaction(|transaction| {
            let sql = "SELECT mark FROM worker_offsets WHERE worker = $1 AND topic = $2 AND partition = $3";
            let row = transaction
                .query_opt(sql, &[&worker, &partition.topic, &i32::try_from(partition.number)?])?;
            let mark =
                row.and_then(|row| row.get::<_, Option<String>>(0)).map(|mark| serde_json::from_str(&mark));
            Ok(mark
                .transpose()
                .with_context(|| format!("worker_offsets has no mark that can be read of {partition}"))?)
        })
    }

    fn positions(&mut self, worker: &str) -> Result<Positions, Fault> {
        self.transaction(|transaction| {
            let sql = "SELECT topic, partition, next_offset FROM worker_offsets WHERE worker = $1";
            let position = |row: &Row| -> Result<_, Error> {
                let partition = Partition { topic: row.get(0), number: u32::try_from(row.get::<_, i32>(1))? };
                Ok((partition, u64::try_from(row.get::<_, i64>(2))?))
            };
            transaction.query(sql, &[&worker])?.iter().map(position).collect()
        })
    }
}

impl Ledger for PostgresLedger {
    fn post(&mut self, step: Step<'_>, entries: &[Entry]) -> Result<Outcome<Posted>, Fault> {
        self.step(step, |transaction| {
            let mut posted = Posted::default();
            let mut sums = Sums::default();
            for row in insert_entries(transaction, entries)? {
                let entry_type =
                    if row.get::<_, &str>(0) == "DEBIT" { EntryType::Debit } else { EntryType::Credit };
                let amount = cents(&row, 3)?;
                posted.entries += u64::try_from(row.get::<_, i64>(4))?;
                posted.amount += Money(i64::try_from(amount).unwrap_or(i64::MAX));
                sums.add(entry_type, row.get(1), row.get(2), amount, EventTime(row.get(5)));
            }
            posted.new_advertisers = move_balances(transaction, &sums)?;
            move_campaigns(transaction, &sums)?;
            Ok(posted)
        })
    }

    fn follow(&mut self, step: Step<'_>, told: &Told) -> Result<Outcome<()>, Fault> {
        self.step(step, |transaction| {
            follow_owners(transaction, told)?;
            let ids: Vec<i64> = told.own.keys().copied().collect();
            let times: Vec<i64> = told.own.values().map(|(time, _)| time.0).collect();
            let names: Vec<&str> = told.own.values().map(|(_, announcement)| announcement.name()).collect();
            transaction.execute(
                concat!(
                    "INSERT INTO campaigns AS c (campaign_id, announced, announced_time, is_settled)
                     SELECT id, name, ",
                    timestamp!("ms"),
                    ", FALSE FROM UNNEST($1::bigint[], $2::text[], $3::bigint[]) AS n (id, name, ms) ORDER BY id
                     ON CONFLICT (campaign_id) DO UPDATE SET announced = excluded.announced,
                         announced_time = excluded.announced_time, is_settled = FALSE, updated_at = now()
                     WHERE c.announced_time IS NULL OR c.announced_time < excluded.announced_time"
                ),
                &[&ids, &names, &times],
            )?;
            Ok(())
        })
    }

    fn settle(&mut self, decide: fn(&Campaign) -> Decision) -> Result<Settled, Fault> {
        self.transaction(|transaction| {
            let rows = transaction.query(
                "SELECT campaign_id, status, (extract(epoch FROM state_time) * 1000)::bigint, advertiser_id, product_id,
                     placement, category, (bid_price * 100)::bigint, (budget * 100)::bigint, trunc(debits * 100)::text,
                     trunc(credits * 100)::text, (extract(epoch FROM last_entry) * 1000)::bigint,
                     budget_status = 'BUDGET_EXHAUSTED', announced,
                     (extract(epoch FROM announced_time) * 1000)::bigint, is_settled
                 FROM campaigns
                 WHERE NOT is_settled
                     OR coalesce(debits - credits >= budget, FALSE) <> (budget_status = 'BUDGET_EXHAUSTED')
                 ORDER BY campaign_id FOR UPDATE",
                &[],
            )?;
            let campaigns = rows.iter().map(campaign).collect::<Result<Vec<_>, _>>()?;
            write_decisions(transaction, &campaigns, decide)
        })
    }

    fn waiting(&mut self) -> Result<Vec<Waiting>, Fault> {
        self.transaction(|transaction| {
            let rows = transaction.query(
                "SELECT event_id, campaign_id, event FROM campaign_outbox WHERE published_at IS NULL
                 ORDER BY event_id LIMIT $1",
                &[&OUTBOX_BATCH],
            )?;
            let waiting =
                |row: &Row| Waiting { event_id: row.get(0), campaign_id: row.get(1), event: row.get(2) };
            Ok(rows.iter().map(waiting).collect())
        })
    }

    fn published(&mut self, events: &[Waiting]) -> Result<(), Fault> {
        let ids: Vec<i64> = events.iter().map(|event| event.event_id).collect();
        self.transaction(|transaction| {
            let sql = "UPDATE campaign_outbox SET published_at = now() WHERE event_id = ANY($1)";
            Ok(transaction.execute(sql, &[&ids]).map(drop)?)
        })
    }

    fn open_accounts(&mut self, catalogue: &Catalogue) -> Result<(), Fault> {
        self.transaction(|transaction| {
            open_advertisers(transaction, catalogue)?;
            open_products(transaction, catalogue)
        })
    }
}

/// Adds the entries that are new. Gives sums of those by type, advertiser and campaign: type, advertiser,
/// campaign, cents, number, greatest event time.
fn insert_entries(transaction: &mut Transaction<'_>, entries: &[Entry]) -> Result<Vec<Row>, Error> {
    if entries.is_empty() {
        return Ok(Vec::new());
    }
    let types: Vec<&str> = entries.iter().map(|entry| entry.entry_type.name()).collect();
    let advertisers: Vec<i64> = entries.iter().map(|entry| entry.advertiser_id).collect();
    let campaigns: Vec<Option<i64>> = entries.iter().map(|entry| entry.campaign_id).collect();
    let cents: Vec<i64> = entries.iter().map(|entry| entry.amount.0).collect();
    let times: Vec<i64> = entries.iter().map(|entry| entry.event_time.0).collect();
    let topics: Vec<&str> = entries.iter().map(|entry| &*entry.partition.topic).collect();
    let numbers =
        entries.iter().map(|entry| i32::try_from(entry.partition.number)).collect::<Result<Vec<_>, _>>()?;
    let offsets = entries.iter().map(|entry| i64::try_from(entry.offset)).collect::<Result<Vec<_>, _>>()?;
    let ids: Vec<Option<&str>> = entries.iter().map(|entry| entry.compensation_id.as_deref()).collect();
    let insert = transaction.prepare(concat!(
        "WITH posted AS (
             INSERT INTO balance_ledger (entry_type, advertiser_id, campaign_id, amount, event_time, topic, partition,
                 \"offset\", compensation_id)
             SELECT type, advertiser, campaign, cents * 0.01, ",
        timestamp!("ms"),
        ", topic, partition, \"offset\", id
             FROM UNNEST($1::text[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::text[], $7::int[],
                 $8::bigint[], $9::text[])
                 AS n (type, advertiser, campaign, cents, ms, topic, partition, \"offset\", id)
             ORDER BY topic, partition, \"offset\"
             ON CONFLICT DO NOTHING
             RETURNING entry_type, advertiser_id, campaign_id, amount, event_time)
         SELECT entry_type, advertiser_id, campaign_id, trunc(sum(amount) * 100)::text, count(*),
             (extract(epoch FROM max(event_time)) * 1000)::bigint
         FROM posted GROUP BY entry_type, advertiser_id, campaign_id"
    ))?;
    let rows = transaction.query(
        &insert,
        &[&types, &advertisers, &campaigns, &cents, &times, &topics, &numbers, &offsets, &ids],
    )?;
    Ok(rows)
}

/// Moves balances; how many advertisers were not known.
fn move_balances(transaction: &mut Transaction<'_>, sums: &Sums) -> Result<u64, Error> {
    let ids: Vec<i64> = sums.advertisers.keys().copied().collect();
    let cents: Vec<String> = sums.advertisers.values().map(i128::to_string).collect();
    let row = transaction.query_one(
        "WITH moved AS (
             INSERT INTO advertisers AS a (advertiser_id, balance)
             SELECT id, cents * 0.01 FROM UNNEST($1::bigint[], $2::text[]::numeric[]) AS n (id, cents) ORDER BY id
             ON CONFLICT (advertiser_id) DO UPDATE SET balance = a.balance + excluded.balance, updated_at = now()
             RETURNING xmax = 0 AS is_new)
         SELECT count(*) FILTER (WHERE is_new) FROM moved",
        &[&ids, &cents],
    )?;
    Ok(u64::try_from(row.get::<_, i64>(0))?)
}

fn move_campaigns(transaction: &mut Transaction<'_>, sums: &Sums) -> Result<(), Error> {
    let ids: Vec<i64> = sums.campaigns.keys().copied().collect();
    let debits: Vec<String> = sums.campaigns.values().map(|(debits, _, _)| debits.to_string()).collect();
    let credits: Vec<String> = sums.campaigns.values().map(|(_, credits, _)| credits.to_string()).collect();
    let times: Vec<i64> = sums.campaigns.values().map(|(_, _, last)| last.0).collect();
    transaction.execute(
        concat!(
            "INSERT INTO campaigns AS c (campaign_id, debits, credits, last_entry)
             SELECT id, debits * 0.01, credits * 0.01, ",
            timestamp!("ms"),
            " FROM UNNEST($1::bigint[], $2::text[]::numeric[], $3::text[]::numeric[], $4::bigint[])
                 AS n (id, debits, credits, ms)
             ORDER BY id
             ON CONFLICT (campaign_id) DO UPDATE SET debits = c.debits + excluded.debits,
                 credits = c.credits + excluded.credits, last_entry = greatest(c.last_entry, excluded.last_entry),
                 updated_at = now()"
        ),
        &[&ids, &debits, &credits, &times],
    )?;
    Ok(())
}

fn follow_owners(transaction: &mut Transaction<'_>, told: &Told) -> Result<(), Error> {
    let states = || told.owners.values();
    let active = |state: &super::OwnerState| state.active.clone();
    let ids: Vec<i64> = told.owners.keys().copied().collect();
    let statuses: Vec<&str> = states().map(|state| state.status).collect();
    let times: Vec<i64> = states().map(|state| state.order.0.0).collect();
    let partitions = states().map(|state| i32::try_from(state.order.1)).collect::<Result<Vec<_>, _>>()?;
    let offsets = states().map(|state| i64::try_from(state.order.2)).collect::<Result<Vec<_>, _>>()?;
    let advertisers: Vec<_> =
        states().map(|state| active(state).map(|active| active.advertiser_id)).collect();
    let products: Vec<_> = states().map(|state| active(state).map(|active| active.product_id)).collect();
    let text = |text: fn(&ActiveCampaign) -> &str| {
        let texts =
            states().map(|state| state.active.as_ref().map(|active| held_text(text(active)).into_owned()));
        texts.collect::<Vec<_>>()
    };
    let (placements, categories) = (text(|active| &active.placement), text(|active| &active.category));
    let bids: Vec<_> = states().map(|state| active(state).map(|active| active.bid_price.0)).collect();
    transaction.execute(
        concat!(
            "INSERT INTO campaigns AS c (campaign_id, status, state_time, state_partition, state_offset, advertiser_id,
                 product_id, placement, category, bid_price, is_settled)
             SELECT id, status, ",
            timestamp!("ms"),
            ", partition, \"offset\", advertiser, product, placement, category, bid * 0.01, FALSE
             FROM UNNEST($1::bigint[], $2::text[], $3::bigint[], $4::int[], $5::bigint[], $6::bigint[], $7::bigint[],
                 $8::text[], $9::text[], $10::bigint[])
                 AS n (id, status, ms, partition, \"offset\", advertiser, product, placement, category, bid)
             ORDER BY id
             ON CONFLICT (campaign_id) DO UPDATE SET status = excluded.status, state_time = excluded.state_time,
                 state_partition = excluded.state_partition, state_offset = excluded.state_offset,
                 advertiser_id = coalesce(excluded.advertiser_id, c.advertiser_id),
                 product_id = coalesce(excluded.product_id, c.product_id),
                 placement = coalesce(excluded.placement, c.placement),
                 category = coalesce(excluded.category, c.category),
                 bid_price = coalesce(excluded.bid_price, c.bid_price), is_settled = FALSE, updated_at = now()
             WHERE c.state_time IS NULL OR (c.state_time, c.state_partition, c.state_offset)
                 < (excluded.state_time, excluded.state_partition, excluded.state_offset)"
        ),
        &[&ids, &statuses, &times, &partitions, &offsets, &advertisers, &products, &placements, &categories, &bids],
    )?;
    Ok(())
}

/// A sum in minor units, which need not fit 64 bits.
fn cents(row: &Row, column: usize) -> Result<i128, Error> {
    let text: &str = row.get(column);
    Ok(text.parse::<i128>().with_context(|| format!("{text:?} is no sum"))?)
}

fn campaign(row: &Row) -> Result<Campaign, Error> {
    let active = || {
        Some(ActiveCampaign {
            advertiser_id: row.get::<_, Option<i64>>(3)?,
            product_id: row.get::<_, Option<i64>>(4)?,
            placement: read_text(row.get::<_, Option<String>>(5)?),
            category: read_text(row.get::<_, Option<String>>(6)?),
            bid_price: Money(row.get::<_, Option<i64>>(7)?),
        })
    };
    let announced = || {
        let announcement = Announcement::of(row.get::<_, Option<&str>>(13)?)?;
        Some((EventTime(row.get::<_, Option<i64>>(14)?), announcement))
    };
    Ok(Campaign {
        campaign_id: row.get(0),
        status: row.get(1),
        state_time: row.get::<_, Option<i64>>(2).map(EventTime),
        active: active(),
        budget: row.get::<_, Option<i64>>(8).map(Money),
        debits: cents(row, 9)?,
        credits: cents(row, 10)?,
        last_entry: row.get::<_, Option<i64>>(11).map(EventTime),
        is_exhausted: row.get(12),
        announced: announced(),
        is_settled: row.get(15),
    })
}

fn write_decisions(
    transaction: &mut Transaction<'_>,
    campaigns: &[Campaign],
    decide: fn(&Campaign) -> Decision,
) -> Result<Settled, Error> {
    let mut settled = Settled::default();
    let update = transaction.prepare(concat!(
        "UPDATE campaigns SET budget_status = $2, announced = coalesce($3, announced),
             announced_time = coalesce(",
        timestamp!("$4::bigint"),
        ", announced_time), is_settled = TRUE, updated_at = now() WHERE campaign_id = $1"
    ))?;
    let enqueue = transaction.prepare("INSERT INTO campaign_outbox (campaign_id, event) VALUES ($1, $2)")?;
    for campaign in campaigns {
        let decision = decide(campaign);
        let (time, name) =
            decision.announce.map(|(time, announcement)| (time.0, announcement.name())).unzip();
        let status = Campaign::budget_status(decision.is_exhausted);
        transaction.execute(&update, &[&campaign.campaign_id, &status, &name, &time])?;
        if let Some((time, announcement)) = decision.announce {
            settled.count(announcement);
            let event = record_of(campaign, announcement, time);
            transaction.execute(&enqueue, &[&campaign.campaign_id, &event])?;
        }
    }
    Ok(settled)
}
