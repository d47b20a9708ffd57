//! State is bounded: it follows what is open, not what has been seen.

use adtide_dataflows::conversion_matcher::{Conversion, StoredClick, conversion_matcher, keys, route};
use adtide_dataflows::model::{AdId, Epoch, EventTime, Money};
use adtide_dataflows::{DeltaLog, RoutingKey};

use crate::support::{
    Dice, HOUR, Held, History, MINUTE, MatchEvent, Run, SECOND, Turn, click, impression, nets, sale, small,
};

/// Hours of traffic: an ad event every two seconds, half of them clicks, and a conversion every twenty. An
/// epoch is a minute.
fn traffic(hours: i64) -> History {
    let mut dice = Dice::new(3);
    let mut history = History::new();
    for minute in 0..hours * 60 {
        let mut lines = Vec::new();
        for second in (0..60).step_by(2) {
            let time = minute * MINUTE + second * SECOND;
            let line = if dice.below(2) == 0 { click(time) } else { impression(time) };
            let line =
                line.with("campaign_id", 1 + dice.below(3)).with("placement", *dice.pick(&["top", "side"]));
            lines.push(line.with("device_id", format!("d{}", dice.below(20))));
            if second % 20 == 0 {
                let device = format!("d{}", dice.below(20));
                lines.push(sale(&format!("o{time}"), time).with("device_id", device));
            }
        }
        history = history.epoch(lines);
    }
    history
}

#[test]
fn state_does_not_grow_with_the_hours() {
    let most = |hours| {
        let history = traffic(hours);
        let run = Run::of(&history, &small(), 1, true);
        run.check_always(&small());
        run.check_at(Epoch::MAX, &history, &small());
        assert_eq!(run.held.last(), Some(&Held::default()), "nothing is left at the end");
        let most = |count: fn(&Held) -> usize| run.held.iter().map(count).max().unwrap_or_default();
        Held {
            performance_rows: most(|held| held.performance_rows),
            clicks: most(|held| held.clicks),
            open_conversions: most(|held| held.open_conversions),
            closed_conversions: most(|held| held.closed_conversions),
            duplicate_groups: most(|held| held.duplicate_groups),
        }
    };
    let (short, long) = (most(1), most(6));
    // 6 keys in 3 windows; 15 clicks a minute for 10 + 1 + 1/3 minutes and as long as an epoch and a bucket
    // last; 3 conversions a minute.
    assert!(long.performance_rows <= 18, "{long:?}");
    assert!(long.clicks <= 15 * 14 + 40, "{long:?}");
    assert!(long.open_conversions <= 3 * 5, "{long:?}");
    assert!(long.closed_conversions <= 3 * 15, "{long:?}");
    assert!(long.duplicate_groups <= 15 * 8 * 2, "{long:?}");
    // What is held after an hour is as much as after six, but for chance.
    assert!(long.clicks <= short.clicks + 40 && long.duplicate_groups <= short.duplicate_groups + 40);
}

#[test]
fn state_is_let_go_when_traffic_pauses_for_longer_than_the_lookback() {
    let lines = (0..MINUTE).step_by(1000).map(|time| click(time).with("campaign_id", time));
    let later = 2 * HOUR;
    let run = Run::of(
        &History::new()
            .epoch(lines.chain([sale("a", 0)]))
            .epoch([impression(later), sale("z", later)])
            .epoch([])
            .epoch([]),
        &small(),
        1,
        true,
    );
    assert_eq!(
        (run.held[1].performance_rows, run.held[1].clicks, run.held[1].duplicate_groups),
        (61, 60, 60)
    );
    assert_eq!((run.held[2].clicks, run.held[2].duplicate_groups, run.held[2].closed_conversions), (0, 0, 0));
    // The last impression and the last sale are still open.
    assert_eq!((run.held[2].performance_rows, run.held[2].open_conversions), (1, 1));
}

#[test]
fn very_many_clicks_of_one_device_out_of_order_match_as_ever() {
    // For four hours a click every half second, up to a minute out of order: 24 times the lookback, so that
    // the memory of expired clicks is used again and again.
    let mut dice = Dice::new(4);
    let mut history = History::new();
    for minute in 0..240 {
        let mut lines = Vec::new();
        for half in 0..120 {
            let now = minute * MINUTE + half * 500;
            let time = (now - dice.below(60) as i64 * SECOND).max(0);
            let device = if dice.below(10) == 0 { "e" } else { "d" };
            let line =
                click(time).with("device_id", device).with("ad_id", dice.below(5)).with("campaign_id", ());
            lines.push(if dice.below(4) == 0 { line.with("session_id", "s") } else { line });
        }
        for second in [10, 50] {
            let time = minute * MINUTE + second * SECOND - dice.below(70) as i64 * SECOND;
            let sale = sale(&format!("o{minute}-{second}"), time.max(0));
            lines.push(if dice.below(3) == 0 {
                sale.with("device_id", ()).with("session_id", "s")
            } else {
                sale
            });
        }
        history = history.epoch(lines);
    }
    let run = Run::of(&history, &small(), 1, true);
    run.check_at(Epoch::MAX, &history, &small());
    assert!(run.attributions.last().len() > 450);
    assert!(run.held.iter().all(|held| held.clicks < 120 * 15));
}

/// Clicks of a burst; more than a chunk of the click store takes.
const BURST: i64 = 70_000;

#[test]
fn more_clicks_than_a_chunk_takes_within_seconds_and_again_after_their_expiry() {
    const DEVICES: i64 = 100;
    let keys = |device: i64| keys(7, Some(&device.to_string()), None);
    let burst = |start: i64| {
        (0..BURST).map(move |n| {
            let click = StoredClick {
                keys: keys(n % DEVICES),
                click_time: EventTime(start + n / 10),
                ad_id: Some(AdId::Number(n)),
                campaign_id: None,
                advertiser_id: 9,
            };
            MatchEvent::Click((route(7), click))
        })
    };
    let sales = move |name: &'static str, time: i64| {
        (0..DEVICES).map(move |device| {
            MatchEvent::Conversion(Conversion {
                keys: keys(device),
                order: (EventTime(time), 0, device as u64),
                order_id: format!("{name}{device}").into(),
                product_id: 7,
                revenue_amount: Money(1),
            })
        })
    };
    let turn =
        |records: Vec<MatchEvent>, watermark: i64| Turn { records, watermark: Some(EventTime(watermark)) };
    let turns = vec![
        turn(burst(0).chain(sales("a", MINUTE)).collect(), 0),
        turn(Vec::new(), HOUR),
        turn(burst(HOUR).collect(), HOUR),
        turn(sales("b", HOUR + MINUTE).collect(), HOUR),
        // Of these clicks, not one is left.
        turn(sales("c", HOUR - 1).collect(), HOUR),
    ];
    let [rows] = nets(turns, |streams, _| {
        [conversion_matcher(
            streams.to_match(),
            streams.marks,
            &small(),
            RoutingKey::default(),
            &DeltaLog::off(),
        )
        .0]
    });
    assert_eq!(rows.len(), 2 * DEVICES as usize);
    for ((epoch, row), count) in rows {
        assert_eq!((epoch, count), (if row.order_id.starts_with('a') { 0 } else { 3 }, 1));
        let device: i64 = row.order_id[1..].parse().expect("the device");
        // The last click of the device.
        assert_eq!(row.ad_id, Some(AdId::Number(BURST - DEVICES + device)));
    }
}

/// A click of a device on product 7.
fn device_click(device: &str, time: i64) -> MatchEvent {
    let keys = keys(7, Some(device), None);
    let click_time = EventTime(time);
    MatchEvent::Click((
        route(7),
        StoredClick { keys, click_time, ad_id: None, campaign_id: None, advertiser_id: 9 },
    ))
}

/// The click times of the conversions of device d at `sale_time`, in this setting: its click at 0 has
/// expired, and the memory of that now holds the click `reuse`, while the device's click at 11:30 still
/// points there.
fn matched_after_reuse(reuse: MatchEvent, sale_time: i64) -> Vec<i64> {
    let expires = small().lookback + small().allowed_lateness + 10 * SECOND;
    let conversion = Conversion {
        keys: keys(7, Some("d"), None),
        order: (EventTime(sale_time), 0, 0),
        order_id: "a".into(),
        product_id: 7,
        revenue_amount: Money(1),
    };
    let turns =
        [device_click("d", 0), device_click("d", 690 * SECOND), reuse, MatchEvent::Conversion(conversion)];
    let watermarks = [None, Some(EventTime(expires)), None, None];
    let turns = turns.into_iter().zip(watermarks);
    let turns = turns.map(|(record, watermark)| Turn { records: vec![record], watermark }).collect();
    let [rows] = nets(turns, |streams, _| {
        [conversion_matcher(
            streams.to_match(),
            streams.marks,
            &small(),
            RoutingKey::default(),
            &DeltaLog::off(),
        )
        .0]
    });
    rows.into_keys().map(|(_, row)| row.click_time.0).collect()
}

#[test]
fn memory_that_another_devices_click_uses_again_leads_no_conversion_astray() {
    assert!(matched_after_reuse(device_click("e", 680 * SECOND), 685 * SECOND).is_empty());
    assert_eq!(matched_after_reuse(device_click("d", 680 * SECOND), 685 * SECOND), [680 * SECOND]);
}

#[test]
fn memory_that_a_later_click_of_the_device_uses_again_is_no_circle() {
    let later = || device_click("d", 700 * SECOND);
    assert!(matched_after_reuse(later(), 685 * SECOND).is_empty());
    assert_eq!(matched_after_reuse(later(), 695 * SECOND), [690 * SECOND]);
    assert_eq!(matched_after_reuse(later(), 705 * SECOND), [700 * SECOND]);
}
