//! Statement 2.

use std::collections::BTreeMap;

use adtide_dataflows::Settings;
use adtide_dataflows::model::{AdEvent, AdEventType, Money, PerformanceKey, PerformanceRow, PerformanceSums};

use super::super::input::{Located, Location};
use super::{Progress, ad_location, in_offset_order, window_closes};

/// The rows of statement 2 by their key.
pub type PerformanceRows = BTreeMap<PerformanceKey, PerformanceRow>;

/// Statement 2: what every window of a campaign, product and placement sums up to.
#[derive(Clone, Debug, Default)]
pub struct Performance {
    /// The rows, all final.
    pub rows: PerformanceRows,
    /// The events that came too late.
    pub late: Vec<Location>,
    /// How many events had no campaign_id.
    pub without_campaign: u64,
    progress: Progress,
}

/// Statement 2 of events in memory.
pub fn performance<S: AsRef<str>>(ads: &[Located<AdEvent<S>>], settings: &Settings) -> Performance {
    let mut performance = Performance::default();
    for located in in_offset_order(ads) {
        performance.add(located, settings);
    }
    performance
}

impl Performance {
    /// Takes the next event of its partition.
    pub fn add<S: AsRef<str>>(&mut self, located: &Located<AdEvent<S>>, settings: &Settings) {
        let event = &located.event;
        let closes = window_closes(event.time, settings);
        let late = self.progress.has_passed(located.partition, closes, settings.performance_bound);
        self.progress.see(located.partition, event.time);
        let Some(campaign_id) = event.campaign_id else {
            self.without_campaign += 1;
            return;
        };
        if late {
            self.late.push(ad_location(located));
            return;
        }
        let key = PerformanceKey {
            campaign_id,
            product_id: event.product_id,
            placement: event.placement.as_ref().into(),
            window_start: event.time.window_start(),
        };
        let row = self.rows.entry(key.clone()).or_insert_with(|| PerformanceRow {
            key,
            sums: PerformanceSums::default(),
            is_final: true,
        });
        count(&mut row.sums, event);
    }
}

fn count<S>(sums: &mut PerformanceSums, event: &AdEvent<S>) {
    match event.event_type {
        AdEventType::Impression => sums.impressions += 1,
        AdEventType::Click => {
            sums.clicks += 1;
            sums.spend = plus(sums.spend, event.actual_price);
        }
        AdEventType::Conversion => {
            sums.conversions += 1;
            sums.revenue = plus(sums.revenue, event.revenue_amount);
        }
    }
}

/// A sum that nobody can owe stays at its greatest value and shows as a difference.
fn plus(sum: Money, amount: Money) -> Money {
    Money(sum.0.saturating_add(amount.0))
}
