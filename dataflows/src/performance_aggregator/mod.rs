//! Statement 2: five-minute sums of each (campaign, product, placement).
//!
//! Records are summed beside their source for an epoch ([`PreAggregate`]), then exchanged by key to the worker that
//! keeps the window. Each touched key gives one changed row an epoch. State: the rows of the windows that still
//! take corrections.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::hash::BuildHasher;
use std::rc::Rc;

use differential_dataflow::VecCollection;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Exchange;

use crate::hash::{HashMap, RandomState, RoutingKey, table_bytes};
use crate::model::{
    AdEvent, AdEventType, Epoch, EventTime, PerformanceKey, PerformanceRow, PerformanceSums, Text, WINDOW_MS,
};
use crate::operators::{EpochLogic, Watermarks, epochs};
use crate::{DeltaLog, Emit, Settings, StateDelta};

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
    /// Adds an event of a campaign.
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

/// How much statement 2 holds, for metrics and tests.
#[derive(Debug, Default)]
pub struct AggregatorState {
    /// Rows of the windows that still take corrections.
    pub rows: Cell<usize>,
    /// The memory allocated for them, texts of placements not counted.
    pub bytes: Cell<usize>,
}

/// The metrics of every window, final once the watermark has passed its end. With [`Emit::OnClose`], only final
/// rows are in the collection. Rows of windows that no longer take corrections stay in it, but are forgotten here.
pub fn performance_aggregator<'scope>(
    sums: StreamVec<'scope, Epoch, PartialSums>,
    watermarks: StreamVec<'scope, Epoch, Watermarks>,
    settings: &Settings,
    routing: RoutingKey,
    delta_log: &DeltaLog,
) -> (VecCollection<'scope, Epoch, PerformanceRow>, Rc<AggregatorState>) {
    let state = Rc::new(AggregatorState::default());
    let logic = Aggregator {
        windows: BTreeMap::new(),
        emit_open: settings.emit == Emit::OnUpdate,
        allowed_lateness: settings.allowed_lateness,
        keeps: false,
        state: Rc::clone(&state),
    };
    let exchange = Exchange::new(move |(key, _): &PartialSums| routing.hash(&(key.campaign_id, key.product_id)));
    (epochs(sums, exchange, watermarks, |marks| marks.performance, "PerformanceAggregator", delta_log, logic), state)
}

struct Aggregator {
    windows: BTreeMap<EventTime, Window>,
    emit_open: bool,
    allowed_lateness: i64,
    /// Whether rows have to know what no checkpoint has.
    keeps: bool,
    state: Rc<AggregatorState>,
}

#[derive(Default)]
struct Window {
    closed: bool,
    rows: Vec<Row>,
    /// Rows with increments that no checkpoint has.
    unsaved: Vec<u32>,
    index: HashTable<u32>,
    hasher: RandomState,
    /// Rows that changed in this epoch.
    touched: Vec<u32>,
}

struct Row {
    campaign_id: i64,
    product_id: i64,
    placement: Text,
    sums: PerformanceSums,
    /// The part of them that no checkpoint has.
    unsaved: PerformanceSums,
    /// What is in the collection: the sums and whether as final.
    emitted: Option<(PerformanceSums, bool)>,
    touched: bool,
}

impl EpochLogic for Aggregator {
    type In = PartialSums;
    type Out = PerformanceRow;

    fn epoch(&mut self, records: Vec<PartialSums>, watermark: EventTime, mut emit: impl FnMut(PerformanceRow, isize)) {
        for (key, sums) in records {
            self.windows.entry(key.window_start).or_default().add(key, sums, self.keeps);
        }
        for (&start, window) in &mut self.windows {
            let closes = !window.closed && watermark >= start.plus(WINDOW_MS);
            window.closed |= closes;
            window.emit(start, closes, self.emit_open, &mut emit);
        }
        while let Some(window) = self.windows.first_entry()
            && window.key().plus(WINDOW_MS - 1 + self.allowed_lateness) < watermark
        {
            window.remove();
        }
        self.state.rows.set(self.windows.values().map(|window| window.rows.len()).sum());
        self.state.bytes.set(self.windows.values().map(Window::bytes).sum());
    }

    fn flush(&mut self, mut to: Option<&mut StateDelta>) {
        self.keeps = true;
        for (&window_start, window) in &mut self.windows {
            for index in window.unsaved.drain(..) {
                let row = &mut window.rows[index as usize];
                let sums = std::mem::take(&mut row.unsaved);
                if let Some(to) = &mut to {
                    to.extend([(row.key(window_start), sums)]);
                }
            }
        }
    }
}

impl Window {
    fn bytes(&self) -> usize {
        self.rows.capacity() * size_of::<Row>() + table_bytes::<u32>(self.index.capacity())
    }

    fn add(&mut self, key: PerformanceKey, sums: PerformanceSums, keep: bool) {
        let hasher = &self.hasher;
        let hash = |campaign: i64, product: i64, placement: &str| hasher.hash_one((campaign, product, placement));
        let rows = &mut self.rows;
        let entry = self.index.entry(
            hash(key.campaign_id, key.product_id, &key.placement),
            |&index| {
                let row = &rows[index as usize];
                (row.campaign_id, row.product_id) == (key.campaign_id, key.product_id) && row.placement == key.placement
            },
            |&index| {
                let row = &rows[index as usize];
                hash(row.campaign_id, row.product_id, &row.placement)
            },
        );
        let index = match entry {
            Entry::Occupied(found) => *found.get(),
            Entry::Vacant(slot) => {
                let index = rows.len() as u32;
                slot.insert(index);
                rows.push(Row {
                    campaign_id: key.campaign_id,
                    product_id: key.product_id,
                    placement: key.placement,
                    sums: PerformanceSums::default(),
                    unsaved: PerformanceSums::default(),
                    emitted: None,
                    touched: false,
                });
                index
            }
        };
        let row = &mut rows[index as usize];
        row.sums += sums;
        if keep {
            // What is summed up here counts something, so a row that has no increment yet has none at all.
            if row.unsaved == PerformanceSums::default() {
                self.unsaved.push(index);
            }
            row.unsaved += sums;
        }
        if !row.touched {
            row.touched = true;
            self.touched.push(index);
        }
    }

    /// Emits the touched rows, or all of them when the window closes.
    fn emit(
        &mut self,
        window_start: EventTime,
        closes: bool,
        emit_open: bool,
        emit: &mut impl FnMut(PerformanceRow, isize),
    ) {
        let touched = std::mem::take(&mut self.touched);
        for &index in &touched {
            self.rows[index as usize].touched = false;
        }
        if closes {
            for row in &mut self.rows {
                row.emit(window_start, true, emit);
            }
        } else if self.closed || emit_open {
            for index in touched {
                self.rows[index as usize].emit(window_start, self.closed, emit);
            }
        }
    }
}

impl Row {
    fn key(&self, window_start: EventTime) -> PerformanceKey {
        let (campaign_id, product_id, placement) = (self.campaign_id, self.product_id, self.placement.clone());
        PerformanceKey { campaign_id, product_id, placement, window_start }
    }

    fn emit(&mut self, window_start: EventTime, is_final: bool, emit: &mut impl FnMut(PerformanceRow, isize)) {
        let now = (self.sums, is_final);
        let before = self.emitted.replace(now);
        if before == Some(now) {
            return;
        }
        let row = |(sums, is_final)| PerformanceRow { key: self.key(window_start), sums, is_final };
        if let Some(before) = before {
            emit(row(before), -1);
        }
        emit(row(now), 1);
    }
}
