//! The JSON of `campaign-events` that adtide writes.

use adtide_dataflows::model::EventTime;
use serde_json::json;

use super::store::{Announcement, Campaign};
use crate::json::{money, object};

/// Who tells of a campaign: owners leave the field out.
pub const ANNOUNCER: &str = "adtide-campaign-status";

/// A record of `campaign-events` that adtide itself writes. An activation has all that the campaign's owner
/// said last.
pub fn announcement(campaign: &Campaign, announcement: Announcement, time: EventTime) -> String {
    let mut fields = vec![
        ("event_type", json!(announcement.name())),
        ("timestamp_field", json!(time.to_string())),
        ("campaign_id", json!(campaign.campaign_id)),
    ];
    match (announcement, &campaign.active) {
        (Announcement::Activate, Some(active)) => fields.extend([
            ("advertiser_id", json!(active.advertiser_id)),
            ("product_id", json!(active.product_id)),
            ("placement", json!(active.placement)),
            ("category", json!(active.category)),
            ("bid_price", money(active.bid_price)),
            ("status", json!("ACTIVE")),
        ]),
        _ => fields.push(("status", json!("BUDGET_EXHAUSTED"))),
    }
    fields.push(("source", json!(ANNOUNCER)));
    object(fields)
}
