//! Records as lines of JSON, without line feeds: bytes appended to a reused buffer, as this is the hot path.

use adtide_dataflows::model::{AdEventType, CampaignEventType, EventTime};

use super::audience::{device_number, session_number, user_number};
use super::dice::Dice;
use super::world::{CATEGORIES, Campaign, PLACEMENTS};

/// A record of `ad-events`.
#[derive(Clone, Copy)]
pub(super) struct AdEvent {
    pub(super) event_type: AdEventType,
    pub(super) time: EventTime,
    /// Index of the campaign, and which of its ads it is.
    pub(super) campaign: u32,
    pub(super) ad: u8,
    pub(super) device: u32,
    pub(super) session: u64,
    /// The price of a click or impression, the revenue of a conversion.
    pub(super) amount: i64,
}

/// A record of `conversion-events`.
#[derive(Clone, Copy)]
pub(super) struct Conversion {
    pub(super) time: EventTime,
    pub(super) device: Option<u32>,
    pub(super) session: Option<u64>,
    /// The device whose user it is, told or not.
    pub(super) buyer: u32,
    pub(super) order: u64,
    pub(super) product: i64,
    pub(super) revenue: i64,
}

/// In what way a good record is unlike most others.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Quirk {
    None,
    /// The time as RFC 3339.
    Rfc3339,
    /// The time as epoch milliseconds.
    EpochMs,
    /// Ids as numeric strings.
    TextIds,
    /// Amounts as strings.
    TextAmounts,
    /// A field that may be missing is null, or not there at all.
    NoCampaign,
    NoDevice,
    NoSession,
}

impl Quirk {
    /// For `ad-events`, which may lack an id.
    #[inline]
    pub(super) fn draw(dice: &mut Dice) -> Quirk {
        match dice.below(2_000) {
            0 => Quirk::Rfc3339,
            1 => Quirk::EpochMs,
            2 | 3 => Quirk::TextIds,
            4 | 5 => Quirk::TextAmounts,
            6..12 => Quirk::NoCampaign,
            12..24 => Quirk::NoDevice,
            24..34 => Quirk::NoSession,
            _ => Quirk::None,
        }
    }

    /// For the other topics: nothing but the format.
    pub(super) fn draw_format(dice: &mut Dice) -> Quirk {
        match dice.below(400) {
            0 => Quirk::Rfc3339,
            1 => Quirk::EpochMs,
            2 | 3 => Quirk::TextIds,
            4 | 5 => Quirk::TextAmounts,
            _ => Quirk::None,
        }
    }
}

#[inline]
pub(super) fn ad_event(line: &mut Vec<u8>, event: &AdEvent, campaign: &Campaign, quirk: Quirk) {
    line.extend_from_slice(b"{\"event_type\":\"");
    line.extend_from_slice(match event.event_type {
        AdEventType::Impression => b"IMPRESSION",
        AdEventType::Click => b"CLICK",
        AdEventType::Conversion => b"CONVERSION",
    });
    line.extend_from_slice(b"\",\"timestamp_field\":");
    time(line, event.time, quirk);
    ad_id(line, campaign.id, event.ad, quirk);
    match quirk {
        Quirk::TextIds | Quirk::NoCampaign => targeting(line, campaign, quirk),
        _ => line.extend_from_slice(&campaign.targeting),
    }
    device(line, (quirk != Quirk::NoDevice).then_some(event.device), event.time);
    session(line, (quirk != Quirk::NoSession).then_some(event.session), event.time);
    user(line, event.device);
    let field = if event.event_type == AdEventType::Conversion { "revenue_amount" } else { "actual_price" };
    amount(line, field, event.amount, quirk);
    line.push(b'}');
}

pub(super) fn campaign_event(
    line: &mut Vec<u8>,
    event_type: CampaignEventType,
    at: EventTime,
    campaign: &Campaign,
    quirk: Quirk,
) {
    // The state is all there where it is read. The others carry the id only, as a platform's backend has it.
    let (name, full) = match event_type {
        CampaignEventType::Create => ("CREATE", true),
        CampaignEventType::Update => ("UPDATE", true),
        CampaignEventType::Activate => ("ACTIVATE", true),
        CampaignEventType::Pause => ("PAUSE", false),
        CampaignEventType::Delete => ("DELETE", false),
    };
    line.extend_from_slice(b"{\"event_type\":\"CAMPAIGN_");
    line.extend_from_slice(name.as_bytes());
    line.extend_from_slice(b"\",\"timestamp_field\":");
    time(line, at, quirk);
    if full {
        targeting(line, campaign, quirk);
        amount(line, "bid_price", campaign.bid, quirk);
    } else {
        id(line, "campaign_id", campaign.id, quirk);
    }
    text(line, "status", campaign.stage.name());
    line.push(b'}');
}

pub(super) fn conversion(line: &mut Vec<u8>, event: &Conversion, quirk: Quirk) {
    line.extend_from_slice(b"{\"event_type\":\"CONVERSION\",\"timestamp_field\":");
    time(line, event.time, quirk);
    device(line, event.device, event.time);
    session(line, event.session, event.time);
    user(line, event.buyer);
    line.extend_from_slice(b",\"order_id\":\"o-");
    number(line, 10_000_000 + event.order as i64);
    line.push(b'"');
    id(line, "product_id", event.product, quirk);
    amount(line, "revenue_amount", event.revenue, quirk);
    line.push(b'}');
}

/// A record of `product-metrics`; the rates are in millionths.
pub(super) fn product_metrics(line: &mut Vec<u8>, product: i64, ctr: i64, cvr: i64) {
    line.extend_from_slice(b"{\"product_id\":");
    number(line, product);
    for (field, rate) in [(b",\"ctr\":0.", ctr), (b",\"cvr\":0.", cvr)] {
        line.extend_from_slice(field);
        for place in [100_000, 10_000, 1_000, 100, 10, 1] {
            line.push(digit(rate / place));
        }
    }
    line.push(b'}');
}

pub(super) fn product_meta(line: &mut Vec<u8>, product: i64, price: i64, quirk: Quirk) {
    line.extend_from_slice(b"{\"product_id\":");
    number(line, product);
    amount(line, "product_price", price, quirk);
    line.push(b'}');
}

/// What deletes a product's metrics or price: in a file, nothing but its id.
pub(super) fn tombstone(line: &mut Vec<u8>, product: i64) {
    line.extend_from_slice(b"{\"product_id\":");
    number(line, product);
    line.push(b'}');
}

/// Whether a line is a product's tombstone, unspoiled.
pub(super) fn is_tombstone(text: &[u8], product: i64) -> bool {
    let mut whole = Vec::with_capacity(40);
    tombstone(&mut whole, product);
    text == whole
}

/// What is alike in all ad events of a campaign and in its campaign events.
pub(super) fn targeting(line: &mut Vec<u8>, campaign: &Campaign, quirk: Quirk) {
    match quirk {
        Quirk::NoCampaign if campaign.id % 2 == 0 => line.extend_from_slice(b",\"campaign_id\":null"),
        Quirk::NoCampaign => {}
        _ => id(line, "campaign_id", campaign.id, quirk),
    }
    id(line, "advertiser_id", campaign.advertiser, quirk);
    id(line, "product_id", campaign.product, quirk);
    text(line, "placement", PLACEMENTS[campaign.placement]);
    text(line, "category", CATEGORIES[campaign.category]);
}

/// Most ads have a number; those of some campaigns have a text.
#[inline]
fn ad_id(line: &mut Vec<u8>, campaign: i64, ad: u8, quirk: Quirk) {
    let textual = campaign % 16 == 3;
    let quoted = textual || quirk == Quirk::TextIds;
    line.extend_from_slice(b",\"ad_id\":");
    if quoted {
        line.push(b'"');
    }
    if textual {
        line.extend_from_slice(b"cr-");
    }
    number(line, campaign * 10 + i64::from(ad));
    if quoted {
        line.push(b'"');
    }
}

fn id(line: &mut Vec<u8>, field: &str, value: i64, quirk: Quirk) {
    key(line, field);
    if quirk == Quirk::TextIds {
        line.push(b'"');
        number(line, value);
        line.push(b'"');
    } else {
        number(line, value);
    }
}

#[inline]
fn device(line: &mut Vec<u8>, device: Option<u32>, time: EventTime) {
    if let Some(device) = device {
        line.extend_from_slice(b",\"device_id\":\"d-");
        hex(line, device_number(device));
        line.push(b'"');
    } else {
        unknown(line, "device_id", time);
    }
}

#[inline]
fn session(line: &mut Vec<u8>, session: Option<u64>, time: EventTime) {
    if let Some(session) = session {
        let number = session_number(session);
        line.extend_from_slice(b",\"session_id\":\"s-");
        hex(line, (number >> 32) as u32);
        hex(line, number as u32);
        line.push(b'"');
    } else {
        unknown(line, "session_id", time);
    }
}

/// An id that is not known: left out, null, or a text that stands for none. Which of them comes from the record itself.
fn unknown(line: &mut Vec<u8>, field: &str, time: EventTime) {
    let value: &[u8] = match time.0 % 8 {
        1 | 5 => b"null",
        3 => b"\"\"",
        7 => b"\"00000000-0000-0000-0000-000000000000\"",
        _ => return,
    };
    key(line, field);
    line.extend_from_slice(value);
}

#[inline]
fn user(line: &mut Vec<u8>, device: u32) {
    line.extend_from_slice(b",\"user_id\":\"u-");
    number(line, i64::from(user_number(device)));
    line.push(b'"');
}

#[inline]
fn amount(line: &mut Vec<u8>, field: &str, minor: i64, quirk: Quirk) {
    key(line, field);
    let quoted = quirk == Quirk::TextAmounts;
    if quoted {
        line.push(b'"');
    }
    number(line, minor / 100);
    line.extend_from_slice(&[b'.', digit(minor / 10), digit(minor)]);
    if quoted {
        line.push(b'"');
    }
}

#[inline]
fn time(line: &mut Vec<u8>, time: EventTime, quirk: Quirk) {
    if quirk == Quirk::EpochMs {
        return number(line, time.0);
    }
    line.push(b'"');
    let start = line.len();
    time.write_to(line);
    if quirk == Quirk::Rfc3339 {
        line[start + 10] = b'T';
        line.push(b'Z');
    }
    line.push(b'"');
}

fn text(line: &mut Vec<u8>, field: &str, value: &str) {
    key(line, field);
    line.push(b'"');
    line.extend_from_slice(value.as_bytes());
    line.push(b'"');
}

#[inline]
fn key(line: &mut Vec<u8>, field: &str) {
    line.extend_from_slice(b",\"");
    line.extend_from_slice(field.as_bytes());
    line.extend_from_slice(b"\":");
}

#[inline]
fn number(line: &mut Vec<u8>, value: i64) {
    line.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

#[inline]
fn hex(line: &mut Vec<u8>, value: u32) {
    let mut digits = [0; 8];
    for (place, digit) in digits.iter_mut().rev().enumerate() {
        *digit = b"0123456789abcdef"[(value >> (4 * place) & 15) as usize];
    }
    line.extend_from_slice(&digits);
}

/// The last decimal digit.
#[inline]
fn digit(value: i64) -> u8 {
    b'0' + (value % 10) as u8
}
