//! What the statement reads: campaigns, and the rates and prices of products. Nothing of it is ever late.

use serde::{Deserialize, Serialize};
use timely::dataflow::StreamVec;

use crate::model::{
    ActiveCampaign, CampaignEvent, Epoch, EventTime, Money, ProductMeta, ProductMetrics, Score, Text,
};
use crate::{Codec, CodecError, Column};

/// Where a record stands among the records of its topic: (partition, offset).
pub type Position = (u32, u64);

/// A campaign event: the campaign, the event's order, what the campaign is from then on.
pub type CampaignUpdate = (i64, (EventTime, Position), Option<ActiveCampaign<Text>>);

/// A change of a product's rates; None deletes them.
pub type RatesUpdate = (i64, Position, Option<Rates>);

/// A change of a product's price; None deletes it.
pub type PriceUpdate = (i64, Position, Option<Money>);

/// A product's click-through and conversion rate, as fractions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Rates {
    /// Clicks for each impression.
    pub ctr: Score,
    /// Conversions for each click.
    pub cvr: Score,
}

impl Rates {
    /// Rates from two fractions.
    pub fn new(ctr: f64, cvr: f64) -> Rates {
        Rates { ctr: Score(ctr), cvr: Score(cvr) }
    }
}

/// The input, by topic.
pub struct Updates<'scope> {
    /// Of `campaign-events`.
    pub campaigns: StreamVec<'scope, Epoch, CampaignUpdate>,
    /// Of `product-metrics`.
    pub rates: StreamVec<'scope, Epoch, RatesUpdate>,
    /// Of `product-meta`.
    pub prices: StreamVec<'scope, Epoch, PriceUpdate>,
}

/// The update that a record of `campaign-events` is.
pub fn campaign(event: CampaignEvent<&str>, position: Position) -> CampaignUpdate {
    let active = event.active.map(|active| ActiveCampaign {
        advertiser_id: active.advertiser_id,
        product_id: active.product_id,
        placement: Text::from(active.placement),
        category: Text::from(active.category),
        bid_price: active.bid_price,
    });
    (event.campaign_id, (event.time, position), active)
}

/// The update that a record of `product-metrics` is.
pub fn rates(event: &ProductMetrics, position: Position) -> RatesUpdate {
    (event.product_id, position, event.rates.map(|(ctr, cvr)| Rates::new(ctr, cvr)))
}

/// The update that a record of `product-meta` is.
pub fn price(event: &ProductMeta, position: Position) -> PriceUpdate {
    (event.product_id, position, event.price)
}

impl Column for ActiveCampaign<Text> {
    fn code(codec: &mut Codec<'_>, mut values: Vec<&mut Self>) -> Result<(), CodecError> {
        codec.column(&mut values, |campaign| &mut campaign.advertiser_id)?;
        codec.column(&mut values, |campaign| &mut campaign.product_id)?;
        codec.column(&mut values, |campaign| &mut campaign.placement)?;
        codec.column(&mut values, |campaign| &mut campaign.category)?;
        codec.column(&mut values, |campaign| &mut campaign.bid_price)
    }
}

impl Column for Rates {
    fn code(codec: &mut Codec<'_>, mut values: Vec<&mut Self>) -> Result<(), CodecError> {
        codec.column(&mut values, |rates| &mut rates.ctr)?;
        codec.column(&mut values, |rates| &mut rates.cvr)
    }
}
