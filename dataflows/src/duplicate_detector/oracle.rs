//! Statement 4.

use std::collections::BTreeMap;

use crate::Settings;
use crate::model::{AdEvent, AdEventType, AdId, EventTime, Money, Text, Topic};
use crate::oracle::{
    Claims, LateRecords, Lateness, Located, in_offset_order, is_closed, location, window_closes,
};

/// What statement 4 groups by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RefundKey {
    /// Who is paid back.
    pub advertiser_id: i64,
    /// The ad's campaign, where known.
    pub campaign_id: Option<i64>,
    /// The clicked ad.
    pub ad_id: AdId,
    /// The device that clicked.
    pub device_id: Text,
    /// What each click cost.
    pub actual_price: Money,
    /// Start of the window.
    pub window_start: EventTime,
}

/// What a group of duplicate clicks is owed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refund {
    /// The times of the group's n clicks, ascending.
    pub click_times: Vec<EventTime>,
    /// (n - 1) * actual_price.
    pub owed: Money,
}

/// Statement 4: the groups of more than one click.
#[derive(Clone, Debug, Default)]
pub struct Refunds {
    /// The groups that are owed a refund.
    pub groups: BTreeMap<RefundKey, Refund>,
    /// How many groups will be owed one if their window, still open, closes as it is.
    pub pending: usize,
    /// The clicks that came too late.
    pub late: LateRecords,
}

/// Statement 4 of events in memory.
pub fn refunds<S: AsRef<str>>(ads: &[Located<AdEvent<S>>], settings: &Settings) -> Refunds {
    let mut groups = ClickGroups::default();
    for located in in_offset_order(ads) {
        groups.add(located, settings);
    }
    groups.refunds(EventTime::MAX)
}

/// All clicks of statement 4 in their groups, duplicates or not.
#[derive(Clone, Debug, Default)]
pub struct ClickGroups {
    groups: BTreeMap<RefundKey, Vec<EventTime>>,
    late: LateRecords,
    lateness: Lateness,
}

impl ClickGroups {
    /// Nothing yet.
    pub fn new(claims: Claims) -> ClickGroups {
        ClickGroups { lateness: Lateness::new(claims), ..ClickGroups::default() }
    }

    /// Takes the next ad event of its partition; only clicks of a known device on a known ad are kept.
    pub fn add<S: AsRef<str>>(&mut self, located: &Located<AdEvent<S>>, settings: &Settings) {
        let event = &located.event;
        let closes = window_closes(event.time, settings);
        let at = location(Topic::AdEvents, located);
        let late = self.lateness.see(at, event.time, closes, settings.duplicates_bound);
        let (AdEventType::Click, Some(ad_id), Some(device_id), Some(advertiser_id)) =
            (event.event_type, &event.ad_id, &event.device_id, event.advertiser_id)
        else {
            return;
        };
        if let Some(late) = late {
            self.late.add(at, late);
            return;
        }
        let key = RefundKey {
            advertiser_id,
            campaign_id: event.campaign_id,
            ad_id: ad_id.clone(),
            device_id: device_id.as_ref().into(),
            actual_price: event.actual_price,
            window_start: event.time.window_start(),
        };
        self.groups.entry(key).or_default().push(event.time);
    }

    /// What the groups of the windows that the watermark has passed are owed.
    pub fn refunds(self, watermark: EventTime) -> Refunds {
        let mut refunds = Refunds { late: self.late, ..Refunds::default() };
        for (key, mut click_times) in self.groups {
            if click_times.len() < 2 {
                continue;
            }
            if !is_closed(key.window_start, watermark) {
                refunds.pending += 1;
                continue;
            }
            click_times.sort();
            let repeats = i64::try_from(click_times.len() - 1).unwrap_or(i64::MAX);
            let owed = Money(key.actual_price.0.saturating_mul(repeats));
            refunds.groups.insert(key, Refund { click_times, owed });
        }
        refunds
    }
}
