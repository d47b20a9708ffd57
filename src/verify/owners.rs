//! What the owners of campaigns want of them, as the worker campaign-status must have it in `campaigns`.

use std::borrow::Cow;
use std::collections::BTreeMap;

use adtide_dataflows::Settings;
use adtide_dataflows::model::{CampaignEvent, CampaignEventType, EventTime, Topic};
use serde::Deserialize;

use super::cells::{Cell, Row};
use super::fields::Rules;
use super::input::{Offsets, TopicRecord};
use super::parse;

/// By whom an event was written that is adtide's own.
const OWN: &str = "adtide-campaign-status";

/// The owners' newest events before the worker's offsets.
pub struct Owners {
    /// How far the worker is.
    pub until: Offsets,
    settings: Settings,
    newest: BTreeMap<i64, Newest>,
}

struct Newest {
    /// Time, partition and offset.
    order: (EventTime, u32, u64),
    event: CampaignEvent<String>,
}

impl Owners {
    /// None yet.
    pub fn new(until: Offsets, settings: &Settings) -> Owners {
        Owners { until, settings: settings.clone(), newest: BTreeMap::new() }
    }

    /// Takes a record of `campaign-events`.
    pub fn see(&mut self, record: &TopicRecord<'_>) {
        let TopicRecord { partition, offset, value, stamp, .. } = *record;
        if self.until.get(&partition).is_none_or(|until| offset >= *until) || value.is_some_and(is_own) {
            return;
        }
        let latest = stamp.time().unwrap_or_else(crate::now).plus(self.settings.max_future_skew);
        let rules = Rules { latest, unknown: self.settings.unknown_ids.texts() };
        let Ok(event) = parse::read(Topic::CampaignEvents, record, &rules, parse::campaign_event) else {
            return;
        };
        let order = (event.time, partition, offset);
        if self.newest.get(&event.campaign_id).is_none_or(|newest| newest.order < order) {
            self.newest.insert(event.campaign_id, Newest { order, event });
        }
    }

    /// The campaigns that owners have told of.
    pub fn campaigns(&self) -> impl Iterator<Item = i64> {
        self.newest.keys().copied()
    }

    /// What stands in `campaigns`, where texts are held so, of an owner's newest event. What a campaign bids
    /// for is in it only while it is active.
    pub fn columns(&self, campaign: i64, held_text: fn(&str) -> Cow<'_, str>) -> Row {
        let mut row = Row::new();
        let Some(Newest { order: (time, partition, offset), event }) = self.newest.get(&campaign) else {
            for name in ["status", "state_time", "state_partition", "state_offset"] {
                row.push((name.into(), Cell::Null));
            }
            return row;
        };
        let status = match event.event_type {
            CampaignEventType::Pause => "PAUSED",
            CampaignEventType::Delete => "DELETED",
            _ if event.active.is_some() => "ACTIVE",
            _ => "INACTIVE",
        };
        row.push(("status".into(), Cell::Text(status.into())));
        row.push(("state_time".into(), Cell::Text(time.to_string())));
        row.push(("state_partition".into(), Cell::Integer(i64::from(*partition))));
        row.push(("state_offset".into(), Cell::Integer(i64::try_from(*offset).unwrap_or(i64::MAX))));
        if let Some(active) = &event.active {
            row.push(("advertiser_id".into(), Cell::Integer(active.advertiser_id)));
            row.push(("product_id".into(), Cell::Integer(active.product_id)));
            row.push(("placement".into(), Cell::Text(held_text(&active.placement).into_owned())));
            row.push(("category".into(), Cell::Text(held_text(&active.category).into_owned())));
            row.push(("bid_price".into(), Cell::Text(active.bid_price.to_string())));
        }
        row
    }
}

fn is_own(value: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Fields {
        source: Option<String>,
    }
    serde_json::from_slice(value).is_ok_and(|fields: Fields| fields.source.as_deref() == Some(OWN))
}
