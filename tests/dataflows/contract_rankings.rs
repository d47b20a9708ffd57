//! Statement 1. Each test is named after the sentence of the contract that it checks.

use adtide_dataflows::model::{Epoch, Money};
use adtide_dataflows::rtb_cache_updater::RankingRow;
use adtide_dataflows::{MetricsSource, Settings};

use crate::support::{
    History, Line, MINUTE, Run, campaign, click, impression, metrics, no_metrics, no_price, pause, price,
    small, sold, window_end,
};

/// The rankings at the end of an epoch: placement, category and the campaigns, best first.
fn rankings(run: &Run, epoch: Epoch) -> Vec<(String, String, Vec<i64>)> {
    let ids = |row: &RankingRow| row.list.iter().map(|entry| entry.campaign_id).collect();
    run.rankings
        .at(epoch)
        .iter()
        .map(|row| (row.placement.to_string(), row.category.to_string(), ids(row)))
        .collect()
}

/// The campaigns of the only ranking.
fn only(run: &Run, epoch: Epoch) -> Vec<i64> {
    let mut rankings = rankings(run, epoch);
    assert_eq!(rankings.len(), 1);
    rankings.remove(0).2
}

/// The score of the best campaign of the first ranking.
fn score(run: &Run, epoch: Epoch) -> f64 {
    run.rankings.at(epoch)[0].list[0].score.0
}

#[track_caller]
fn assert_near(score: f64, expected: f64) {
    assert!((score - expected).abs() < 1e-12, "{score} is not {expected}");
}

fn bid(id: i64, time: i64, amount: &str) -> Line {
    campaign(id, time).with("bid_price", amount)
}

fn limited(ranking_limit: usize) -> Settings {
    Settings { ranking_limit, ..small() }
}

#[test]
fn the_newest_event_of_a_campaign_by_timestamp_partition_and_offset_is_its_state() {
    let run = History::new()
        .epoch([bid(1, 20, "2.00")])
        .epoch([bid(1, 10, "9.00")])
        .epoch([bid(1, 20, "3.00")])
        .epoch([bid(1, 20, "4.00").to(1)])
        .epoch([bid(1, 20, "5.00")])
        .run(&small());
    let bids = [0, 1, 2, 3, 4].map(|epoch| run.rankings.at(epoch)[0].list[0].bid_price);
    assert_eq!(bids, [200, 200, 300, 400, 400].map(Money));
}

#[test]
fn it_is_active_if_its_type_is_create_update_or_activate_and_its_status_is_active() {
    for (event_type, status, active) in [
        ("CAMPAIGN_CREATE", "ACTIVE", true),
        ("CAMPAIGN_UPDATE", "ACTIVE", true),
        ("CAMPAIGN_ACTIVATE", "ACTIVE", true),
        ("CAMPAIGN_PAUSE", "ACTIVE", false),
        ("CAMPAIGN_DELETE", "ACTIVE", false),
        ("CAMPAIGN_UPDATE", "PAUSED", false),
        ("CAMPAIGN_ACTIVATE", "active", false),
    ] {
        let event = campaign(1, 10).with("event_type", event_type).with("status", status);
        let run = History::new().epoch([campaign(1, 0), campaign(2, 0)]).epoch([event]).run(&small());
        let expected = if active { vec![1, 2] } else { vec![2] };
        assert_eq!(only(&run, 1), expected, "{event_type} {status}");
    }
}

#[test]
fn otherwise_it_leaves_every_ranking_and_an_emptied_ranking_is_deleted() {
    let run = History::new()
        .epoch([campaign(1, 0), campaign(2, 0)])
        .epoch([pause(1, 10)])
        .epoch([pause(2, 10)])
        .epoch([campaign(2, 20)])
        .run(&small());
    assert_eq!(only(&run, 0), [1, 2]);
    assert_eq!(only(&run, 1), [2]);
    assert_eq!(run.rankings.at(2), []);
    assert_eq!(only(&run, 3), [2]);
}

#[test]
fn a_campaign_that_moves_placement_or_category_moves_ranking() {
    let run = History::new()
        .epoch([campaign(1, 0), campaign(2, 0)])
        .epoch([campaign(1, 10).with("placement", "side")])
        .epoch([campaign(1, 20).with("placement", "side").with("category", "books")])
        .run(&small());
    let of = |placement: &str, category: &str, id| (placement.to_owned(), category.to_owned(), vec![id]);
    assert_eq!(rankings(&run, 1), [of("side", "toys", 1), of("top", "toys", 2)]);
    assert_eq!(rankings(&run, 2), [of("side", "books", 1), of("top", "toys", 2)]);
}

#[test]
fn the_score_is_bid_price_by_ctr_and_a_tenth_of_ctr_by_cvr_by_product_price() {
    let run = History::new().epoch([campaign(1, 0), metrics(7, 0.02, 0.25), price(7, "100")]).run(&small());
    // 1.00 * 0.02 + 0.1 * 0.02 * 0.25 * 100
    assert_near(score(&run, 0), 0.07);
}

#[test]
fn ctr_is_001_and_cvr_0005_where_the_product_has_no_metrics() {
    let run = History::new().epoch([campaign(1, 0), metrics(8, 0.5, 0.5), price(7, "1000")]).run(&small());
    // 1.00 * 0.01 + 0.1 * 0.01 * 0.005 * 1000
    assert_near(score(&run, 0), 0.015);
}

#[test]
fn where_the_product_has_no_price_the_second_term_is_0() {
    let run = History::new().epoch([campaign(1, 0), metrics(7, 0.5, 0.5), price(8, "100")]).run(&small());
    assert_near(score(&run, 0), 0.5);
}

#[test]
fn by_score_descending_and_ties_go_to_the_lower_campaign_id() {
    let run =
        History::new().epoch([bid(3, 0, "1.00"), bid(2, 0, "1.00"), bid(1, 0, "0.50"), bid(10, 0, "2.00")]);
    assert_eq!(only(&run.run(&small()), 0), [10, 2, 3, 1]);
}

#[test]
fn a_rate_of_minus_0_ties_with_one_of_0() {
    let other = campaign(1, 0).with("product_id", 8);
    let run = History::new()
        .epoch([other, campaign(2, 0), metrics(8, -0.0, 0.5), metrics(7, 0.0, 0.5)])
        .run(&small());
    assert_eq!(only(&run, 0), [1, 2]);
}

#[test]
fn a_score_is_finite_whatever_the_rates() {
    let run = History::new()
        .epoch([bid(1, 0, "2.00"), metrics(7, 1e308, 1e308)])
        .epoch([price(7, "0")])
        .epoch([price(7, "100")])
        .run(&small());
    assert_eq!([0, 1, 2].map(|epoch| score(&run, epoch)), [f64::MAX; 3]);
}

#[test]
fn total_campaigns_counts_all_active_ones_and_the_limit_cuts_the_list() {
    let history = History::new().epoch([bid(1, 0, "1.00"), bid(2, 0, "2.00"), bid(3, 0, "3.00")]);
    let cut = history.run(&limited(2));
    assert_eq!((only(&cut, 0), cut.rankings.at(0)[0].total_campaigns), (vec![3, 2], 3));
    let whole = history.run(&limited(0));
    assert_eq!((only(&whole, 0), whole.rankings.at(0)[0].total_campaigns), (vec![3, 2, 1], 3));
}

#[test]
fn what_the_limit_cut_moves_up_when_a_better_one_leaves() {
    let run =
        History::new().epoch([bid(1, 0, "1.00"), bid(2, 0, "2.00")]).epoch([pause(2, 10)]).run(&limited(1));
    assert_eq!((only(&run, 0), only(&run, 1)), (vec![2], vec![1]));
}

#[test]
fn a_change_of_bid_status_metrics_or_price_reaches_the_ranking() {
    let other = bid(2, 0, "1.01").with("product_id", 8);
    let run = History::new()
        .epoch([campaign(1, 0), other])
        .epoch([bid(1, 10, "1.02")])
        .epoch([metrics(8, 0.02, 0.0)])
        .epoch([metrics(7, 0.02, 0.1)])
        .epoch([price(8, "1000000"), metrics(8, 0.02, 0.1)])
        .epoch([campaign(2, 20).with("status", "PAUSED")])
        .run(&small());
    let lists = [0, 1, 2, 3, 4, 5].map(|epoch| only(&run, epoch));
    assert_eq!(lists, [vec![2, 1], vec![1, 2], vec![2, 1], vec![1, 2], vec![2, 1], vec![1]]);
}

#[test]
fn a_null_value_deletes_metrics_and_price() {
    let run = History::new()
        .epoch([campaign(1, 0), metrics(7, 0.02, 0.25), price(7, "100")])
        .epoch([no_price(7)])
        .epoch([no_metrics(7)])
        .epoch([price(7, "1000")])
        .run(&small());
    for (epoch, expected) in [(0, 0.07), (1, 0.02), (2, 0.01), (3, 0.015)] {
        assert_near(score(&run, epoch), expected);
    }
}

#[test]
fn what_changes_nothing_writes_nothing() {
    let run = History::new()
        .epoch([campaign(1, 0), bid(2, 0, "0.10"), metrics(7, 0.02, 0.25)])
        .epoch([campaign(1, 10), metrics(7, 0.02, 0.25), no_price(7), price(8, "1")])
        .epoch([bid(2, 10, "0.20")])
        .run(&limited(1));
    // Campaign 2 is below the limit: its bid is not seen.
    assert_eq!(run.rankings.epochs(), [0]);
}

mod live {
    use super::*;

    fn live(windows: usize) -> Settings {
        Settings { product_metrics: MetricsSource::Live { windows }, ..small() }
    }

    /// Impressions, clicks and sales of product 7 in the n-th window.
    fn window(n: i64, impressions: usize, clicks: usize, sales: usize) -> Vec<Line> {
        let at = n * 5 * MINUTE;
        let lines = [vec![impression(at); impressions], vec![click(at); clicks], vec![sold(at); sales]];
        lines.concat()
    }

    /// Moves the watermark of statement 2 to the end of the n-th window, with an event that no window of a
    /// product in question counts.
    fn close(n: i64) -> Line {
        impression(window_end(n) + small().performance_bound).with("product_id", 99)
    }

    #[test]
    fn live_is_ctr_and_cvr_of_a_product_over_its_last_closed_windows_of_statement_2() {
        let run = History::new()
            .epoch([campaign(1, 0), price(7, "10")].into_iter().chain(window(0, 10, 2, 1)))
            .epoch([close(0)])
            .epoch(window(1, 10, 4, 2).into_iter().chain([close(1)]))
            .epoch(window(2, 20, 5, 1))
            .epoch([close(2)])
            .epoch([])
            .run(&live(2));
        let of = |ctr: f64, cvr: f64| ctr + 0.1 * ctr * cvr * 10.0;
        // A window counts once it has closed, which it does in the epoch after the one that moves the
        // watermark.
        assert_near(score(&run, 1), of(0.01, 0.005));
        assert_near(score(&run, 2), of(0.2, 0.5));
        assert_near(score(&run, 3), of(0.3, 0.5));
        assert_near(score(&run, 4), of(0.3, 0.5));
        assert_near(score(&run, 5), of(9.0 / 30.0, 3.0 / 9.0));
    }

    #[test]
    fn a_correction_of_one_of_the_last_closed_windows_changes_the_rates() {
        let run = History::new()
            .epoch([campaign(1, 0)].into_iter().chain(window(0, 10, 2, 0)).chain(window(1, 10, 4, 0)))
            .epoch([close(1)])
            .epoch([])
            .epoch([click(window_end(0) - 1), click(window_end(1) - 1).with("placement", "side")])
            .run(&Settings { allowed_lateness: 10 * MINUTE, ..live(2) });
        assert_near(score(&run, 2), 0.3);
        assert_near(score(&run, 3), 0.4);
    }

    #[test]
    fn a_correction_of_a_window_before_the_last_ones_changes_nothing() {
        let run = History::new()
            .epoch([campaign(1, 0)].into_iter().chain(window(0, 10, 2, 0)).chain(window(1, 10, 4, 0)))
            .epoch([close(1)])
            .epoch([])
            .epoch([click(0), click(0).with("campaign_id", 6)])
            .epoch([])
            .run(&Settings { allowed_lateness: 10 * MINUTE, ..live(1) });
        for epoch in [2, 3, 4] {
            assert_near(score(&run, epoch), 0.4);
        }
    }

    #[test]
    fn a_product_whose_windows_have_clicks_but_no_impressions_has_a_ctr_of_0() {
        let run = History::new()
            .epoch([campaign(1, 0)].into_iter().chain(window(0, 0, 2, 1)))
            .epoch([close(0)])
            .epoch([])
            .run(&live(12));
        assert_near(score(&run, 2), 0.0);
    }

    #[test]
    fn the_topic_product_metrics_is_not_read_then() {
        let run = History::new().epoch([campaign(1, 0), metrics(7, 0.5, 0.5)]).run(&live(12));
        assert_near(score(&run, 0), 0.01);
    }
}
