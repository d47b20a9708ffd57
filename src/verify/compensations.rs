//! Compares the topic `compensation-events` with the refunds that are owed.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use adtide_dataflows::duplicate_detector::Compensation;
use adtide_dataflows::duplicate_detector::oracle::{Refund, RefundKey};
use adtide_dataflows::model::{AdId, EventTime, Money};
use serde::Deserialize;
use serde_json::{Value, json};

use super::found::Found;
use super::report::Section;
use crate::sink::COMPENSATION_EVENTS as TOPIC;

/// A record of the topic.
#[derive(Deserialize)]
struct RefundRecord {
    advertiser_id: i64,
    campaign_id: Option<i64>,
    ad_id: Value,
    device_id: String,
    duplicate_click_count: u64,
    refund_amount: serde_json::Number,
    original_click_timestamps: Vec<String>,
    #[serde(default)]
    timestamps_cut: bool,
    /// Whether a text is too long for a record and lacks its end.
    #[serde(default)]
    truncated: bool,
    detection_window: String,
    reason: String,
    compensation_type: String,
    window_start: String,
    compensation_id: String,
}

type Groups = BTreeMap<RefundKey, Refund>;

/// How many clicks a record lists at most.
const LISTED: u64 = 1000;

/// A shorter text is whole in every record.
const LONG: usize = 50_000;

/// What a record says of its group: everything but the price.
type Unpriced = (i64, Option<i64>, AdId, String, EventTime);

/// The groups by what records say of them.
#[derive(Default)]
struct Index<'a> {
    whole: BTreeMap<Unpriced, Vec<&'a RefundKey>>,
    /// Those that have a long text.
    long: Vec<&'a RefundKey>,
}

impl<'a> Index<'a> {
    fn new(groups: &'a Groups) -> Index<'a> {
        let mut index = Index::default();
        for key in groups.keys() {
            index.whole.entry(unpriced(key)).or_default().push(key);
            if key.device_id.len() > LONG || matches!(&key.ad_id, AdId::Text(text) if text.len() > LONG) {
                index.long.push(key);
            }
        }
        index
    }

    /// The groups that a record may be of: they differ in the price only, or in the ends of long texts.
    fn candidates(&self, record: &RefundRecord) -> Vec<&'a RefundKey> {
        let Some(said) = record.unpriced() else { return Vec::new() };
        if !record.truncated {
            return self.whole.get(&said).cloned().unwrap_or_default();
        }
        let (advertiser_id, campaign_id, ad_id, device_id, window_start) = said;
        let ad_id = ad_id.to_string();
        let begins = |key: &&&RefundKey| {
            (key.advertiser_id, key.campaign_id, key.window_start)
                == (advertiser_id, campaign_id, window_start)
                && key.ad_id.to_string().starts_with(&ad_id)
                && key.device_id.starts_with(&device_id)
        };
        self.long.iter().filter(begins).copied().collect()
    }
}

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
    /// The start of its window, as the record has it.
    pub window_start: String,
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
    let index = Index::new(groups);
    let mut found: BTreeMap<&RefundKey, Vec<RefundRecord>> = BTreeMap::new();
    topic.each_record(TOPIC, &mut |partition, offset, value| {
        let place = format!("{TOPIC} [{partition}, {offset}]");
        let record = match serde_json::from_slice::<RefundRecord>(value) {
            Ok(record) => record,
            Err(error) => return section.wrong(place, "a compensation", error),
        };
        let Entry::Vacant(free) = records.entry(record.compensation_id.clone()) else {
            return section
                .unexpected(place, format_args!("compensation_id {} once more", record.compensation_id));
        };
        let group = group_of(&record, &index, &place, &mut section);
        free.insert(Refunded {
            partition,
            offset,
            advertiser_id: record.advertiser_id,
            campaign_id: record.campaign_id,
            // An amount that is none has been reported as a difference.
            amount: record.refund().unwrap_or(Money::ZERO),
            window_start: record.window_start.clone(),
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

/// The group of a record: the one of those that it may be of that has its id.
fn group_of<'a>(
    record: &RefundRecord,
    index: &Index<'a>,
    place: &str,
    section: &mut Section,
) -> Option<&'a RefundKey> {
    let candidates = index.candidates(record);
    if candidates.is_empty() {
        section.unexpected(place, record.describe());
        return None;
    }
    let clicks = record.duplicate_click_count;
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
fn id(key: &RefundKey, clicks: u64) -> String {
    let compensation = Compensation {
        advertiser_id: key.advertiser_id,
        campaign_id: key.campaign_id,
        ad_id: key.ad_id.clone(),
        device_id: key.device_id.clone(),
        actual_price: key.actual_price,
        window_start: key.window_start,
        clicks,
        click_times: Vec::new(),
        is_cut: false,
        refund_amount: Money::ZERO,
    };
    compensation.id()
}

/// Checks all records of a group: each pays the increase since the one before and lists the clicks that are
/// new since then.
fn check_group(section: &mut Section, key: &RefundKey, refund: &Refund, mut records: Vec<RefundRecord>) {
    records.sort_by_key(|record| record.duplicate_click_count);
    let (mut before, mut paid) = (0, Money::ZERO);
    for record in &records {
        check_record(section, key, record, before);
        paid = Money(paid.0.saturating_add(record.refund().unwrap_or(Money::ZERO).0));
        before = record.duplicate_click_count;
    }
    if paid != refund.owed {
        section.wrong(name(key), format_args!("refunds of {}", refund.owed), format_args!("{paid}"));
    }
    check_times(section, key, &refund.click_times, &records);
}

/// Checks a record that comes after the group's record of `before` clicks.
fn check_record(section: &mut Section, key: &RefundKey, record: &RefundRecord, before: u64) {
    let (n, times) = (record.duplicate_click_count, &record.original_click_timestamps);
    let name = || format!("{} n={n}", name(key));
    let new = n.saturating_sub(before);
    if times.len() as u64 != new.min(LISTED) || !times.is_sorted() || record.timestamps_cut != (new > LISTED)
    {
        let cut = if new > LISTED { ", and timestamps_cut" } else { "" };
        let found = format_args!("{} timestamps, timestamps_cut={}", times.len(), record.timestamps_cut);
        section.wrong(name(), format_args!("{} ascending timestamps{cut}", new.min(LISTED)), found);
    }
    let increase = i64::try_from(n.saturating_sub(before.max(1))).unwrap_or(i64::MAX);
    let owed = Money(key.actual_price.0.saturating_mul(increase));
    if record.refund() != Some(owed) {
        section.wrong(name(), format_args!("refund_amount {owed}"), &record.refund_amount);
    }
    let fixed = [&record.detection_window, &record.reason, &record.compensation_type];
    if fixed != ["5_MINUTES", "DUPLICATE_CLICK_DETECTED", "BALANCE_REFUND"] {
        section.wrong(name(), "5_MINUTES, DUPLICATE_CLICK_DETECTED, BALANCE_REFUND", json!(fixed));
    }
}

/// Checks that the records of a group together list its clicks, each once: all of them where no record is
/// cut, and of a group with one record that is, the first.
fn check_times(section: &mut Section, key: &RefundKey, clicks: &[EventTime], records: &[RefundRecord]) {
    let mut listed: Vec<&str> =
        records.iter().flat_map(|record| &record.original_click_timestamps).map(String::as_str).collect();
    listed.sort_unstable();
    // Where more than one record is there, those that are cut may leave out any click but the first.
    let may_skip = records.len() > 1 && records.iter().any(|record| record.timestamps_cut);
    let mut clicks = clicks.iter().map(EventTime::to_string);
    for time in listed {
        let click = if may_skip { clicks.find(|click| click.as_str() >= time) } else { clicks.next() };
        if click.as_deref() != Some(time) {
            let click = click.map_or("no more clicks".to_owned(), |click| format!("a click at {click}"));
            return section.wrong(name(key), click, format_args!("one at {time}"));
        }
    }
    if let Some(click) = clicks.next().filter(|_| records.iter().all(|record| !record.timestamps_cut)) {
        section.wrong(name(key), format_args!("a click at {click}"), "none");
    }
}

impl RefundRecord {
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
