//! A small run, written by hand: right rows pass, wrong ones are told.

use std::path::{Path, PathBuf};

use adtide_dataflows::Settings;
use adtide_dataflows::duplicate_detector::Compensation;
use adtide_dataflows::model::{AdId, EventTime, Money, Topic};
use adtide_dataflows::operators::{PartitionReport, PartitionState, Watermarks};
use rusqlite::Connection;
use serde_json::json;

use super::{Report, Results, Topics, verify};
use crate::sink::sqlite::SqliteSink;
use crate::sink::{Commit, Progress, Run, Sink};

/// Without the constraints that keep the sink from writing what it must not.
const TABLES: &str = "
    DROP TABLE ad_performance_metrics_realtime; DROP TABLE conversion_attribution_results; DROP TABLE rtb_ranking_cache;
    CREATE TABLE ad_performance_metrics_realtime(id INTEGER PRIMARY KEY AUTOINCREMENT, campaign_id INTEGER,
        product_id INTEGER, placement TEXT, metric_time TEXT, impression_count INTEGER, click_count INTEGER,
        conversion_count INTEGER, total_spend TEXT, total_revenue TEXT, ctr REAL, cvr REAL, roas REAL, updated_at TEXT,
        is_final INTEGER);
    CREATE TABLE conversion_attribution_results(ad_id TEXT, campaign_id INTEGER, advertiser_id INTEGER,
        product_id INTEGER, order_id TEXT, revenue_amount TEXT, time_to_conversion INTEGER, attribution_model TEXT,
        click_time TEXT, conversion_time TEXT, processed_at TEXT);
    CREATE TABLE rtb_ranking_cache(placement TEXT, category TEXT, ranking_list TEXT, total_campaigns INTEGER,
        updated_at TEXT);
    INSERT INTO ad_performance_metrics_realtime VALUES (1, 5, 7, 'top', '1970-01-01 00:00:00', 1, 3, 0,
        '4.50', '0.00', 300, 0, 0, 'now', 1);
    INSERT INTO conversion_attribution_results VALUES ('1', 5, 9, 7, 'a', '6.00', 7, 'LAST_CLICK',
        '1970-01-01 00:00:03.000', '1970-01-01 00:00:10.999', 'now');
    INSERT INTO rtb_ranking_cache VALUES ('top', 'toys',
        '[{\"product_id\":7,\"score\":0.02,\"bid_price\":2.00,\"campaign_id\":5,\"advertiser_id\":9}]', 1, 'now');
";

const ADS: &str = r#"{"event_type":"IMPRESSION","timestamp_field":"1970-01-01 00:00:01","ad_id":1,"campaign_id":5,"product_id":7,"placement":"top"}
{"event_type":"CLICK","timestamp_field":"1970-01-01 00:00:01","ad_id":1,"campaign_id":5,"advertiser_id":9,"product_id":7,"placement":"top","device_id":"d","actual_price":1.50}
{"event_type":"CLICK","timestamp_field":"1970-01-01 00:00:03","ad_id":1,"campaign_id":5,"advertiser_id":9,"product_id":7,"placement":"top","device_id":"d","actual_price":1.50}
{"event_type":"CLICK","timestamp_field":"1970-01-01 00:00:02","ad_id":1,"campaign_id":5,"advertiser_id":9,"product_id":7,"placement":"top","device_id":"d","actual_price":1.50}
not a record
{"event_type":"IMPRESSION","timestamp_field":"1970-01-01 02:30:00","product_id":7,"placement":"top"}
{"event_type":"IMPRESSION","timestamp_field":"1970-01-01 00:00:01","campaign_id":5,"product_id":7,"placement":"top"}
"#;

const SALES: &str = r#"{"event_type":"CONVERSION","timestamp_field":"1970-01-01 00:00:10.999","device_id":"d","order_id":"a","product_id":7,"revenue_amount":6}
"#;

const CAMPAIGNS: &str = r#"{"event_type":"CAMPAIGN_CREATE","timestamp_field":"1970-01-01 00:00:00.001","campaign_id":5,"advertiser_id":9,"product_id":7,"placement":"top","category":"toys","bid_price":2,"status":"ACTIVE"}
"#;

/// The group's first record, of n clicks.
pub fn compensation(n: usize, refund: &str) -> String {
    compensation_record(n, &(1..).take(n).collect::<Vec<_>>(), refund)
}

/// The record that brings the group to n clicks and lists those at these seconds.
fn compensation_record(n: usize, seconds: &[i64], refund: &str) -> String {
    let id = compensation_id(n);
    let times = seconds.iter().map(|second| format!("\"{}\"", EventTime(second * 1000)));
    format!(
        r#"{{"timestamp_field":"now","advertiser_id":9,"campaign_id":5,"ad_id":1,"device_id":"d","duplicate_click_count":{n},"refund_amount":{refund},"original_click_timestamps":[{}],"detection_window":"5_MINUTES","reason":"DUPLICATE_CLICK_DETECTED","compensation_type":"BALANCE_REFUND","window_start":"1970-01-01 00:00:00.000","compensation_id":"{id}"}}"#,
        times.collect::<Vec<_>>().join(",")
    )
}

/// The id of the group's record of n clicks.
pub fn compensation_id(n: usize) -> String {
    group(n).id()
}

fn group(n: usize) -> Compensation {
    Compensation {
        advertiser_id: 9,
        campaign_id: Some(5),
        ad_id: AdId::Number(1),
        device_id: "d".into(),
        actual_price: Money(150),
        window_start: EventTime(0),
        clicks: n as u64,
        click_times: Vec::new(),
        is_cut: false,
        refund_amount: Money(0),
    }
}

fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

/// Verifies a run that is right but for `sql` and the compensations.
pub fn verified(sql: &str, compensations: &[String]) -> Report {
    verified_with(ADS, sql, compensations, &late(), &dead())
}

/// What `late-events` says of statement 2 and one of the ads.
fn late_record(offset: usize, watermark: EventTime) -> String {
    let value = ADS.lines().nth(offset).unwrap();
    let time = serde_json::from_str::<serde_json::Value>(value).unwrap()["timestamp_field"]
        .as_str()
        .unwrap()
        .to_owned();
    let reason =
        format!("its partition's watermark, {watermark}, had passed its deadline and the allowed lateness");
    json!({
        "statement": "performance_aggregator", "topic": "ad-events", "partition": 0, "offset": offset, "reason": reason,
        "event_time": format!("{time}.000"), "watermark": watermark.to_string(), "value": value,
    })
    .to_string()
}

fn late() -> String {
    late_record(6, EventTime::parse("1970-01-01 02:29:50").unwrap())
}

fn dead() -> String {
    let value = ADS.lines().nth(4).unwrap();
    let (topic, detail) = ("ad-events", "in other words than here");
    json!({"topic": topic, "partition": 0, "offset": 4, "reason": "not_json", "detail": detail, "value": value})
        .to_string()
}

fn verified_with(ads: &str, sql: &str, compensations: &[String], late: &str, dead: &str) -> Report {
    let end =
        Watermarks { performance: EventTime::MAX, conversions: EventTime::MAX, duplicates: EventTime::MAX };
    verified_at(ads, sql, compensations, late, dead, &progress(ads.lines().count(), end))
}

/// All of the small topics has been read, and so many ad events.
fn progress(ads: usize, watermarks: Watermarks) -> Progress {
    let report = |topic, next_offset| PartitionReport {
        topic,
        partition: 0,
        next_offset,
        greatest: None,
        watermarks,
        state: PartitionState::Active,
        wakes: Vec::new(),
        first_offset: 0,
        last: None,
        file: None,
        judgements: Vec::new(),
    };
    let reports = [
        report(Topic::AdEvents, ads as u64),
        report(Topic::ConversionEvents, 1),
        report(Topic::CampaignEvents, 1),
    ];
    let partitions = reports.into_iter().map(|report| ((report.topic, report.partition), report)).collect();
    Progress { epoch: 7, watermarks: Some(watermarks), partitions }
}

fn verified_at(
    ads: &str,
    sql: &str,
    compensations: &[String],
    late: &str,
    dead: &str,
    progress: &Progress,
) -> Report {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("in"), dir.path().join("out"));
    write(&from.join("ad-events/0.ndjson"), ads);
    write(&from.join("conversion-events.ndjson"), SALES);
    write(&from.join("campaign-events.ndjson"), CAMPAIGNS);
    let topics = [
        ("compensation-events", compensations.join("\n")),
        ("late-events", late.into()),
        ("dead-letter", dead.into()),
    ];
    let mut stored = serde_json::to_value(progress).unwrap();
    for (topic, text) in topics {
        write(&to.join(format!("topics/{topic}.ndjson")), &format!("{text}\nnot committed"));
        stored["lengths"][topic] = json!(text.len());
    }
    write(&to.join("topics/.adtide-progress.json"), &stored.to_string());
    let run = Run { settings: Settings::default(), source: "in".into() };
    let mut sink = SqliteSink::open(&to.join("adtide.db"), &run, false).unwrap();
    sink.commit(Commit { epochs: Vec::new(), progress: progress.clone() }).unwrap();
    drop(sink);
    let db = Connection::open(to.join("adtide.db")).unwrap();
    db.execute_batch(TABLES).unwrap();
    db.execute_batch(sql).unwrap();
    drop(db);
    verify(&Topics::Files(from), &Results::Embedded(to), &mut |_, _| ()).unwrap()
}

fn whole() -> Vec<String> {
    vec![compensation(3, "3.00")]
}

#[test]
fn a_right_run_is_verified() {
    let report = verified("", &whole());
    assert!(report.ok(), "{report}");
    assert!(report.sections().iter().all(|(_, section)| section.compared == 1), "{report}");
    assert_eq!((report.without_campaign, report.repeats), (1, 0));
    assert!(report.to_string().starts_with("verified"));
}

#[test]
fn a_wrong_value_is_told_with_its_key() {
    let report =
        verified("UPDATE ad_performance_metrics_realtime SET click_count = 4, roas = 1e-9", &whole());
    assert_eq!(
        report.performance.wrong.lines,
        [
            r#"[5,7,"top","1970-01-01 00:00:00"]: expected click_count=3, roas=0.0, found click_count=4, roas=1e-9"#
        ]
    );
    assert_eq!(report.differences(), 1);
    assert!(report.to_string().contains("expected click_count=3"));
}

#[test]
fn missing_and_unexpected_and_repeated_rows_are_told() {
    let moved = "UPDATE conversion_attribution_results SET order_id = 'b'";
    let report = verified(moved, &whole());
    assert_eq!((report.attributions.missing.count, report.attributions.unexpected.count), (1, 1));
    let twice = "INSERT INTO rtb_ranking_cache SELECT * FROM rtb_ranking_cache";
    assert_eq!(verified(twice, &whole()).rankings.unexpected.count, 1);
}

#[test]
fn only_the_first_differences_are_kept() {
    let many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50)
        INSERT INTO rtb_ranking_cache SELECT 'p' || i, 'c', '[]', 0, '' FROM n";
    let report = verified(many, &whole());
    assert_eq!((report.rankings.unexpected.count, report.rankings.unexpected.lines.len()), (50, 20));
    assert!(report.to_string().contains("and 31 more"), "{report}");
}

#[test]
fn differences_print_within_twenty_lines_and_each_kind_gets_its_share() {
    let many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50)
        INSERT INTO rtb_ranking_cache SELECT 'p' || i, 'c', '[]', 0, '' FROM n;
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50)
        INSERT INTO conversion_attribution_results (order_id, product_id) SELECT printf('%.*c', 9000, 'o') || i, i FROM n;
        UPDATE ad_performance_metrics_realtime SET click_count = 4; DELETE FROM rtb_ranking_cache WHERE placement = 'top'";
    let report = verified(many, &whole());
    let text = report.to_string();
    let differences: Vec<_> = text.lines().filter(|line| line.starts_with("    ")).collect();
    assert!(differences.len() <= 20, "{text}");
    assert!(differences.last().unwrap().starts_with("    and "), "{text}");
    for kind in ["unexpected [\"p1\"", "missing [\"top\",\"toys\"]", "wrong [5,7,", "unexpected [\"ooo"] {
        assert!(differences.iter().any(|line| line.trim_start().starts_with(kind)), "{kind}: {text}");
    }
    assert!(text.lines().all(|line| line.len() < 600), "{text}");
}

#[test]
fn what_a_report_shows_of_ids_is_no_code_for_the_terminal() {
    let clears = "UPDATE rtb_ranking_cache SET placement = char(27) || '[2J' || char(155) || '1mtop'";
    let text = verified(clears, &whole()).to_string();
    assert!(text.contains("[2J") && !text.contains(|c: char| c.is_control() && c != '\n'), "{text:?}");
}

#[test]
fn a_ranking_is_compared_entry_by_entry() {
    for (from, to) in
        [("2.00", "2.0"), ("2.00", "\"2.00\""), ("0.02", "0.020000001"), (":9}", ":8}"), ("]", ",{}]")]
    {
        let sql =
            format!("UPDATE rtb_ranking_cache SET ranking_list = replace(ranking_list, '{from}', '{to}')");
        assert_eq!(verified(&sql, &whole()).rankings.wrong.count, 1, "{to}");
    }
    assert_eq!(
        verified("UPDATE rtb_ranking_cache SET ranking_list = '[]'", &whole()).rankings.wrong.count,
        1
    );
}

#[test]
fn the_records_of_a_group_add_up() {
    let third = |refund| compensation_record(3, &[3], refund);
    for right in [[compensation(2, "1.50"), third("1.50")], [third("1.50"), compensation(2, "1.50")]] {
        let report = verified("", &right);
        assert!(report.ok(), "{report}");
    }
    for wrong in [
        vec![],
        vec![compensation(2, "1.50")],
        vec![compensation(2, "1.50"), third("3.00")],
        vec![compensation(2, "1.50"), compensation(3, "1.50")],
        vec![compensation(2, "1.50"), compensation_record(3, &[2], "1.50")],
        vec![compensation(2, "1.50"), compensation_record(3, &[4], "1.50")],
        vec![compensation_record(3, &[1, 2], "3.00")],
        vec![compensation_record(3, &[1, 3, 2], "3.00")],
        vec![compensation(3, "3.00").replace("]", "],\"timestamps_cut\":true")],
        vec![compensation(3, "3.00"), compensation(3, "0.00")],
        vec![compensation(3, "3.0")],
        vec![compensation(3, "3.00").replace("00:00:02", "00:00:01")],
        vec![compensation(3, "3.00").replace("compensation_id\":\"", "compensation_id\":\"x")],
        vec![compensation(3, "3.00").replace("BALANCE", "OTHER")],
        vec![
            compensation(3, "3.00"),
            compensation(2, "1.50").replace("\"device_id\":\"d\"", "\"device_id\":\"e\""),
        ],
        vec![compensation(3, "3.00"), "{}".into()],
    ] {
        assert!(verified("", &wrong).refunds.differences() > 0, "{wrong:?}");
    }
}

#[test]
fn a_refund_record_that_lists_the_first_of_very_many_clicks_is_right() {
    let first = ADS.lines().nth(1).unwrap();
    let click = |ms: i64| first.replace("1970-01-01 00:00:01", &EventTime(ms).to_string()) + "\n";
    // With the three of ADS there are 4003.
    let ads = (0..4000).map(|n| click(3001 + n)).collect::<String>() + ADS;
    let times =
        |ms: &mut dyn Iterator<Item = i64>| ms.map(|ms| format!("\"{}\"", EventTime(ms))).collect::<Vec<_>>();
    let record = |n: usize, refund: &str, times: Vec<String>, cut: bool| {
        let cut = if cut { r#","timestamps_cut":true"# } else { "" };
        compensation_record(n, &[], refund).replace("[]", &format!("[{}]{cut}", times.join(",")))
    };
    let all = &mut [1000, 2000].into_iter().chain(3000..);
    let first = times(&mut all.take(1000));
    let verified =
        |compensations: &[String]| verified_with(&ads, "", compensations, &late(), &dead()).refunds;
    let whole = record(4003, "6003.00", first.clone(), true);
    assert_eq!(verified(std::slice::from_ref(&whole)).differences(), 0);
    // A click that came late is listed by its own record.
    let two =
        |late: Vec<String>| [record(4002, "6001.50", first.clone(), true), record(4003, "1.50", late, false)];
    assert_eq!(verified(&two(times(&mut [6000].into_iter()))).differences(), 0);
    for wrong in [
        vec![whole.replace(",\"timestamps_cut\":true", "")],
        vec![whole.replace(&first[999], &times(&mut [7001].into_iter())[0])],
        vec![record(4003, "6003.00", times(&mut (3000..7001)), true)],
        two(times(&mut [3000].into_iter())).to_vec(),
        two(times(&mut [7001].into_iter())).to_vec(),
    ] {
        let section = verified(&wrong);
        assert!(section.differences() > 0, "{section:?}");
        assert!(section.wrong.lines.iter().all(|line| line.len() < 300), "{section:?}");
    }
}

#[test]
fn a_refund_record_whose_device_is_too_long_for_it_is_right() {
    let long = "d".repeat(60_000);
    let [whole, cut] = [long.as_str(), &long[..50_000]].map(|device| format!("\"device_id\":\"{device}\""));
    let ads = ADS.replace("\"device_id\":\"d\"", &whole);
    let id = Compensation { device_id: long.as_str().into(), ..group(3) }.id();
    let record =
        compensation(3, "3.00").replace(&compensation_id(3), &id).replace("\"device_id\":\"d\"", &cut);
    let verified =
        |record: String| verified_with(&ads, "", &[record], &late(), &dead()).refunds.differences();
    assert_eq!(verified(record.replace("\"reason\"", "\"truncated\":true,\"reason\"")), 0);
    assert_eq!(verified(record), 2);
}

#[test]
fn late_events_and_dead_letters_are_compared_by_their_place() {
    let late = r#"{"statement":"duplicate_detector","topic":"ad-events","partition":0,"offset":6}"#;
    let dead = "{\"topic\":\"ad-events\",\"partition\":0,\"offset\":4}\n".repeat(2);
    let report = verified_with(ADS, "", &whole(), late, &dead);
    assert_eq!((report.late_events.missing.count, report.late_events.unexpected.count), (1, 1));
    assert_eq!((report.dead_letters.missing.count, report.dead_letters.unexpected.count), (0, 1));
    let report = verified_with(ADS, "", &whole(), "nonsense", "");
    assert_eq!((report.late_events.missing.count, report.late_events.unexpected.count), (1, 1));
    assert!(report.dead_letters.missing.lines[0].contains(r#"["ad-events",0,4]"#), "{report}");
}

#[test]
fn every_field_of_late_events_and_dead_letters_is_compared() {
    let late_changes = [
        ("\"offset\":6", "\"offset\":6,\"key\":\"k\"", "key"),
        ("\"offset\":6", "\"offset\":6,\"timestamp\":7", "timestamp"),
        ("\"event_time\":\"1970-01-01 00:00:01", "\"event_time\":\"1970-01-01 00:00:02", "event_time"),
        ("\"watermark\":\"1970-01-01 02:29:50", "\"watermark\":\"1970-01-01 02:29:49", "watermark"),
        ("had passed", "has passed", "reason"),
        ("IMPRESSION", "IMPRESSIOM", "value"),
        ("\"value\"", "\"value_hex\"", "value"),
        ("\"value\"", "\"other\"", "value"),
    ];
    for (from, to, field) in late_changes {
        let section = verified_with(ADS, "", &whole(), &late().replace(from, to), &dead()).late_events;
        let named = section.wrong.lines.iter().all(|line| line.contains(&format!("{field}=")));
        assert!((section.differences(), section.wrong.count) == (1, 1) && named, "{field}: {section:?}");
    }
    for (from, to, field) in [("not_json", "not_utf8", "reason"), ("not a record", "not a recorD", "value")] {
        let section = verified_with(ADS, "", &whole(), &late(), &dead().replace(from, to)).dead_letters;
        assert_eq!((section.differences(), section.wrong.count), (1, 1), "{section:?}");
        assert!(section.wrong.lines[0].contains(&format!("{field}=")), "{section:?}");
    }
    // Bytes that are no text, and a value of which only the beginning fits a record.
    let hex: String = "not a record".bytes().map(|byte| format!("{byte:02x}")).collect();
    let dead_in_hex = dead().replace("\"value\":\"not a record\"", &format!("\"value_hex\":\"{hex}\""));
    let head =
        dead().replace("\"value\":\"not a record\"", "\"value\":\"not a\u{FFFD}\",\"value_truncated\":true");
    for right in [dead_in_hex, head] {
        let report = verified_with(ADS, "", &whole(), &late(), &right);
        assert!(report.ok(), "{report}");
    }
}

#[test]
fn groups_that_differ_in_the_price_only_are_told_apart_by_the_id() {
    // The same three clicks once more at a lower price: a second group, for which no record is there.
    let clicks: Vec<_> = ADS.lines().filter(|line| line.contains("CLICK")).collect();
    let cheaper = clicks.join("\n").replace("1.50", "1.00");
    let report = verified_with(&format!("{cheaper}\n{ADS}"), "", &whole(), "", "");
    assert_eq!((report.refunds.compared, report.refunds.differences()), (2, 1), "{report}");
    assert!(report.refunds.missing.lines[0].contains(r#""1.00""#), "{report}");
}

#[test]
fn a_missing_database_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let error = |from: PathBuf| {
        let results = Results::Embedded(dir.path().to_owned());
        format!("{:#}", verify(&Topics::Files(from), &results, &mut |_, _| ()).unwrap_err())
    };
    let missing = error(dir.path().to_owned());
    assert!(missing.contains("adtide.db") && missing.contains("run the statements first"), "{missing}");
    let run = Run { settings: Settings::default(), source: "in".into() };
    SqliteSink::open(&dir.path().join("adtide.db"), &run, false).unwrap();
    assert!(error(dir.path().join("nowhere")).contains("nowhere"));
}

/// All statements have the same watermark, and the only partition of ads has met it too.
fn up_to(watermark: i64) -> Watermarks {
    let time = EventTime(watermark);
    Watermarks { performance: time, conversions: time, duplicates: time }
}

#[test]
fn at_a_cut_only_what_was_read_counts_and_only_what_was_closed_is_final() {
    // One click fewer has been read, and no window is closed: no refund is owed, the row is not final.
    let lines = 3;
    let sql = "UPDATE ad_performance_metrics_realtime SET click_count = 2, total_spend = '3.00', ctr = 200, \
               is_final = 0";
    let open = progress(lines, up_to(299_999));
    let report = verified_at(ADS, sql, &[], "", "", &open);
    assert!(report.ok(), "{report}");
    assert!(report.to_string().contains("epoch 7"), "{report}");
    assert!(report.to_string().contains("1 windows open, 1 refunds in them"), "{report}");
    assert_eq!(report.performance.compared, 1);

    // One millisecond later it is closed: the same results are wrong now.
    let closed = progress(lines, up_to(300_000));
    let report = verified_at(ADS, sql, &[], "", "", &closed);
    assert_eq!((report.performance.wrong.count, report.refunds.missing.count), (1, 1), "{report}");
    let report = verified_at(
        ADS,
        &sql.replace("is_final = 0", "is_final = 1"),
        &[compensation_record(2, &[1, 3], "1.50")],
        "",
        "",
        &closed,
    );
    assert!(report.ok(), "{report}");
}

#[test]
fn what_was_late_only_because_its_partition_had_slept_is_believed_and_counted() {
    // The first click, had its partition slept while another went on.
    let sql = "UPDATE ad_performance_metrics_realtime SET click_count = 2, total_spend = '3.00', ctr = 200";
    let late = |watermark: i64| format!("{}\n{}", late_record(1, EventTime(watermark)), late());
    let deadline = 300_000 - 1 + Settings::default().allowed_lateness;
    let report = verified_with(ADS, sql, &whole(), &late(deadline + 1), &dead());
    assert!(report.ok(), "{report}");
    assert_eq!(report.late_by_idleness, 1);
    assert!(report.to_string().contains("late by idleness: 1"), "{report}");

    // A watermark that had not passed its deadline makes nothing late, nor does one that the partition can't
    // have met.
    let report = verified_with(ADS, sql, &whole(), &late(deadline), &dead());
    assert_eq!((report.late_events.unexpected.count, report.performance.wrong.count), (1, 1), "{report}");
    let met_less = progress(ADS.lines().count(), up_to(deadline));
    let report = verified_at(ADS, sql, &whole(), &late(deadline + 1), &dead(), &met_less);
    assert_eq!(report.late_events.unexpected.count, 1, "{report}");
    assert_eq!(report.late_by_idleness, 0);
}

#[test]
fn topics_that_hold_less_than_was_read_are_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let mut input = super::TopicFiles::new(dir.path()).unwrap();
    write(&dir.path().join("ad-events/0.ndjson"), ADS);
    let mut read = |offsets: &[(u32, u64)]| {
        let mut records = 0;
        let offsets = offsets.iter().copied().collect();
        let result = super::Input::each_record(&mut input, Topic::AdEvents, &offsets, &mut |_| records += 1);
        result.map(|()| records).map_err(|error| format!("{error:#}"))
    };
    assert_eq!(read(&[(0, 3)]), Ok(3));
    assert_eq!(read(&[(0, 7), (1, 0)]), Ok(7));
    assert!(read(&[(0, 8)]).unwrap_err().contains("holds 7 records, but results rest on 8"));
    assert!(read(&[(1, 1)]).unwrap_err().contains("partition 1 of ad-events"));
}
