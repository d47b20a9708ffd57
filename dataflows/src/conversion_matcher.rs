//! Statement 3: the last click before each conversion.
//!
//! Clicks and conversions meet by product: a conversion's candidates are clicks of the same product, so both of its
//! lookups, by device and by session, are on one worker and a click is kept once. A hot product is no danger: one
//! worker takes several hundred thousand clicks a second.
//!
//! State: clicks until no conversion that could match them can still come, conversions until no better click can, and
//! the identity of a conversion as long as a click, so that a repeat is known as one.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

use differential_dataflow::VecCollection;
use rustc_hash::{FxHashMap, FxHashSet};
use serde::{Deserialize, Serialize};
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Exchange;

use crate::hash::{mix, table_bytes};
use crate::model::{AdId, AttributionRow, Epoch, EventTime, IdHash, Money, Text};
use crate::operators::{EpochLogic, Watermarks, epochs};
use crate::{Entered, Journal, RoutedClick, Settings};

mod click_store;

use click_store::ClickStore;

/// What statement 3 reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MatchEvent {
    /// A CLICK of `ad-events`.
    Click(RoutedClick),
    /// A record of `conversion-events`.
    Conversion(Conversion),
}

/// A click as it waits for conversions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredClick {
    /// By device and by session, hashed with the product; None where the id is not known.
    pub keys: [Option<MatchKey>; 2],
    /// Event time of the click.
    pub click_time: EventTime,
    /// The ad, where known.
    pub ad_id: Option<AdId>,
    /// The campaign, where known.
    pub campaign_id: Option<i64>,
    /// Who paid.
    pub advertiser_id: i64,
}

/// The hash that a product's clicks and conversions are routed by.
pub fn route(product_id: i64) -> u32 {
    mix(&[product_id]) as u32
}

impl StoredClick {
    /// What candidates are compared by, the greatest wins. The advertiser decides only between clicks that
    /// contradict each other about who owns the campaign.
    fn rank(&self) -> (EventTime, &Option<AdId>, Option<i64>, i64) {
        (self.click_time, &self.ad_id, self.campaign_id, self.advertiser_id)
    }
}

/// A device or session together with a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MatchKey(IdHash);

impl MatchKey {
    /// Its hash, to be stored.
    pub fn hash(self) -> IdHash {
        self.0
    }

    /// From its hash.
    pub fn of_hash(hash: IdHash) -> MatchKey {
        MatchKey(hash)
    }

    /// The keys of a record: by device and by session.
    pub fn pair(product_id: i64, device_id: Option<&str>, session_id: Option<&str>) -> [Option<MatchKey>; 2] {
        let product = product_id.to_le_bytes();
        // The first part keeps a device apart from a session of the same name.
        [(b"d", device_id), (b"s", session_id)]
            .map(|(kind, id)| id.map(|id| MatchKey(IdHash::of_parts(&[kind, &product, id.as_bytes()]))))
    }
}

/// A conversion as it waits for better clicks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conversion {
    /// By device and by session.
    pub keys: [Option<MatchKey>; 2],
    /// Event time, partition and offset: among repeats, the least stands.
    pub order: (EventTime, u32, u64),
    /// The latest event time of this one and of the repeats that it took the place of: so long its identity is known.
    pub latest: EventTime,
    /// The order; with the product, the conversion's identity.
    pub order_id: Text,
    /// The product sold.
    pub product_id: i64,
    /// What it earned.
    pub revenue_amount: Money,
}

impl Conversion {
    fn id(&self) -> IdHash {
        IdHash::of_parts(&[&self.product_id.to_le_bytes(), self.order_id.as_bytes()])
    }
}

/// How much statement 3 holds and has seen, for metrics and tests.
#[derive(Debug, Default)]
pub struct MatcherState {
    /// Live clicks.
    pub clicks: Cell<usize>,
    /// Bytes of memory for them, indexes included.
    pub click_bytes: Cell<usize>,
    /// Conversions that a better click could still reach.
    pub open_conversions: Cell<usize>,
    /// Identities of conversions, open ones not counted.
    pub closed_conversions: Cell<usize>,
    /// Bytes of memory for open and closed conversions, about, texts of ids not counted.
    pub conversion_bytes: Cell<usize>,
    /// Conversions that repeated another and were ignored.
    pub repeats: Cell<u64>,
}

/// For every conversion that has a candidate, its best click.
///
/// The collection is right at every moment for the records so far: a row changes when a better click or an earlier
/// repeat of its conversion comes. Rows whose conversion is closed stay in it, but are forgotten here.
pub fn conversion_matcher<'scope>(
    events: StreamVec<'scope, Epoch, MatchEvent>,
    watermarks: StreamVec<'scope, Epoch, Watermarks>,
    settings: &Settings,
    journal: &Journal,
) -> (VecCollection<'scope, Epoch, AttributionRow>, Rc<MatcherState>) {
    let state = Rc::new(MatcherState::default());
    let exchange = Exchange::new(|event: &MatchEvent| match event {
        MatchEvent::Click((route, _)) => u64::from(*route),
        MatchEvent::Conversion(conversion) => u64::from(route(conversion.product_id)),
    });
    let logic = Matcher::new(settings, Rc::clone(&state));
    (epochs(events, exchange, watermarks, |marks| marks.conversions, "ConversionMatcher", journal, logic), state)
}

struct Matcher {
    clicks: ClickStore,
    open: FxHashMap<IdHash, Open>,
    /// Open conversions by device and by session, for clicks that come after them.
    waiting: [FxHashMap<MatchKey, Vec<IdHash>>; 2],
    /// Conversions whose row is settled, so that repeats are known.
    closed: FxHashSet<IdHash>,
    /// What to do when: conversions to close and identities to forget, by bucket of event time.
    to_close: BTreeMap<i64, Vec<IdHash>>,
    to_forget: BTreeMap<i64, Vec<IdHash>>,
    /// Conversions that no checkpoint has; None while there is no need to know.
    unsaved: Option<Vec<Conversion>>,
    lookback: i64,
    allowed_lateness: i64,
    state: Rc<MatcherState>,
}

struct Open {
    conversion: Conversion,
    best: Option<StoredClick>,
}

impl Open {
    fn row(&self) -> Option<AttributionRow> {
        let click = self.best.as_ref()?;
        Some(AttributionRow {
            order_id: self.conversion.order_id.clone(),
            product_id: self.conversion.product_id,
            ad_id: click.ad_id.clone(),
            campaign_id: click.campaign_id,
            advertiser_id: click.advertiser_id,
            revenue_amount: self.conversion.revenue_amount,
            click_time: click.click_time,
            conversion_time: self.conversion.order.0,
        })
    }
}

/// The rows of the conversions that an epoch touches, as they were before it.
type Before = FxHashMap<IdHash, Option<AttributionRow>>;

/// Width of the buckets of `to_close` and `to_forget`: a conversion may stay that much longer than it must.
const BUCKET_MS: i64 = 60_000;

impl EpochLogic for Matcher {
    type In = MatchEvent;
    type Out = AttributionRow;

    fn epoch(&mut self, records: Vec<MatchEvent>, watermark: EventTime, mut emit: impl FnMut(AttributionRow, isize)) {
        let mut before = Before::default();
        for event in records {
            match event {
                MatchEvent::Click(click) => self.click(click, &mut before),
                MatchEvent::Conversion(conversion) => self.conversion(conversion, &mut before),
            }
        }
        for (id, before) in before {
            let after = self.open.get(&id).and_then(Open::row);
            if before != after {
                before.into_iter().for_each(|row| emit(row, -1));
                after.into_iter().for_each(|row| emit(row, 1));
            }
        }
        self.expire(watermark);
        self.report();
    }

    fn hand_over(&mut self, to: Option<&mut Entered>) {
        let conversions = self.unsaved.replace(Vec::new());
        if let Some(to) = to {
            to.conversions.extend(conversions.into_iter().flatten());
            to.clicks.extend(self.clicks.unsaved());
        }
        self.clicks.mark_saved();
    }
}

impl Matcher {
    fn new(settings: &Settings, state: Rc<MatcherState>) -> Matcher {
        Matcher {
            clicks: ClickStore::new(settings.lookback, settings.allowed_lateness),
            open: FxHashMap::default(),
            waiting: Default::default(),
            closed: FxHashSet::default(),
            to_close: BTreeMap::new(),
            to_forget: BTreeMap::new(),
            unsaved: None,
            lookback: settings.lookback,
            allowed_lateness: settings.allowed_lateness,
            state,
        }
    }

    fn click(&mut self, (route, click): RoutedClick, before: &mut Before) {
        for (waiting, key) in self.waiting.iter().zip(&click.keys) {
            let Some(ids) = key.and_then(|key| waiting.get(&key)) else { continue };
            for id in ids {
                let Some(open) = self.open.get_mut(id) else { continue };
                let gap = open.conversion.order.0.0 - click.click_time.0;
                let better = open.best.as_ref().is_none_or(|best| best.rank() < click.rank());
                if (0..=self.lookback).contains(&gap) && better {
                    before.entry(*id).or_insert_with(|| open.row());
                    open.best = Some(click.clone());
                }
            }
        }
        self.clicks.insert(route, click);
    }

    fn conversion(&mut self, mut conversion: Conversion, before: &mut Before) {
        let id = conversion.id();
        if self.closed.contains(&id) {
            self.state.repeats.set(self.state.repeats.get() + 1);
            return;
        }
        if let Some(standing) = self.open.get(&id) {
            self.state.repeats.set(self.state.repeats.get() + 1);
            if standing.conversion.order <= conversion.order {
                return;
            }
            before.entry(id).or_insert_with(|| standing.row());
            // A checkpoint has both. This one has to stay in it as long as the other, which would stand without it.
            conversion.latest = conversion.latest.max(standing.conversion.latest);
            self.remove_open(id);
        }
        before.entry(id).or_insert(None);
        // Of repeats, a checkpoint has only those that stood. Any other would stand once those are forgotten.
        if let Some(unsaved) = &mut self.unsaved {
            unsaved.push(conversion.clone());
        }
        for (waiting, key) in self.waiting.iter_mut().zip(&conversion.keys) {
            if let Some(key) = key {
                waiting.entry(*key).or_default().push(id);
            }
        }
        let closes = conversion.order.0.plus(self.allowed_lateness);
        self.to_close.entry(bucket(closes)).or_default().push(id);
        let best = self.clicks.best(&conversion.keys, conversion.order.0);
        self.open.insert(id, Open { conversion, best });
    }

    fn remove_open(&mut self, id: IdHash) -> Option<Conversion> {
        let conversion = self.open.remove(&id)?.conversion;
        for (waiting, key) in self.waiting.iter_mut().zip(&conversion.keys) {
            let Some(key) = key else { continue };
            if let Some(ids) = waiting.get_mut(key) {
                ids.retain(|waiting| *waiting != id);
                if ids.is_empty() {
                    waiting.remove(key);
                }
            }
        }
        Some(conversion)
    }

    /// Closes what no better click can reach, and forgets what no repeat is expected of.
    fn expire(&mut self, watermark: EventTime) {
        for id in take_passed(&mut self.to_close, watermark) {
            // A conversion that an earlier repeat replaced is in two buckets, and closes with the first.
            if let Some(conversion) = self.remove_open(id) {
                self.closed.insert(id);
                let forgets = bucket(conversion.latest.plus(self.lookback));
                self.to_forget.entry(forgets).or_default().push(id);
            }
        }
        for id in take_passed(&mut self.to_forget, watermark.plus(-self.allowed_lateness)) {
            self.closed.remove(&id);
        }
        self.clicks.expire(watermark);
    }

    /// Each open conversion waits in a list of its own for each of its keys, as good as always, and each open or
    /// closed one is in one bucket.
    fn conversion_bytes(&self) -> usize {
        let waiting: usize =
            self.waiting.iter().map(|ids| table_bytes::<(MatchKey, Vec<IdHash>)>(ids.capacity())).sum();
        let listed = (3 * self.open.len() + self.closed.len()) * size_of::<IdHash>();
        table_bytes::<(IdHash, Open)>(self.open.capacity())
            + table_bytes::<IdHash>(self.closed.capacity())
            + waiting
            + listed
    }

    fn report(&self) {
        self.state.clicks.set(self.clicks.len());
        self.state.click_bytes.set(self.clicks.bytes());
        self.state.open_conversions.set(self.open.len());
        self.state.closed_conversions.set(self.closed.len());
        self.state.conversion_bytes.set(self.conversion_bytes());
    }
}

/// Whether the identity of a conversion whose [`Conversion::latest`] is this is not known any more, where all that is from
/// before `forgotten` is late.
pub(crate) fn is_forgotten(latest: EventTime, lookback: i64, forgotten: EventTime) -> bool {
    has_passed(bucket(latest.plus(lookback)), forgotten)
}

fn bucket(time: EventTime) -> i64 {
    time.0.div_euclid(BUCKET_MS)
}

/// Whether a bucket lies wholly before the watermark.
fn has_passed(bucket: i64, watermark: EventTime) -> bool {
    bucket.saturating_add(1).saturating_mul(BUCKET_MS) <= watermark.0
}

/// Takes the ids of all buckets that the watermark has passed.
fn take_passed(buckets: &mut BTreeMap<i64, Vec<IdHash>>, watermark: EventTime) -> Vec<IdHash> {
    let mut passed = Vec::new();
    while let Some(bucket) = buckets.first_entry()
        && has_passed(*bucket.key(), watermark)
    {
        passed.extend(bucket.remove());
    }
    passed
}
