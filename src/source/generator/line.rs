//! Records as lines of JSON, without line feeds: bytes appended to a reused buffer, as this is the hot path.

use adtide_dataflows::model::{AdEventType, CampaignEventType, EventTime};

use super::fields::{Quirk, ad_id, amount, device, digit, id, number, session, text, time, user};
use super::world::{Campaign, targeting};

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
