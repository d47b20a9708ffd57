//! The statement in plain differential operators.

use differential_dataflow::VecCollection;

use super::{RankingRow, RateSums, Updates, facts, live_rates, row, scored};
use crate::hash::RoutingKey;
use crate::model::Epoch;
use crate::operators::{at_epochs, left_join, newest, recorded, top_k};
use crate::performance_aggregator::PerformanceRow;
use crate::{DeltaLog, MetricsSource, Settings};

/// What [`rtb_cache_updater`](super::rtb_cache_updater()) computes: reduces to the newest, joins, and a
/// reduce that sorts and cuts. It keeps all updates for ever.
pub fn definition<'scope>(
    updates: Updates<'scope>,
    performance: VecCollection<'scope, Epoch, PerformanceRow>,
    restored: VecCollection<'scope, Epoch, RateSums>,
    settings: &Settings,
    _routing: RoutingKey,
    delta_log: &DeltaLog,
) -> VecCollection<'scope, Epoch, RankingRow> {
    let Updates { campaigns, rates, prices } = updates;
    let by_product = newest::definition(at_epochs(recorded(campaigns, delta_log)))
        .map(|(campaign_id, campaign)| (campaign.product_id, (campaign_id, campaign)));
    let rates = match settings.product_metrics {
        MetricsSource::Live { windows } => live_rates::definition(performance, restored, windows, delta_log),
        MetricsSource::Topic => newest::definition(at_epochs(recorded(rates, delta_log))),
    };
    let prices = newest::definition(at_epochs(recorded(prices, delta_log)));
    let scored = left_join::definition(by_product, facts(rates, prices))
        .map(|(_, (campaign, facts))| scored(campaign, facts));
    top_k::definition(scored, settings.ranking_limit).map(row)
}
