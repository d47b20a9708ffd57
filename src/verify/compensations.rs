//! Compares the topic `compensation-events` with the refunds that are owed.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use adtide_dataflows::model::{AdId, Compensation, EventTime, Money};
use serde::Deserialize;
use serde_json::{Value, json};

use super::batch::{Refund, RefundKey};
use super::found::Found;
use super::report::Section;
use crate::sink::COMPENSATION_EVENTS as TOPIC;

/// A record of the topic.
#[derive(Deserialize)]
struct Record {
    advertiser_id: i64,
    campaign_id: Option<i64>,
    ad_id: Value,
    device_id: String,
    duplicate_click_count: usize,
    refund_amount: serde_json::Number,
    original_click_timestamps: Vec<String>,
    detection_window: String,
    reason: String,
    compensation_type: String,
    window_start: String,
    compensation_id: String,
}

type Groups = BTreeMap<RefundKey, Refund>;

/// What a record says of its group: everything but the price.
type Unpriced = (i64, Option<i64>, AdId, String, EventTime);

/// What the topic holds.
#[derive(Debug, Default)]
pub struct Compensations {
    /// The comparison with the refunds that are owed, a row a group.
    pub section: Section,
    /// The records by compensation_id.
    pub records: BTreeMap<String, Refunded>,
}

/// A record, as the ledger must show it.
#[derive(Clone, Debug)]
pub struct Refunded {
    /// The partition of the topic.
    pub partition: u32,
    /// The offset there.
    pub offset: u64,
    /// Who is paid back.
    pub advertiser_id: i64,
    /// The ad's campaign, where known.
    pub campaign_id: Option<i64>,
    /// How much.
    pub amount: Money,
    /// For which clicks, if they are known.
    pub group: Option<RefundKey>,
}

/// Compares the records of the topic with the groups.
///
/// # Errors
/// The topic can't be read.
pub fn compare(groups: &Groups, topic: &mut dyn Found) -> anyhow::Result<Compensations> {
    let mut section = Section::default();
    let mut records = BTreeMap::new();
    let mut prices: BTreeMap<Unpriced, Vec<&RefundKey>> = BTreeMap::new();
    for key in groups.keys() {
        prices.entry(unpriced(key)).or_default().push(key);
    }
    let mut found: BTreeMap<&RefundKey, Vec<Record>> = BTreeMap::new();
    topic.each_record(TOPIC, &mut |partition, offset, value| {
        let place = format!("{TOPIC} [{partition}, {offset}]");
        let record = match serde_json::from_slice::<Record>(value) {
            Ok(record) => record,
            Err(error) => return section.wrong(place, "a compensation", error),
        };
        let Entry::Vacant(free) = records.entry(record.compensation_id.clone()) else {
            return section.unexpected(place, format_args!("compensation_id {} once more", record.compensation_id));
        };
        let group = group_of(&record, &prices, &place, &mut section);
        free.insert(Refunded {
            partition,
            offset,
            advertiser_id: record.advertiser_id,
            campaign_id: record.campaign_id,
            // An amount that is none has been reported as a difference.
            amount: record.refund().unwrap_or(Money::ZERO),
            group: group.cloned(),
        });
        if let Some(group) = group {
            found.entry(group).or_default().push(record);
        }
    })?;
    for (key, refund) in groups {
        section.compared += 1;
        match found.remove(key) {
            Some(records) => check_group(&mut section, key, refund, records),
            None => section.missing(name(key), describe(refund)),
        }
    }
    Ok(Compensations { section, records })
}

fn unpriced(key: &RefundKey) -> Unpriced {
    (key.advertiser_id, key.campaign_id, key.ad_id.clone(), key.device_id.to_string(), key.window_start)
}

/// How a group is called in a report.
pub fn name(key: &RefundKey) -> String {
    let RefundKey { advertiser_id, campaign_id, ad_id, device_id, actual_price, window_start } = key;
    let (ad_id, price, window) = (ad_id.to_string(), actual_price.to_string(), window_start.to_string());
    json!([advertiser_id, campaign_id, ad_id, **device_id, price, window]).to_string()
}

fn describe(refund: &Refund) -> String {
    format!("{} clicks and a refund of {}", refund.click_times.len(), refund.owed)
}

/// The group of a record: the one, among those that differ in the price only, that has the record's id.
fn group_of<'a>(
    record: &Record,
    prices: &BTreeMap<Unpriced, Vec<&'a RefundKey>>,
    place: &str,
    section: &mut Section,
) -> Option<&'a RefundKey> {
    let candidates = record.unpriced().and_then(|key| prices.get(&key));
    let Some(candidates) = candidates else {
        section.unexpected(place, record.describe());
        return None;
    };
    let clicks = record.original_click_timestamps.len();
    if let Some(key) = candidates.iter().find(|key| id(key, clicks) == record.compensation_id) {
        return Some(key);
    }
    let ids: Vec<_> = candidates.iter().map(|key| id(key, clicks)).collect();
    section.wrong(
        place,
        format_args!("compensation_id {}", ids.join(" or ")),
        format_args!("compensation_id {}", record.compensation_id),
    );
    // With one price only it is clear what was meant.
    if let [key] = candidates[..] { Some(key) } else { None }
}

/// The id of a group's record with so many clicks.
fn id(key: &RefundKey, clicks: usize) -> String {
    let compensation = Compensation {
        advertiser_id: key.advertiser_id,
        campaign_id: key.campaign_id,
        ad_id: key.ad_id.clone(),
        device_id: key.device_id.clone(),
        actual_price: key.actual_price,
        window_start: key.window_start,
        click_times: vec![key.window_start; clicks],
        refund_amount: Money::ZERO,
    };
    compensation.id()
}

/// Checks all records of a group: each pays the increase since the one before, and the last tells of all clicks.
fn check_group(section: &mut Section, key: &RefundKey, refund: &Refund, mut records: Vec<Record>) {
    records.sort_by_key(|record| record.duplicate_click_count);
    let mut paid_clicks = 1;
    let mut paid = Money::ZERO;
    for record in &records {
        let n = record.duplicate_click_count;
        let increase = i64::try_from(n.saturating_sub(paid_clicks)).unwrap_or(i64::MAX);
        check_record(section, key, record, Money(key.actual_price.0.saturating_mul(increase)));
        paid = Money(paid.0.saturating_add(record.refund().unwrap_or(Money::ZERO).0));
        paid_clicks = n;
    }
    if paid != refund.owed {
        section.wrong(name(key), format_args!("refunds of {}", refund.owed), format_args!("{paid}"));
    }
    let times: Vec<_> = refund.click_times.iter().map(EventTime::to_string).collect();
    if let Some(last) = records.last()
        && last.original_click_timestamps != times
    {
        section.wrong(name(key), json!(times), json!(last.original_click_timestamps));
    }
}

fn check_record(section: &mut Section, key: &RefundKey, record: &Record, increase: Money) {
    let (n, times) = (record.duplicate_click_count, &record.original_click_timestamps);
    let name = || format!("{} n={n}", name(key));
    if n != times.len() || !times.is_sorted() {
        section.wrong(name(), "as many ascending timestamps as clicks", json!(times));
    }
    if record.refund() != Some(increase) {
        section.wrong(name(), format_args!("refund_amount {increase}"), &record.refund_amount);
    }
    let fixed = [&record.detection_window, &record.reason, &record.compensation_type];
    if fixed != ["5_MINUTES", "DUPLICATE_CLICK_DETECTED", "BALANCE_REFUND"] {
        section.wrong(name(), "5_MINUTES, DUPLICATE_CLICK_DETECTED, BALANCE_REFUND", json!(fixed));
    }
}

impl Record {
    fn unpriced(&self) -> Option<Unpriced> {
        let ad_id = match &self.ad_id {
            Value::String(text) => AdId::from_text(text),
            other => AdId::Number(other.as_i64()?),
        };
        let window_start = EventTime::parse(&self.window_start).ok()?;
        Some((self.advertiser_id, self.campaign_id, ad_id, self.device_id.clone(), window_start))
    }

    /// The refund, if it is written with two decimals.
    fn refund(&self) -> Option<Money> {
        let text = self.refund_amount.to_string();
        text.parse::<Money>().ok().filter(|money| money.to_string() == text)
    }

    fn describe(&self) -> String {
        format!(
            "{} clicks and a refund of {} for advertiser {}, campaign {:?}, ad {}, device {:?}, window {}",
            self.duplicate_click_count,
            self.refund_amount,
            self.advertiser_id,
            self.campaign_id,
            self.ad_id,
            self.device_id,
            self.window_start
        )
    }
}
