//! From a record's fields to the event of its topic.
//!
//! Only the fields that an event uses are looked at: an impression with an odd price is an impression. Ids of
//! which `unknown` says that they stand for none are read as missing.

use crate::model::{
    ActiveCampaign, AdEvent, AdEventType, AdId, CampaignEvent, CampaignEventType, ConversionEvent, EventTime,
    Money, ProductMeta, ProductMetrics, TimeError, UnknownIds,
};

use super::{BadRecord, Field, Fields, Raw};

/// Reads a record of `ad-events`. Ad, device and session are those of a CLICK only.
///
/// # Errors
/// The first field that is missing or ill-typed.
#[inline]
pub fn ad_event<'a>(fields: &Fields<'a>, unknown: &UnknownIds) -> Result<AdEvent<&'a str>, BadRecord> {
    let event_type = match required(text(fields, Field::EventType)?, Field::EventType)? {
        "IMPRESSION" => AdEventType::Impression,
        "CLICK" => AdEventType::Click,
        "CONVERSION" => AdEventType::Conversion,
        other => return Err(unknown_event_type(other)),
    };
    let mut event = AdEvent {
        event_type,
        time: time(fields)?,
        product_id: required(bigint(fields, Field::ProductId, unknown)?, Field::ProductId)?,
        placement: required(text(fields, Field::Placement)?, Field::Placement)?,
        campaign_id: bigint(fields, Field::CampaignId, unknown)?,
        advertiser_id: bigint(fields, Field::AdvertiserId, unknown)?,
        ad_id: None,
        device_id: None,
        session_id: None,
        actual_price: Money::ZERO,
        revenue_amount: Money::ZERO,
    };
    match event_type {
        AdEventType::Impression => {}
        AdEventType::Click => {
            required(event.advertiser_id, Field::AdvertiserId)?;
            event.ad_id = ad_id(fields, unknown)?;
            event.device_id = id_text(fields, Field::DeviceId, unknown)?;
            event.session_id = id_text(fields, Field::SessionId, unknown)?;
            event.actual_price =
                required(money(fields, Field::ActualPrice, Money::MAX_PRICE)?, Field::ActualPrice)?;
        }
        AdEventType::Conversion => {
            event.revenue_amount =
                required(money(fields, Field::RevenueAmount, Money::MAX_REVENUE)?, Field::RevenueAmount)?;
        }
    }
    Ok(event)
}

/// Reads a record of `campaign-events`.
///
/// # Errors
/// The first field that is missing or ill-typed.
pub fn campaign_event<'a>(
    fields: &Fields<'a>,
    unknown: &UnknownIds,
) -> Result<CampaignEvent<&'a str>, BadRecord> {
    let event_type = match required(text(fields, Field::EventType)?, Field::EventType)? {
        "CAMPAIGN_CREATE" => CampaignEventType::Create,
        "CAMPAIGN_UPDATE" => CampaignEventType::Update,
        "CAMPAIGN_ACTIVATE" => CampaignEventType::Activate,
        "CAMPAIGN_PAUSE" => CampaignEventType::Pause,
        "CAMPAIGN_DELETE" => CampaignEventType::Delete,
        other => return Err(unknown_event_type(other)),
    };
    let time = time(fields)?;
    let campaign_id = required(bigint(fields, Field::CampaignId, unknown)?, Field::CampaignId)?;
    let active = match event_type {
        CampaignEventType::Pause | CampaignEventType::Delete => None,
        CampaignEventType::Create | CampaignEventType::Update | CampaignEventType::Activate => {
            let required_text = |field| required(text(fields, field)?, field);
            let required_id = |field| required(bigint(fields, field, unknown)?, field);
            let active = ActiveCampaign {
                advertiser_id: required_id(Field::AdvertiserId)?,
                product_id: required_id(Field::ProductId)?,
                placement: required_text(Field::Placement)?,
                category: required_text(Field::Category)?,
                bid_price: required(money(fields, Field::BidPrice, Money::MAX_PRICE)?, Field::BidPrice)?,
            };
            (required_text(Field::Status)? == "ACTIVE").then_some(active)
        }
    };
    Ok(CampaignEvent { event_type, time, campaign_id, active })
}

/// Reads a record of `conversion-events`.
///
/// # Errors
/// The first field that is missing or ill-typed.
pub fn conversion_event<'a>(
    fields: &Fields<'a>,
    unknown: &UnknownIds,
) -> Result<ConversionEvent<&'a str>, BadRecord> {
    match required(text(fields, Field::EventType)?, Field::EventType)? {
        "CONVERSION" => {}
        other => return Err(unknown_event_type(other)),
    }
    Ok(ConversionEvent {
        time: time(fields)?,
        device_id: id_text(fields, Field::DeviceId, unknown)?,
        session_id: id_text(fields, Field::SessionId, unknown)?,
        order_id: required(id_text(fields, Field::OrderId, unknown)?, Field::OrderId)?,
        product_id: required(bigint(fields, Field::ProductId, unknown)?, Field::ProductId)?,
        revenue_amount: required(
            money(fields, Field::RevenueAmount, Money::MAX_REVENUE)?,
            Field::RevenueAmount,
        )?,
    })
}

/// Reads a record of `product-metrics`.
///
/// # Errors
/// The first field that is missing or ill-typed; one rate without the other counts as missing.
pub fn product_metrics(fields: &Fields<'_>, unknown: &UnknownIds) -> Result<ProductMetrics, BadRecord> {
    let product_id = required(bigint(fields, Field::ProductId, unknown)?, Field::ProductId)?;
    let rates = match (rate(fields, Field::Ctr)?, rate(fields, Field::Cvr)?) {
        (Some(ctr), Some(cvr)) => Some((ctr, cvr)),
        (None, None) => None,
        (None, Some(_)) => return Err(BadRecord::Missing(Field::Ctr)),
        (Some(_), None) => return Err(BadRecord::Missing(Field::Cvr)),
    };
    Ok(ProductMetrics { product_id, rates })
}

/// Reads a record of `product-meta`.
///
/// # Errors
/// The first field that is missing or ill-typed.
pub fn product_meta(fields: &Fields<'_>, unknown: &UnknownIds) -> Result<ProductMeta, BadRecord> {
    let product_id = required(bigint(fields, Field::ProductId, unknown)?, Field::ProductId)?;
    Ok(ProductMeta { product_id, price: money(fields, Field::ProductPrice, Money::MAX_REVENUE)? })
}

#[inline]
fn required<T>(value: Option<T>, field: Field) -> Result<T, BadRecord> {
    value.ok_or(BadRecord::Missing(field))
}

#[cold]
fn unknown_event_type(name: &str) -> BadRecord {
    BadRecord::UnknownEventType(name.chars().take(40).collect())
}

#[inline]
fn text<'a>(fields: &Fields<'a>, field: Field) -> Result<Option<&'a str>, BadRecord> {
    match fields.get(field) {
        Raw::Absent => Ok(None),
        Raw::Text(text) => Ok(Some(text)),
        Raw::Number(_) | Raw::Other => Err(BadRecord::IllTyped(field, "a string")),
    }
}

/// An id that is a text; an integer is taken as it is written.
#[inline]
fn id_text<'a>(
    fields: &Fields<'a>,
    field: Field,
    unknown: &UnknownIds,
) -> Result<Option<&'a str>, BadRecord> {
    let id = match fields.get(field) {
        Raw::Absent => return Ok(None),
        Raw::Text(text) => text,
        Raw::Number(number) if is_integer(number) => number,
        Raw::Number(_) | Raw::Other => return Err(BadRecord::IllTyped(field, "a string or an integer")),
    };
    Ok((!unknown.has_text(id)).then_some(id))
}

#[inline]
fn ad_id(fields: &Fields<'_>, unknown: &UnknownIds) -> Result<Option<AdId>, BadRecord> {
    match fields.get(Field::AdId) {
        Raw::Absent => Ok(None),
        Raw::Text(text) => Ok((!unknown.has_text(text)).then(|| AdId::from_text(text))),
        Raw::Number(number) => match whole(number) {
            Some(number) => Ok((!unknown.has_number(number)).then_some(AdId::Number(number))),
            None => Err(BadRecord::IllTyped(Field::AdId, "a string or a BIGINT")),
        },
        Raw::Other => Err(BadRecord::IllTyped(Field::AdId, "a string or a BIGINT")),
    }
}

#[inline]
fn bigint(fields: &Fields<'_>, field: Field, unknown: &UnknownIds) -> Result<Option<i64>, BadRecord> {
    let id = match fields.get(field) {
        Raw::Absent => return Ok(None),
        Raw::Number(number) => whole(number),
        Raw::Text(text) if unknown.has_text(text) => return Ok(None),
        Raw::Text(text) if text.starts_with('+') => None,
        Raw::Text(text) => text.parse().ok(),
        Raw::Other => None,
    };
    let id = id.ok_or(BadRecord::IllTyped(field, "a BIGINT"))?;
    Ok((!unknown.has_number(id)).then_some(id))
}

/// A JSON number that is an integer, be it written as `101.0`.
#[inline]
fn whole(number: &str) -> Option<i64> {
    number.parse().ok().or_else(|| {
        let (whole, fraction) = number.split_once('.')?;
        if fraction.bytes().all(|digit| digit == b'0') { whole.parse().ok() } else { None }
    })
}

#[inline]
fn money(fields: &Fields<'_>, field: Field, max: Money) -> Result<Option<Money>, BadRecord> {
    let amount = match fields.get(field) {
        Raw::Absent => return Ok(None),
        Raw::Text(amount) | Raw::Number(amount) => amount,
        Raw::Other => return Err(BadRecord::IllTyped(field, "an amount of money")),
    };
    Money::parse(amount.as_bytes(), max).map(Some).map_err(|error| BadRecord::Money(field, error))
}

fn rate(fields: &Fields<'_>, field: Field) -> Result<Option<f64>, BadRecord> {
    let rate = match fields.get(field) {
        Raw::Absent => return Ok(None),
        Raw::Text(rate) | Raw::Number(rate) => rate.parse::<f64>().ok(),
        Raw::Other => None,
    };
    rate.filter(|rate| rate.is_finite() && *rate >= 0.0)
        .map(Some)
        .ok_or(BadRecord::IllTyped(field, "a rate of 0 or more"))
}

#[inline]
fn time(fields: &Fields<'_>) -> Result<EventTime, BadRecord> {
    match fields.get(Field::Timestamp) {
        Raw::Text(text) => EventTime::parse(text).map_err(BadRecord::Time),
        Raw::Number(number) if is_integer(number) => match number.parse() {
            Ok(ms) => EventTime::from_epoch_ms(ms).map_err(BadRecord::Time),
            Err(_) if number.starts_with('-') => Err(BadRecord::Time(TimeError::Range)),
            Err(_) => Err(BadRecord::Time(TimeError::Microseconds)),
        },
        Raw::Absent => Err(BadRecord::Missing(Field::Timestamp)),
        Raw::Number(_) | Raw::Other => Err(BadRecord::Time(TimeError::Format)),
    }
}

#[inline]
fn is_integer(number: &str) -> bool {
    !number.bytes().any(|byte| matches!(byte, b'.' | b'e' | b'E'))
}
