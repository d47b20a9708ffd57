//! The topics: partitions that grow as time passes.

use std::collections::BTreeMap;

use adtide::verify::{Input, Offsets, TopicRecord};
use adtide_dataflows::Stamp;
use adtide_dataflows::model::{EventTime, Topic};
use serde_json::{Value, json};

use crate::dice::Dice;

const SECOND: i64 = 1000;
pub const MINUTE: i64 = 60 * SECOND;

/// When all histories begin.
pub const START: i64 = 1_000_000_000_000;

/// A partition of a topic.
pub type Place = (Topic, u32);

/// A record, and when it was appended.
pub struct Record {
    pub at: i64,
    pub stamp: Stamp,
    /// Whether its event time or its timestamp is ahead of when it was appended.
    pub leads: bool,
    pub value: Vec<u8>,
}

/// A partition, and since when it is there.
#[derive(Default)]
pub struct Partition {
    pub since: i64,
    pub records: Vec<Record>,
}

/// All topics, from their beginning to their end.
pub struct Log {
    pub partitions: BTreeMap<Place, Partition>,
    /// When the last record is appended.
    pub end: i64,
}

/// What kind of log.
pub struct Kind {
    pub records: usize,
    pub span: i64,
    /// Partitions appear late.
    pub grows: bool,
    /// Partitions are quiet for long.
    pub pauses: bool,
    /// For what of it clocks decide.
    pub clocks: Clocks,
}

/// Whose clocks go wrong, and what the records' timestamps are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clocks {
    /// None; timestamps are the producers'.
    Right,
    /// Some producers'; timestamps are theirs.
    Producers,
    /// Some producers'; timestamps are the broker's.
    ProducersOnly,
    /// Some producers'; there are no timestamps.
    Unstamped,
}

impl Log {
    pub fn draw(dice: &mut Dice, more: &mut Dice, kind: &Kind) -> Log {
        let mut partitions = BTreeMap::new();
        for topic in Topic::ALL {
            for number in 0..1 + dice.below(3) as u32 {
                let appears_late = kind.grows && number > 0 && dice.percent(60);
                let since = if appears_late { START + dice.ms(0, kind.span) } else { START };
                partitions.insert((topic, number), Partition { since, records: Vec::new() });
            }
        }
        let quiet = draw_pauses(dice, kind, &partitions);
        let mut times: Vec<i64> = (0..kind.records).map(|_| START + dice.ms(0, kind.span)).collect();
        times.sort_unstable();
        for at in times {
            let topic = topic(dice);
            let places: Vec<Place> = partitions
                .iter()
                .filter(|(place, partition)| {
                    place.0 == topic && partition.since <= at && !is_quiet(&quiet, **place, at)
                })
                .map(|(place, _)| *place)
                .collect();
            if places.is_empty() {
                continue;
            }
            let place = dice.one_of(&places);
            let lead = lead(more, kind.clocks);
            let time = at - delay(dice) + lead;
            let value = draw_value(dice, topic, time);
            // A producer that is wrong about the event may be right about the record, or the reverse.
            let created = at + if more.percent(80) { lead } else { self::lead(more, kind.clocks) };
            let stamp = match kind.clocks {
                Clocks::Right | Clocks::Producers => Stamp::Created(EventTime(created)),
                Clocks::ProducersOnly => Stamp::Appended(EventTime(at)),
                Clocks::Unstamped => Stamp::None,
            };
            if let Some(partition) = partitions.get_mut(&place) {
                let leads = time > at || stamp.time().is_some_and(|stamp| stamp.0 > at);
                partition.records.push(Record { at, stamp, leads, value });
            }
        }
        Log { partitions, end: START + kind.span }
    }

    /// The partitions that are there at `now`.
    pub fn places(&self, now: i64) -> impl Iterator<Item = Place> {
        self.partitions.iter().filter(move |(_, partition)| partition.since <= now).map(|(place, _)| *place)
    }

    /// The record at an offset, if it is there at `now`.
    pub fn record(&self, place: Place, offset: u64, now: i64) -> Option<&Record> {
        self.partitions.get(&place)?.records.get(offset as usize).filter(|record| record.at <= now)
    }
}

type Pause = (Place, std::ops::Range<i64>);

fn draw_pauses(dice: &mut Dice, kind: &Kind, partitions: &BTreeMap<Place, Partition>) -> Vec<Pause> {
    let mut pauses = Vec::new();
    for place in partitions.keys().filter(|_| kind.pauses) {
        if dice.percent(50) {
            let from = START + dice.ms(0, kind.span);
            pauses.push((*place, from..from + dice.ms(MINUTE, kind.span)));
        }
    }
    pauses
}

fn is_quiet(pauses: &[Pause], place: Place, at: i64) -> bool {
    pauses.iter().any(|(quiet, times)| *quiet == place && times.contains(&at))
}

fn topic(dice: &mut Dice) -> Topic {
    match dice.below(20) {
        0..13 => Topic::AdEvents,
        13..16 => Topic::ConversionEvents,
        16..18 => Topic::CampaignEvents,
        18 => Topic::ProductMetrics,
        _ => Topic::ProductMeta,
    }
}

/// How far ahead a producer's clock is: mostly not at all, else within the skew, about the skew, or beyond.
fn lead(dice: &mut Dice, clocks: Clocks) -> i64 {
    if clocks == Clocks::Right {
        return 0;
    }
    match dice.below(24) {
        0..20 => 0,
        20 => dice.ms(0, 2 * MINUTE),
        21 => dice.ms(MINUTE, 3 * MINUTE),
        22 => dice.ms(0, 40 * MINUTE),
        _ => 7000 * 365 * 24 * 60 * MINUTE,
    }
}

/// How late a record comes: mostly at once, else within the bounds, within the allowed lateness, or beyond.
fn delay(dice: &mut Dice) -> i64 {
    match dice.below(16) {
        0..8 => 0,
        8..12 => dice.ms(0, 10 * SECOND),
        12..15 => dice.ms(0, 100 * SECOND),
        _ => dice.ms(0, 15 * MINUTE),
    }
}

fn draw_value(dice: &mut Dice, topic: Topic, time: i64) -> Vec<u8> {
    if dice.percent(2) {
        return dice.one_of(&["{", "[]", r#"{"product_id":"seven"}"#]).as_bytes().to_vec();
    }
    let value = match topic {
        Topic::AdEvents => ad_event(dice, time),
        Topic::ConversionEvents => conversion(dice, time),
        Topic::CampaignEvents => campaign(dice, time),
        Topic::ProductMetrics if dice.percent(20) => json!({"product_id": product(dice)}),
        Topic::ProductMetrics => {
            json!({"product_id": product(dice), "ctr": dice.one_of(&[0.0, 0.02, 0.5]), "cvr": dice.one_of(&[0.0, 0.25])})
        }
        Topic::ProductMeta if dice.percent(20) => json!({"product_id": product(dice)}),
        Topic::ProductMeta => {
            json!({"product_id": product(dice), "product_price": dice.one_of(&["0", "99.90", "1000"])})
        }
    };
    value.to_string().into_bytes()
}

fn product(dice: &mut Dice) -> i64 {
    dice.mostly_first(&[7, 8])
}

/// Keys are few, so that everything meets.
fn ad_event(dice: &mut Dice, time: i64) -> Value {
    json!({
        "event_type": dice.mostly_first(&["CLICK", "IMPRESSION", "CONVERSION"]),
        "timestamp_field": time,
        "ad_id": dice.mostly_first(&[json!(1), json!("a"), Value::Null]),
        "campaign_id": dice.mostly_first(&[json!(5), json!(6), Value::Null]),
        "advertiser_id": dice.mostly_first(&[9, 8]),
        "product_id": product(dice),
        "placement": dice.mostly_first(&["top", "side"]),
        "category": "toys",
        "device_id": dice.mostly_first(&[json!("x"), json!("y"), Value::Null, json!("N/A"), json!("")]),
        "session_id": dice.mostly_first(&[Value::Null, json!("x"), json!("z")]),
        "actual_price": dice.mostly_first(&["1.50", "2", "0.01"]),
        "revenue_amount": "6.00",
    })
}

/// The same order comes again, but while it is known: within the shortest lookback.
fn conversion(dice: &mut Dice, time: i64) -> Value {
    json!({
        "event_type": "CONVERSION",
        "timestamp_field": time,
        "device_id": dice.mostly_first(&[json!("x"), json!("y"), Value::Null, json!("N/A"), json!("")]),
        "session_id": dice.mostly_first(&[Value::Null, json!("x"), json!("z")]),
        "order_id": format!("{}-{}", dice.one_of(&["a", "b", "c"]), time / (2 * MINUTE)),
        "product_id": product(dice),
        "revenue_amount": dice.mostly_first(&["6.00", "7.5"]),
    })
}

fn campaign(dice: &mut Dice, time: i64) -> Value {
    let kinds =
        ["CAMPAIGN_UPDATE", "CAMPAIGN_CREATE", "CAMPAIGN_ACTIVATE", "CAMPAIGN_PAUSE", "CAMPAIGN_DELETE"];
    json!({
        "event_type": dice.mostly_first(&kinds),
        "timestamp_field": time,
        "campaign_id": 1 + dice.below(5),
        "advertiser_id": 9,
        "product_id": product(dice),
        "placement": dice.mostly_first(&["top", "side"]),
        "category": dice.mostly_first(&["toys", "books"]),
        "bid_price": dice.mostly_first(&["1.00", "2.00", "0.50"]),
        "status": dice.mostly_first(&["ACTIVE", "DRAFT"]),
    })
}

/// For the batch recomputation.
impl Input for &Log {
    fn each_record(
        &mut self,
        topic: Topic,
        until: &Offsets,
        each: &mut dyn FnMut(TopicRecord<'_>),
    ) -> anyhow::Result<()> {
        for (&number, &end) in until {
            let Some(partition) = self.partitions.get(&(topic, number)) else { continue };
            for (record, offset) in partition.records.iter().zip(0..end) {
                let (value, stamp) = (Some(record.value.as_slice()), record.stamp);
                each(TopicRecord { partition: number, offset, key: None, value, stamp });
            }
        }
        Ok(())
    }
}
