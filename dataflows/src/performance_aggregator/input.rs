//! What the statement reads: the events of `ad-events` that name a campaign, summed beside their source.

use std::collections::hash_map;
use std::hash::{BuildHasher, Hash};

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::{PerformanceKey, PerformanceSums};
use crate::hash::{HashMap, RandomState, RoutingKey};
use crate::model::{AdEvent, AdEventType, EventTime, Text, WINDOW_MS};
use crate::{Codec, CodecError, Column, Expiry, StateRow};

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

impl StateRow for PartialSums {
    const EXPIRY: Option<Expiry> =
        Some(|start, forgotten, _| start.window_start().plus(WINDOW_MS - 1) < forgotten.performance);

    fn time(&self) -> Option<EventTime> {
        Some(self.0.window_start)
    }

    fn sort(rows: &mut [PartialSums]) {
        rows.sort_by(|one, other| {
            let key = |row: &PartialSums| (row.0.window_start, row.0.campaign_id, row.0.product_id);
            key(one).cmp(&key(other))
        });
    }

    fn columns(rows: &mut [PartialSums], codec: &mut Codec<'_>) -> Result<(), CodecError> {
        codec.column(rows, |row| &mut row.0.window_start)?;
        codec.column(rows, |row| &mut row.0.campaign_id)?;
        codec.column(rows, |row| &mut row.0.product_id)?;
        codec.column(rows, |row| &mut row.0.placement)?;
        codec.column(rows, |row| &mut row.1)
    }

    fn compact(rows: &mut Vec<PartialSums>) {
        let added = added(rows.drain(..));
        rows.extend(added);
    }
}

impl Column for PerformanceSums {
    fn code(codec: &mut Codec<'_>, mut values: Vec<&mut Self>) -> Result<(), CodecError> {
        codec.column(&mut values, |sums| &mut sums.impressions)?;
        codec.column(&mut values, |sums| &mut sums.clicks)?;
        codec.column(&mut values, |sums| &mut sums.conversions)?;
        codec.column(&mut values, |sums| &mut sums.spend)?;
        codec.column(&mut values, |sums| &mut sums.revenue)
    }
}

/// The sums of each key.
pub fn added<K: Eq + Hash>(
    rows: impl IntoIterator<Item = (K, PerformanceSums)>,
) -> hash_map::IntoIter<K, PerformanceSums> {
    let mut totals: HashMap<K, PerformanceSums> = HashMap::default();
    for (key, sums) in rows {
        *totals.entry(key).or_default() += sums;
    }
    totals.into_iter()
}
