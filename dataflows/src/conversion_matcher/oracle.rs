//! Statement 3.

use std::collections::BTreeMap;

use crate::Settings;
use crate::conversion_matcher::AttributionRow;
use crate::model::{AdEvent, AdEventType, AdId, ConversionEvent, EventTime, Text, Topic};
use crate::oracle::{Claims, LateRecords, Lateness, Located, in_offset_order, location};

/// Statement 3: the click that each conversion goes to.
#[derive(Clone, Debug, Default)]
pub struct Attributions {
    /// The rows by (order_id, product_id).
    pub rows: BTreeMap<(Text, i64), AttributionRow>,
    /// The clicks and conversions that came too late.
    pub late: LateRecords,
    /// How many records repeated a conversion.
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
        let identities = identities(conversions, lateness, settings, &mut result);
        result.late.append(std::mem::take(&mut self.late));
        self.list.sort();
        let by_device = index(&self.list, |click| click.device_id.as_ref());
        let by_session = index(&self.list, |click| click.session_id.as_ref());
        for (key, openers) in identities {
            let newest = openers.into_iter().rev().find_map(|conversion| {
                let device = last_click(&by_device, conversion, conversion.device_id.as_ref(), settings);
                let session = last_click(&by_session, conversion, conversion.session_id.as_ref(), settings);
                Some(attribution(key.0.clone(), conversion, device.max(session)?))
            });
            newest.into_iter().for_each(|row| _ = result.rows.insert(key.clone(), row));
        }
        result
    }
}

/// The conversions in time that are no repeats, of each (order_id, product_id) in order: the first record,
/// then each that comes more than `repeat_within` after the one before.
fn identities<'a, S: AsRef<str>>(
    conversions: &'a [Located<ConversionEvent<S>>],
    mut lateness: Lateness,
    settings: &Settings,
    result: &mut Attributions,
) -> BTreeMap<(Text, i64), Vec<&'a ConversionEvent<S>>> {
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
    let mut identities: BTreeMap<_, Vec<&ConversionEvent<S>>> = BTreeMap::new();
    for Located { event, .. } in in_time {
        let openers = identities.entry((Text::from(event.order_id.as_ref()), event.product_id)).or_default();
        match openers.last() {
            Some(opener) if event.time <= opener.time.plus(settings.repeat_within()) => result.repeats += 1,
            _ => openers.push(event),
        }
    }
    identities
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
