//! The worker campaign-status: pauses campaigns that have spent their budget, and activates them when a
//! refund brings them below it.
//!
//! It tells so in `campaign-events`, like an owner, so statement 1 needs to know nothing of budgets. To pause
//! a campaign again that its owner updates while it is exhausted, and to leave one alone that its owner
//! paused, it follows `campaign-events` itself. Its own events carry a source, by which it tells them from
//! those of owners.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use adtide_dataflows::model::{ActiveCampaign, CampaignEvent, CampaignEventType, EventTime, UnknownIds};
use serde::Deserialize;
use tracing::info;

use super::announcement::ANNOUNCER;
use super::drive::Work;
use super::feed::Record;
use super::letter::Unfit;
use super::outbox::Outbox;
use super::record::Reader;
use super::stats::WorkerStats;
use super::store::{Announcement, Campaign, Decision, Ledger, Offsets, Outcome, OwnerState, Step, Told};
use crate::connect::Fault;

/// Looks after the campaigns.
pub struct CampaignStatus {
    ledger: Box<dyn Ledger + Send>,
    outbox: Box<dyn Outbox>,
    interval: Duration,
    last_pass: Option<Instant>,
    reader: Reader,
    told: Told,
    stats: Arc<WorkerStats>,
}

impl CampaignStatus {
    /// The worker, with its store and the way out to `campaign-events`.
    pub fn new(
        ledger: Box<dyn Ledger + Send>,
        outbox: Box<dyn Outbox>,
        interval: Duration,
        unknown_ids: &UnknownIds,
        stats: &Arc<WorkerStats>,
    ) -> CampaignStatus {
        let (reader, told, stats) = (Reader::new(unknown_ids), Told::default(), Arc::clone(stats));
        CampaignStatus { ledger, outbox, interval, last_pass: None, reader, told, stats }
    }

    /// Publishes what waits, in order, and then marks it: what is published twice after a crash carries the
    /// same time.
    fn publish(&mut self) -> Result<(), Fault> {
        loop {
            let events = self.ledger.waiting()?;
            if events.is_empty() {
                return Ok(());
            }
            self.outbox.publish(&events)?;
            self.ledger.published(&events)?;
        }
    }
}

impl Work for CampaignStatus {
    fn take(&mut self, record: &Record<'_>, value: &[u8]) -> Result<(), Unfit> {
        let told = &mut self.told;
        self.reader.campaign_event(record, value, |event| {
            if is_own(value) {
                follow_own(told, event);
            } else {
                let order = (event.time, record.partition.number, record.offset);
                follow_owner(told, event, order);
            }
        })?;
        Ok(())
    }

    fn pending(&self) -> usize {
        self.told.owners.len() + self.told.own.len()
    }

    fn clear(&mut self) {
        self.told = Told::default();
    }

    fn offsets(&mut self) -> &mut dyn Offsets {
        &mut *self.ledger
    }

    fn commit(&mut self, step: Step<'_>) -> Result<Outcome<()>, Fault> {
        self.ledger.follow(step, &self.told)
    }

    fn turn(&mut self, is_last: bool) -> Result<bool, Fault> {
        if !is_last && self.last_pass.is_some_and(|last| last.elapsed() < self.interval) {
            return Ok(false);
        }
        let settled = self.ledger.settle(decide)?;
        self.stats.paused.fetch_add(settled.paused, Ordering::Relaxed);
        self.stats.activated.fetch_add(settled.activated, Ordering::Relaxed);
        if settled.paused + settled.activated > 0 {
            info!(paused = settled.paused, activated = settled.activated, "campaigns");
        }
        self.publish()?;
        // It reads what it has published, and that may change something again.
        let is_settled = settled.paused + settled.activated == 0;
        self.last_pass = is_settled.then(Instant::now);
        Ok(is_settled)
    }
}

/// Whether this worker has written the record.
fn is_own(value: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Fields {
        source: Option<String>,
    }
    // Few are; the others are not parsed once more.
    memchr::memmem::find(value, ANNOUNCER.as_bytes()).is_some()
        && serde_json::from_slice(value)
            .is_ok_and(|fields: Fields| fields.source.as_deref() == Some(ANNOUNCER))
}

fn follow_own(told: &mut Told, event: &CampaignEvent<&str>) {
    let announcement = match event.event_type {
        CampaignEventType::Pause => Announcement::Pause,
        CampaignEventType::Activate => Announcement::Activate,
        _ => return,
    };
    let newest = told.own.entry(event.campaign_id).or_insert((event.time, announcement));
    if event.time >= newest.0 {
        *newest = (event.time, announcement);
    }
}

fn follow_owner(told: &mut Told, event: &CampaignEvent<&str>, order: (EventTime, u32, u64)) {
    let active = event.active.as_ref().map(|active| ActiveCampaign {
        advertiser_id: active.advertiser_id,
        product_id: active.product_id,
        placement: active.placement.to_owned(),
        category: active.category.to_owned(),
        bid_price: active.bid_price,
    });
    let status = match event.event_type {
        CampaignEventType::Pause => "PAUSED",
        CampaignEventType::Delete => "DELETED",
        _ if active.is_some() => "ACTIVE",
        _ => "INACTIVE",
    };
    let known = told.owners.get_mut(&event.campaign_id);
    match known {
        Some(known) if known.order > order => {}
        Some(known) => {
            // What it bids for is said only while it is active; the last word on it is kept.
            let active = active.or_else(|| known.active.take());
            *known = OwnerState { order, status, active };
        }
        None => {
            told.owners.insert(event.campaign_id, OwnerState { order, status, active });
        }
    }
}

/// What becomes of a campaign.
///
/// What stands in `campaign-events` is the newest event there, the owner's or our own. Where that is not what
/// should be, we tell anew, with a time after both. That time comes from the events and the ledger, never
/// from the clock.
fn decide(campaign: &Campaign) -> Decision {
    let spent = campaign.debits - campaign.credits;
    let is_exhausted = campaign.budget.is_some_and(|budget| spent >= i128::from(budget.0));
    // One that we have not heard of yet may be active.
    let is_wanted = matches!(campaign.status.as_deref(), None | Some("ACTIVE"));
    let own_stands =
        campaign.announced.filter(|(time, _)| campaign.state_time.is_none_or(|state| *time > state));
    let is_shown = own_stands.map_or(is_wanted, |(_, announcement)| announcement == Announcement::Activate);
    let should_be_shown = is_wanted && !is_exhausted;
    // An activation of ours hides an owner's event that comes later but happened before.
    let is_outdated = own_stands.is_some() && !campaign.is_settled;
    let can_activate = campaign.status.is_some() && campaign.active.is_some();
    let announcement = if is_shown && !should_be_shown {
        Some(Announcement::Pause)
    } else if should_be_shown && can_activate && (!is_shown || is_outdated) {
        Some(Announcement::Activate)
    } else {
        None
    };
    let known = [campaign.state_time, campaign.announced.map(|(time, _)| time)];
    let after = known.into_iter().flatten().max().map(|time| time.plus(1));
    let time = after.max(campaign.last_entry);
    Decision { is_exhausted, announce: time.zip(announcement) }
}

#[cfg(test)]
mod tests {
    use adtide_dataflows::model::Money;

    use super::*;

    /// Active since 10, with a budget of 5.00, of which `debits` are spent.
    fn campaign(debits: i64) -> Campaign {
        Campaign {
            campaign_id: 1,
            status: Some("ACTIVE".to_owned()),
            state_time: Some(EventTime(10)),
            active: Some(ActiveCampaign {
                advertiser_id: 1,
                product_id: 1,
                placement: "top".to_owned(),
                category: "toys".to_owned(),
                bid_price: Money(100),
            }),
            budget: Some(Money(500)),
            debits: debits.into(),
            last_entry: Some(EventTime(20)),
            is_settled: true,
            ..Campaign::default()
        }
    }

    fn announces(campaign: &Campaign) -> Option<(i64, Announcement)> {
        decide(campaign).announce.map(|(time, announcement)| (time.0, announcement))
    }

    #[test]
    fn a_campaign_is_paused_when_its_budget_is_spent_and_not_before() {
        assert_eq!(announces(&campaign(499)), None);
        assert_eq!(announces(&campaign(500)), Some((20, Announcement::Pause)));
        assert!(decide(&campaign(500)).is_exhausted);
        assert_eq!(announces(&Campaign { budget: None, ..campaign(500) }), None, "without a budget never");
    }

    #[test]
    fn it_is_told_once() {
        let paused = Campaign { announced: Some((EventTime(20), Announcement::Pause)), ..campaign(500) };
        assert_eq!(announces(&paused), None);
        assert_eq!(announces(&Campaign { is_settled: false, ..paused }), None);
    }

    #[test]
    fn a_refund_brings_it_back_after_everything_that_is_known() {
        let paused = Campaign { announced: Some((EventTime(20), Announcement::Pause)), ..campaign(500) };
        let refunded = Campaign { credits: 1, is_exhausted: true, ..paused };
        assert_eq!(announces(&refunded), Some((21, Announcement::Activate)));
    }

    #[test]
    fn what_its_owner_paused_stays_paused() {
        let paused = Campaign {
            status: Some("PAUSED".to_owned()),
            state_time: Some(EventTime(30)),
            announced: Some((EventTime(20), Announcement::Pause)),
            is_exhausted: true,
            ..campaign(400)
        };
        assert_eq!(announces(&paused), None);
        // Also if the owner's event comes only after we have activated it.
        let late = Campaign {
            announced: Some((EventTime(40), Announcement::Activate)),
            is_settled: false,
            ..paused
        };
        assert_eq!(announces(&late), Some((41, Announcement::Pause)));
    }

    #[test]
    fn an_update_of_an_exhausted_campaign_is_paused_again() {
        let updated = Campaign {
            state_time: Some(EventTime(30)),
            announced: Some((EventTime(20), Announcement::Pause)),
            is_exhausted: true,
            is_settled: false,
            ..campaign(600)
        };
        assert_eq!(announces(&updated), Some((31, Announcement::Pause)));
    }

    #[test]
    fn a_late_update_is_not_hidden_by_our_activation() {
        let updated = Campaign {
            announced: Some((EventTime(40), Announcement::Activate)),
            is_settled: false,
            ..campaign(400)
        };
        assert_eq!(announces(&updated), Some((41, Announcement::Activate)));
        assert_eq!(announces(&Campaign { is_settled: true, ..updated }), None);
    }

    #[test]
    fn one_that_campaign_events_does_not_tell_of_is_paused_and_waits_for_its_fields() {
        let unknown = Campaign { status: None, state_time: None, active: None, ..campaign(500) };
        assert_eq!(announces(&unknown), Some((20, Announcement::Pause)));
        let announced = Some((EventTime(20), Announcement::Pause));
        assert_eq!(announces(&Campaign { credits: 1, announced, ..unknown }), None);
        assert_eq!(
            announces(&Campaign { credits: 1, announced, is_settled: false, ..campaign(500) }),
            Some((21, Announcement::Activate))
        );
    }
}
