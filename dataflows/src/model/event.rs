//! The events that come in, one type a topic.

use super::{AdId, EventTime, Money};

/// An input topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub enum Topic {
    /// `campaign-events`: [`CampaignEvent`].
    CampaignEvents,
    /// `ad-events`: [`AdEvent`].
    AdEvents,
    /// `conversion-events`: [`ConversionEvent`].
    ConversionEvents,
    /// `product-metrics`: [`ProductMetrics`], upsert by product.
    ProductMetrics,
    /// `product-meta`: [`ProductMeta`], upsert by product.
    ProductMeta,
}

impl Topic {
    /// Every input topic.
    pub const ALL: [Topic; 5] = [
        Topic::CampaignEvents,
        Topic::AdEvents,
        Topic::ConversionEvents,
        Topic::ProductMetrics,
        Topic::ProductMeta,
    ];

    /// The topic's name in Kafka and as a file.
    pub const fn name(self) -> &'static str {
        match self {
            Topic::CampaignEvents => "campaign-events",
            Topic::AdEvents => "ad-events",
            Topic::ConversionEvents => "conversion-events",
            Topic::ProductMetrics => "product-metrics",
            Topic::ProductMeta => "product-meta",
        }
    }
}

/// What happened to an ad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AdEventType {
    /// The ad was shown.
    Impression,
    /// The ad was clicked; `actual_price` is owed.
    Click,
    /// A sale was reported for the ad; `revenue_amount` was earned.
    Conversion,
}

/// A record of `ad-events`. Statements 2, 3 and 4 share it.
///
/// Always there: event_type, timestamp_field, product_id, placement. A CLICK also has advertiser_id and
/// actual_price, a CONVERSION revenue_amount; on other types the amount is 0. Only a CLICK has an ad, a
/// device and a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdEvent<S = String> {
    /// IMPRESSION, CLICK or CONVERSION.
    pub event_type: AdEventType,
    /// timestamp_field.
    pub time: EventTime,
    /// The ad, where known.
    pub ad_id: Option<AdId>,
    /// The campaign, where known.
    pub campaign_id: Option<i64>,
    /// Who pays; always there on a CLICK.
    pub advertiser_id: Option<i64>,
    /// The advertised product.
    pub product_id: i64,
    /// Where the ad was shown.
    pub placement: S,
    /// The device, where known.
    pub device_id: Option<S>,
    /// The session, where known.
    pub session_id: Option<S>,
    /// actual_price, DECIMAL(10,2).
    pub actual_price: Money,
    /// revenue_amount, DECIMAL(15,2).
    pub revenue_amount: Money,
}

/// What happened to a campaign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CampaignEventType {
    /// CAMPAIGN_CREATE.
    Create,
    /// CAMPAIGN_UPDATE.
    Update,
    /// CAMPAIGN_ACTIVATE.
    Activate,
    /// CAMPAIGN_PAUSE.
    Pause,
    /// CAMPAIGN_DELETE.
    Delete,
}

/// A record of `campaign-events`.
///
/// Always there: event_type, timestamp_field, campaign_id. CREATE, UPDATE and ACTIVATE must have every field;
/// on PAUSE and DELETE the others are not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CampaignEvent<S = String> {
    /// CAMPAIGN_CREATE, _UPDATE, _ACTIVATE, _PAUSE or _DELETE.
    pub event_type: CampaignEventType,
    /// timestamp_field.
    pub time: EventTime,
    /// The campaign.
    pub campaign_id: i64,
    /// What the campaign is from now on, if it is active: type CREATE, UPDATE or ACTIVATE and status ACTIVE.
    pub active: Option<ActiveCampaign<S>>,
}

/// What an active campaign bids for.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct ActiveCampaign<S = String> {
    /// Who pays.
    pub advertiser_id: i64,
    /// The advertised product.
    pub product_id: i64,
    /// Where to show it.
    pub placement: S,
    /// The product's category.
    pub category: S,
    /// bid_price, DECIMAL(10,2).
    pub bid_price: Money,
}

/// A record of `conversion-events`: always all but the device and session, of which either may be missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConversionEvent<S = String> {
    /// timestamp_field.
    pub time: EventTime,
    /// The device, where known.
    pub device_id: Option<S>,
    /// The session, where known.
    pub session_id: Option<S>,
    /// The order; with the product, the conversion's identity.
    pub order_id: S,
    /// The product sold.
    pub product_id: i64,
    /// revenue_amount, DECIMAL(15,2).
    pub revenue_amount: Money,
}

/// A record of `product-metrics`. Without rates (a null value; in a file, a line with the product_id only) it
/// deletes the product's metrics.
#[derive(Clone, Debug, PartialEq)]
pub struct ProductMetrics {
    /// The product.
    pub product_id: i64,
    /// Click-through and conversion rate as fractions: 0.01 is one click in a hundred impressions.
    pub rates: Option<(f64, f64)>,
}

/// A record of `product-meta`. Without a price it deletes the product's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProductMeta {
    /// The product.
    pub product_id: i64,
    /// product_price, DECIMAL(15,2).
    pub price: Option<Money>,
}
