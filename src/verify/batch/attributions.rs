//! Statement 3.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use adtide_dataflows::Settings;
use adtide_dataflows::model::{AdEvent, AdEventType, AdId, AttributionRow, ConversionEvent, EventTime, Text, Topic};

use super::super::parse::Located;
use super::{Claims, LateRecords, Lateness, in_offset_order, location};

/// Statement 3: the click that each conversion goes to.
#[derive(Clone, Debug, Default)]
pub struct Attributions {
    /// The rows by (order_id, product_id).
    pub rows: BTreeMap<(Text, i64), AttributionRow>,
    /// The clicks and conversions that came too late.
    pub late: LateRecords,
    /// How many conversions repeated another one.
    pub repeats: u64,
}

/// Statement 3 of events in memory.
pub fn attributions<S: AsRef<str>>(
    ads: &[Located<AdEvent<S>>],
    conversions: &[Located<ConversionEvent<S>>],
    settings: &Settings,
) -> Attributions {
    let mut clicks = Clicks::default();
    for located in in_offset_order(ads) {
        clicks.add(located, settings);
    }
    clicks.attribute(conversions, settings)
}

/// What statement 3 has to know of a click. Compares by what decides which click wins.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Click {
    time: EventTime,
    ad_id: Option<AdId>,
    campaign_id: Option<i64>,
    advertiser_id: i64,
    product_id: i64,
    device_id: Option<Text>,
    session_id: Option<Text>,
}

/// The clicks that statement 3 matches conversions with.
#[derive(Clone, Debug, Default)]
pub struct Clicks {
    list: Vec<Click>,
    late: LateRecords,
    lateness: Lateness,
}

impl Clicks {
    /// None yet.
    pub fn new(claims: Claims) -> Clicks {
        Clicks { lateness: Lateness::new(claims), ..Clicks::default() }
    }

    /// Takes the next ad event of its partition; only clicks are kept.
    pub fn add<S: AsRef<str>>(&mut self, located: &Located<AdEvent<S>>, settings: &Settings) {
        let event = &located.event;
        let closes = event.time.plus(settings.allowed_lateness);
        let at = location(Topic::AdEvents, located);
        let late = self.lateness.see(at, event.time, closes, settings.conversions_bound);
        let (AdEventType::Click, Some(advertiser_id)) = (event.event_type, event.advertiser_id) else {
            return;
        };
        if let Some(late) = late {
            self.late.add(at, late);
            return;
        }
        self.list.push(Click {
            time: event.time,
            ad_id: event.ad_id.clone(),
            campaign_id: event.campaign_id,
            advertiser_id,
            product_id: event.product_id,
            device_id: event.device_id.as_ref().map(|id| id.as_ref().into()),
            session_id: event.session_id.as_ref().map(|id| id.as_ref().into()),
        });
    }

    /// Matches the conversions with all these clicks.
    pub fn attribute<S: AsRef<str>>(
        mut self,
        conversions: &[Located<ConversionEvent<S>>],
        settings: &Settings,
    ) -> Attributions {
        let mut result = Attributions::default();
        let lateness = Lateness::new(std::mem::take(&mut self.lateness.claims));
        let standing = standing_conversions(conversions, lateness, settings, &mut result);
        result.late.append(std::mem::take(&mut self.late));
        self.list.sort();
        let by_device = index(&self.list, |click| click.device_id.as_ref());
        let by_session = index(&self.list, |click| click.session_id.as_ref());
        for (key, located) in standing {
            let conversion = &located.event;
            let device = last_click(&by_device, conversion, conversion.device_id.as_ref(), settings);
            let session = last_click(&by_session, conversion, conversion.session_id.as_ref(), settings);
            if let Some(click) = device.max(session) {
                let row = attribution(key.0.clone(), conversion, click);
                result.rows.insert(key, row);
            }
        }
        result
    }
}

/// The conversions in time, of each (order_id, product_id) the earliest.
fn standing_conversions<'a, S: AsRef<str>>(
    conversions: &'a [Located<ConversionEvent<S>>],
    mut lateness: Lateness,
    settings: &Settings,
    result: &mut Attributions,
) -> BTreeMap<(Text, i64), &'a Located<ConversionEvent<S>>> {
    let mut in_time = Vec::new();
    for located in in_offset_order(conversions) {
        let at = location(Topic::ConversionEvents, located);
        let time = located.event.time;
        match lateness.see(at, time, time.plus(settings.allowed_lateness), settings.conversions_bound) {
            Some(late) => result.late.add(at, late),
            None => in_time.push(located),
        }
    }
    in_time.sort_by_key(|located| (located.event.time, located.partition, located.offset));
    let mut standing = BTreeMap::new();
    for located in in_time {
        let key = (Text::from(located.event.order_id.as_ref()), located.event.product_id);
        match standing.entry(key) {
            Entry::Vacant(free) => _ = free.insert(located),
            Entry::Occupied(_) => result.repeats += 1,
        }
    }
    standing
}

/// The clicks on a product by the device or session that made them, in the order of `clicks`.
type ClickIndex<'a> = BTreeMap<(i64, &'a str), Vec<&'a Click>>;

fn index(clicks: &[Click], id: impl Fn(&Click) -> Option<&Text>) -> ClickIndex<'_> {
    let mut index = ClickIndex::new();
    for click in clicks {
        if let Some(id) = id(click) {
            index.entry((click.product_id, id)).or_default().push(click);
        }
    }
    index
}

/// The greatest click up to the conversion, if it lies within the lookback.
fn last_click<'a, S: AsRef<str>>(
    index: &'a ClickIndex<'_>,
    conversion: &ConversionEvent<S>,
    id: Option<&S>,
    settings: &Settings,
) -> Option<&'a Click> {
    let clicks = index.get(&(conversion.product_id, id?.as_ref()))?;
    let up_to_conversion = clicks.partition_point(|click| click.time <= conversion.time);
    let last = clicks[..up_to_conversion].last()?;
    (conversion.time <= last.time.plus(settings.lookback)).then_some(*last)
}

fn attribution<S>(order_id: Text, conversion: &ConversionEvent<S>, click: &Click) -> AttributionRow {
    AttributionRow {
        order_id,
        product_id: conversion.product_id,
        ad_id: click.ad_id.clone(),
        campaign_id: click.campaign_id,
        advertiser_id: click.advertiser_id,
        revenue_amount: conversion.revenue_amount,
        click_time: click.time,
        conversion_time: conversion.time,
    }
}
