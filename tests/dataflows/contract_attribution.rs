//! Statement 3. Each test is named after the sentence of the contract that it checks.

use adtide_dataflows::conversion_matcher::AttributionRow;
use adtide_dataflows::model::{AdId, Epoch, EventTime, Money};
use adtide_dataflows::{Settings, Statement};

use crate::support::{History, Line, MINUTE, Run, SECOND, click, impression, sale, small, sold};

/// The click times of the rows, by order.
fn click_times(run: &Run, epoch: Epoch) -> Vec<(String, i64)> {
    run.attributions.at(epoch).into_iter().map(|row| (row.order_id.to_string(), row.click_time.0)).collect()
}

fn of(order: &str, click_time: i64) -> (String, i64) {
    (order.to_owned(), click_time)
}

/// Whether this click is a candidate of that conversion.
fn matches(click: Line, sale: Line) -> bool {
    let clicks_first = History::new().epoch([click.clone()]).epoch([sale.clone()]).run(&small());
    let sale_first = History::new().epoch([sale]).epoch([click]).run(&small());
    assert_eq!(clicks_first.attributions.last(), sale_first.attributions.last());
    clicks_first.attributions.last().len() == 1
}

#[test]
fn one_row_a_conversion_with_what_the_click_and_the_conversion_say() {
    let click = click(2 * SECOND).with("advertiser_id", 11).with("campaign_id", 12).with("ad_id", "banner");
    let run = History::new()
        .epoch([click, sale("a", 9 * SECOND + 999).with("revenue_amount", "7.25")])
        .run(&small());
    let row = AttributionRow {
        order_id: "a".into(),
        product_id: 7,
        ad_id: Some(AdId::Text("banner".into())),
        campaign_id: Some(12),
        advertiser_id: 11,
        revenue_amount: Money(725),
        click_time: EventTime(2000),
        conversion_time: EventTime(9999),
    };
    assert_eq!(row.time_to_conversion(), 7);
    assert_eq!(run.attributions.last(), [row]);
}

#[test]
fn candidates_have_the_same_product_and_the_same_device_or_the_same_session() {
    let on =
        |line: Line, device: &str, session: &str| line.with("device_id", device).with("session_id", session);
    let sale = on(sale("a", 10), "d", "s");
    assert!(matches(on(click(0), "d", "other"), sale.clone()));
    assert!(matches(on(click(0), "other", "s"), sale.clone()));
    assert!(!matches(on(click(0), "other", "other"), sale.clone()));
    assert!(!matches(on(click(0), "d", "s").with("product_id", 8), sale.clone()));
    // A device is no session of the same name.
    assert!(!matches(on(click(0), "s", "d"), sale));
}

#[test]
fn only_clicks_are_candidates() {
    assert!(!matches(impression(0), sale("a", 10)));
    assert!(!matches(sold(0), sale("a", 10)));
}

#[test]
fn click_time_is_at_most_conversion_time_and_that_at_most_click_time_and_lookback() {
    let lookback = small().lookback;
    for (click_time, conversion_time, is_candidate) in [
        (1000, 1000, true),
        (1001, 1000, false),
        (1000, 1000 + lookback, true),
        (1000, 1001 + lookback, false),
    ] {
        // Nothing is late here: the sale is all there is in its topic, and so is the click.
        assert_eq!(matches(click(click_time), sale("a", conversion_time)), is_candidate, "{click_time}");
    }
}

#[test]
fn null_ids_match_nothing() {
    let nobody = |line: Line| line.with("device_id", ()).with("session_id", ());
    assert!(!matches(nobody(click(0)), nobody(sale("a", 10))));
    assert!(!matches(click(0), nobody(sale("a", 10))));
    assert!(!matches(nobody(click(0)), sale("a", 10)));
    assert!(
        !matches(click(0).with("device_id", ""), sale("a", 10).with("device_id", "")),
        "the empty text is no id"
    );
}

#[test]
fn the_candidate_with_the_latest_click_time_wins() {
    let other_session = click(3).with("device_id", "e").with("session_id", "s");
    let after = click(11);
    let sale = sale("a", 10).with("session_id", "s");
    let run = History::new().epoch([click(1), other_session, click(2), after, sale]).run(&small());
    assert_eq!(click_times(&run, 0), [of("a", 3)]);
}

#[test]
fn on_a_tie_the_greatest_ad_id_and_campaign_id_wins() {
    let winner = |clicks: &[(&str, i64)]| {
        let clicks =
            clicks.iter().map(|(ad, campaign)| click(0).with("ad_id", *ad).with("campaign_id", *campaign));
        let run = History::new().epoch(clicks.chain([sale("a", 10)])).run(&small());
        let row = run.attributions.last().remove(0);
        (row.ad_id.map(|id| id.to_string()).unwrap_or_default(), row.campaign_id.unwrap_or_default())
    };
    // Numbers compare as numbers and come before texts.
    assert_eq!(winner(&[("9", 5), ("10", 1), ("8", 9)]), ("10".into(), 1));
    assert_eq!(winner(&[("10", 5), ("a", 1)]), ("a".into(), 1));
    assert_eq!(winner(&[("9", 5), ("9", 6)]), ("9".into(), 6));
    let unknown = click(0).with("ad_id", ()).with("campaign_id", 9);
    let run = History::new().epoch([unknown, click(0), sale("a", 10)]).run(&small());
    assert_eq!(run.attributions.last()[0].ad_id, Some(AdId::Number(1)));
}

#[test]
fn a_conversion_is_identified_by_order_and_product() {
    let run = History::new()
        .epoch([click(0), click(0).with("product_id", 8)])
        .epoch([sale("a", 10), sale("b", 10), sale("a", 10).with("product_id", 8)])
        .run(&small());
    let rows: Vec<_> =
        run.attributions.last().iter().map(|row| (row.order_id.to_string(), row.product_id)).collect();
    assert_eq!(rows, [("a".to_owned(), 7), ("a".to_owned(), 8), ("b".to_owned(), 7)]);
    assert_eq!(run.repeats, 0);
}

#[test]
fn a_repeat_is_counted_and_ignored_the_earliest_stands() {
    let run = History::new()
        .epoch([click(1), click(15), sale("a", 20).with("revenue_amount", "2")])
        .epoch([sale("a", 30).with("revenue_amount", "3")])
        .epoch([sale("a", 10).with("revenue_amount", "1")])
        .run(&small());
    assert_eq!(click_times(&run, 1), [of("a", 15)]);
    assert_eq!(run.attributions.at(1)[0].revenue_amount, Money(200));
    // A repeat that happened earlier takes the place of the one before.
    assert_eq!(click_times(&run, 2), [of("a", 1)]);
    assert_eq!(run.attributions.at(2)[0].revenue_amount, Money(100));
    assert_eq!(run.repeats, 2);
}

#[test]
fn among_repeats_of_one_time_the_least_partition_and_offset_stands() {
    let sale = |revenue: &str| sale("a", 10).with("revenue_amount", revenue);
    let run =
        History::new().epoch([click(1), sale("3").to(1)]).epoch([sale("1")]).epoch([sale("2")]).run(&small());
    let revenue = [0, 1, 2].map(|epoch| run.attributions.at(epoch)[0].revenue_amount);
    assert_eq!(revenue, [300, 100, 100].map(Money));
}

#[test]
fn an_earlier_repeat_that_matches_no_click_takes_the_row_away() {
    let run = History::new().epoch([click(5), sale("a", 10)]).epoch([sale("a", 4)]).run(&small());
    assert_eq!(click_times(&run, 0), [of("a", 5)]);
    assert_eq!(click_times(&run, 1), []);
}

#[test]
fn a_repeat_is_known_after_its_conversion_is_settled() {
    let later = small().lookback - 1;
    let run = History::new()
        .epoch([click(0), sale("a", 10)])
        .epoch([sale("z", 5 * MINUTE), click(5 * MINUTE)])
        .epoch([])
        .epoch([sale("a", later)])
        .run(&small());
    assert_eq!(run.held[2].closed_conversions, 1);
    assert_eq!(click_times(&run, Epoch::MAX), [of("a", 0), of("z", 5 * MINUTE)]);
    assert_eq!(run.repeats, 1);
}

/// The rows of the table, by the revenue of their conversions.
fn revenue(run: &Run, epoch: Epoch) -> Vec<i64> {
    run.table_of_attributions(epoch).into_values().map(|row| row.revenue_amount.0).collect()
}

#[test]
fn a_record_opens_a_conversion_if_it_is_more_than_repeat_within_after_the_last_that_did() {
    let settings = Settings { repeat_within: Some(MINUTE), ..small() };
    let sale = |time: i64, revenue: &str| sale("a", time).with("revenue_amount", revenue);
    // The second and third are repeats of the first; the fourth is within a minute of a repeat, and opens all
    // the same.
    let records =
        [sale(1000, "1"), sale(31_000, "2"), sale(61_000, "3"), sale(61_001, "4"), sale(121_001, "5")];
    let history = History::new().epoch([click(0)]).epoch(records);
    for history in [history.clone(), history.recut(|| false), history.recut(|| true)] {
        let run = history.run(&settings);
        assert_eq!(revenue(&run, Epoch::MAX), [400]);
        assert_eq!(run.repeats, 3);
    }
}

#[test]
fn whether_a_record_repeats_another_does_not_depend_on_the_end_of_epochs() {
    // A click at 0 and one after three lookbacks; order a at once, another order then, and a once more.
    let lookback = small().lookback;
    let at = |time, revenue: &str| sale("a", time).with("revenue_amount", revenue);
    let other = |time| sale("z", time).with("revenue_amount", "9");
    for (again, expected) in [(3 * lookback + MINUTE, [700, 900]), (lookback + 1, [500, 900])] {
        let history = History::new()
            .epoch([click(0), at(1000, "5")])
            .epoch([click(3 * lookback), other(3 * lookback)])
            .epoch([at(again, "7").to(1)]);
        for history in [history.recut(|| false), history.recut(|| true), history] {
            assert_eq!(revenue(&history.run(&small()), Epoch::MAX), expected);
        }
    }
}

#[test]
fn a_record_that_comes_late_changes_who_opens_and_who_repeats() {
    let settings = Settings { repeat_within: Some(10 * SECOND), ..small() };
    let at = |seconds, revenue: &str| sale("a", seconds * SECOND).with("revenue_amount", revenue);
    let run = History::new()
        .epoch([click(0), at(20, "1"), at(31, "2"), at(41, "3")])
        .epoch([at(15, "4")])
        .epoch([at(4, "5")])
        .run(&settings);
    // 20, 31; then 15, 31; then 4, 15, 31.
    assert_eq!([0, 1, 2].map(|epoch| revenue(&run, epoch)), [[200], [200], [200]]);
    let rows = |epoch| run.attributions.at(epoch).iter().map(|row| row.revenue_amount.0).collect::<Vec<_>>();
    assert_eq!([rows(0), rows(1), rows(2)], [vec![100, 200], vec![200, 400], vec![200, 400, 500]]);
    assert_eq!(run.repeats, 2);
}

#[test]
fn the_row_is_that_of_the_newest_conversion_that_has_a_candidate() {
    let settings = Settings { repeat_within: Some(10 * SECOND), ..small() };
    let at = |time, device: &str| sale("a", time).with("device_id", device);
    let other = |time| sale("z", time).with("device_id", "z");
    // The one of 9 minutes has a click until one that has none comes before it. By then its forerunner has
    // expired, or not.
    for later in [30 * SECOND, 9 * MINUTE] {
        let run = History::new()
            .epoch([click(0), at(1000, "d")])
            .epoch([other(later), impression(later)])
            .epoch([])
            .epoch([at(later, "d")])
            .epoch([at(later - SECOND, "nobody")])
            .epoch([])
            .run(&settings);
        let times =
            |epoch| run.table_of_attributions(epoch).into_values().map(|row| row.conversion_time.0).collect();
        let table: [Vec<i64>; 4] = [0, 3, 4, Epoch::MAX].map(times);
        assert_eq!(table, [vec![1000], vec![later], vec![1000], vec![1000]]);
    }
}

#[test]
fn a_late_click_that_is_a_better_match_replaces_the_row() {
    let run = History::new()
        .epoch([click(1), sale("a", 10)])
        .epoch([click(8)])
        .epoch([click(4), click(11)])
        .run(&small());
    assert_eq!(click_times(&run, 0), [of("a", 1)]);
    assert_eq!(click_times(&run, 1), [of("a", 8)]);
    assert_eq!(run.attributions.epochs(), [0, 1]);
}

#[test]
fn until_the_allowed_lateness_a_better_click_replaces_the_row() {
    let settings = Settings { allowed_lateness: 5 * MINUTE, ..small() };
    let reached = MINUTE + settings.allowed_lateness + settings.conversions_bound;
    let run = History::new()
        .epoch([click(0), sale("a", MINUTE)])
        .epoch([impression(reached), sale("z", reached).with("device_id", "z")])
        .epoch([])
        .epoch([click(MINUTE)])
        .run(&settings);
    assert_eq!(click_times(&run, 2), [of("a", 0)]);
    assert_eq!(click_times(&run, 3), [of("a", MINUTE)]);
}

#[test]
fn a_conversion_that_has_no_click_yet_gets_its_row_when_the_click_arrives() {
    let run = History::new().epoch([sale("a", 10)]).epoch([click(8)]).run(&small());
    assert_eq!(click_times(&run, 0), []);
    assert_eq!(click_times(&run, 1), [of("a", 8)]);
}

#[test]
fn one_click_may_win_many_conversions() {
    let run = History::new()
        .epoch([sale("a", 10), sale("b", 12)])
        .epoch([click(8)])
        .epoch([sale("c", 9)])
        .run(&small());
    assert_eq!(click_times(&run, 2), [of("a", 8), of("b", 8), of("c", 8)]);
}

#[test]
fn a_click_is_forgotten_once_no_conversion_that_could_match_it_can_still_arrive() {
    let Settings { lookback, allowed_lateness, conversions_bound, .. } = small();
    // The store forgets clicks by buckets of some seconds.
    let forgotten = lookback + allowed_lateness + conversions_bound + 30 * SECOND;
    let at = |time| vec![impression(time), sale("z", time).with("device_id", "z")];
    let run = History::new()
        .epoch([click(0)])
        .epoch(at(lookback + allowed_lateness + conversions_bound))
        .epoch([])
        .epoch(at(forgotten))
        .epoch([])
        .run(&small());
    assert_eq!(run.held.iter().map(|held| held.clicks).collect::<Vec<_>>(), [1, 1, 1, 1, 0, 0, 0]);
}

#[test]
fn what_is_past_the_allowed_lateness_goes_to_late_events() {
    let reached = 10 * MINUTE;
    let Settings { conversions_bound, allowed_lateness, .. } = small();
    let late = |time| {
        let lines = [click(reached + conversions_bound), sale("b", reached + conversions_bound)];
        let nobody = click(time).with("campaign_id", ()).with("device_id", ());
        let run = History::new().epoch(lines).epoch([nobody, sale("a", time)]).run(&small());
        run.counts.late.get(&Statement::ConversionMatcher).copied()
    };
    assert_eq!(late(reached - allowed_lateness), None);
    assert_eq!(late(reached - allowed_lateness - 1), Some(2));
}
