//! From the bytes of a record to a model event, with `serde_json`.

use std::collections::BTreeMap;

use adtide_dataflows::model::{
    ActiveCampaign, AdEvent, AdEventType, CampaignEvent, CampaignEventType, ConversionEvent, EventTime, Money,
    ProductMeta, ProductMetrics, Topic,
};

use super::fields::{Bad, Fields, bigint};
use super::input::Record;

/// A longer value is no record.
const LONGEST_VALUE: usize = 1_048_576;

/// An event and where it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located<E> {
    /// The partition of the event's topic.
    pub partition: u32,
    /// The offset within the partition; in a file, the line's number from 0.
    pub offset: u64,
    /// What was read there.
    pub event: E,
}

/// The place of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Location {
    /// The topic.
    pub topic: Topic,
    /// The partition.
    pub partition: u32,
    /// The offset within the partition; in a file, the line's number from 0.
    pub offset: u64,
}

/// The records that can't be read, each with the reason.
pub type BadRecords = BTreeMap<Location, String>;

/// Reads a record of `topic`. A null value deletes the product that is the key; on other topics it is bad.
pub fn read<E>(
    topic: Topic,
    record: &Record<'_>,
    parse: impl Fn(&[u8], EventTime) -> Result<E, Bad>,
) -> Result<E, Bad> {
    match record.value {
        Some(value) if value.len() > LONGEST_VALUE => Err(Bad("too long".into())),
        Some(value) => parse(value, record.latest),
        None => {
            let product = record.key.filter(|_| matches!(topic, Topic::ProductMetrics | Topic::ProductMeta));
            let product = product.and_then(|key| std::str::from_utf8(key).ok()).and_then(bigint);
            let product = product.ok_or_else(|| Bad("null, without a product for a key".into()))?;
            parse(format!(r#"{{"product_id":{product}}}"#).as_bytes(), record.latest)
        }
    }
}

/// A record of `campaign-events`.
pub fn campaign_event(value: &[u8], latest: EventTime) -> Result<CampaignEvent, Bad> {
    let fields = Fields::read(
        value,
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
    let event_type = match fields.required("event_type", Fields::text)?.as_str() {
        "CAMPAIGN_CREATE" => CampaignEventType::Create,
        "CAMPAIGN_UPDATE" => CampaignEventType::Update,
        "CAMPAIGN_ACTIVATE" => CampaignEventType::Activate,
        "CAMPAIGN_PAUSE" => CampaignEventType::Pause,
        "CAMPAIGN_DELETE" => CampaignEventType::Delete,
        other => return Err(Bad(format!("event_type {other:?} is unknown"))),
    };
    let time = fields.required("timestamp_field", |fields, name| fields.time(name, latest))?;
    let campaign_id = fields.required("campaign_id", Fields::bigint)?;
    let state = campaign_state(&fields)?;
    let active = match event_type {
        CampaignEventType::Pause | CampaignEventType::Delete => None,
        _ => {
            let (campaign, status) = state.ok_or_else(|| Bad("a field is missing".into()))?;
            (status == "ACTIVE").then_some(campaign)
        }
    };
    Ok(CampaignEvent { event_type, time, campaign_id, active })
}

/// The campaign and its status, if every field is there. Those that are there must be well-typed in any case.
fn campaign_state(fields: &Fields) -> Result<Option<(ActiveCampaign, String)>, Bad> {
    let advertiser_id = fields.bigint("advertiser_id")?;
    let product_id = fields.bigint("product_id")?;
    let placement = fields.text("placement")?;
    let category = fields.text("category")?;
    let bid_price = fields.money("bid_price", Money::MAX_PRICE)?;
    let status = fields.text("status")?;
    let whole = || {
        let campaign = ActiveCampaign {
            advertiser_id: advertiser_id?,
            product_id: product_id?,
            placement: placement?,
            category: category?,
            bid_price: bid_price?,
        };
        Some((campaign, status?))
    };
    Ok(whole())
}

/// A record of `ad-events`.
pub fn ad_event(value: &[u8], latest: EventTime) -> Result<AdEvent, Bad> {
    let fields = Fields::read(
        value,
        &[
            "event_type",
            "timestamp_field",
            "ad_id",
            "campaign_id",
            "advertiser_id",
            "product_id",
            "placement",
            "category",
            "device_id",
            "session_id",
            "user_id",
            "actual_price",
            "revenue_amount",
        ],
    )?;
    let event_type = match fields.required("event_type", Fields::text)?.as_str() {
        "IMPRESSION" => AdEventType::Impression,
        "CLICK" => AdEventType::Click,
        "CONVERSION" => AdEventType::Conversion,
        other => return Err(Bad(format!("event_type {other:?} is unknown"))),
    };
    let advertiser_id = fields.bigint("advertiser_id")?;
    let actual_price = fields.money("actual_price", Money::MAX_PRICE)?;
    let revenue_amount = fields.money("revenue_amount", Money::MAX_REVENUE)?;
    match event_type {
        AdEventType::Click if advertiser_id.is_none() => return Err(Bad::missing("advertiser_id")),
        AdEventType::Click if actual_price.is_none() => return Err(Bad::missing("actual_price")),
        AdEventType::Conversion if revenue_amount.is_none() => return Err(Bad::missing("revenue_amount")),
        _ => {}
    }
    // Read by no statement, but an ill-typed one makes the record bad.
    fields.text("category")?;
    fields.id_text("user_id")?;
    Ok(AdEvent {
        event_type,
        time: fields.required("timestamp_field", |fields, name| fields.time(name, latest))?,
        ad_id: fields.ad_id("ad_id")?,
        campaign_id: fields.bigint("campaign_id")?,
        advertiser_id,
        product_id: fields.required("product_id", Fields::bigint)?,
        placement: fields.required("placement", Fields::text)?,
        device_id: fields.id_text("device_id")?,
        session_id: fields.id_text("session_id")?,
        actual_price: actual_price.unwrap_or(Money::ZERO),
        revenue_amount: revenue_amount.unwrap_or(Money::ZERO),
    })
}

/// A record of `conversion-events`.
pub fn conversion_event(value: &[u8], latest: EventTime) -> Result<ConversionEvent, Bad> {
    let fields = Fields::read(
        value,
        &[
            "event_type",
            "timestamp_field",
            "device_id",
            "session_id",
            "user_id",
            "order_id",
            "product_id",
            "revenue_amount",
        ],
    )?;
    let event_type = fields.required("event_type", Fields::text)?;
    if event_type != "CONVERSION" {
        return Err(Bad(format!("event_type {event_type:?} is unknown")));
    }
    fields.id_text("user_id")?;
    Ok(ConversionEvent {
        time: fields.required("timestamp_field", |fields, name| fields.time(name, latest))?,
        device_id: fields.id_text("device_id")?,
        session_id: fields.id_text("session_id")?,
        order_id: fields.required("order_id", Fields::id_text)?,
        product_id: fields.required("product_id", Fields::bigint)?,
        revenue_amount: fields.required("revenue_amount", |fields, name| fields.money(name, Money::MAX_REVENUE))?,
    })
}

/// A record of `product-metrics`.
pub fn product_metrics(value: &[u8], _latest: EventTime) -> Result<ProductMetrics, Bad> {
    let fields = Fields::read(value, &["product_id", "ctr", "cvr"])?;
    let product_id = fields.required("product_id", Fields::bigint)?;
    let rates = match (fields.rate("ctr")?, fields.rate("cvr")?) {
        (Some(ctr), Some(cvr)) => Some((ctr, cvr)),
        (None, None) => None,
        _ => return Err(Bad("one of ctr and cvr is missing".into())),
    };
    Ok(ProductMetrics { product_id, rates })
}

/// A record of `product-meta`.
pub fn product_meta(value: &[u8], _latest: EventTime) -> Result<ProductMeta, Bad> {
    let fields = Fields::read(value, &["product_id", "product_price"])?;
    let product_id = fields.required("product_id", Fields::bigint)?;
    Ok(ProductMeta { product_id, price: fields.money("product_price", Money::MAX_REVENUE)? })
}
