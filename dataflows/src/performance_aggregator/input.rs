//! What the statement reads: the events of `ad-events` that name a campaign, summed beside their source.

use std::hash::BuildHasher;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::{PerformanceKey, PerformanceSums};
use crate::hash::{HashMap, RandomState, RoutingKey};
use crate::model::{AdEvent, AdEventType, EventTime, Text, WINDOW_MS};

/// The sums that one source found for one key within one epoch.
pub type PartialSums = (PerformanceKey, PerformanceSums);

/// Sums an epoch's events before they are exchanged.
#[derive(Default)]
pub struct PreAggregate {
    placements: Vec<Text>,
    placement_index: HashTable<u32>,
    hasher: RandomState,
    sums: HashMap<(i64, i64, u32, EventTime), PerformanceSums>,
}

impl PreAggregate {
    /// Adds an event that names a campaign. It is late from [`deadline`] on.
    #[inline]
    pub fn add(&mut self, campaign_id: i64, event: &AdEvent<&str>) {
        let key = (campaign_id, event.product_id, self.placement(event.placement), event.time.window_start());
        let sums = self.sums.entry(key).or_default();
        match event.event_type {
            AdEventType::Impression => sums.impressions += 1,
            AdEventType::Click => {
                sums.clicks += 1;
                sums.spend += event.actual_price;
            }
            AdEventType::Conversion => {
                sums.conversions += 1;
                sums.revenue += event.revenue_amount;
            }
        }
    }

    #[inline]
    fn placement(&mut self, name: &str) -> u32 {
        let (placements, hasher) = (&mut self.placements, &self.hasher);
        let entry = self.placement_index.entry(
            hasher.hash_one(name),
            |&index| *placements[index as usize] == *name,
            |&index| hasher.hash_one(&*placements[index as usize]),
        );
        match entry {
            Entry::Occupied(found) => *found.get(),
            Entry::Vacant(slot) => {
                let index = placements.len() as u32;
                placements.push(Text::from(name));
                slot.insert(index);
                index
            }
        }
    }

    /// Moves the sums to `out` and starts the next epoch.
    pub fn drain_into(&mut self, out: &mut Vec<PartialSums>) {
        const MANY_PLACEMENTS: usize = 10_000;
        out.reserve(self.sums.len());
        for ((campaign_id, product_id, placement, window_start), sums) in self.sums.drain() {
            let placement = self.placements[placement as usize].clone();
            out.push((PerformanceKey { campaign_id, product_id, placement, window_start }, sums));
        }
        // Names are kept from epoch to epoch, unless somebody sends ever new ones.
        if self.placements.len() > MANY_PLACEMENTS {
            self.placements.clear();
            self.placement_index.clear();
        }
    }
}

/// The last moment of the event's window: once the watermark is past it, the event is late.
#[inline]
pub fn deadline(event: &AdEvent<&str>) -> EventTime {
    event.time.window_start().plus(WINDOW_MS - 1)
}

/// All of a product's rows of a campaign are on one worker.
pub fn route(sums: &PartialSums, routing: RoutingKey) -> u64 {
    routing.hash(&(sums.0.campaign_id, sums.0.product_id))
}
