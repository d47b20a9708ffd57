//! Statement 1: the ranking of every (placement, category).
//!
//! ```text
//! campaign-events ─ newest ─ by product ───────────┐
//! product-metrics ─ newest ─┐                      ├ left join ─ score ─ top-k
//! product-meta ──── newest ─┴ outer join: facts ───┘
//! ```
//!
//! The newest event of a campaign is its state; what is not active is not in the collection, so it leaves its
//! ranking as a plain retraction. The cost of a change is one campaign through one join, and the logarithm of
//! its ranking's size; the two small product tables are joined with each other first. State: a row a campaign
//! and product, ever seen.

use std::cmp::Reverse;

use differential_dataflow::VecCollection;
use serde::{Deserialize, Serialize};

use crate::hash::RoutingKey;
use crate::model::{ActiveCampaign, Epoch, Money, Score, Text};
use crate::operators::{Ranked, left_join, newest, top_k};
use crate::performance_aggregator::PerformanceRow;
use crate::{DeltaLog, MetricsSource, Settings};

mod definition;
mod input;
mod live_rates;
pub mod oracle;
mod row;

pub use definition::definition;
pub use input::{CampaignUpdate, Position, PriceUpdate, Rates, RatesUpdate, Updates, campaign, price, rates};
pub use live_rates::RateSums;
pub use row::{RankingEntry, RankingRow};

/// What holds for a product without metrics.
const DEFAULT_CTR: f64 = 0.01;
const DEFAULT_CVR: f64 = 0.005;

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
        MetricsSource::Live { windows } => {
            live_rates::live_rates(performance, restored, windows, routing, delta_log)
        }
        MetricsSource::Topic => newest(rates, routing, delta_log, "NewestRates"),
    };
    let prices = newest(prices, routing, delta_log, "NewestPrice");

    let scored =
        left_join(by_product, facts(rates, prices)).map(|(_, (campaign, facts))| scored(campaign, facts));
    top_k(scored, settings.ranking_limit, routing, "Ranking").map(row)
}

/// A campaign by its id.
type Campaign = (i64, ActiveCampaign<Text>);

/// A campaign in its ranking: what it is ordered by, and the rest.
type RankedCampaign = ((Reverse<Score>, i64), (i64, Money, i64));

fn scored((campaign_id, campaign): Campaign, facts: Option<Facts>) -> ((Text, Text), RankedCampaign) {
    let facts = facts.unwrap_or_default();
    let rates = facts.rates.unwrap_or(Rates::new(DEFAULT_CTR, DEFAULT_CVR));
    let score = Score::new(campaign.bid_price, rates.ctr.0, rates.cvr.0, facts.price);
    let entry = (campaign.product_id, campaign.bid_price, campaign.advertiser_id);
    ((campaign.placement, campaign.category), ((Reverse(score), campaign_id), entry))
}

fn row(ranked: Ranked<(Text, Text), RankedCampaign>) -> RankingRow {
    let Ranked { group: (placement, category), first, total } = ranked;
    let entry = |((Reverse(score), campaign_id), (product_id, bid_price, advertiser_id))| RankingEntry {
        product_id,
        score,
        bid_price,
        campaign_id,
        advertiser_id,
    };
    RankingRow { placement, category, list: first.into_iter().map(entry).collect(), total_campaigns: total }
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
