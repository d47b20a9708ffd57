//! Statement 1: the ranking of every (placement, category).
//!
//! ```text
//! campaign-events ─ newest ─ by product ───────────┐
//! product-metrics ─ newest ─┐                      ├ left join ─ score ─ top-k
//! product-meta ──── newest ─┴ outer join: facts ───┘
//! ```
//!
//! The newest event of a campaign is its state; what is not active is not in the collection, so it leaves its
//! ranking as a plain retraction. The cost of a change is one campaign through one join, and the logarithm of its
//! ranking's size; the two small product tables are joined with each other first. State: a row a campaign and
//! product, ever seen.

use std::cmp::Reverse;

use differential_dataflow::VecCollection;
use serde::{Deserialize, Serialize};
use timely::dataflow::StreamVec;

use crate::hash::RoutingKey;
use crate::model::{ActiveCampaign, Epoch, EventTime, Money, PerformanceRow, RankingEntry, RankingRow, Score, Text};
use crate::operators::{Ranked, left_join, newest, top_k};
use crate::{DeltaLog, MetricsSource, RateSums, Settings};

mod live_rates;

/// Where a record stands among the records of its topic: (partition, offset).
pub type Position = (u32, u64);

/// A campaign event: the campaign, the event's order, what the campaign is from then on.
pub type CampaignUpdate = (i64, (EventTime, Position), Option<ActiveCampaign<Text>>);

/// A change of a product's rates; None deletes them.
pub type RatesUpdate = (i64, Position, Option<Rates>);

/// A change of a product's price; None deletes it.
pub type PriceUpdate = (i64, Position, Option<Money>);

/// A product's click-through and conversion rate, as fractions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
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

/// What holds for a product without metrics.
const DEFAULT_CTR: f64 = 0.01;
const DEFAULT_CVR: f64 = 0.005;

/// What statement 1 reads.
pub struct Updates<'scope> {
    /// Of `campaign-events`.
    pub campaigns: StreamVec<'scope, Epoch, CampaignUpdate>,
    /// Of `product-metrics`.
    pub rates: StreamVec<'scope, Epoch, RatesUpdate>,
    /// Of `product-meta`.
    pub prices: StreamVec<'scope, Epoch, PriceUpdate>,
}

/// The rankings, at most `settings.ranking_limit` long.
///
/// `performance` is the output of statement 2; it and what is `restored` of live rates are read only if
/// `settings.product_metrics` is live.
pub fn rtb_cache_updater<'scope>(
    updates: Updates<'scope>,
    performance: VecCollection<'scope, Epoch, PerformanceRow>,
    restored: VecCollection<'scope, Epoch, RateSums>,
    settings: &Settings,
    routing: RoutingKey,
    delta_log: &DeltaLog,
) -> VecCollection<'scope, Epoch, RankingRow> {
    let Updates { campaigns, rates, prices } = updates;
    let by_product = newest(campaigns, routing, delta_log, "NewestCampaign")
        .map(|(campaign_id, campaign)| (campaign.product_id, (campaign_id, campaign)));
    let rates = match settings.product_metrics {
        MetricsSource::Live { windows } => live_rates::live_rates(performance, restored, windows, routing, delta_log),
        MetricsSource::Topic => newest(rates, routing, delta_log, "NewestRates"),
    };
    let prices = newest(prices, routing, delta_log, "NewestPrice");

    let scored = left_join(by_product, facts(rates, prices)).map(|(product_id, ((campaign_id, campaign), facts))| {
        let facts = facts.unwrap_or_default();
        let rates = facts.rates.unwrap_or(Rates::new(DEFAULT_CTR, DEFAULT_CVR));
        let score = Score::new(campaign.bid_price, rates.ctr.0, rates.cvr.0, facts.price);
        let rank = (Reverse(score), campaign_id);
        let entry = (product_id, campaign.bid_price, campaign.advertiser_id);
        ((campaign.placement, campaign.category), (rank, entry))
    });
    top_k(scored, settings.ranking_limit, routing, "Ranking").map(|Ranked { group, first, total }| RankingRow {
        placement: group.0,
        category: group.1,
        list: first
            .into_iter()
            .map(|((Reverse(score), campaign_id), (product_id, bid_price, advertiser_id))| RankingEntry {
                product_id,
                score,
                bid_price,
                campaign_id,
                advertiser_id,
            })
            .collect(),
        total_campaigns: total,
    })
}

/// What is known of a product.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Facts {
    rates: Option<Rates>,
    price: Option<Money>,
}

/// The outer join of the two product tables, each with at most one value a product.
fn facts<'scope>(
    rates: VecCollection<'scope, Epoch, (i64, Rates)>,
    prices: VecCollection<'scope, Epoch, (i64, Money)>,
) -> VecCollection<'scope, Epoch, (i64, Facts)> {
    let rates = rates.map(|(product_id, rates)| (product_id, Facts { rates: Some(rates), price: None }));
    let prices = prices.map(|(product_id, price)| (product_id, Facts { rates: None, price: Some(price) }));
    rates.concat(prices).reduce_named("Facts", |_, known, joined| {
        let both = known.iter().fold(Facts::default(), |both, (facts, _)| Facts {
            rates: both.rates.or(facts.rates),
            price: both.price.or(facts.price),
        });
        joined.push((both, 1isize));
    })
}
