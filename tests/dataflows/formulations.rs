//! Statements 2, 3 and 4 against their definitions in plain differential operators, which keep everything for
//! ever: equal collections in every epoch.

use adtide_dataflows::conversion_matcher::{self, Conversion, StoredClick, conversion_matcher, keys, route};
use adtide_dataflows::duplicate_detector::{self, ClickGroup, PaidClick, duplicate_detector};
use adtide_dataflows::model::{AdId, EventTime, Money};
use adtide_dataflows::performance_aggregator::{
    self, PartialSums, PerformanceKey, PerformanceSums, performance_aggregator,
};
use adtide_dataflows::{DeltaLog, RoutingKey, Settings};
use proptest::prelude::*;

use crate::support::{MINUTE, MatchEvent, SECOND, Turn, check, nets, small};

/// How far an epoch of these tests advances event time.
const PACE: i64 = 50 * SECOND;

/// Epochs of some records each, whose times are out of order by at most this.
const DISORDER: i64 = 2 * PACE;

/// How far the watermark is ahead of what still comes: windows are corrected, and nothing is too late.
const LATENESS: i64 = 40 * SECOND;

fn turns<D: std::fmt::Debug>(
    record: impl Strategy<Value = D>,
    lateness: i64,
) -> impl Strategy<Value = Vec<Turn<(i64, D)>>> {
    let batches = prop::collection::vec(prop::collection::vec((0..DISORDER / 1000, record), 0..8), 1..60);
    let moves = prop::collection::vec(prop::bool::weighted(0.8), 60);
    (batches, moves).prop_map(move |(batches, moves)| {
        let epochs = batches.into_iter().zip(moves).zip(1..);
        epochs
            .map(|((records, moves), epoch)| {
                let now = epoch * PACE;
                let records =
                    records.into_iter().map(|(delay, record)| (now + DISORDER - delay * 1000, record));
                // What comes from the next epoch on is not before `now + PACE`.
                Turn {
                    records: records.collect(),
                    watermark: moves.then_some(EventTime(now + PACE + lateness)),
                }
            })
            .collect()
    })
}

/// Makes a statement's input of times and other values.
fn with_times<D, E>(turns: Vec<Turn<(i64, D)>>, mut of: impl FnMut(EventTime, D) -> E) -> Vec<Turn<E>> {
    let turns = turns.into_iter();
    turns
        .map(|Turn { records, watermark }| Turn {
            records: records.into_iter().map(|(time, record)| of(EventTime(time), record)).collect(),
            watermark,
        })
        .collect()
}

#[test]
fn statement_2_equals_its_definition() {
    check(40, turns((5..7i64, 7..9i64, prop::bool::ANY, 0..3i64), LATENESS), |turns| {
        let turns = with_times(turns, |time, (campaign_id, product_id, top, clicks)| -> PartialSums {
            let placement = if top { "top" } else { "side" }.into();
            let key =
                PerformanceKey { campaign_id, product_id, placement, window_start: time.window_start() };
            let spend = Money(clicks * 150);
            (key, PerformanceSums { impressions: 1, clicks, spend, ..PerformanceSums::default() })
        });
        let [operator, definition] = nets(turns, |streams, _| {
            let (routing, log) = (RoutingKey::default(), DeltaLog::off());
            let (records, marks) = (streams.records.clone(), streams.marks.clone());
            let definition = performance_aggregator::definition(records, marks, &small(), routing, &log).0;
            [performance_aggregator(streams.records, streams.marks, &small(), routing, &log).0, definition]
        });
        assert_eq!(operator, definition);
    });
}

/// A click or a conversion with small ids.
type Small = (bool, Option<u8>, Option<u8>, i64, u8);

fn click_or_sale() -> impl Strategy<Value = Small> {
    (prop::bool::weighted(0.7), prop::option::of(0..3u8), prop::option::of(0..3u8), 7..9i64, 0..3u8)
}

fn match_event(
    time: EventTime,
    (is_click, device, session, product_id, id): Small,
    offset: u64,
) -> MatchEvent {
    let (device, session) = (device.map(|id| id.to_string()), session.map(|id| id.to_string()));
    let keys = keys(product_id, device.as_deref(), session.as_deref());
    if is_click {
        let ad_id = Some(AdId::Number(id.into()));
        let click = StoredClick { keys, click_time: time, ad_id, campaign_id: Some(5), advertiser_id: 9 };
        return MatchEvent::Click((route(product_id), click));
    }
    let (order_id, order) = (id.to_string().into(), (time, 0, offset));
    let revenue_amount = Money(600);
    MatchEvent::Conversion(Conversion { keys, order, order_id, product_id, revenue_amount })
}

#[test]
fn statement_3_equals_its_definition() {
    check(40, turns(click_or_sale(), 0), |turns| {
        let mut offset = 0;
        let turns = with_times(turns, |time, record| {
            offset += 1;
            match_event(time, record, offset)
        });
        let settings = Settings { repeat_within: Some(3 * MINUTE), ..small() };
        let [operator, definition] = nets(turns, move |streams, _| {
            let (routing, log) = (RoutingKey::default(), DeltaLog::off());
            let (input, marks) = (streams.to_match(), streams.marks.clone());
            let definition = conversion_matcher::definition(input, marks, &settings, routing, &log).0;
            [conversion_matcher(streams.to_match(), streams.marks, &settings, routing, &log).0, definition]
        });
        assert_eq!(operator, definition);
    });
}

#[test]
fn statement_4_equals_its_definition() {
    check(40, turns((9..11i64, 1..3i64, 0..2u8), LATENESS), |turns| {
        let turns = with_times(turns, |time, (advertiser_id, ad, device)| {
            let group = ClickGroup {
                advertiser_id,
                campaign_id: Some(5),
                ad_id: AdId::Number(ad),
                device_id: device.to_string().into(),
                actual_price: Money(150),
            };
            PaidClick { group, time }
        });
        let [operator, definition] = nets(turns, |streams, _| {
            let (routing, log) = (RoutingKey::default(), DeltaLog::off());
            let (records, marks) = (streams.records.clone(), streams.marks.clone());
            let definition = duplicate_detector::definition(records, marks, &small(), routing, &log).0;
            [duplicate_detector(streams.records, streams.marks, &small(), routing, &log).0, definition]
        });
        assert_eq!(operator, definition);
    });
}
