//! The clicks that the ledger must account for.

use std::collections::BTreeMap;

use adtide_dataflows::model::{AdEvent, AdEventType, EventTime, Money};
use adtide_dataflows::oracle::Located;

use super::input::Offsets;

/// What a click of `ad-events` costs whom.
#[derive(Clone, Copy, Debug)]
pub struct PaidClick {
    /// Who paid.
    pub advertiser_id: i64,
    /// The campaign, where known.
    pub campaign_id: Option<i64>,
    /// What it cost.
    pub price: Money,
    /// Its event time.
    pub time: EventTime,
}

/// The clicks that workers have taken, by partition and offset.
#[derive(Debug, Default)]
pub struct PaidClicks {
    /// Of each partition, how far the furthest worker is.
    pub until: Offsets,
    clicks: BTreeMap<(u32, u64), PaidClick>,
}

impl PaidClicks {
    /// Takes an ad event; keeps clicks before the workers' offsets.
    pub fn add(&mut self, located: &Located<AdEvent>) {
        let Located { partition, offset, event } = located;
        let (AdEventType::Click, Some(advertiser_id)) = (event.event_type, event.advertiser_id) else {
            return;
        };
        if self.until.get(partition).is_some_and(|until| offset < until) {
            let (campaign_id, price, time) = (event.campaign_id, event.actual_price, event.time);
            let click = PaidClick { advertiser_id, campaign_id, price, time };
            self.clicks.insert((*partition, *offset), click);
        }
    }

    /// Those before a worker's offsets.
    pub fn before(&self, until: &Offsets) -> impl Iterator<Item = (&(u32, u64), &PaidClick)> {
        let is_before =
            |(partition, offset): &(u32, u64)| until.get(partition).is_some_and(|until| offset < until);
        self.clicks.iter().filter(move |(at, _)| is_before(at))
    }
}
