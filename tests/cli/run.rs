//! `adtide --from`: the same results however it runs, and right ones whatever is set.

use crate::support::{Place, TABLES, click, conversion};

const ALL: [&str; 6] = ["rankings", "performance", "attributions", "refunds", "late events", "dead letters"];

fn verify(place: &Place, out: &str, with_rows: &[&str]) {
    place.run(&format!("verify --from in --data-dir {out}")).verified(with_rows);
}

#[test]
fn any_number_of_workers_gives_the_same_tables() {
    let place = Place::with_traffic();
    for workers in [1, 2, 4] {
        place.run(&format!("--from in --data-dir out{workers} -w {workers}")).succeeded();
        verify(&place, &format!("out{workers}"), &ALL);
    }
    let one = place.tables("out1");
    assert_eq!(one.len(), TABLES.len());
    assert!(one.values().all(|rows| !rows.is_empty()));
    assert!(one == place.tables("out2"), "-w 1 and -w 2 differ");
    assert!(one == place.tables("out4"), "-w 1 and -w 4 differ");
}

#[test]
fn settings_change_the_results_and_they_stay_right() {
    let place = Place::with_traffic();
    let nothing_late = ["rankings", "performance", "attributions", "refunds", "dead letters"];
    let settings: [(&str, &[&str]); 9] = [
        ("--emit on_update", &ALL),
        ("--emit on_close", &ALL),
        ("--product-metrics live", &ALL),
        ("--ranking-limit 3", &ALL),
        ("--ranking-limit 0", &ALL),
        ("--lookback 5m", &ALL),
        ("--allowed-lateness 0s", &ALL),
        ("--allowed-lateness 100h", &nothing_late),
        ("--allowed-lateness 1000000years --lookback 1000000years", &nothing_late),
    ];
    for (setting, with_rows) in settings {
        place.run(&format!("run --from in --data-dir out -w 2 {setting}")).succeeded();
        verify(&place, "out", with_rows);
    }
}

#[test]
fn a_ranking_has_as_many_campaigns_as_its_limit_says() {
    let place = Place::with_traffic();
    place.run("--from in --data-dir out --ranking-limit 3").succeeded();
    let lengths =
        "SELECT DISTINCT json_array_length(ranking_list) = min(3, total_campaigns) FROM rtb_ranking_cache";
    assert_eq!(place.rows(lengths), ["1"]);
}

#[test]
fn one_statement_runs_alone() {
    let place = Place::with_traffic();
    place.run("--from in --data-dir out --statements conversion_matcher").succeeded();
    verify(&place, "out", &["attributions", "dead letters"]);
    let tables = place.tables("out");
    assert!(tables["rtb_ranking_cache"].is_empty() && tables["ad_performance_metrics_realtime"].is_empty());
    assert!(place.topic("compensation-events").is_empty());
}

#[test]
fn a_second_run_replaces_the_results_of_the_first() {
    let place = Place::with_traffic();
    place.run("--from in --data-dir out").succeeded();
    let first = (place.tables("out"), place.topic("dead-letter").len());
    place.run("--from in --data-dir out").succeeded();
    assert!(first == (place.tables("out"), place.topic("dead-letter").len()));
}

#[test]
fn without_a_sink_nothing_is_written() {
    let place = Place::with_traffic();
    let outcome = place.run("--from in --data-dir out --sink none").succeeded();
    assert!(!place.path("out").exists());
    outcome.says(&[" from in"]);
    assert!(!outcome.stdout.contains("results "), "{}", outcome.stdout);
}

#[test]
fn a_reader_of_the_output_may_go_away() {
    let place = Place::with_traffic();
    for arguments in ["--from in --data-dir out", "verify --from in --data-dir out", "config show", "--help"]
    {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = place.command(arguments);
        let output = command.stdout(writer).output().unwrap();
        assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn a_folder_that_is_not_there_is_named() {
    let place = Place::new();
    place.run("--from nowhere --data-dir out").failed_saying(&["nowhere", "no folder"]);
    assert!(!place.path("out").exists());
}

#[test]
fn a_database_that_is_none_is_named() {
    let place = Place::new();
    place.write("in/ad-events.ndjson", "");
    place.write("out/adtide.db", "this is a text and no database, whatever its name may say");
    place.run("--from in --data-dir out").failed_saying(&["out/adtide.db", "SQLite"]);
}

#[test]
fn an_id_that_no_click_has_is_missed_once_and_counted() {
    let place = Place::new();
    let second = |n: u32| format!("{:02}:{:02}:{:02}", 8 + n / 3600, n / 60 % 60, n % 60);
    let clicks: String = (0..11_000).map(|n| click(second(n), 1, "d-1")).collect();
    place.write("in/ad-events.ndjson", clicks.replace("device_id", "deviceId"));
    place.write("in/conversion-events.ndjson", conversion("08:00:01", "o", "d-1"));
    let outcome = place.run("--from in --data-dir out -w 2").succeeded();
    let missed = |field: &str| outcome.stderr.matches(&format!("no click so far has a {field}")).count();
    assert_eq!((missed("device_id"), missed("session_id"), missed("ad_id")), (1, 1, 0), "{}", outcome.stderr);
    outcome.says(&[
        "no id      11,000 clicks without device, 11,000 clicks without session, 1 conversions without session",
    ]);
    let verified = place.run("verify --from in --data-dir out").succeeded();
    verified.says(&[
        "no id: 11000 clicks without device, 11000 clicks without session, 1 conversions without session",
    ]);
    // With devices, that no click has a session is said still.
    place.write("in/ad-events.ndjson", clicks);
    let outcome = place.run("--from in --data-dir out").succeeded();
    assert!(
        !outcome.stderr.contains("has a device_id") && outcome.stderr.contains("has a session_id"),
        "{}",
        outcome.stderr
    );
}

#[test]
fn a_lateness_of_very_many_lookbacks_takes_any_number_of_clicks() {
    let place = Place::new();
    let start = 1_767_600_000_000_i64;
    let clicks = (0..90_000).map(|n| click(start + n * 4000, 1, &format!("d-{n}")));
    place.write("in/ad-events.ndjson", clicks.collect::<String>());
    place.write("in/conversion-events.ndjson", conversion(start + 60_000, "o-1", "d-0"));
    place.run("--from in --data-dir out --allowed-lateness 100h --set conversion.lookback=5m").succeeded();
    assert_eq!(place.rows("SELECT order_id FROM conversion_attribution_results"), ["o-1"]);
}
