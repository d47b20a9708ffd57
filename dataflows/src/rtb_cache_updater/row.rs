//! The rows of the result.

use serde::{Deserialize, Serialize};

use crate::model::{Money, Score, Text};

/// One campaign in a ranking.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RankingEntry {
    /// The advertised product.
    pub product_id: i64,
    /// What the list is ordered by, descending.
    pub score: Score,
    /// The campaign's bid.
    pub bid_price: Money,
    /// The campaign; ascending among equal scores.
    pub campaign_id: i64,
    /// Who pays.
    pub advertiser_id: i64,
}

/// The ranking of one (placement, category).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RankingRow {
    /// Where the ads are shown.
    pub placement: Text,
    /// The product category.
    pub category: Text,
    /// The best campaigns, best first, cut at `ranking.limit`.
    pub list: Vec<RankingEntry>,
    /// How many campaigns are active here, cut or not.
    pub total_campaigns: u64,
}
