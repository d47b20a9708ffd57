//! The rows of the result.

use serde::{Deserialize, Serialize};

use crate::model::{AdId, EventTime, Money, Text};

/// The click that a conversion is attributed to. The key is (order_id, product_id); the model is
/// always LAST_CLICK.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AttributionRow {
    /// The order.
    pub order_id: Text,
    /// The product sold.
    pub product_id: i64,
    /// The clicked ad.
    pub ad_id: Option<AdId>,
    /// The clicked ad's campaign.
    pub campaign_id: Option<i64>,
    /// Who paid for the click.
    pub advertiser_id: i64,
    /// What the conversion earned.
    pub revenue_amount: Money,
    /// Event time of the click.
    pub click_time: EventTime,
    /// Event time of the conversion.
    pub conversion_time: EventTime,
}

impl AttributionRow {
    /// The attribution model, a part of the key.
    pub const MODEL: &'static str = "LAST_CLICK";

    /// Whole seconds from the click to the conversion.
    pub fn time_to_conversion(&self) -> i64 {
        (self.conversion_time.0 - self.click_time.0) / 1000
    }
}
