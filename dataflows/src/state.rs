//! The rows that statements hold, as checkpoints know them.

use crate::conversion_matcher::{Conversion, Opener, RoutedClick};
use crate::duplicate_detector::PaidClick;
use crate::performance_aggregator::PartialSums;
use crate::rtb_cache_updater::{CampaignUpdate, PriceUpdate, RatesUpdate};
use crate::{RateSums, StateDelta};

/// A row that enters a statement's state. An operator that keeps such rows is in checkpoints without knowing what they are.
pub trait StateRow: Clone + 'static {
    /// The rows of this kind of the delta.
    fn rows(delta: &mut StateDelta) -> &mut Vec<Self>;
}

macro_rules! state_rows {
    ($($row:ty => $rows:ident),* $(,)?) => {
        $(impl StateRow for $row {
            fn rows(delta: &mut StateDelta) -> &mut Vec<Self> {
                &mut delta.$rows
            }
        })*
    };
}

state_rows! {
    CampaignUpdate => campaigns,
    RatesUpdate => rates,
    PriceUpdate => prices,
    RateSums => live_rates,
    PartialSums => sums,
    RoutedClick => clicks,
    Conversion => conversions,
    Opener => openers,
    PaidClick => paid_clicks,
}
