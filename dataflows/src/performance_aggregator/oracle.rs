//! Statement 2.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{AdEvent, AdEventType, EventTime, Money, Topic};
use crate::oracle::{
    Claims, LateRecords, Lateness, Located, in_offset_order, is_closed, location, window_closes,
};
use crate::performance_aggregator::{PerformanceKey, PerformanceRow, PerformanceSums};
use crate::{Emit, Settings};

/// The rows of statement 2 by their key.
pub type PerformanceRows = BTreeMap<PerformanceKey, PerformanceRow>;

/// Statement 2: what every window of a campaign, product and placement sums up to.
#[derive(Clone, Debug, Default)]
pub struct Performance {
    /// The rows; all final, unless [`Performance::close`] says otherwise.
    pub rows: PerformanceRows,
    /// The events that came too late.
    pub late: LateRecords,
    /// How many events had no campaign_id.
    pub without_campaign: u64,
    lateness: Lateness,
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
    /// Nothing yet.
    pub fn new(claims: Claims) -> Performance {
        Performance { lateness: Lateness::new(claims), ..Performance::default() }
    }

    /// Takes the next event of its partition.
    pub fn add<S: AsRef<str>>(&mut self, located: &Located<AdEvent<S>>, settings: &Settings) {
        let event = &located.event;
        let closes = window_closes(event.time, settings);
        let at = location(Topic::AdEvents, located);
        let late = self.lateness.see(at, event.time, closes, settings.performance_bound);
        let Some(campaign_id) = event.campaign_id else {
            self.without_campaign += 1;
            return;
        };
        if let Some(late) = late {
            self.late.add(at, late);
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

    /// Takes the windows that the watermark has not passed for open ones. How many those are.
    pub fn close(&mut self, watermark: EventTime, settings: &Settings) -> usize {
        let mut open = BTreeSet::new();
        for row in self.rows.values_mut() {
            row.is_final = is_closed(row.key.window_start, watermark);
            if !row.is_final {
                open.insert(row.key.window_start);
            }
        }
        if settings.emit == Emit::OnClose {
            self.rows.retain(|_, row| row.is_final);
        }
        open.len()
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
