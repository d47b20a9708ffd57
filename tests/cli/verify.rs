//! `adtide verify` finds what is wrong with results, whatever it is.

use std::fs;

use rusqlite::Connection;

use crate::support::{Outcome, Place};

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

/// The same for the lines of an output topic.
fn verify_after_edit(place: &Place, topic: &str, edit: impl Fn(&mut Vec<&str>)) -> Outcome {
    let path = place.path(&format!("out/topics/{topic}.ndjson"));
    let text = fs::read_to_string(&path).unwrap();
    let mut lines: Vec<_> = text.lines().collect();
    edit(&mut lines);
    fs::write(&path, lines.join("\n") + "\n").unwrap();
    let outcome = place.run("verify --from in --data-dir out");
    fs::write(&path, text).unwrap();
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
        let sql = format!("UPDATE {table} SET {column} = {value} WHERE rowid = (SELECT max(rowid) FROM {table})");
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
fn results_of_other_topics_are_not_verified() {
    let place = place_with_results();
    place.append("in/ad-events/0.ndjson", crate::support::impression("08:00:00", 5));
    let outcome = place.run("verify --from in --data-dir out").exited_with(1);
    outcome.says(&["NOT verified"]);
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
