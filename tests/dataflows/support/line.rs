//! Records, field by field.

use adtide_dataflows::model::{EventTime, Topic};
use serde_json::{Map, Value};

/// A record and the partition that it goes to: 0, unless another is named.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    pub topic: Topic,
    pub partition: u32,
    fields: Map<String, Value>,
}

impl Line {
    fn new(topic: Topic) -> Line {
        Line { topic, partition: 0, fields: Map::new() }
    }

    /// Sets a field, or replaces it.
    pub fn with(mut self, field: &str, value: impl Into<Value>) -> Line {
        self.fields.insert(field.to_owned(), value.into());
        self
    }

    /// Leaves a field out.
    pub fn without(mut self, field: &str) -> Line {
        self.fields.shift_remove(field);
        self
    }

    /// A field, or null.
    pub fn get(&self, field: &str) -> &Value {
        self.fields.get(field).unwrap_or(&Value::Null)
    }

    /// Sends the record to another partition.
    pub fn to(mut self, partition: u32) -> Line {
        self.partition = partition;
        self
    }

    /// The record as JSON.
    pub fn json(&self) -> String {
        Value::Object(self.fields.clone()).to_string()
    }
}

/// What all ad events of the tests have, unless a test says otherwise.
fn ad(event_type: &str, time: i64) -> Line {
    Line::new(Topic::AdEvents)
        .with("event_type", event_type)
        .with("timestamp_field", EventTime(time).to_string())
        .with("ad_id", 1)
        .with("campaign_id", 5)
        .with("advertiser_id", 9)
        .with("product_id", 7)
        .with("placement", "top")
        .with("category", "toys")
        .with("device_id", "d")
}

/// An IMPRESSION of ad 1 of campaign 5 (advertiser 9, product 7, placement top) on device d.
pub fn impression(time: i64) -> Line {
    ad("IMPRESSION", time)
}

/// A CLICK on the same ad, for 1.50.
pub fn click(time: i64) -> Line {
    ad("CLICK", time).with("actual_price", "1.50")
}

/// A CONVERSION of the same ad, worth 6.00, in `ad-events`.
pub fn sold(time: i64) -> Line {
    ad("CONVERSION", time).with("revenue_amount", "6.00")
}

/// A CONVERSION of product 7 on device d, worth 6.00, in `conversion-events`.
pub fn sale(order: &str, time: i64) -> Line {
    Line::new(Topic::ConversionEvents)
        .with("event_type", "CONVERSION")
        .with("timestamp_field", EventTime(time).to_string())
        .with("device_id", "d")
        .with("order_id", order)
        .with("product_id", 7)
        .with("revenue_amount", "6.00")
}

/// A CAMPAIGN_UPDATE to an active campaign of product 7, (top, toys), with a bid of 1.00.
pub fn campaign(id: i64, time: i64) -> Line {
    Line::new(Topic::CampaignEvents)
        .with("event_type", "CAMPAIGN_UPDATE")
        .with("timestamp_field", EventTime(time).to_string())
        .with("campaign_id", id)
        .with("advertiser_id", 9)
        .with("product_id", 7)
        .with("placement", "top")
        .with("category", "toys")
        .with("bid_price", "1.00")
        .with("status", "ACTIVE")
}

/// A CAMPAIGN_PAUSE.
pub fn pause(id: i64, time: i64) -> Line {
    campaign(id, time).with("event_type", "CAMPAIGN_PAUSE")
}

/// The rates of a product.
pub fn metrics(product: i64, ctr: f64, cvr: f64) -> Line {
    no_metrics(product).with("ctr", ctr).with("cvr", cvr)
}

/// The deletion of a product's rates.
pub fn no_metrics(product: i64) -> Line {
    Line::new(Topic::ProductMetrics).with("product_id", product)
}

/// The price of a product.
pub fn price(product: i64, amount: &str) -> Line {
    no_price(product).with("product_price", amount)
}

/// The deletion of a product's price.
pub fn no_price(product: i64) -> Line {
    Line::new(Topic::ProductMeta).with("product_id", product)
}
