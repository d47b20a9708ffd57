//! Statement 2. Each test is named after the sentence of the contract that it checks.

use adtide_dataflows::model::{Epoch, EventTime, Money};
use adtide_dataflows::performance_aggregator::{PerformanceRow, PerformanceSums};
use adtide_dataflows::{Settings, Statement};

use crate::support::{History, MINUTE, Run, click, impression, on_close, small, sold, window_end};

/// (campaign, product, placement, window start, impressions, clicks, conversions, final)
type Row = (i64, i64, String, i64, i64, i64, i64, bool);

fn rows(run: &Run, epoch: Epoch) -> Vec<Row> {
    let of = |row: PerformanceRow| {
        let (key, sums) = (row.key, row.sums);
        let counts = (sums.impressions, sums.clicks, sums.conversions);
        let start = key.window_start.0;
        (
            key.campaign_id,
            key.product_id,
            key.placement.to_string(),
            start,
            counts.0,
            counts.1,
            counts.2,
            row.is_final,
        )
    };
    run.performance.at(epoch).into_iter().map(of).collect()
}

/// The row of campaign 5, product 7, placement top.
fn row(start: i64, impressions: i64, clicks: i64, conversions: i64, is_final: bool) -> Row {
    (5, 7, "top".to_owned(), start, impressions, clicks, conversions, is_final)
}

/// The event time that moves the watermark to this.
fn reach(watermark: i64) -> i64 {
    watermark + small().performance_bound
}

#[test]
fn tumbling_5_minute_windows_aligned_to_the_epoch_per_campaign_product_and_placement() {
    let last = window_end(2) - 1;
    let run = History::new()
        .epoch([impression(last), impression(last + 1)])
        .epoch([impression(last).with("placement", "side"), impression(last).with("product_id", 8)])
        .epoch([impression(last).with("campaign_id", 6).with("device_id", "e").with("ad_id", 2)])
        .run(&small());
    let (start, next) = (10 * MINUTE, 15 * MINUTE);
    let side = (5, 7, "side".to_owned(), start, 1, 0, 0, true);
    let product = (5, 8, "top".to_owned(), start, 1, 0, 0, true);
    let campaign = (6, 7, "top".to_owned(), start, 1, 0, 0, true);
    let expected = [side, row(start, 1, 0, 0, true), row(next, 1, 0, 0, true), product, campaign];
    assert_eq!(rows(&run, Epoch::MAX), expected);
}

#[test]
fn events_without_campaign_id_are_left_out_and_counted() {
    let run =
        History::new().epoch([click(0).with("campaign_id", ()), click(0).without("campaign_id"), click(0)]);
    let run = run.run(&small());
    assert_eq!(rows(&run, Epoch::MAX), [row(0, 0, 1, 0, true)]);
    assert_eq!(run.counts.without_campaign, 2);
}

#[test]
fn total_spend_is_of_clicks_and_total_revenue_of_conversions() {
    let run = History::new()
        .epoch([impression(0).with("actual_price", "9.99").with("revenue_amount", "9.99")])
        .epoch([click(0).with("revenue_amount", "9.99"), click(1).with("actual_price", "0.51")])
        .epoch([sold(0).with("actual_price", "9.99"), sold(1).with("revenue_amount", "0.03")])
        .run(&small());
    let sums =
        PerformanceSums { impressions: 1, clicks: 2, conversions: 2, spend: Money(201), revenue: Money(603) };
    assert_eq!(run.performance.last()[0].sums, sums);
}

#[test]
fn ctr_cvr_and_roas_are_each_0_where_the_divisor_is_0() {
    let sums = |lines: Vec<_>| History::new().epoch(lines).run(&small()).performance.last()[0].sums;
    let nothing_but_a_sale = sums(vec![sold(0)]);
    assert_eq!(
        (nothing_but_a_sale.ctr(), nothing_but_a_sale.cvr(), nothing_but_a_sale.roas()),
        (0.0, 0.0, 0.0)
    );
    let free_click = sums(vec![click(0).with("actual_price", 0), sold(0)]);
    assert_eq!((free_click.ctr(), free_click.cvr(), free_click.roas()), (0.0, 100.0, 0.0));
    let all = sums(vec![impression(0), impression(0), impression(0), impression(0), click(0), sold(0)]);
    assert_eq!((all.ctr(), all.cvr(), all.roas()), (25.0, 100.0, 4.0));
}

#[test]
fn is_final_is_false_while_the_window_is_open_and_true_once_it_has_closed() {
    let run = History::new()
        .epoch([impression(0)])
        .epoch([click(1), impression(reach(window_end(0)) - 1).with("campaign_id", ())])
        .epoch([impression(reach(window_end(0))).with("campaign_id", ())])
        .epoch([])
        .run(&small());
    assert_eq!(rows(&run, 0), [row(0, 1, 0, 0, false)]);
    assert_eq!(rows(&run, 1), [row(0, 1, 1, 0, false)]);
    assert_eq!(rows(&run, 2), [row(0, 1, 1, 0, false)]);
    assert_eq!(rows(&run, 3), [row(0, 1, 1, 0, true)]);
}

#[test]
fn on_close_writes_only_final_rows() {
    let run = History::new()
        .epoch([impression(0)])
        .epoch([click(1), impression(reach(window_end(0)))])
        .epoch([])
        .epoch([click(2)])
        .run(&on_close());
    assert_eq!(run.performance.epochs()[0], 2);
    assert_eq!(rows(&run, 2), [row(0, 1, 1, 0, true)]);
    // A correction is written at once.
    assert_eq!(rows(&run, 3), [row(0, 1, 2, 0, true)]);
    assert_eq!(rows(&run, Epoch::MAX), [row(0, 1, 2, 0, true), row(5 * MINUTE, 1, 0, 0, true)]);
}

#[test]
fn until_the_allowed_lateness_a_late_event_corrects_what_was_written() {
    let closes = window_end(0) - 1 + small().allowed_lateness;
    let run = History::new()
        .epoch([impression(0)])
        .epoch([impression(reach(closes)).with("campaign_id", ())])
        .epoch([])
        .epoch([click(window_end(0) - 1), click(3).with("placement", "side")])
        .run(&small());
    assert_eq!(rows(&run, 2), [row(0, 1, 0, 0, true)]);
    // Also a row that was not there before is final at once.
    assert_eq!(rows(&run, 3), [(5, 7, "side".to_owned(), 0, 0, 1, 0, true), row(0, 1, 1, 0, true)]);
    assert_eq!(run.counts.late.get(&Statement::PerformanceAggregator), None);
}

#[test]
fn past_the_allowed_lateness_the_event_goes_to_late_events_and_is_counted() {
    let closes = window_end(0) - 1 + small().allowed_lateness;
    let watermark = closes + 1;
    let late = click(7).with("device_id", ()).with("session_id", "s");
    let run = History::new().epoch([impression(0), impression(reach(watermark)), late.clone()]).run(&small());
    assert_eq!(rows(&run, Epoch::MAX), [row(0, 1, 0, 0, true), row(5 * MINUTE, 1, 0, 0, true)]);
    let [(of_2, _), (of_3, _)] = &run.late[..] else {
        panic!("statements 2 and 3 leave it out: {:?}", run.late)
    };
    assert_eq!(
        (of_2.statement, of_3.statement),
        (Statement::PerformanceAggregator, Statement::ConversionMatcher)
    );
    assert_eq!((of_2.partition, of_2.offset, of_2.event_time), (0, 2, EventTime(7)));
    assert_eq!((of_2.watermark, &of_2.value), (EventTime(watermark), &late.json().into_bytes()));
    assert_eq!(run.counts.late[&Statement::PerformanceAggregator], 1);
}

#[test]
fn allowed_lateness_0_gives_flinks_drop_behaviour() {
    let settings = Settings { allowed_lateness: 0, ..small() };
    // Flink keeps a record until the watermark, which for it is the greatest event time less the bound, has
    // passed the window's last millisecond.
    let run = |watermark| History::new().epoch([impression(reach(watermark)), impression(0)]).run(&settings);
    assert!(run(window_end(0) - 1).late.is_empty());
    assert_eq!(run(window_end(0)).counts.late[&Statement::PerformanceAggregator], 1);
}

#[test]
fn each_touched_row_changes_once_an_epoch() {
    let run = History::new().epoch(vec![click(0); 5]).epoch(vec![click(0); 3]).run(&small());
    // One row, then its replacement, then it becomes final.
    assert_eq!(
        run.performance
            .0
            .iter()
            .map(|(_, epoch, diff)| (*epoch, *diff))
            .filter(|(epoch, _)| *epoch < 2)
            .count(),
        3
    );
    assert_eq!(rows(&run, 1), [row(0, 0, 8, 0, false)]);
}

#[test]
fn sums_of_money_stop_at_the_greatest_amount() {
    let greatest = sold(0).with("revenue_amount", "9999999999999.99");
    let run = History::new().epoch(vec![greatest; 3]).run(&small());
    assert_eq!(run.performance.last()[0].sums.revenue, Money(3 * Money::MAX_REVENUE.0));
}
