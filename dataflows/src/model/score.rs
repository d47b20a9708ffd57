//! What campaigns are ranked by.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use super::Money;

/// The rank value of a campaign: `bid_price * ctr + 0.1 * ctr * cvr * product_price`, in major units.
/// Totally ordered, so that a ranking has one order.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
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
