//! Statement 3: the last click before each conversion.
//!
//! Clicks and conversions meet by product: a conversion's candidates are clicks of the same product, so both of its
//! lookups, by device and by session, are on one worker and a click is kept once. A hot product is no danger: one
//! worker takes several hundred thousand clicks a second.
//!
//! State: clicks until no conversion that could match them can still come, records of conversions until none that comes before
//! them can, and the time of an identity's last conversion until none that repeats it can. Each of these is decided by event
//! time; no result depends on when epochs end.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hasher;
use std::rc::Rc;

use differential_dataflow::VecCollection;
use rustc_hash::FxHasher;
use serde::{Deserialize, Serialize};
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Exchange;

use crate::hash::RoutingKey;
use crate::model::{AdId, Epoch, EventTime, IdHash, Money, Text};
use crate::operators::{EpochLogic, Watermarks, epochs};
use crate::{DeltaLog, RoutedClick, Settings, StateDelta};

mod click_store;
mod conversions;
mod row;

pub use row::AttributionRow;

use click_store::ClickStore;
use conversions::{Conversions, Place, Settled, Turn};

/// What statement 3 reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MatchEvent {
    /// A CLICK of `ad-events`.
    Click(RoutedClick),
    /// A record of `conversion-events`.
    Conversion(Conversion),
    /// Of a checkpoint: a conversion that is settled.
    Opener(Opener),
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

/// What a product's clicks and conversions are routed by. It is in checkpoints, so it must stay as it is. Products that share
/// it share a worker, and so cost no more than one popular product would.
pub fn route(product_id: i64) -> u32 {
    let mut hasher = FxHasher::default();
    hasher.write_i64(product_id);
    hasher.finish() as u32
}

impl StoredClick {
    /// What candidates are compared by, the greatest wins. The advertiser decides only between clicks that
    /// contradict each other about who owns the campaign.
    fn rank(&self) -> (EventTime, &Option<AdId>, Option<i64>, i64) {
        (self.click_time, &self.ad_id, self.campaign_id, self.advertiser_id)
    }
}

/// A device or session together with a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
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

/// Event time, partition and offset of a record of `conversion-events`: in this order records of one identity open a conversion
/// or repeat one.
pub type Order = (EventTime, u32, u64);

/// A record of `conversion-events` that is not late.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conversion {
    /// By device and by session.
    pub keys: [Option<MatchKey>; 2],
    /// Its order among the records of its identity.
    pub order: Order,
    /// The order; with the product, the conversion's identity.
    pub order_id: Text,
    /// The product sold.
    pub product_id: i64,
    /// What it earned.
    pub revenue_amount: Money,
    /// Of a checkpoint from before repeats were kept, the latest event time of the records that it was the first of: it opened a
    /// conversion. None of a record that may do either.
    pub opened_until: Option<EventTime>,
}

impl Conversion {
    /// The event time that it expires by in a checkpoint.
    pub fn expires_by(&self) -> EventTime {
        self.opened_until.unwrap_or(self.order.0)
    }

    /// A hash of its identity.
    pub fn id(&self) -> IdHash {
        IdHash::of_parts(&[&self.product_id.to_le_bytes(), self.order_id.as_bytes()])
    }
}

/// A record that opened a conversion, when that is certain: records up to `conversion.repeat_within` after it repeat it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opener {
    /// What it is routed by, [`route`] of its product.
    pub route: u32,
    /// [`Conversion::id`].
    pub id: IdHash,
    /// Its event time.
    pub time: EventTime,
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
    /// Identities that have a conversion which no better click can reach, and which a record could still repeat.
    pub closed_conversions: Cell<usize>,
    /// Bytes of memory for open and closed conversions, about, texts of ids not counted.
    pub conversion_bytes: Cell<usize>,
    /// Records that repeated a conversion, each counted when that is certain.
    pub repeats: Cell<u64>,
}

/// For every conversion that has a candidate, its best click: at most one row for each order, product and conversion time. Of an
/// identity's rows the newest is the result.
///
/// The collection is right at every moment for the records so far: rows change when a better click comes, or a record that makes
/// others open or repeat. Rows of settled conversions stay in it, but are forgotten here.
pub fn conversion_matcher<'scope>(
    events: StreamVec<'scope, Epoch, MatchEvent>,
    watermarks: StreamVec<'scope, Epoch, Watermarks>,
    settings: &Settings,
    routing: RoutingKey,
    delta_log: &DeltaLog,
) -> (VecCollection<'scope, Epoch, AttributionRow>, Rc<MatcherState>) {
    let state = Rc::new(MatcherState::default());
    let exchange = Exchange::new(move |event: &MatchEvent| {
        routing.hash(&match event {
            MatchEvent::Click((route, _)) => *route,
            MatchEvent::Conversion(conversion) => route(conversion.product_id),
            MatchEvent::Opener(opener) => opener.route,
        })
    });
    let logic = Matcher::new(settings, delta_log, Rc::clone(&state));
    (epochs(events, exchange, watermarks, |marks| marks.conversions, "ConversionMatcher", delta_log, logic), state)
}

struct Matcher {
    clicks: ClickStore,
    conversions: Conversions,
    log: Log,
    lookback: i64,
    allowed_lateness: i64,
    state: Rc<MatcherState>,
}

/// What no checkpoint has.
enum Log {
    /// There are no checkpoints.
    Off,
    /// What is here came from one. Nothing settles until all of it has come.
    Restoring,
    On {
        conversions: Vec<Conversion>,
        openers: Vec<Opener>,
    },
}

/// The rows of the conversions that an epoch touches, as they were before it.
type Before = BTreeMap<Place, Option<AttributionRow>>;

impl EpochLogic for Matcher {
    type In = MatchEvent;
    type Out = AttributionRow;

    fn epoch(&mut self, records: Vec<MatchEvent>, watermark: EventTime, mut emit: impl FnMut(AttributionRow, isize)) {
        let (mut wanted, mut touched) = (Vec::new(), BTreeSet::new());
        for event in records {
            match event {
                MatchEvent::Click((route, click)) => {
                    let [device, session] = &self.conversions.waiting;
                    if click.keys[0].is_some_and(|key| device.has(key))
                        || click.keys[1].is_some_and(|key| session.has(key))
                    {
                        wanted.push(click.clone());
                    }
                    self.clicks.insert(route, click);
                }
                MatchEvent::Conversion(conversion) => {
                    if let Log::On { conversions, .. } = &mut self.log {
                        conversions.push(conversion.clone());
                    }
                    touched.insert(self.conversions.insert(conversion));
                }
                MatchEvent::Opener(opener) => _ = touched.insert(self.conversions.restore(&opener)),
            }
        }
        let mut before = Before::new();
        self.chain(touched, &mut before);
        self.improve(&wanted, &mut before);
        for (place, before) in before {
            let after = self.conversions.opener(place).and_then(|(conversion, best)| row(conversion, best.as_ref()));
            if before != after {
                before.into_iter().for_each(|row| emit(row, -1));
                after.into_iter().for_each(|row| emit(row, 1));
            }
        }
        self.expire(watermark);
        self.report();
    }

    fn flush(&mut self, to: Option<&mut StateDelta>) {
        let log = std::mem::replace(&mut self.log, Log::On { conversions: Vec::new(), openers: Vec::new() });
        if let Some(to) = to {
            if let Log::On { conversions, openers } = log {
                to.extend(conversions);
                to.extend(openers);
            }
            to.extend(self.clicks.unsaved());
        }
        self.clicks.mark_saved();
    }
}

impl Matcher {
    fn new(settings: &Settings, delta_log: &DeltaLog, state: Rc<MatcherState>) -> Matcher {
        Matcher {
            clicks: ClickStore::new(settings.lookback, settings.allowed_lateness),
            conversions: Conversions::new(settings.repeat_within()),
            log: if delta_log.is_on() { Log::Restoring } else { Log::Off },
            lookback: settings.lookback,
            allowed_lateness: settings.allowed_lateness,
            state,
        }
    }

    /// Finds which records open conversions now, and the best click of each that is new.
    fn chain(&mut self, touched: BTreeSet<Place>, before: &mut Before) {
        let clicks = &mut self.clicks;
        self.conversions.chain(touched, |conversions, turn| match turn {
            Turn::Opens(place) => {
                before.entry(place).or_insert(None);
                if let Some((conversion, best)) = conversions.opener(place) {
                    *best = clicks.best(&conversion.keys, conversion.order.0);
                }
            }
            Turn::Repeats(place, best) => {
                let row = conversions.record(place).and_then(|conversion| row(conversion, best.as_ref()));
                before.entry(place).or_insert(row);
            }
        });
    }

    /// Gives conversions the clicks of this epoch that are better. All of the epoch's clicks are in the store.
    ///
    /// Along a key's conversions in order of time, the best click of that key only becomes better. So a click improves those from
    /// its own time on until one that has a better click, and no click of the epoch passes another.
    fn improve(&mut self, wanted: &[StoredClick], before: &mut Before) {
        for side in 0..2 {
            let mut clicks: Vec<_> = wanted.iter().filter_map(|click| Some((click.keys[side]?, click))).collect();
            clicks.sort_by(|one, other| (one.0, one.1.rank()).cmp(&(other.0, other.1.rank())));
            clicks.dedup_by(|one, other| one.0 == other.0 && one.1.rank() == other.1.rank());
            for (key, click) in clicks {
                self.improve_with(side, key, click, before);
            }
        }
    }

    fn improve_with(&mut self, side: usize, key: MatchKey, click: &StoredClick, before: &mut Before) {
        let last = click.click_time.plus(self.lookback);
        let mut better = Vec::new();
        for place in self.conversions.waiting[side].between(key, click.click_time, last) {
            if !self.clicks.is_best_of(side, key, click, place.1.0) {
                break;
            }
            better.push(place);
        }
        for place in better {
            let Some((conversion, best)) = self.conversions.opener(place) else { continue };
            if best.as_ref().is_none_or(|best| best.rank() < click.rank()) {
                before.entry(place).or_insert_with(|| row(conversion, best.as_ref()));
                *best = Some(click.clone());
            }
        }
    }

    /// Settles what no record can come before any more, and drops what has no use.
    fn expire(&mut self, watermark: EventTime) {
        self.clicks.expire(watermark);
        if matches!(self.log, Log::Restoring) {
            return;
        }
        let (log, repeats) = (&mut self.log, &self.state.repeats);
        self.conversions.settle(watermark.plus(-self.allowed_lateness), |settled| match (settled, &mut *log) {
            (Settled::Opener(opener), Log::On { openers, .. }) => openers.push(opener),
            (Settled::Opener(_), _) => {}
            (Settled::Repeat, _) => repeats.set(repeats.get() + 1),
        });
    }

    fn report(&self) {
        self.state.clicks.set(self.clicks.len());
        self.state.click_bytes.set(self.clicks.bytes());
        self.state.open_conversions.set(self.conversions.open());
        self.state.closed_conversions.set(self.conversions.settled());
        self.state.conversion_bytes.set(self.conversions.bytes());
    }
}

fn row(conversion: &Conversion, best: Option<&StoredClick>) -> Option<AttributionRow> {
    let click = best?;
    Some(AttributionRow {
        order_id: conversion.order_id.clone(),
        product_id: conversion.product_id,
        ad_id: click.ad_id.clone(),
        campaign_id: click.campaign_id,
        advertiser_id: click.advertiser_id,
        revenue_amount: conversion.revenue_amount,
        click_time: click.click_time,
        conversion_time: conversion.order.0,
    })
}
