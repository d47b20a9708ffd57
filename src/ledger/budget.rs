//! The worker budget: what each campaign has spent, and what of it was refunded.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use adtide_dataflows::model::{Money, UnknownIds};

use super::drive::Work;
use super::feed::Record;
use super::letter::Unfit;
use super::record::{self, Reader};
use super::stats::WorkerStats;
use super::store::{BudgetChanges, Budgets, Offsets, Outcome, Refund, Step};
use crate::connect::Fault;
use crate::sink::COMPENSATION_EVENTS;

/// Sums up clicks and refunds by campaign.
pub struct BudgetWork {
    budgets: Box<dyn Budgets>,
    reader: Reader,
    changes: BudgetChanges,
    clicks: u64,
    stats: Arc<WorkerStats>,
}

impl BudgetWork {
    /// The worker, with its store.
    pub fn new(budgets: Box<dyn Budgets>, unknown_ids: &UnknownIds, stats: &Arc<WorkerStats>) -> BudgetWork {
        let (reader, stats) = (Reader::new(unknown_ids), Arc::clone(stats));
        BudgetWork { budgets, reader, changes: BudgetChanges::default(), clicks: 0, stats }
    }
}

impl Work for BudgetWork {
    fn take(&mut self, record: &Record<'_>, value: &[u8]) -> Result<(), Unfit> {
        // Topics may have a prefix.
        if record.partition.topic.ends_with(COMPENSATION_EVENTS) {
            let record::Refund { compensation_id, campaign_id, amount, window_start, .. } =
                record::refund(value)?;
            // One without campaign is nobody's budget.
            let refund = |campaign_id| Refund { compensation_id, window_start, campaign_id, amount };
            self.changes.refunds.extend(campaign_id.map(refund));
            return Ok(());
        }
        if let Some(click) = self.reader.click(record, value)?
            && let Some(campaign) = click.campaign_id
        {
            *self.changes.spent.entry(campaign).or_default() += click.price;
            self.clicks += 1;
        }
        Ok(())
    }

    fn pending(&self) -> usize {
        self.changes.spent.len() + self.changes.refunds.len()
    }

    fn clear(&mut self) {
        self.changes = BudgetChanges::default();
        self.clicks = 0;
    }

    fn offsets(&mut self) -> &mut dyn Offsets {
        &mut *self.budgets
    }

    fn commit(&mut self, step: Step<'_>) -> Result<Outcome<()>, Fault> {
        let refunds = &self.changes.refunds;
        let (outcome, (number, refunded)) = match self.budgets.change(step, &self.changes)? {
            Outcome::Applied(counted) => (Outcome::Applied(()), counted),
            // Which of them were repeats was said in the answer that got lost.
            Outcome::AppliedBefore => {
                let amount = refunds.iter().map(|refund| refund.amount).sum();
                (Outcome::AppliedBefore, (refunds.len() as u64, amount))
            }
            Outcome::Fenced => return Ok(Outcome::Fenced),
        };
        self.stats.debit(self.clicks, self.changes.spent.values().copied().sum::<Money>());
        self.stats.credit(number, refunded);
        self.stats.repeats.fetch_add(refunds.len() as u64 - number, Ordering::Relaxed);
        Ok(outcome)
    }
}
