//! The JSON of what goes out. Money is a number with two decimals, exact.

use adtide_dataflows::model::{AdId, Compensation, EventTime, Money, RankingEntry};
use adtide_dataflows::{DeadLetter, LateEvent};
use serde_json::{Map, Number, Value, json};

use crate::worker::store::{Announcement, Campaign};

/// An amount as a JSON number with two decimals.
fn money(amount: Money) -> Value {
    Value::Number(Number::from_string_unchecked(amount.to_string()))
}

fn ad_id(id: &AdId) -> Value {
    match id {
        AdId::Number(number) => json!(number),
        AdId::Text(text) => json!(text),
    }
}

/// A record's bytes: as text where they are UTF-8, else in base 16.
fn value(bytes: &[u8]) -> (&'static str, Value) {
    match std::str::from_utf8(bytes) {
        Ok(text) => ("value", json!(text)),
        Err(_) => ("value_hex", json!(bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>())),
    }
}

fn object(fields: impl IntoIterator<Item = (&'static str, Value)>) -> String {
    Value::Object(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect::<Map<_, _>>()).to_string()
}

/// The list of a ranking, best first.
pub fn ranking_list(list: &[RankingEntry]) -> String {
    let mut text = String::with_capacity(list.len() * 110 + 2);
    text.push('[');
    for (place, entry) in list.iter().enumerate() {
        use std::fmt::Write;
        let comma = if place == 0 { "" } else { "," };
        // Numbers only, so nothing needs escaping; a score is finite by construction.
        let _ = write!(
            text,
            r#"{comma}{{"product_id":{},"score":{:?},"bid_price":{},"campaign_id":{},"advertiser_id":{}}}"#,
            entry.product_id, entry.score.0, entry.bid_price, entry.campaign_id, entry.advertiser_id,
        );
    }
    text.push(']');
    text
}

/// A record of `compensation-events`.
pub fn compensation(row: &Compensation, now: EventTime) -> String {
    object([
        ("timestamp_field", json!(now.to_string())),
        ("advertiser_id", json!(row.advertiser_id)),
        ("campaign_id", json!(row.campaign_id)),
        ("ad_id", ad_id(&row.ad_id)),
        ("device_id", json!(&*row.device_id)),
        ("duplicate_click_count", json!(row.click_times.len())),
        ("refund_amount", money(row.refund_amount)),
        ("original_click_timestamps", row.click_times.iter().map(|time| json!(time.to_string())).collect()),
        ("detection_window", json!("5_MINUTES")),
        ("reason", json!("DUPLICATE_CLICK_DETECTED")),
        ("compensation_type", json!("BALANCE_REFUND")),
        ("window_start", json!(row.window_start.to_string())),
        ("compensation_id", json!(row.id())),
    ])
}

/// Who tells of a campaign: owners leave the field out.
pub const ANNOUNCER: &str = "adtide-campaign-status";

/// A record of `campaign-events` that adtide itself writes. An activation has all that the campaign's owner said last.
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

/// A record of `late-events`.
pub fn late_event(event: &LateEvent) -> String {
    let reason =
        format!("its partition's watermark, {}, had passed its deadline and the allowed lateness", event.watermark);
    object([
        ("statement", json!(event.statement.name())),
        ("reason", json!(reason)),
        ("topic", json!(event.topic.name())),
        ("partition", json!(event.partition)),
        ("offset", json!(event.offset)),
        ("event_time", json!(event.event_time.to_string())),
        ("watermark", json!(event.watermark.to_string())),
        value(&event.value),
    ])
}

/// A record of `dead-letter`.
pub fn dead_letter(letter: &DeadLetter) -> String {
    object([
        ("topic", json!(letter.topic.name())),
        ("partition", json!(letter.partition)),
        ("offset", json!(letter.offset)),
        ("reason", json!(letter.reason)),
        ("detail", json!(letter.detail)),
        value(&letter.value),
    ])
}
