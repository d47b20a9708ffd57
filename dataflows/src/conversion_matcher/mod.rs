//! Statement 3: the last click before each conversion.
//!
//! ```text
//! conversion-events ── openers: without repeats ──┐
//! ad-events ── clicks ────────────────────────────┴── last before, by device or session ── rows
//! ```
//!
//! Clicks and conversions meet by product: a conversion's candidates are clicks of the same product, so both
//! of its lookups, by device and by session, are on one worker and a click is kept once. A hot product is no
//! danger: one worker takes several hundred thousand clicks a second.
//!
//! State: clicks until no conversion that could match them can still come, records of conversions until none
//! that comes before them can, and the time of an identity's last conversion until none that repeats it can.
//! Each of these is decided by event time; no result depends on when epochs end.

use std::rc::Rc;

use differential_dataflow::VecCollection;
use timely::dataflow::StreamVec;

use crate::hash::RoutingKey;
use crate::model::{AdId, Epoch, EventTime};
use crate::operators::{AsOf, AsOfState, Keys, Watermarks, last_before};
use crate::{DeltaLog, Settings};

mod definition;
mod input;
mod openers;
pub mod oracle;
mod row;

pub use definition::definition;
pub use input::{Conversion, Opener, Order, RoutedClick, StoredClick, click, conversion, keys, route};
pub use openers::OpenersState;
pub use row::AttributionRow;

use openers::openers;

/// The input.
pub struct MatchInput<'scope> {
    /// The clicks.
    pub clicks: StreamVec<'scope, Epoch, RoutedClick>,
    /// The records of conversions.
    pub conversions: StreamVec<'scope, Epoch, Conversion>,
    /// Of a checkpoint, what opened a conversion before its first record.
    pub openers: StreamVec<'scope, Epoch, Opener>,
}

/// How much the statement holds and has seen, for metrics and tests.
#[derive(Clone, Debug, Default)]
pub struct MatcherState {
    /// Its clicks and open conversions.
    pub as_of: Rc<AsOfState>,
    /// Its records of conversions.
    pub openers: Rc<OpenersState>,
}

/// For every conversion that has a candidate, its best click: at most one row for each order, product and
/// conversion time. Of an identity's rows the newest is the result.
///
/// The collection is right at every moment for the records so far: rows change when a better click comes, or
/// a record that makes others open or repeat. Rows of settled conversions stay in it, but are forgotten here.
pub fn conversion_matcher<'scope>(
    input: MatchInput<'scope>,
    watermarks: StreamVec<'scope, Epoch, Watermarks>,
    settings: &Settings,
    routing: RoutingKey,
    delta_log: &DeltaLog,
) -> (VecCollection<'scope, Epoch, AttributionRow>, MatcherState) {
    let MatchInput { clicks, conversions, openers: settled } = input;
    let (repeat_within, lateness) = (settings.repeat_within(), settings.allowed_lateness);
    let (conversions, openers) =
        openers(conversions, settled, watermarks.clone(), repeat_within, lateness, routing, delta_log);
    let select = |marks: &Watermarks| marks.conversions;
    let (rows, as_of) = last_before(
        LastClick { lookback: settings.lookback, routing },
        clicks,
        conversions,
        watermarks,
        select,
        lateness,
        delta_log,
    );
    (rows, MatcherState { as_of, openers })
}

/// Conversions look for their last click.
struct LastClick {
    lookback: i64,
    routing: RoutingKey,
}

/// A click without its keys and its time.
#[derive(Clone, PartialEq, Eq)]
struct Click {
    /// Empty if it is not known: half the size of an option.
    ad_id: AdId,
    campaign_id: i64,
    advertiser_id: i64,
    route: u32,
    has_campaign: bool,
}

impl Click {
    fn new(route: u32, ad_id: Option<AdId>, campaign_id: Option<i64>, advertiser_id: i64) -> Click {
        Click {
            ad_id: ad_id.unwrap_or_else(|| AdId::Text(Box::default())),
            campaign_id: campaign_id.unwrap_or_default(),
            advertiser_id,
            route,
            has_campaign: campaign_id.is_some(),
        }
    }

    fn ad_id(&self) -> Option<&AdId> {
        Some(&self.ad_id).filter(|ad_id| !matches!(ad_id, AdId::Text(text) if text.is_empty()))
    }

    fn campaign_id(&self) -> Option<i64> {
        self.has_campaign.then_some(self.campaign_id)
    }

    /// What clicks of one time are compared by. The advertiser decides only between clicks that contradict
    /// each other about who owns the campaign.
    fn rank(&self) -> (Option<&AdId>, Option<i64>, i64) {
        (self.ad_id(), self.campaign_id(), self.advertiser_id)
    }
}

impl PartialOrd for Click {
    fn partial_cmp(&self, other: &Click) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Click {
    fn cmp(&self, other: &Click) -> std::cmp::Ordering {
        self.rank().cmp(&other.rank())
    }
}

impl AsOf for LastClick {
    const NAME: &'static str = "LastClick";
    type Candidate = RoutedClick;
    type Value = Click;
    type Probe = Conversion;
    type Row = AttributionRow;

    fn lookback(&self) -> i64 {
        self.lookback
    }

    fn candidate_route(&self, (route, _): &RoutedClick) -> u64 {
        self.routing.hash(route)
    }

    fn probe_route(&self, conversion: &Conversion) -> u64 {
        self.routing.hash(&conversion.route())
    }

    fn split((route, click): RoutedClick) -> (Keys, EventTime, Click) {
        let StoredClick { keys, click_time, ad_id, campaign_id, advertiser_id } = click;
        (keys, click_time, Click::new(route, ad_id, campaign_id, advertiser_id))
    }

    fn candidate(keys: Keys, click_time: EventTime, click: &Click) -> RoutedClick {
        let (ad_id, campaign_id) = (click.ad_id().cloned(), click.campaign_id());
        (
            click.route,
            StoredClick { keys, click_time, ad_id, campaign_id, advertiser_id: click.advertiser_id },
        )
    }

    fn probe(conversion: &Conversion) -> (Keys, EventTime) {
        (conversion.keys, conversion.order.0)
    }

    fn row(conversion: &Conversion, click_time: EventTime, click: &Click) -> AttributionRow {
        AttributionRow {
            order_id: conversion.order_id.clone(),
            product_id: conversion.product_id,
            ad_id: click.ad_id().cloned(),
            campaign_id: click.campaign_id(),
            advertiser_id: click.advertiser_id,
            revenue_amount: conversion.revenue_amount,
            click_time,
            conversion_time: conversion.order.0,
        }
    }
}
