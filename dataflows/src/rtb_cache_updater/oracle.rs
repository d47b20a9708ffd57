//! Statement 1.

use std::collections::BTreeMap;

use crate::model::{ActiveCampaign, CampaignEvent, EventTime, ProductMeta, ProductMetrics, Score, Text};
use crate::oracle::{Located, in_offset_order};
use crate::performance_aggregator::PerformanceSums;
use crate::performance_aggregator::oracle::PerformanceRows;
use crate::rtb_cache_updater::{RankingEntry, RankingRow};
use crate::{MetricsSource, Settings};

/// ctr and cvr of a product without metrics.
const DEFAULT_RATES: (f64, f64) = (0.01, 0.005);

/// The rankings by (placement, category).
pub type Rankings = BTreeMap<(Text, Text), RankingRow>;

/// Statement 1: the rankings. `performance` is read only where the metrics are live.
pub fn rankings<S: AsRef<str>>(
    campaigns: &[Located<CampaignEvent<S>>],
    metrics: &[Located<ProductMetrics>],
    meta: &[Located<ProductMeta>],
    performance: &PerformanceRows,
    settings: &Settings,
) -> Rankings {
    let rates = match settings.product_metrics {
        MetricsSource::Topic => latest(metrics, |record| (record.product_id, record.rates)),
        MetricsSource::Live { windows } => live_rates(performance, windows),
    };
    let prices = latest(meta, |record| (record.product_id, record.price));
    let mut rankings = Rankings::new();
    for (campaign_id, campaign) in active_campaigns(campaigns) {
        let (ctr, cvr) = rates.get(&campaign.product_id).copied().unwrap_or(DEFAULT_RATES);
        let price = prices.get(&campaign.product_id).copied();
        let (placement, category) =
            (Text::from(campaign.placement.as_ref()), Text::from(campaign.category.as_ref()));
        let ranking = rankings.entry((placement.clone(), category.clone())).or_insert_with(|| RankingRow {
            placement,
            category,
            list: Vec::new(),
            total_campaigns: 0,
        });
        ranking.total_campaigns += 1;
        ranking.list.push(RankingEntry {
            product_id: campaign.product_id,
            score: Score::new(campaign.bid_price, ctr, cvr, price),
            bid_price: campaign.bid_price,
            campaign_id,
            advertiser_id: campaign.advertiser_id,
        });
    }
    for ranking in rankings.values_mut() {
        ranking.list.sort_by(|a, b| b.score.cmp(&a.score).then(a.campaign_id.cmp(&b.campaign_id)));
        if settings.ranking_limit > 0 {
            ranking.list.truncate(settings.ranking_limit);
        }
    }
    rankings
}

/// The campaigns whose newest event leaves them active.
fn active_campaigns<S>(events: &[Located<CampaignEvent<S>>]) -> BTreeMap<i64, &ActiveCampaign<S>> {
    let age = |located: &Located<CampaignEvent<S>>| (located.event.time, located.partition, located.offset);
    let mut newest: BTreeMap<i64, &Located<CampaignEvent<S>>> = BTreeMap::new();
    for located in events {
        let state = newest.entry(located.event.campaign_id).or_insert(located);
        if age(located) > age(state) {
            *state = located;
        }
    }
    newest.into_iter().filter_map(|(id, located)| Some((id, located.event.active.as_ref()?))).collect()
}

/// The value that each product's last record leaves; a record without a value deletes it.
fn latest<E, V>(events: &[Located<E>], entry: impl Fn(&E) -> (i64, Option<V>)) -> BTreeMap<i64, V> {
    let mut values = BTreeMap::new();
    for located in in_offset_order(events) {
        match entry(&located.event) {
            (product, Some(value)) => values.insert(product, value),
            (product, None) => values.remove(&product),
        };
    }
    values
}

/// ctr and cvr of each product over the last `windows` closed windows in which it has any row.
fn live_rates(performance: &PerformanceRows, windows: usize) -> BTreeMap<i64, (f64, f64)> {
    let mut by_window: BTreeMap<i64, BTreeMap<EventTime, PerformanceSums>> = BTreeMap::new();
    for (key, row) in performance.iter().filter(|(_, row)| row.is_final) {
        *by_window.entry(key.product_id).or_default().entry(key.window_start).or_default() += row.sums;
    }
    let mut rates = BTreeMap::new();
    for (product, by_window) in by_window {
        let last: Vec<_> = by_window.values().rev().take(windows).collect();
        if last.is_empty() {
            continue;
        }
        let impressions = last.iter().map(|sums| sums.impressions).sum();
        let clicks = last.iter().map(|sums| sums.clicks).sum();
        let conversions = last.iter().map(|sums| sums.conversions).sum();
        rates.insert(product, (fraction(clicks, impressions), fraction(conversions, clicks)));
    }
    rates
}

fn fraction(part: i64, whole: i64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}
