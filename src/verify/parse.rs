//! From the bytes of a record to a model event, with `serde_json`.

use std::collections::BTreeMap;

use adtide_dataflows::model::{
    ActiveCampaign, AdEvent, AdEventType, CampaignEvent, CampaignEventType, ConversionEvent, Money,
    ProductMeta, ProductMetrics, Topic,
};
use adtide_dataflows::oracle::Location;

use super::bad::Bad;
use super::fields::{Fields, Rules};
use super::forms::bigint;
use super::input::TopicRecord;

/// A longer value is no record.
const LONGEST_VALUE: usize = 1_048_576;

/// The records that can't be read, each with the reason.
pub type BadRecords = BTreeMap<Location, Bad>;

/// Reads a record of `topic` by these rules. A null value deletes the product that is the key; on
/// other topics it is bad.
pub fn read<E>(
    topic: Topic,
    record: &TopicRecord<'_>,
    rules: &Rules<'_>,
    parse: impl Fn(&[u8], &Rules<'_>) -> Result<E, Bad>,
) -> Result<E, Bad> {
    match record.value {
        Some(value) if value.len() > LONGEST_VALUE => Err(Bad::new("too_large", "too long")),
        Some(value) => parse(value, rules),
        None => {
            let product = record.key.filter(|_| matches!(topic, Topic::ProductMetrics | Topic::ProductMeta));
            let product = product.and_then(|key| std::str::from_utf8(key).ok()).and_then(bigint);
            let product = product.ok_or_else(|| Bad::new("not_json", "null, without a product for a key"))?;
            parse(format!(r#"{{"product_id":{product}}}"#).as_bytes(), rules)
        }
    }
}

/// A record of `campaign-events`.
pub fn campaign_event(value: &[u8], rules: &Rules<'_>) -> Result<CampaignEvent, Bad> {
    let fields = Fields::read(
        value,
        rules,
        &[
            "event_type",
            "timestamp_field",
            "campaign_id",
            "advertiser_id",
            "product_id",
            "placement",
            "category",
            "bid_price",
            "status",
        ],
    )?;
    let event_type = match fields.first("event_type", Fields::text)?.as_str() {
        "CAMPAIGN_CREATE" => CampaignEventType::Create,
        "CAMPAIGN_UPDATE" => CampaignEventType::Update,
        "CAMPAIGN_ACTIVATE" => CampaignEventType::Activate,
        "CAMPAIGN_PAUSE" => CampaignEventType::Pause,
        "CAMPAIGN_DELETE" => CampaignEventType::Delete,
        other => return Err(Bad::unknown_type(other)),
    };
    let time = fields.required("timestamp_field", Fields::time)?;
    let campaign_id = fields.required("campaign_id", Fields::bigint)?;
    let active = match event_type {
        CampaignEventType::Pause | CampaignEventType::Delete => None,
        _ => active_campaign(&fields)?,
    };
    fields.believed(time, CampaignEvent { event_type, time, campaign_id, active })
}

/// The campaign, if it is active.
fn active_campaign(fields: &Fields<'_>) -> Result<Option<ActiveCampaign>, Bad> {
    let campaign = ActiveCampaign {
        advertiser_id: fields.required("advertiser_id", Fields::bigint)?,
        product_id: fields.first("product_id", Fields::bigint)?,
        placement: fields.required("placement", Fields::text)?,
        category: fields.required("category", Fields::text)?,
        bid_price: fields.required("bid_price", |fields, name| fields.money(name, Money::MAX_PRICE))?,
    };
    let status = fields.required("status", Fields::text)?;
    Ok((status == "ACTIVE").then_some(campaign))
}

/// A record of `ad-events`.
pub fn ad_event(value: &[u8], rules: &Rules<'_>) -> Result<AdEvent, Bad> {
    let fields = Fields::read(
        value,
        rules,
        &[
            "event_type",
            "timestamp_field",
            "ad_id",
            "campaign_id",
            "advertiser_id",
            "product_id",
            "placement",
            "device_id",
            "session_id",
            "actual_price",
            "revenue_amount",
        ],
    )?;
    let event_type = match fields.first("event_type", Fields::text)?.as_str() {
        "IMPRESSION" => AdEventType::Impression,
        "CLICK" => AdEventType::Click,
        "CONVERSION" => AdEventType::Conversion,
        other => return Err(Bad::unknown_type(other)),
    };
    let shown = AdEvent {
        event_type,
        time: fields.required("timestamp_field", Fields::time)?,
        product_id: fields.first("product_id", Fields::bigint)?,
        placement: fields.required("placement", Fields::text)?,
        campaign_id: fields.bigint("campaign_id")?,
        advertiser_id: fields.bigint("advertiser_id")?,
        ad_id: None,
        device_id: None,
        session_id: None,
        actual_price: Money::ZERO,
        revenue_amount: Money::ZERO,
    };
    let event = match event_type {
        AdEventType::Impression => shown,
        AdEventType::Click if shown.advertiser_id.is_none() => return Err(Bad::missing("advertiser_id")),
        AdEventType::Click => AdEvent {
            ad_id: fields.ad_id("ad_id")?,
            device_id: fields.id_text("device_id")?,
            session_id: fields.id_text("session_id")?,
            actual_price: fields
                .required("actual_price", |fields, name| fields.money(name, Money::MAX_PRICE))?,
            ..shown
        },
        AdEventType::Conversion => AdEvent {
            revenue_amount: fields
                .required("revenue_amount", |fields, name| fields.money(name, Money::MAX_REVENUE))?,
            ..shown
        },
    };
    fields.believed(event.time, event)
}

/// A record of `conversion-events`.
pub fn conversion_event(value: &[u8], rules: &Rules<'_>) -> Result<ConversionEvent, Bad> {
    let fields = Fields::read(
        value,
        rules,
        &[
            "event_type",
            "timestamp_field",
            "device_id",
            "session_id",
            "order_id",
            "product_id",
            "revenue_amount",
        ],
    )?;
    let event_type = fields.first("event_type", Fields::text)?;
    if event_type != "CONVERSION" {
        return Err(Bad::unknown_type(&event_type));
    }
    let event = ConversionEvent {
        time: fields.required("timestamp_field", Fields::time)?,
        device_id: fields.id_text("device_id")?,
        session_id: fields.id_text("session_id")?,
        order_id: fields.required("order_id", Fields::id_text)?,
        product_id: fields.first("product_id", Fields::bigint)?,
        revenue_amount: fields
            .required("revenue_amount", |fields, name| fields.money(name, Money::MAX_REVENUE))?,
    };
    fields.believed(event.time, event)
}

/// A record of `product-metrics`.
pub fn product_metrics(value: &[u8], rules: &Rules<'_>) -> Result<ProductMetrics, Bad> {
    let fields = Fields::read(value, rules, &["product_id", "ctr", "cvr"])?;
    let product_id = fields.first("product_id", Fields::bigint)?;
    let rates = match (fields.rate("ctr")?, fields.rate("cvr")?) {
        (Some(ctr), Some(cvr)) => Some((ctr, cvr)),
        (None, None) => None,
        _ => return Err(Bad::missing("one of ctr and cvr")),
    };
    Ok(ProductMetrics { product_id, rates })
}

/// A record of `product-meta`.
pub fn product_meta(value: &[u8], rules: &Rules<'_>) -> Result<ProductMeta, Bad> {
    let fields = Fields::read(value, rules, &["product_id", "product_price"])?;
    let product_id = fields.first("product_id", Fields::bigint)?;
    Ok(ProductMeta { product_id, price: fields.money("product_price", Money::MAX_REVENUE)? })
}
