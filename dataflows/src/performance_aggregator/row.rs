//! The rows of the result.

use serde::{Deserialize, Serialize};

use crate::model::{EventTime, Money, Text};

/// What events are grouped by.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PerformanceKey {
    /// The campaign.
    pub campaign_id: i64,
    /// The advertised product.
    pub product_id: i64,
    /// Where the ads were shown.
    pub placement: Text,
    /// The window is `[window_start, window_start + WINDOW_MS)`.
    pub window_start: EventTime,
}

/// What is summed up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PerformanceSums {
    /// Number of IMPRESSIONs.
    pub impressions: i64,
    /// Number of CLICKs.
    pub clicks: i64,
    /// Number of CONVERSIONs.
    pub conversions: i64,
    /// Sum of actual_price of CLICKs.
    pub spend: Money,
    /// Sum of revenue_amount of CONVERSIONs.
    pub revenue: Money,
}

impl std::ops::AddAssign for PerformanceSums {
    fn add_assign(&mut self, other: PerformanceSums) {
        self.impressions += other.impressions;
        self.clicks += other.clicks;
        self.conversions += other.conversions;
        self.spend += other.spend;
        self.revenue += other.revenue;
    }
}

impl PerformanceSums {
    /// Clicks in a hundred impressions; 0 without impressions.
    pub fn ctr(&self) -> f64 {
        ratio(self.clicks, self.impressions) * 100.0
    }

    /// Conversions in a hundred clicks; 0 without clicks.
    pub fn cvr(&self) -> f64 {
        ratio(self.conversions, self.clicks) * 100.0
    }

    /// Revenue for each unit spent; 0 without spend.
    pub fn roas(&self) -> f64 {
        ratio(self.revenue.0, self.spend.0)
    }
}

fn ratio(dividend: i64, divisor: i64) -> f64 {
    if divisor == 0 { 0.0 } else { dividend as f64 / divisor as f64 }
}

/// One window of one campaign, product and placement.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PerformanceRow {
    /// The natural key.
    pub key: PerformanceKey,
    /// The sums so far.
    pub sums: PerformanceSums,
    /// Whether the watermark has passed the window's end.
    pub is_final: bool,
}
