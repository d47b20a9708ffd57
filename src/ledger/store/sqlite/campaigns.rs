//! Advertisers and campaigns.

use adtide_dataflows::model::ActiveCampaign;
use rusqlite::{Row, Transaction, params};

use super::super::{Announcement, Campaign, Catalogue, Decision, Settled, Sums, Told};
use super::values::{Cents, Time, saturated};
use crate::ledger::announcement::announcement as record_of;

/// Whether something has to be written of a campaign.
pub(super) fn is_due(campaign: &Campaign, decide: fn(&Campaign) -> Decision) -> bool {
    !campaign.is_settled || decide(campaign).is_exhausted != campaign.is_exhausted
}

pub(super) fn move_balances(transaction: &Transaction<'_>, sums: &Sums, now: &str) -> anyhow::Result<u64> {
    let mut insert = transaction.prepare_cached(
        "INSERT INTO advertisers (advertiser_id, updated_at) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
    )?;
    let mut select =
        transaction.prepare_cached("SELECT balance FROM advertisers WHERE advertiser_id = ?1")?;
    let mut update = transaction
        .prepare_cached("UPDATE advertisers SET balance = ?2, updated_at = ?3 WHERE advertiser_id = ?1")?;
    let mut new = 0;
    for (id, change) in &sums.advertisers {
        new += insert.execute(params![id, now])? as u64;
        let Cents(balance) = select.query_row([id], |row| row.get(0))?;
        update.execute(params![id, Cents(balance + change), now])?;
    }
    Ok(new)
}

pub(super) fn move_campaigns(transaction: &Transaction<'_>, sums: &Sums, now: &str) -> anyhow::Result<()> {
    let mut insert = transaction.prepare_cached(
        "INSERT INTO campaigns (campaign_id, updated_at) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
    )?;
    let mut select =
        transaction.prepare_cached("SELECT debits, credits FROM campaigns WHERE campaign_id = ?1")?;
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

pub(super) fn follow(transaction: &Transaction<'_>, told: &Told, now: &str) -> anyhow::Result<()> {
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
pub(super) fn campaigns(transaction: &Transaction<'_>) -> anyhow::Result<Vec<Campaign>> {
    let mut select = transaction.prepare_cached(
        "SELECT campaign_id, status, state_time, advertiser_id, product_id, placement, category, bid_price,
             budget, debits,
             credits, last_entry, budget_status = 'BUDGET_EXHAUSTED', announced, announced_time, is_settled
         FROM campaigns WHERE budget IS NOT NULL OR NOT is_settled OR budget_status = 'BUDGET_EXHAUSTED'
         ORDER BY campaign_id",
    )?;
    Ok(select.query_map([], campaign)?.collect::<Result<_, _>>()?)
}

pub(super) fn campaign(row: &Row<'_>) -> rusqlite::Result<Campaign> {
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

pub(super) fn write_decisions(
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

pub(super) fn open_advertisers(
    transaction: &Transaction<'_>,
    catalogue: &Catalogue,
    now: &str,
) -> anyhow::Result<()> {
    let mut insert = transaction.prepare_cached(
        "INSERT INTO advertisers (advertiser_id, updated_at) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
    )?;
    let mut select = transaction
        .prepare_cached("SELECT opening_balance, balance FROM advertisers WHERE advertiser_id = ?1")?;
    let mut update = transaction.prepare_cached(
        "UPDATE advertisers SET name = ?2, opening_balance = ?3, balance = ?4, updated_at = ?5
         WHERE advertiser_id = ?1",
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
