//! The JSON of what goes out. Money is a number with two decimals, exact.

use adtide_dataflows::duplicate_detector::Compensation;
use adtide_dataflows::model::{AdId, EventTime, Money};
use adtide_dataflows::rtb_cache_updater::{RankingEntry, RankingRow};
use adtide_dataflows::{DeadLetter, LateEvent};
use data_encoding::HEXLOWER;
use serde_json::{Map, Number, Value, json};

/// An amount as a JSON number with two decimals.
pub(crate) fn money(amount: Money) -> Value {
    Value::Number(Number::from_string_unchecked(amount.to_string()))
}

/// A record as it was, as far as it had these: key, timestamp, value. What is needed to send it again.
pub(crate) fn original(
    key: Option<&[u8]>,
    timestamp: Option<EventTime>,
    value: &[u8],
    longest: usize,
) -> Vec<(&'static str, Value)> {
    let key = key.map(|key| bytes(["key", "key_hex", "key_truncated"], key, longest)).unwrap_or_default();
    let timestamp = timestamp.map(|timestamp| ("timestamp", json!(timestamp.0)));
    let value = bytes(["value", "value_hex", "value_truncated"], value, longest);
    key.into_iter().chain(timestamp).chain(value).collect()
}

/// Bytes, of which no more than `longest` are told: as text where they are UTF-8, else in base 16. The names
/// are of either form, and of the field that says that something is left out.
fn bytes(names: [&'static str; 3], bytes: &[u8], longest: usize) -> Vec<(&'static str, Value)> {
    let [text, hex, truncated] = names;
    let told = &bytes[..bytes.len().min(longest)];
    let mut fields = match std::str::from_utf8(bytes) {
        // The cut may be in the middle of a character.
        Ok(_) => vec![(text, json!(String::from_utf8_lossy(told)))],
        Err(_) => vec![(hex, json!(HEXLOWER.encode(told)))],
    };
    if told.len() < bytes.len() {
        fields.push((truncated, json!(true)));
    }
    fields
}

/// The text up to `longest` bytes, at the end of a character.
pub(crate) fn cut(text: &str, longest: usize) -> &str {
    let end = (0..=longest.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    &text[..end.unwrap_or_default()]
}

pub(crate) fn object(fields: impl IntoIterator<Item = (&'static str, Value)>) -> String {
    Value::Object(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect::<Map<_, _>>())
        .to_string()
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

/// A ranking with what it is the ranking of: what an ad server gets.
pub fn ranking(row: &RankingRow, now: EventTime) -> String {
    format!(
        r#"{{"placement":{},"category":{},"total_campaigns":{},"updated_at":"{now}","ranking":{}}}"#,
        json!(&*row.placement),
        json!(&*row.category),
        row.total_campaigns,
        ranking_list(&row.list),
    )
}

/// A record of `compensation-events`. `truncated` says that a text has more than `longest` bytes, of which
/// the others are left out; the id is that of the whole text.
pub fn compensation(row: &Compensation, now: EventTime, longest: usize) -> String {
    let ad = match &row.ad_id {
        AdId::Text(text) => json!(cut(text, longest)),
        AdId::Number(number) => json!(number),
    };
    let device = cut(&row.device_id, longest);
    let times = row.click_times.iter().map(|time| json!(time.to_string()));
    let truncated =
        device.len() < row.device_id.len() || matches!(&row.ad_id, AdId::Text(text) if text.len() > longest);
    let mut fields = vec![
        ("timestamp_field", json!(now.to_string())),
        ("advertiser_id", json!(row.advertiser_id)),
        ("campaign_id", json!(row.campaign_id)),
        ("ad_id", ad),
        ("device_id", json!(device)),
        ("duplicate_click_count", json!(row.clicks)),
        ("refund_amount", money(row.refund_amount)),
        ("original_click_timestamps", times.collect()),
        ("detection_window", json!("5_MINUTES")),
        ("reason", json!("DUPLICATE_CLICK_DETECTED")),
        ("compensation_type", json!("BALANCE_REFUND")),
        ("window_start", json!(row.window_start.to_string())),
        ("compensation_id", json!(row.id())),
    ];
    if row.is_cut {
        fields.push(("timestamps_cut", json!(true)));
    }
    if truncated {
        fields.push(("truncated", json!(true)));
    }
    object(fields)
}

/// A record of `late-events`, with at most `longest` bytes of the late record.
pub fn late_event(event: &LateEvent, longest: usize) -> String {
    let reason = match event.is_closed {
        false => {
            format!(
                "its partition's watermark, {}, had passed its deadline and the allowed lateness",
                event.watermark
            )
        }
        true => {
            "what it belongs to is closed as committed: that state was forgotten, or records of it are lost"
                .to_owned()
        }
    };
    let mut fields = vec![
        ("statement", json!(event.statement.name())),
        ("reason", json!(reason)),
        ("topic", json!(event.topic.name())),
        ("partition", json!(event.partition)),
        ("offset", json!(event.offset)),
        ("event_time", json!(event.event_time.to_string())),
        ("watermark", json!(event.watermark.to_string())),
    ];
    fields.extend(original(event.key.as_deref(), event.timestamp, &event.value, longest));
    object(fields)
}

/// A record of `dead-letter`, with at most `longest` bytes of the record that can't be read.
pub fn dead_letter(letter: &DeadLetter, longest: usize) -> String {
    let mut fields = vec![
        ("topic", json!(letter.topic.name())),
        ("partition", json!(letter.partition)),
        ("offset", json!(letter.offset)),
        ("reason", json!(letter.reason)),
        ("detail", json!(cut(&letter.detail, longest))),
    ];
    fields.extend(original(letter.key.as_deref(), letter.timestamp, &letter.value, longest));
    object(fields)
}
