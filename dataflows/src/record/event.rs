//! From a record's fields to the event of its topic.
//!
//! Every known field that is there must have its type, whether the event's type needs it or not: a producer that
//! sends nonsense in one field is not to be trusted with the others.

use crate::model::{
    ActiveCampaign, AdEvent, AdEventType, AdId, CampaignEvent, CampaignEventType, ConversionEvent, EventTime, Money,
    ProductMeta, ProductMetrics,
};

use super::{BadRecord, Field, Fields, Raw};

/// Reads a record of `ad-events`.
///
/// An impression's ad_id is checked but not kept: no statement reads it, and most records are impressions.
///
/// # Errors
/// The first field that is missing or ill-typed.
#[inline]
pub fn ad_event<'a>(fields: &Fields<'a>) -> Result<AdEvent<&'a str>, BadRecord> {
    let event_type = match text(fields, Field::EventType)?.ok_or(BadRecord::Missing(Field::EventType))? {
        "IMPRESSION" => AdEventType::Impression,
        "CLICK" => AdEventType::Click,
        "CONVERSION" => AdEventType::Conversion,
        other => return Err(unknown_event_type(other)),
    };
    let (click, conversion) = (event_type == AdEventType::Click, event_type == AdEventType::Conversion);
    let ad_id = match (fields.get(Field::AdId), event_type) {
        (Raw::Absent | Raw::Text(_), AdEventType::Impression) => None,
        _ => ad_id(fields)?,
    };
    text(fields, Field::Category)?;
    id_text(fields, Field::UserId)?;
    let advertiser_id = bigint(fields, Field::AdvertiserId)?;
    let actual_price = money(fields, Field::ActualPrice, Money::MAX_PRICE)?;
    let revenue_amount = money(fields, Field::RevenueAmount, Money::MAX_REVENUE)?;
    if click {
        required(advertiser_id, Field::AdvertiserId)?;
        required(actual_price, Field::ActualPrice)?;
    }
    if conversion {
        required(revenue_amount, Field::RevenueAmount)?;
    }
    Ok(AdEvent {
        event_type,
        time: time(fields)?,
        ad_id,
        campaign_id: bigint(fields, Field::CampaignId)?,
        advertiser_id,
        product_id: required(bigint(fields, Field::ProductId)?, Field::ProductId)?,
        placement: required(text(fields, Field::Placement)?, Field::Placement)?,
        device_id: id_text(fields, Field::DeviceId)?,
        session_id: id_text(fields, Field::SessionId)?,
        actual_price: actual_price.unwrap_or_default(),
        revenue_amount: revenue_amount.unwrap_or_default(),
    })
}

/// Reads a record of `campaign-events`.
///
/// # Errors
/// The first field that is missing or ill-typed.
pub fn campaign_event<'a>(fields: &Fields<'a>) -> Result<CampaignEvent<&'a str>, BadRecord> {
    let event_type = match text(fields, Field::EventType)?.ok_or(BadRecord::Missing(Field::EventType))? {
        "CAMPAIGN_CREATE" => CampaignEventType::Create,
        "CAMPAIGN_UPDATE" => CampaignEventType::Update,
        "CAMPAIGN_ACTIVATE" => CampaignEventType::Activate,
        "CAMPAIGN_PAUSE" => CampaignEventType::Pause,
        "CAMPAIGN_DELETE" => CampaignEventType::Delete,
        other => return Err(unknown_event_type(other)),
    };
    let time = time(fields)?;
    let campaign_id = required(bigint(fields, Field::CampaignId)?, Field::CampaignId)?;
    let advertiser_id = bigint(fields, Field::AdvertiserId)?;
    let product_id = bigint(fields, Field::ProductId)?;
    let placement = text(fields, Field::Placement)?;
    let category = text(fields, Field::Category)?;
    let bid_price = money(fields, Field::BidPrice, Money::MAX_PRICE)?;
    let status = text(fields, Field::Status)?;
    let active = match event_type {
        CampaignEventType::Pause | CampaignEventType::Delete => None,
        CampaignEventType::Create | CampaignEventType::Update | CampaignEventType::Activate => {
            let active = ActiveCampaign {
                advertiser_id: required(advertiser_id, Field::AdvertiserId)?,
                product_id: required(product_id, Field::ProductId)?,
                placement: required(placement, Field::Placement)?,
                category: required(category, Field::Category)?,
                bid_price: required(bid_price, Field::BidPrice)?,
            };
            (required(status, Field::Status)? == "ACTIVE").then_some(active)
        }
    };
    Ok(CampaignEvent { event_type, time, campaign_id, active })
}

/// Reads a record of `conversion-events`.
///
/// # Errors
/// The first field that is missing or ill-typed.
pub fn conversion_event<'a>(fields: &Fields<'a>) -> Result<ConversionEvent<&'a str>, BadRecord> {
    match text(fields, Field::EventType)?.ok_or(BadRecord::Missing(Field::EventType))? {
        "CONVERSION" => {}
        other => return Err(unknown_event_type(other)),
    }
    id_text(fields, Field::UserId)?;
    Ok(ConversionEvent {
        time: time(fields)?,
        device_id: id_text(fields, Field::DeviceId)?,
        session_id: id_text(fields, Field::SessionId)?,
        order_id: required(id_text(fields, Field::OrderId)?, Field::OrderId)?,
        product_id: required(bigint(fields, Field::ProductId)?, Field::ProductId)?,
        revenue_amount: required(money(fields, Field::RevenueAmount, Money::MAX_REVENUE)?, Field::RevenueAmount)?,
    })
}

/// Reads a record of `product-metrics`.
///
/// # Errors
/// The first field that is missing or ill-typed; one rate without the other counts as missing.
pub fn product_metrics(fields: &Fields<'_>) -> Result<ProductMetrics, BadRecord> {
    let product_id = required(bigint(fields, Field::ProductId)?, Field::ProductId)?;
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
pub fn product_meta(fields: &Fields<'_>) -> Result<ProductMeta, BadRecord> {
    let product_id = required(bigint(fields, Field::ProductId)?, Field::ProductId)?;
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
fn id_text<'a>(fields: &Fields<'a>, field: Field) -> Result<Option<&'a str>, BadRecord> {
    match fields.get(field) {
        Raw::Absent => Ok(None),
        Raw::Text(text) => Ok(Some(text)),
        Raw::Number(number) if is_integer(number) => Ok(Some(number)),
        Raw::Number(_) | Raw::Other => Err(BadRecord::IllTyped(field, "a string or an integer")),
    }
}

#[inline]
fn ad_id(fields: &Fields<'_>) -> Result<Option<AdId>, BadRecord> {
    match fields.get(Field::AdId) {
        Raw::Absent => Ok(None),
        Raw::Text(text) => Ok(Some(AdId::from_text(text))),
        Raw::Number(number) => match number.parse() {
            Ok(number) => Ok(Some(AdId::Number(number))),
            Err(_) => Err(BadRecord::IllTyped(Field::AdId, "a string or a BIGINT")),
        },
        Raw::Other => Err(BadRecord::IllTyped(Field::AdId, "a string or a BIGINT")),
    }
}

#[inline]
fn bigint(fields: &Fields<'_>, field: Field) -> Result<Option<i64>, BadRecord> {
    let number = match fields.get(field) {
        Raw::Absent => return Ok(None),
        Raw::Text(text) if !text.starts_with('+') => text,
        Raw::Number(number) => number,
        Raw::Text(_) | Raw::Other => return Err(BadRecord::IllTyped(field, "a BIGINT")),
    };
    number.parse().map(Some).map_err(|_| BadRecord::IllTyped(field, "a BIGINT"))
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
            Err(_) => Err(BadRecord::Time(crate::model::TimeError::Range)),
        },
        Raw::Absent => Err(BadRecord::Missing(Field::Timestamp)),
        Raw::Number(_) | Raw::Other => Err(BadRecord::Time(crate::model::TimeError::Format)),
    }
}

#[inline]
fn is_integer(number: &str) -> bool {
    !number.bytes().any(|byte| matches!(byte, b'.' | b'e' | b'E'))
}
