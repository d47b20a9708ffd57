//! `adtide verify` finds what is wrong with results, whatever it is.

use std::fs;

use nix::sys::signal::Signal;
use rusqlite::Connection;
use serde_json::Value;

use crate::support::{Outcome, PERFORMANCE, Place, campaign, click, conversion, eventually, impression};

/// A place with results that are right.
fn place_with_results() -> Place {
    let place = Place::with_traffic();
    place.run("--from in --data-dir out -w 2").succeeded();
    place
}

/// Changes the results by a statement of SQL, verifies, and undoes the change.
fn verify_after(place: &Place, sql: &str) -> Outcome {
    let database = place.path("out/adtide.db");
    let kept = place.path("kept.db");
    let connection = Connection::open(&database).unwrap();
    connection.execute("VACUUM INTO ?1", [kept.to_str().unwrap()]).unwrap();
    assert_eq!(connection.execute(sql, []).unwrap(), 1, "{sql}");
    drop(connection);
    let outcome = place.run("verify --from in --data-dir out");
    fs::rename(kept, database).unwrap();
    outcome
}

/// The same for the committed lines of an output topic.
fn verify_after_edit(place: &Place, topic: &str, edit: impl Fn(&mut Vec<&str>)) -> Outcome {
    let path = place.path(&format!("out/topics/{topic}.ndjson"));
    let text = fs::read_to_string(&path).unwrap();
    let mut lines: Vec<_> = text.lines().collect();
    edit(&mut lines);
    let edited = lines.join("\n") + "\n";
    let progress_path = place.path("out/topics/.adtide-progress.json");
    let progress_text = fs::read_to_string(&progress_path).unwrap();
    let mut progress: Value = serde_json::from_str(&progress_text).unwrap();
    progress["lengths"][topic] = edited.len().into();
    fs::write(&progress_path, progress.to_string()).unwrap();
    fs::write(&path, edited).unwrap();
    let outcome = place.run("verify --from in --data-dir out");
    fs::write(&path, text).unwrap();
    fs::write(&progress_path, progress_text).unwrap();
    outcome
}

/// It must have found exactly one difference, in this section, and name it.
#[track_caller]
fn assert_found(outcome: Outcome, section: &str, words: &[&str]) {
    let outcome = outcome.exited_with(1);
    outcome.says(&["NOT verified: 1 difference\n"]);
    outcome.says(words);
    for (name, (_, different)) in outcome.sections() {
        assert_eq!(different, u64::from(name == section), "{}", outcome.stdout);
    }
}

#[test]
fn a_wrong_cell_is_found_in_every_table() {
    let place = place_with_results();
    let faults = [
        ("rankings", "rtb_ranking_cache", "total_campaigns", "1 + total_campaigns"),
        ("performance", "ad_performance_metrics_realtime", "click_count", "click_count + 1"),
        ("performance", "ad_performance_metrics_realtime", "total_spend", "'0.99'"),
        ("performance", "ad_performance_metrics_realtime", "is_final", "0"),
        ("attributions", "conversion_attribution_results", "revenue_amount", "'0.01'"),
        ("attributions", "conversion_attribution_results", "ad_id", "'nobody'"),
        ("attributions", "conversion_attribution_results", "time_to_conversion", "time_to_conversion + 1"),
    ];
    for (section, table, column, value) in faults {
        let sql =
            format!("UPDATE {table} SET {column} = {value} WHERE rowid = (SELECT max(rowid) FROM {table})");
        assert_found(verify_after(&place, &sql), section, &["wrong: 1", column]);
    }
    place.run("verify --from in --data-dir out").verified(&[]);
}

#[test]
fn a_wrong_entry_of_a_ranking_is_found() {
    let place = place_with_results();
    let sql = "UPDATE rtb_ranking_cache SET ranking_list = json_set(ranking_list, '$[0].campaign_id', 99999)
               WHERE rowid = (SELECT max(rowid) FROM rtb_ranking_cache)";
    assert_found(verify_after(&place, sql), "rankings", &["[0].campaign_id", "99999"]);
}

#[test]
fn a_row_that_is_gone_is_missed_in_every_table() {
    let place = place_with_results();
    let tables = [
        ("rankings", "rtb_ranking_cache"),
        ("performance", "ad_performance_metrics_realtime"),
        ("attributions", "conversion_attribution_results"),
    ];
    for (section, table) in tables {
        let sql = format!("DELETE FROM {table} WHERE rowid = (SELECT min(rowid) FROM {table})");
        assert_found(verify_after(&place, &sql), section, &["missing: 1", "found nothing"]);
    }
}

#[test]
fn a_row_too_many_is_found() {
    let place = place_with_results();
    let sql = "INSERT INTO rtb_ranking_cache VALUES ('roof', 'toys', '[]', 0, 'now')";
    assert_found(verify_after(&place, sql), "rankings", &["unexpected: 1", r#"["roof","toys"]"#]);
}

#[test]
fn missing_and_added_records_are_found_in_every_topic() {
    let place = place_with_results();
    for (section, topic) in
        [("refunds", "compensation-events"), ("late events", "late-events"), ("dead letters", "dead-letter")]
    {
        let outcome = verify_after_edit(&place, topic, |lines| lines.truncate(lines.len() - 1));
        assert_found(outcome, section, &["missing: 1"]);
        let outcome = verify_after_edit(&place, topic, |lines| lines.push(lines[0]));
        assert_found(outcome, section, &["unexpected: 1", "once more"]);
    }
    let invented = r#"{"topic":"ad-events","partition":0,"offset":999999,"reason":"not_json","value":"?"}"#;
    let outcome = verify_after_edit(&place, "dead-letter", |lines| lines.push(invented));
    assert_found(outcome, "dead letters", &["unexpected: 1", "999999"]);
}

#[test]
fn a_refund_that_is_too_high_is_found() {
    let place = place_with_results();
    let outcome = verify_after_edit(&place, "compensation-events", |lines| {
        lines[0] = Box::leak(lines[0].replace("\"refund_amount\":", "\"refund_amount\":9").into_boxed_str());
    });
    let outcome = outcome.exited_with(1);
    outcome.says(&["NOT verified", "refund_amount"]);
    assert!(outcome.sections()["refunds"].1 > 0);
}

#[test]
fn results_of_other_topics_are_not_verified_and_what_came_after_them_does_not_matter() {
    let place = place_with_results();
    place.append("in/ad-events/0.ndjson", crate::support::impression("08:00:00", 5));
    place.run("verify --from in --data-dir out").verified(&[]);
    let topic = place.path("in/ad-events/0.ndjson");
    let text = fs::read_to_string(&topic).unwrap();
    fs::write(&topic, text.replacen("CLICK", "IMPRESSION", 1)).unwrap();
    place.run("verify --from in --data-dir out").exited_with(1).says(&["NOT verified"]);
    fs::write(&topic, text.lines().next().unwrap()).unwrap();
    place.run("verify --from in --data-dir out").failed_saying(&["in/ad-events/0.ndjson", "holds 1 records"]);
}

#[test]
fn a_run_that_was_interrupted_or_still_goes_on_is_verified_where_it_stands() {
    let place = Place::new();
    let clicks = [click("10:00:00", 1, "d-1"), click("10:00:01", 1, "d-1"), click("10:07:00", 1, "d-1")];
    place.write("in/ad-events/0.ndjson", clicks.concat() + &click("10:07:01", 1, "d-1"));
    place.write("in/conversion-events.ndjson", conversion("10:08:00", "o-1", "d-1"));
    place.write("in/campaign-events.ndjson", campaign("09:00:00", 1, "2.00"));
    let mut running = place.start("follow", "--from in --data-dir out --follow --epoch-interval 20ms");
    let rows = ["1 10:00 0 2 1", "1 10:05 0 2 0"];
    place.await_rows(PERFORMANCE, &rows);
    place.await_rows("SELECT order_id FROM conversion_attribution_results", &["o-1"]);
    place.await_rows("SELECT placement FROM rtb_ranking_cache", &["top"]);
    let all = ["rankings", "performance", "attributions", "refunds"];
    let verify = || place.run("verify --from in --data-dir out");
    // The record is in the file before it is committed.
    assert!(eventually(|| verify().sections()["refunds"].0 == 1));
    verify().verified(&all);
    running.end(Signal::SIGKILL);
    let outcome = verify();
    outcome.says(&[
        "sqlite as of epoch",
        "topics as of epoch",
        "watermark 2026-01-05 10:06:51.000",
        "1 windows open",
    ]);
    outcome.verified(&all);

    let set = |sql: &str| {
        assert_eq!(Connection::open(place.path("out/adtide.db")).unwrap().execute(sql, []), Ok(1))
    };
    set("UPDATE ad_performance_metrics_realtime SET is_final = 1 WHERE is_final = 0");
    assert_found(verify(), "performance", &["expected is_final=0, found is_final=1"]);
    set(
        "UPDATE ad_performance_metrics_realtime SET is_final = 0 WHERE click_count = 2 AND metric_time LIKE '%10:05%'",
    );
    verify().verified(&all);
    set("UPDATE adtide_progress SET watermarks = NULL");
    assert_found(verify(), "performance", &["expected is_final=0, found is_final=1"]);
}

#[test]
fn windows_that_only_show_when_closed_are_verified_at_any_moment() {
    let place = Place::new();
    place.write("in/ad-events.ndjson", impression("10:00:00", 1) + &impression("10:07:00", 1));
    let mut running =
        place.start("follow", "--from in --data-dir out --follow --emit on_close --product-metrics live");
    place.await_rows(PERFORMANCE, &["1 10:00 1 0 1"]);
    running.end(Signal::SIGTERM).succeeded();
    let outcome = place.run("verify --from in --data-dir out").succeeded();
    assert_eq!(outcome.sections()["performance"], (1, 0));
}

#[test]
fn over_nothing_nothing_is_verified() {
    let place = Place::new();
    place.write("in/ad-events.ndjson", impression("10:00:00", 1));
    // Of a database that others have made: there was no run.
    place.run("init-demo --data-dir out").succeeded();
    place.run("verify --from in --data-dir out").failed_saying(&[
        "out",
        "nothing has been committed",
        "run adtide first",
    ]);
    place.run("--from in --data-dir out").succeeded();
    place.run("verify --from in --data-dir out").verified(&["performance"]);
    // As after a crash before the first commit.
    let forget = "DELETE FROM adtide_progress; DELETE FROM ad_performance_metrics_realtime";
    Connection::open(place.path("out/adtide.db")).unwrap().execute_batch(forget).unwrap();
    fs::remove_file(place.path("out/topics/.adtide-progress.json")).unwrap();
    let outcome = place.run("verify --from in --data-dir out").exited_with(1);
    outcome.says(&["NOTHING verified", "its start: nothing is committed yet"]);
}

#[test]
fn missing_results_and_topics_are_named() {
    let place = Place::new();
    place.write("in/ad-events.ndjson", "");
    place.run("verify --from in --data-dir nowhere").failed_saying(&["nowhere/adtide.db", "no such file"]);
    place.run("verify --from in").failed_saying(&["adtide-data/adtide.db"]);
    place.run("--from in --data-dir out").succeeded();
    place.run("verify --from nowhere --data-dir out").failed_saying(&["nowhere", "no such folder"]);
    place.write("text/adtide.db", "no database at all");
    place.run("verify --from in --data-dir text").failed_saying(&["text/adtide.db"]);
}

#[test]
fn it_says_how_far_what_it_has_verified_lies_behind_the_topics() {
    let place = Place::new();
    place.write("in/ad-events.ndjson", click("10:00:00", 1, "d-1") + &click("10:00:01", 1, "d-1"));
    place.write("in/campaign-events.ndjson", campaign("09:00:00", 1, "1.25"));
    place.run("--from in --data-dir out").succeeded();
    place.run("worker all --from in --data-dir out --until-end").succeeded();
    let verify = "verify --from in --data-dir out";
    let at_end = place.run(verify).succeeded();
    at_end.says(&[
        "verified up to the topics' ends:",
        "balance 0, budget 0, campaign-status 0, compensation 0",
    ]);
    place.append("in/ad-events.ndjson", click("10:00:02", 1, "d-1"));
    place.run("worker balance --from in --data-dir out --until-end").succeeded();
    let behind = [
        "verified up to 1 record before the topics' ends:",
        "; 1 record behind the topics' ends",
        "balance 0, budget 1",
    ];
    place.run(verify).succeeded().says(&behind);
}
