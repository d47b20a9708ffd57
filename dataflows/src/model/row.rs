//! The rows that go out, one type a statement.

use std::cmp::Ordering;
use std::fmt::Write;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{AdId, EventTime, Money, Text};

/// The rank value of a campaign: `bid_price * ctr + 0.1 * ctr * cvr * product_price`, in major units.
/// Totally ordered, so that a ranking has one order.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Score(pub f64);

impl Score {
    /// Statement 1's formula, evaluated in this order; no price, no second term. The rates are finite and not
    /// negative, and so is the score: it stops at the greatest number.
    pub fn new(bid_price: Money, ctr: f64, cvr: f64, product_price: Option<Money>) -> Score {
        let second = match product_price {
            // Left out rather than multiplied by: the rates' product may be infinite.
            None | Some(Money::ZERO) => 0.0,
            Some(price) => 0.1 * ctr * cvr * price.to_f64(),
        };
        // Rates of -0 are zero, and make no score of -0, which would rank below 0.
        Score((bid_price.to_f64() * ctr + second).min(f64::MAX) + 0.0)
    }
}

impl PartialEq for Score {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Score {}

impl PartialOrd for Score {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Score {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

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

/// Statement 1: the ranking of one (placement, category).
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

/// What statement 2 groups by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
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

/// What statement 2 sums up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
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

/// Statement 2: one window of one campaign, product and placement.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PerformanceRow {
    /// The natural key.
    pub key: PerformanceKey,
    /// The sums so far.
    pub sums: PerformanceSums,
    /// Whether the watermark has passed the window's end.
    pub is_final: bool,
}

/// Statement 3: the click that a conversion is attributed to. The key is (order_id, product_id); the model is
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

/// Statement 4: a refund for the clicks that one device made on one ad within a window, all but the first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Compensation {
    /// Who is paid back.
    pub advertiser_id: i64,
    /// The ad's campaign, where known.
    pub campaign_id: Option<i64>,
    /// The clicked ad.
    pub ad_id: AdId,
    /// The device that clicked.
    pub device_id: Text,
    /// What each click cost.
    pub actual_price: Money,
    /// Start of the detection window.
    pub window_start: EventTime,
    /// n: all clicks of the group so far.
    pub clicks: u64,
    /// The times of the clicks that are new since the group's record before this one, ascending: at most
    /// [`LISTED`](Compensation::LISTED).
    pub click_times: Vec<EventTime>,
    /// Whether more clicks are new than `click_times` lists.
    pub is_cut: bool,
    /// What is owed now: the increase since the group's record before this one.
    pub refund_amount: Money,
}

impl Compensation {
    /// How many clicks a record lists, the earliest: its size does not grow with its group.
    pub const LISTED: usize = 1000;

    /// The record's identity and message key: 128 bits in hex of the SHA-256 of (group, window start, n).
    ///
    /// It comes from n and not from a count of records sent, so a replay gives the same ids however it is
    /// batched.
    pub fn id(&self) -> String {
        let group = serde_json::json!([
            self.advertiser_id,
            self.campaign_id,
            self.ad_id.to_string(),
            &*self.device_id,
            self.actual_price.0,
            self.window_start.0,
            self.clicks,
        ]);
        let digest = Sha256::digest(group.to_string().as_bytes());
        digest.iter().take(16).fold(String::with_capacity(32), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        })
    }
}
