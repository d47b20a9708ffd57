//! Each test is named after the sentence of the contract that it checks.

use super::Located;
use crate::conversion_matcher::oracle::{Attributions, attributions};
use crate::duplicate_detector::oracle::{Refunds, refunds};
use crate::model::{
    ActiveCampaign, AdEvent, AdEventType, AdId, CampaignEvent, CampaignEventType, ConversionEvent, EventTime,
    Money, ProductMeta, ProductMetrics,
};
use crate::performance_aggregator::PerformanceKey;
use crate::performance_aggregator::oracle::{Performance, performance};
use crate::rtb_cache_updater::oracle::{Rankings, rankings};
use crate::{MetricsSource, Settings};

const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;

/// Events of one partition, in this order.
fn partition<E>(partition: u32, events: impl IntoIterator<Item = E>) -> Vec<Located<E>> {
    let located = |(event, offset)| Located { partition, offset, event };
    events.into_iter().zip(0..).map(located).collect()
}

fn ad(event_type: AdEventType, time: i64) -> AdEvent {
    AdEvent {
        event_type,
        time: EventTime(time),
        ad_id: Some(AdId::Number(1)),
        campaign_id: Some(5),
        advertiser_id: Some(9),
        product_id: 7,
        placement: "top".into(),
        device_id: Some("d".into()),
        session_id: None,
        actual_price: Money(if event_type == AdEventType::Click { 150 } else { 0 }),
        revenue_amount: Money(if event_type == AdEventType::Conversion { 600 } else { 0 }),
    }
}

fn click(time: i64) -> AdEvent {
    ad(AdEventType::Click, time)
}

fn sale(order: &str, time: i64) -> ConversionEvent {
    ConversionEvent {
        time: EventTime(time),
        device_id: Some("d".into()),
        session_id: None,
        order_id: order.into(),
        product_id: 7,
        revenue_amount: Money(600),
    }
}

mod statement_1 {
    use super::*;

    fn campaign(campaign_id: i64, time: i64, bid: i64) -> CampaignEvent {
        CampaignEvent {
            event_type: CampaignEventType::Update,
            time: EventTime(time),
            campaign_id,
            active: Some(ActiveCampaign {
                advertiser_id: 9,
                product_id: 7,
                placement: "top".into(),
                category: "toys".into(),
                bid_price: Money(bid),
            }),
        }
    }

    fn pause(campaign_id: i64, time: i64) -> CampaignEvent {
        CampaignEvent { event_type: CampaignEventType::Pause, active: None, ..campaign(campaign_id, time, 0) }
    }

    fn ranked(campaigns: &[Located<CampaignEvent>]) -> Rankings {
        rankings(campaigns, &[], &[], &Default::default(), &Settings::default())
    }

    fn ids(rankings: &Rankings) -> Vec<(String, Vec<i64>)> {
        let list = |row: &crate::rtb_cache_updater::RankingRow| {
            row.list.iter().map(|entry| entry.campaign_id).collect()
        };
        rankings.values().map(|row| (row.placement.to_string(), list(row))).collect()
    }

    fn score(rankings: &Rankings) -> f64 {
        rankings.values().next().map_or(f64::NAN, |row| row.list[0].score.0)
    }

    #[test]
    fn the_newest_event_by_time_partition_offset_is_the_campaigns_state() {
        let mut events = partition(0, [campaign(1, 20, 100), campaign(1, 10, 200), campaign(1, 20, 300)]);
        assert_eq!(ranked(&events).values().next().unwrap().list[0].bid_price, Money(300));
        events.extend(partition(1, [campaign(1, 20, 400)]));
        events.reverse();
        assert_eq!(ranked(&events).values().next().unwrap().list[0].bid_price, Money(400));
    }

    #[test]
    fn otherwise_it_leaves_every_ranking() {
        assert!(ranked(&partition(0, [campaign(1, 1, 100), pause(1, 2)])).is_empty());
        assert_eq!(
            ids(&ranked(&partition(0, [campaign(1, 3, 100), pause(1, 2)]))),
            [("top".into(), vec![1])]
        );
    }

    #[test]
    fn a_campaign_that_moves_placement_or_category_moves_ranking() {
        let mut moved = campaign(1, 2, 100);
        moved.active.as_mut().unwrap().placement = "side".into();
        let events = partition(0, [campaign(1, 1, 100), moved, campaign(2, 1, 100)]);
        assert_eq!(ids(&ranked(&events)), [("side".into(), vec![1]), ("top".into(), vec![2])]);
    }

    #[test]
    fn ctr_001_and_cvr_0005_where_the_product_has_no_metrics() {
        let meta = partition(0, [ProductMeta { product_id: 7, price: Some(Money(10_000)) }]);
        let campaigns = partition(0, [campaign(1, 1, 200)]);
        let found = rankings(&campaigns, &[], &meta, &Default::default(), &Settings::default());
        assert!((score(&found) - (2.0 * 0.01 + 0.1 * 0.01 * 0.005 * 100.0)).abs() < 1e-15);
    }

    #[test]
    fn where_the_product_has_no_price_the_second_term_is_0() {
        let metrics = partition(0, [ProductMetrics { product_id: 7, rates: Some((0.5, 0.25)) }]);
        let campaigns = partition(0, [campaign(1, 1, 200)]);
        let found = rankings(&campaigns, &metrics, &[], &Default::default(), &Settings::default());
        assert_eq!(score(&found), 1.0);
    }

    #[test]
    fn upsert_by_product_id_null_value_deletes() {
        let rates = |rates| ProductMetrics { product_id: 7, rates };
        let campaigns = partition(0, [campaign(1, 1, 200)]);
        let scored = |metrics: &[_]| {
            score(&rankings(&campaigns, metrics, &[], &Default::default(), &Settings::default()))
        };
        assert_eq!(scored(&partition(0, [rates(Some((0.5, 0.0))), rates(Some((0.25, 0.0)))])), 0.5);
        assert_eq!(scored(&partition(0, [rates(Some((0.5, 0.0))), rates(None)])), 0.02);
    }

    #[test]
    fn by_score_descending_campaign_id_ascending_on_ties_and_the_limit_cuts_the_list() {
        let events =
            partition(0, [campaign(3, 1, 100), campaign(2, 1, 100), campaign(1, 1, 50), campaign(4, 1, 200)]);
        assert_eq!(ids(&ranked(&events)), [("top".into(), vec![4, 2, 3, 1])]);
        let limited = |ranking_limit| {
            let settings = Settings { ranking_limit, ..Settings::default() };
            rankings(&events, &[], &[], &Default::default(), &settings)
        };
        assert_eq!(ids(&limited(2)), [("top".into(), vec![4, 2])]);
        assert_eq!(limited(2).values().next().unwrap().total_campaigns, 4);
        assert_eq!(ids(&limited(0)), [("top".into(), vec![4, 2, 3, 1])]);
    }

    #[test]
    fn live_is_ctr_and_cvr_of_a_product_over_its_last_closed_windows() {
        // The first window has a click in 1 impression, the second 1 in 4, the third, of another campaign, 1
        // in 2.
        let mut other = click(12 * MINUTE);
        other.campaign_id = Some(6);
        let mut shown = ad(AdEventType::Impression, 11 * MINUTE);
        shown.campaign_id = Some(6);
        let mut ads = vec![ad(AdEventType::Impression, 0), click(1)];
        ads.extend(vec![ad(AdEventType::Impression, 6 * MINUTE); 4]);
        ads.extend([
            click(7 * MINUTE),
            shown.clone(),
            shown,
            other,
            ad(AdEventType::Conversion, 13 * MINUTE),
        ]);
        let rows = performance(&partition(0, ads), &Settings::default()).rows;
        let live = |windows| {
            let settings =
                Settings { product_metrics: MetricsSource::Live { windows }, ..Settings::default() };
            let meta = partition(0, [ProductMeta { product_id: 7, price: Some(Money(100)) }]);
            score(&rankings(&partition(0, [campaign(1, 1, 100)]), &[], &meta, &rows, &settings))
        };
        let of = |ctr: f64, cvr: f64| ctr + 0.1 * ctr * cvr;
        assert!((live(1) - of(0.5, 1.0)).abs() < 1e-15);
        assert!((live(2) - of(2.0 / 6.0, 0.5)).abs() < 1e-15);
        assert!((live(12) - of(3.0 / 7.0, 1.0 / 3.0)).abs() < 1e-15);
    }
}

mod statement_2 {
    use super::*;

    fn computed(events: &[Located<AdEvent>]) -> Performance {
        performance(events, &Settings::default())
    }

    #[test]
    fn tumbling_5_minute_windows_aligned_to_the_epoch_per_campaign_product_placement() {
        let last = ad(AdEventType::Impression, 5 * MINUTE - 1);
        let elsewhere = AdEvent { placement: "side".into(), ..last.clone() };
        let product = AdEvent { product_id: 8, ..last.clone() };
        let campaign = AdEvent { campaign_id: Some(6), ..last.clone() };
        let next = ad(AdEventType::Impression, 5 * MINUTE);
        let found = computed(&partition(0, [last, elsewhere, product, campaign, next]));
        assert_eq!(found.rows.len(), 5);
        assert!(found.rows.values().all(|row| row.sums.impressions == 1 && row.is_final));
        let key = PerformanceKey {
            campaign_id: 5,
            product_id: 7,
            placement: "top".into(),
            window_start: EventTime(5 * MINUTE),
        };
        assert!(found.rows.contains_key(&key));
    }

    #[test]
    fn events_without_campaign_id_are_left_out_and_counted() {
        let found = computed(&partition(0, [AdEvent { campaign_id: None, ..click(1) }]));
        assert_eq!((found.rows.len(), found.without_campaign), (0, 1));
    }

    #[test]
    fn total_spend_is_the_sum_of_clicks_and_total_revenue_of_conversions() {
        let mut shown = ad(AdEventType::Impression, 1);
        (shown.actual_price, shown.revenue_amount) = (Money(999), Money(999));
        let mut clicked = click(2);
        clicked.revenue_amount = Money(999);
        let mut sold = ad(AdEventType::Conversion, 3);
        sold.actual_price = Money(999);
        let found = computed(&partition(0, [shown.clone(), shown, clicked.clone(), clicked, sold]));
        let sums = found.rows.values().next().unwrap().sums;
        assert_eq!((sums.impressions, sums.clicks, sums.conversions), (2, 2, 1));
        assert_eq!((sums.spend, sums.revenue), (Money(300), Money(600)));
    }

    #[test]
    fn until_the_allowed_lateness_a_late_event_corrects_past_it_it_is_late() {
        // The window [0, 5 min) takes events up to a watermark of 15 min - 1 ms; the bound is 10 s.
        let closes = 15 * MINUTE - 1 + 10_000;
        let in_time = computed(&partition(0, [click(closes), click(0)]));
        assert_eq!((in_time.rows.len(), in_time.late.locations.len()), (2, 0));
        let late = computed(&partition(0, [click(closes + 1), click(0), click(closes + 1)]));
        assert_eq!((late.rows.len(), late.late.locations.len(), late.late.locations[0].offset), (1, 1, 1));
    }

    #[test]
    fn the_watermark_of_a_partition_is_its_own_and_every_type_moves_it() {
        let mut events = partition(0, [ad(AdEventType::Impression, HOUR)]);
        events.extend(partition(1, [click(0)]));
        assert!(computed(&events).late.locations.is_empty());
        let events = partition(0, [AdEvent { campaign_id: None, ..click(HOUR) }, click(0)]);
        assert_eq!(computed(&events).late.locations.len(), 1);
    }

    #[test]
    fn events_may_come_in_any_order_of_the_list() {
        let mut events = partition(0, [click(0), click(HOUR)]);
        events.reverse();
        assert!(computed(&events).late.locations.is_empty());
    }
}

mod statement_3 {
    use super::*;

    fn matched(ads: &[AdEvent], conversions: &[ConversionEvent]) -> Attributions {
        let (ads, conversions) = (partition(0, ads.to_vec()), partition(0, conversions.to_vec()));
        attributions(&ads, &conversions, &Settings::default())
    }

    fn click_times(found: &Attributions) -> Vec<i64> {
        found.rows.values().map(|row| row.click_time.0).collect()
    }

    #[test]
    fn a_repeat_is_counted_and_ignored_the_earliest_stands() {
        let other_product = ConversionEvent { product_id: 8, ..sale("a", 20) };
        let found = matched(&[click(1), click(15)], &[sale("a", 20), sale("a", 10), other_product]);
        assert_eq!((click_times(&found), found.repeats), (vec![1], 1));
    }

    #[test]
    fn on_equal_times_the_lesser_partition_and_offset_stands() {
        let revenue = |amount| ConversionEvent { revenue_amount: Money(amount), ..sale("a", 20) };
        let mut conversions = partition(1, [revenue(3)]);
        conversions.extend(partition(0, [revenue(1), revenue(2)]));
        let found = attributions(&partition(0, [click(1)]), &conversions, &Settings::default());
        assert_eq!(found.rows.values().next().unwrap().revenue_amount, Money(1));
        assert_eq!(found.repeats, 2);
    }

    #[test]
    fn the_same_device_or_the_same_session_and_null_ids_match_nothing() {
        let by = |device: Option<&str>, session: Option<&str>| {
            let mut clicked = click(1);
            (clicked.device_id, clicked.session_id) = (device.map(Into::into), session.map(Into::into));
            let mut sold = sale("a", 2);
            (sold.device_id, sold.session_id) = (Some("d".into()), Some("s".into()));
            let nobody = ConversionEvent { device_id: None, ..sale("b", 2) };
            matched(&[clicked], &[sold, nobody]).rows.len()
        };
        assert_eq!(by(Some("d"), None), 1);
        assert_eq!(by(None, Some("s")), 1);
        assert_eq!(by(Some("other"), Some("s")), 1);
        assert_eq!(by(Some("s"), Some("d")), 0);
        assert_eq!(by(None, None), 0);
    }

    #[test]
    fn the_latest_wins_whether_it_is_by_device_or_by_session() {
        let by_session = |time| AdEvent { device_id: None, session_id: Some("s".into()), ..click(time) };
        let sold = ConversionEvent { session_id: Some("s".into()), ..sale("a", 9) };
        assert_eq!(click_times(&matched(&[click(1), by_session(2)], std::slice::from_ref(&sold))), [2]);
        assert_eq!(click_times(&matched(&[click(2), by_session(1)], &[sold])), [2]);
    }

    #[test]
    fn the_same_product_id_and_clicks_only() {
        let other = AdEvent { product_id: 8, ..click(1) };
        assert!(matched(&[other, ad(AdEventType::Impression, 1)], &[sale("a", 2)]).rows.is_empty());
    }

    #[test]
    fn click_time_up_to_conversion_time_up_to_click_time_plus_lookback() {
        assert_eq!(matched(&[click(5)], &[sale("a", 5)]).rows.len(), 1);
        assert_eq!(matched(&[click(6)], &[sale("a", 5)]).rows.len(), 0);
        assert_eq!(matched(&[click(5)], &[sale("a", 5 + 24 * HOUR)]).rows.len(), 1);
        assert_eq!(matched(&[click(5)], &[sale("a", 6 + 24 * HOUR)]).rows.len(), 0);
    }

    #[test]
    fn the_latest_click_time_wins_on_a_tie_the_greatest_ad_id_campaign_id() {
        let with = |time, ad_id: Option<&str>, campaign_id| AdEvent {
            ad_id: ad_id.map(AdId::from_text),
            campaign_id,
            ..click(time)
        };
        let by_session =
            AdEvent { device_id: None, session_id: Some("s".into()), ..with(3, Some("1"), None) };
        let clicks = [
            with(2, Some("z"), Some(9)),
            with(3, None, Some(9)),
            with(3, Some("10"), Some(1)),
            with(3, Some("9"), Some(9)),
            with(3, Some("10"), Some(2)),
            with(3, Some("10"), None),
            by_session,
            with(5, Some("zz"), Some(9)),
        ];
        let sold = ConversionEvent { session_id: Some("s".into()), ..sale("a", 4) };
        let found = matched(&clicks, &[sold]);
        let row = found.rows.values().next().unwrap();
        assert_eq!((row.click_time.0, &row.ad_id, row.campaign_id), (3, &Some(AdId::Number(10)), Some(2)));
    }

    #[test]
    fn past_the_allowed_lateness_neither_click_nor_conversion_takes_part() {
        // A bound of 1 h and 10 min of lateness: 70 min behind the greatest is in time.
        let in_time = matched(&[click(70 * MINUTE), click(0)], &[sale("b", 70 * MINUTE), sale("a", 0)]);
        assert_eq!((in_time.rows.len(), in_time.late.locations.len()), (2, 0));
        let late_click = matched(&[click(70 * MINUTE + 1), click(0)], &[sale("a", 0)]);
        assert_eq!((late_click.rows.len(), late_click.late.locations.len()), (0, 1));
        let late_sale = matched(&[click(0)], &[sale("b", 70 * MINUTE + 1), sale("a", 0)]);
        assert_eq!((late_sale.rows.len(), late_sale.late.locations.len()), (1, 1));
    }
}

mod statement_4 {
    use super::*;

    fn owed(events: &[AdEvent]) -> Refunds {
        refunds(&partition(0, events.to_vec()), &Settings::default())
    }

    #[test]
    fn a_group_of_n_clicks_owes_n_minus_1_times_the_price() {
        let found = owed(&[click(30), click(10), click(20), click(5 * MINUTE)]);
        let (key, refund) = found.groups.iter().next().unwrap();
        assert_eq!((found.groups.len(), key.window_start, refund.owed), (1, EventTime(0), Money(300)));
        assert_eq!(refund.click_times, [EventTime(10), EventTime(20), EventTime(30)]);
    }

    #[test]
    fn grouped_by_advertiser_campaign_ad_device_and_price() {
        let others = [
            AdEvent { advertiser_id: Some(8), ..click(1) },
            AdEvent { campaign_id: Some(6), ..click(1) },
            AdEvent { ad_id: Some(AdId::Number(2)), ..click(1) },
            AdEvent { device_id: Some("e".into()), ..click(1) },
            AdEvent { actual_price: Money(151), ..click(1) },
            click(1),
        ];
        assert!(owed(&others).groups.is_empty());
        let elsewhere =
            AdEvent { product_id: 8, placement: "side".into(), session_id: Some("s".into()), ..click(1) };
        assert_eq!(owed(&[click(1), elsewhere]).groups.len(), 1);
        let nowhere = AdEvent { campaign_id: None, ..click(1) };
        assert_eq!(owed(&[nowhere.clone(), nowhere]).groups.len(), 1);
    }

    #[test]
    fn clicks_with_device_id_and_ad_id() {
        let no_device = AdEvent { device_id: None, ..click(1) };
        let no_ad = AdEvent { ad_id: None, ..click(1) };
        let shown = ad(AdEventType::Impression, 1);
        let events = [no_device.clone(), no_device, no_ad.clone(), no_ad, shown.clone(), shown, click(1)];
        assert!(owed(&events).groups.is_empty());
    }

    #[test]
    fn a_click_within_the_allowed_lateness_raises_the_refund_past_it_it_is_late() {
        let closes = 15 * MINUTE - 1 + 30_000;
        let in_time = owed(&[click(0), ad(AdEventType::Impression, closes), click(1)]);
        assert_eq!((in_time.groups.len(), in_time.late.locations.len()), (1, 0));
        let late = owed(&[click(0), ad(AdEventType::Impression, closes + 1), click(1)]);
        assert_eq!((late.groups.len(), late.late.locations.len()), (0, 1));
    }

    #[test]
    fn an_allowed_lateness_of_0_drops_what_comes_after_the_watermark() {
        let settings = Settings { allowed_lateness: 0, ..Settings::default() };
        let closes = 5 * MINUTE - 1 + 30_000;
        let late = |time| refunds(&partition(0, [click(time), click(0)]), &settings).late.locations.len();
        assert_eq!((late(closes), late(closes + 1)), (0, 1));
    }
}
