//! The workers balance and compensation: clicks become debits, refunds become credits.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use adtide_dataflows::model::{Money, UnknownIds};
use tracing::warn;

use super::drive::Work;
use super::feed::Record;
use super::letter::Unfit;
use super::record::{self, Click, Reader, Refund};
use super::stats::WorkerStats;
use super::store::{Entry, EntryType, Ledger, Offsets, Outcome, Posted, Step};
use crate::connect::Fault;

/// Posts entries of one type.
pub struct Accounts {
    ledger: Box<dyn Ledger + Send>,
    entry_type: EntryType,
    reader: Reader,
    entries: Vec<Entry>,
    stats: Arc<WorkerStats>,
}

impl Accounts {
    /// The worker balance. There is no check for duplicates here: those are refunded later. A click without
    /// campaign and one that comes late are debited like any other.
    pub fn debits(
        ledger: Box<dyn Ledger + Send>,
        unknown_ids: &UnknownIds,
        stats: &Arc<WorkerStats>,
    ) -> Accounts {
        Accounts::new(ledger, EntryType::Debit, Reader::new(unknown_ids), stats)
    }

    /// The worker compensation.
    pub fn credits(ledger: Box<dyn Ledger + Send>, stats: &Arc<WorkerStats>) -> Accounts {
        Accounts::new(ledger, EntryType::Credit, Reader::new(&UnknownIds::default()), stats)
    }

    fn new(
        ledger: Box<dyn Ledger + Send>,
        entry_type: EntryType,
        reader: Reader,
        stats: &Arc<WorkerStats>,
    ) -> Accounts {
        Accounts { ledger, entry_type, reader, entries: Vec::new(), stats: Arc::clone(stats) }
    }

    /// The entry that a record makes; None if it makes none.
    fn entry(&mut self, record: &Record<'_>, value: &[u8]) -> Result<Option<Entry>, Unfit> {
        let (entry_type, partition, offset) = (self.entry_type, record.partition.clone(), record.offset);
        let (advertiser_id, campaign_id, amount, event_time, compensation_id) = match entry_type {
            EntryType::Debit => {
                let Some(click) = self.reader.click(record, value)? else { return Ok(None) };
                let Click { advertiser_id, campaign_id, price, time } = click;
                (advertiser_id, campaign_id, price, time, None)
            }
            EntryType::Credit => {
                let refund = record::refund(value)?;
                let Refund { advertiser_id, campaign_id, amount, window_start, compensation_id, .. } = refund;
                (advertiser_id, campaign_id, amount, window_start, Some(compensation_id))
            }
        };
        Ok(Some(Entry {
            entry_type,
            advertiser_id,
            campaign_id,
            amount,
            event_time,
            partition,
            offset,
            compensation_id,
        }))
    }

    fn count(&self, posted: Posted) {
        match self.entry_type {
            EntryType::Debit => self.stats.debit(posted.entries, posted.amount),
            EntryType::Credit => self.stats.credit(posted.entries, posted.amount),
        }
        let repeats = self.entries.len() as u64 - posted.entries;
        self.stats.repeats.fetch_add(repeats, Ordering::Relaxed);
        if posted.new_advertisers > 0 {
            self.stats.new_advertisers.fetch_add(posted.new_advertisers, Ordering::Relaxed);
            warn!(
                advertisers = posted.new_advertisers,
                "the ledger did not know them; they start with a balance of 0"
            );
        }
    }
}

impl Work for Accounts {
    fn take(&mut self, record: &Record<'_>, value: &[u8]) -> Result<(), Unfit> {
        let entry = self.entry(record, value)?;
        self.entries.extend(entry);
        Ok(())
    }

    fn pending(&self) -> usize {
        self.entries.len()
    }

    fn clear(&mut self) {
        self.entries.clear();
    }

    fn offsets(&mut self) -> &mut dyn Offsets {
        &mut *self.ledger
    }

    fn commit(&mut self, step: Step<'_>) -> Result<Outcome<()>, Fault> {
        Ok(match self.ledger.post(step, &self.entries)? {
            Outcome::Applied(posted) => {
                self.count(posted);
                Outcome::Applied(())
            }
            Outcome::AppliedBefore => {
                // Which of them were repeats was said in the answer that got lost.
                let amount = self.entries.iter().map(|entry| entry.amount).sum::<Money>();
                self.count(Posted { entries: self.entries.len() as u64, amount, new_advertisers: 0 });
                Outcome::AppliedBefore
            }
            Outcome::Fenced => Outcome::Fenced,
        })
    }
}
