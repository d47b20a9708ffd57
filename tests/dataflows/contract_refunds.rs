//! Statement 4. Each test is named after the sentence of the contract that it checks.

use std::collections::BTreeSet;

use adtide_dataflows::duplicate_detector::Compensation;
use adtide_dataflows::model::{AdId, Epoch, EventTime, Money};
use adtide_dataflows::{Settings, Statement};

use crate::support::{History, Line, MINUTE, Run, click, impression, small, window_end};

/// Moves the watermark of statement 4 to this.
fn reach(watermark: i64) -> Line {
    impression(watermark + small().duplicates_bound)
}

/// (epoch, n, refund in minor units) of each record.
fn records(run: &Run) -> Vec<(Epoch, u64, i64)> {
    run.compensations.0.iter().map(|(row, epoch, _)| (*epoch, row.clicks, row.refund_amount.0)).collect()
}

/// The times that each record lists.
fn listed(run: &Run) -> Vec<Vec<i64>> {
    let times = |record: &Compensation| record.click_times.iter().map(|time| time.0).collect();
    run.compensations.0.iter().map(|(row, ..)| times(row)).collect()
}

/// What these clicks are owed when everything has closed.
fn owed(clicks: impl IntoIterator<Item = Line>) -> i64 {
    let run = History::new().epoch(clicks).run(&small());
    run.compensations.last().iter().map(|row| row.refund_amount.0).sum()
}

#[test]
fn a_group_of_n_clicks_owes_n_minus_1_times_the_price() {
    assert_eq!([1, 2, 5].map(|n| owed(vec![click(0); n])), [0, 150, 600]);
}

#[test]
fn a_record_says_who_is_paid_back_for_which_clicks() {
    let run = History::new().epoch([click(30), click(10), click(20)]).run(&small());
    let record = Compensation {
        advertiser_id: 9,
        campaign_id: Some(5),
        ad_id: AdId::Number(1),
        device_id: "d".into(),
        actual_price: Money(150),
        window_start: EventTime(0),
        clicks: 3,
        click_times: [10, 20, 30].map(EventTime).to_vec(),
        is_cut: false,
        refund_amount: Money(300),
    };
    assert_eq!(run.compensations.last(), [record]);
}

#[test]
fn grouped_by_advertiser_campaign_ad_device_and_price() {
    for (field, other) in [
        ("advertiser_id", "8"),
        ("campaign_id", "6"),
        ("ad_id", "2"),
        ("device_id", "e"),
        ("actual_price", "1.51"),
    ] {
        assert_eq!(owed([click(0), click(1).with(field, other)]), 0, "{field}");
    }
    for (field, other) in
        [("product_id", "8"), ("placement", "side"), ("session_id", "s"), ("category", "books")]
    {
        assert_eq!(owed([click(0), click(1).with(field, other)]), 150, "{field}");
    }
}

#[test]
fn clicks_with_device_id_and_ad_id_the_campaign_may_be_unknown() {
    for (field, amount) in [("device_id", 0), ("ad_id", 0), ("campaign_id", 150)] {
        assert_eq!(owed([click(0).with(field, ()), click(1).with(field, ())]), amount, "{field}");
    }
    assert_eq!(owed([impression(0), impression(1)]), 0);
}

#[test]
fn in_tumbling_5_minute_windows() {
    assert_eq!(owed([click(window_end(0) - 1), click(window_end(0))]), 0);
    assert_eq!(owed([click(window_end(0)), click(window_end(1) - 1)]), 150);
}

#[test]
fn when_the_watermark_passes_the_windows_end_one_record_goes_out() {
    let run = History::new()
        .epoch([click(0), click(1)])
        .epoch([click(2), reach(window_end(0) - 1)])
        .epoch([reach(window_end(0))])
        .epoch([])
        .run(&small());
    assert_eq!(records(&run), [(3, 3, 300)]);
}

#[test]
fn a_late_click_raises_the_refund_by_the_increase() {
    let run = History::new()
        .epoch([click(0), click(1), reach(window_end(0))])
        .epoch([])
        .epoch([click(2)])
        .epoch([click(4), click(3)])
        .run(&small());
    assert_eq!(records(&run), [(1, 2, 150), (2, 3, 150), (3, 5, 300)]);
    assert_eq!(
        listed(&run),
        [vec![0, 1], vec![2], vec![3, 4]],
        "the clicks that are new since the record before"
    );
}

#[test]
fn of_more_than_1000_new_clicks_the_first_1000_are_listed() {
    // Not in the order of their times, and so many that times are dropped on the way.
    let clicks = |n: i64| (0..n).map(move |at| click(at * 7919 % n));
    for (n, listed) in [(1000, 1000), (1001, 1000), (2500, 1000)] {
        let run = Run::of(&History::new().epoch(clicks(n)), &small(), 1, true);
        let records = run.compensations.last();
        let [record] = records.as_slice() else { panic!("{records:?}") };
        assert_eq!((record.clicks, record.is_cut), (n as u64, n > listed));
        assert_eq!(record.refund_amount, Money(150 * (n - 1)));
        assert_eq!(record.click_times, (0..listed).map(EventTime).collect::<Vec<_>>());
    }
}

#[test]
fn the_size_of_a_record_does_not_grow_with_its_group() {
    let mut history = History::new().epoch((0..1500).map(click).chain([reach(window_end(0))])).epoch([]);
    for late in 0..50 {
        history = history.epoch([click(late)]);
    }
    let run = Run::of(&history, &small(), 1, true);
    let sizes: Vec<_> = listed(&run).iter().map(Vec::len).collect();
    assert_eq!(sizes, [vec![1000], vec![1; 50]].concat());
    let cut: Vec<_> = run.compensations.0.iter().map(|(row, ..)| row.is_cut).collect();
    assert!(cut[0] && !cut[1..].contains(&true), "{cut:?}");
    assert_eq!(run.compensations.last().iter().map(|row| row.refund_amount.0).sum::<i64>(), 150 * 1549);
}

#[test]
fn a_late_click_that_makes_the_first_duplicate_is_the_first_record() {
    let run = History::new()
        .epoch([click(0), reach(window_end(0))])
        .epoch([])
        .epoch([click(1).with("device_id", "e")])
        .epoch([click(2).with("device_id", "e")])
        .epoch([click(3)])
        .run(&small());
    assert_eq!(records(&run), [(3, 2, 150), (4, 2, 150)]);
    assert_eq!(listed(&run), [[1, 2], [0, 3]]);
}

#[test]
fn the_sum_of_a_groups_records_is_always_n_minus_1_times_price_and_no_id_comes_twice() {
    let mut history = History::new().epoch([click(0), click(0), reach(window_end(0))]);
    for late in [1, 0, 3, 2, 1] {
        history = history.epoch(vec![click(7); late]);
    }
    let run = history.run(&small());
    let mut sum = Money::ZERO;
    for record in run.compensations.last() {
        sum += record.refund_amount;
        assert_eq!(sum, record.actual_price * (record.clicks as i64 - 1));
    }
    assert_eq!(sum, Money(8 * 150));
    let ids: BTreeSet<_> = run.compensations.last().iter().map(Compensation::id).collect();
    assert_eq!(ids.len(), run.compensations.last().len());
}

#[test]
fn a_replay_gives_the_same_ids_however_it_is_batched() {
    let late = [click(5), click(6), click(7)];
    let first = [click(0), click(1), reach(window_end(0))];
    let at_once = History::new().epoch(first.clone()).epoch([]).epoch(late.clone()).run(&small());
    let one_by_one = History::new()
        .epoch(first)
        .epoch([])
        .epoch([late[0].clone()])
        .epoch(late[1..].to_vec())
        .run(&small());
    let ids = |run: &Run| run.compensations.last().iter().map(Compensation::id).collect::<Vec<_>>();
    // The records of n = 2 and n = 5 are in both replays; in one of them there is one more between.
    let (all, fewer) = (ids(&one_by_one), ids(&at_once));
    assert_eq!((fewer.len(), all.len()), (2, 3));
    assert!(fewer.iter().all(|id| all.contains(id)));
}

#[test]
fn an_id_is_a_hash_of_group_window_and_n() {
    let ids = |clicks: Vec<Line>| {
        let run = History::new().epoch(clicks).run(&small());
        run.compensations.last().iter().map(Compensation::id).collect::<Vec<_>>()
    };
    let same = ids(vec![click(0), click(1)]);
    // Not of the order nor of the times of the clicks.
    assert_eq!(ids(vec![click(3), click(2)]), same);
    let others = [
        ids(vec![click(0); 3]),
        ids(vec![click(5 * MINUTE); 2]),
        ids(vec![click(0).with("device_id", "e"); 2]),
        ids(vec![click(0).with("campaign_id", ()); 2]),
        ids(vec![click(0).with("actual_price", "1.51"); 2]),
    ];
    assert!(others.iter().all(|other| *other != same && other.len() == 1));
}

#[test]
fn a_click_past_the_allowed_lateness_is_late_and_raises_nothing() {
    let closes = window_end(0) - 1 + small().allowed_lateness;
    let run = |watermark| {
        History::new()
            .epoch([click(0), click(1)])
            .epoch([reach(watermark)])
            .epoch([])
            .epoch([click(2)])
            .run(&small())
    };
    assert_eq!(records(&run(closes)), [(2, 2, 150), (3, 3, 150)]);
    let late = run(closes + 1);
    assert_eq!(records(&late), [(2, 2, 150)]);
    assert_eq!(late.counts.late[&Statement::DuplicateDetector], 1);
}

#[test]
fn allowed_lateness_0_drops_what_comes_after_the_close() {
    let settings = Settings { allowed_lateness: 0, ..small() };
    let run = |watermark| {
        History::new().epoch([click(0), click(1)]).epoch([reach(watermark)]).epoch([click(2)]).run(&settings)
    };
    assert_eq!(records(&run(window_end(0) - 1)), [(4, 3, 300)]);
    assert_eq!(records(&run(window_end(0))), [(2, 2, 150)]);
}

#[test]
fn what_good_clicks_cost_is_counted_and_nothing_else() {
    let free = click(0).with("actual_price", "0.00");
    let bad = click(0).with("actual_price", "-1.00");
    let run = History::new().epoch([click(0), click(0), click(5), free, bad, impression(0)]).run(&small());
    assert_eq!(run.counts.spend, Money(450));
    assert_eq!(run.told.0, Money(300));
}
