//! Conversions whose order comes again: the same row however they are read.

use nix::sys::signal::Signal;

use crate::support::{Place, Running};

/// A click of the one device, so many seconds after 08:00.
fn click(seconds: i64) -> (&'static str, String) {
    let line = format!(
        r#"{{"event_type":"CLICK","timestamp_field":{},"ad_id":1,"campaign_id":5,"advertiser_id":9,"product_id":7,"placement":"top","device_id":"d","actual_price":"0.50"}}"#,
        1_767_254_400_000 + seconds * 1000
    );
    ("ad-events", line + "\n")
}

fn sale(order: &str, seconds: i64, revenue: &str) -> (&'static str, String) {
    let line = format!(
        r#"{{"event_type":"CONVERSION","timestamp_field":{},"device_id":"d","order_id":"{order}","product_id":7,"revenue_amount":"{revenue}"}}"#,
        1_767_254_400_000 + seconds * 1000
    );
    ("conversion-events", line + "\n")
}

const HOUR: i64 = 3600;
const ROWS: &str = "SELECT order_id, revenue_amount FROM conversion_attribution_results ORDER BY order_id";

/// Follows the topics, and stops.
fn follow(place: &Place, while_it_runs: impl FnOnce()) {
    let mut running: Running =
        place.start("follow", "--from in --data-dir out --follow --epoch-interval 20ms");
    while_it_runs();
    running.end(Signal::SIGTERM).succeeded();
}

/// Checks that the table has these rows, however these records are read.
fn results_in(records: &[(&str, String)], rows: &[&str]) {
    let (at_once, live, restarted) = (Place::new(), Place::new(), Place::new());
    for (topic, line) in records {
        at_once.append(&format!("in/{topic}.ndjson"), line);
    }
    at_once.run("--from in --data-dir out -w 2").succeeded();
    // Each record is committed before the next one comes.
    let read = |place: &Place, number: usize| {
        let number = format!("{number}");
        place.await_rows("SELECT sum(next_offset) FROM adtide_progress_partitions", &[&number]);
    };
    follow(&live, || {
        for ((topic, line), number) in records.iter().zip(1..) {
            live.append(&format!("in/{topic}.ndjson"), line);
            read(&live, number);
        }
    });
    for ((topic, line), number) in records.iter().zip(1..) {
        restarted.append(&format!("in/{topic}.ndjson"), line);
        follow(&restarted, || read(&restarted, number));
    }
    for place in [at_once, live, restarted] {
        assert_eq!(place.rows(ROWS), rows);
        place.run("verify --from in --data-dir out").verified(&["attributions"]);
    }
}

#[test]
fn an_order_that_comes_again_after_repeat_within_is_a_new_conversion() {
    let before = [click(0), sale("o", 1, "5.00"), click(30 * HOUR), sale("z", 30 * HOUR, "9.00")];
    let again = |seconds| [before.to_vec(), vec![sale("o", seconds, "7.00")]].concat();
    results_in(&again(31 * HOUR), &["o 7.00", "z 9.00"]);
}

#[test]
fn an_order_that_comes_again_just_within_it_is_a_repeat() {
    let records = [click(0), sale("o", 1, "5.00"), click(24 * HOUR), sale("z", 25 * HOUR, "9.00")];
    let again = [records.to_vec(), vec![sale("o", 24 * HOUR + 1, "7.00")]].concat();
    results_in(&again, &["o 5.00", "z 9.00"]);
    let just_after = [records.to_vec(), vec![sale("o", 24 * HOUR + 2, "7.00")]].concat();
    results_in(&just_after, &["o 7.00", "z 9.00"]);
}
