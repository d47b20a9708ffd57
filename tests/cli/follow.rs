//! `adtide --follow`: results while the topics grow.

use nix::sys::signal::Signal;

use crate::support::{PERFORMANCE, Place, Running, campaign, click, conversion, eventually, impression};

const IDLE: &str =
    "SELECT topic, partition FROM adtide_progress_partitions WHERE state LIKE '%Idle%' ORDER BY 1, 2";

/// Follows the topics in `in`, quick to see that a partition is idle.
fn follow(place: &Place, more: &str) -> Running {
    let quick = "--epoch-interval 20ms --set idle_timeout=150ms";
    place.start("follow", &format!("--from in --data-dir out --follow -w 2 {quick} {more}"))
}

#[test]
fn records_and_partitions_that_are_added_reach_the_tables_and_an_interrupt_closes_no_window() {
    let place = Place::new();
    place.write("in/ad-events/0.ndjson", impression("10:00:00", 1));
    let mut running = follow(&place, "");
    place.await_rows(PERFORMANCE, &["1 10:00 1 0 0"]);

    place.append("in/ad-events/0.ndjson", click("10:00:01", 1, "d-1"));
    place.await_rows(PERFORMANCE, &["1 10:00 1 1 0"]);

    place.append("in/ad-events/3.ndjson", impression("10:00:02", 2));
    place.append("in/conversion-events/0.ndjson", conversion("10:02:00", "o-1", "d-1"));
    place.append("in/campaign-events.ndjson", campaign("09:00:00", 1, "2.00"));
    place.await_rows(PERFORMANCE, &["1 10:00 1 1 0", "2 10:00 1 0 0"]);
    place.await_rows("SELECT order_id, ad_id FROM conversion_attribution_results", &["o-1 10"]);
    place.await_rows("SELECT placement, total_campaigns FROM rtb_ranking_cache", &["top 1"]);

    // Both partitions pass the window's end: it closes, and the next one stays open.
    place.append("in/ad-events/0.ndjson", impression("10:06:00", 1));
    place.append("in/ad-events/3.ndjson", impression("10:06:00", 2));
    let expected = ["1 10:00 1 1 1", "1 10:05 1 0 0", "2 10:00 1 0 1", "2 10:05 1 0 0"];
    place.await_rows(PERFORMANCE, &expected);

    let outcome = running.end(Signal::SIGINT).succeeded();
    assert_eq!(place.rows(PERFORMANCE), expected);
    outcome.says(&["5 ad-events", "1 conversion-events", "1 campaign-events"]);
    assert!(outcome.stderr.contains("stopping"), "{}", outcome.stderr);
}

#[test]
fn a_termination_is_as_good_as_an_interrupt() {
    let place = Place::new();
    place.write("in/ad-events.ndjson", impression("10:00:00", 1) + &impression("10:06:00", 1));
    let mut running = follow(&place, "");
    place.await_rows(PERFORMANCE, &["1 10:00 1 0 1", "1 10:05 1 0 0"]);
    running.end(Signal::SIGTERM).succeeded();
    assert_eq!(place.rows(PERFORMANCE), ["1 10:00 1 0 1", "1 10:05 1 0 0"]);
}

#[test]
fn a_second_run_on_the_same_results_is_refused() {
    let place = Place::new();
    place.write("in/ad-events.ndjson", impression("10:00:00", 1));
    let mut running = follow(&place, "");
    place.await_rows(PERFORMANCE, &["1 10:00 1 0 0"]);
    place.run("--from in --data-dir out").failed_saying(&["another run writes to out", "--data-dir"]);
    place.run("--data-dir out").failed_saying(&["another run writes to out"]);
    running.end(Signal::SIGINT).succeeded();
    assert_eq!(place.rows(PERFORMANCE), ["1 10:00 1 0 0"]);
    place.run("--from in --data-dir out").succeeded();
}

#[test]
fn nohup_keeps_it_running_when_the_terminal_hangs_up() {
    let place = Place::new();
    place.write("in/ad-events.ndjson", impression("10:00:00", 1));
    let mut running = place.start_with_nohup("nohup", "--from in --data-dir out --follow");
    place.await_rows(PERFORMANCE, &["1 10:00 1 0 0"]);
    running.signal(Signal::SIGHUP);
    place.append("in/ad-events.ndjson", impression("10:00:01", 1));
    place.await_rows(PERFORMANCE, &["1 10:00 2 0 0"]);
    running.end(Signal::SIGTERM).succeeded();
}

#[test]
fn a_line_that_is_not_complete_is_waited_for() {
    let place = Place::new();
    let line = impression("10:00:01", 1);
    let (head, tail) = line.split_at(60);
    place.write("in/ad-events/0.ndjson", impression("10:00:00", 1) + head);
    let mut running = follow(&place, "");
    place.await_rows(PERFORMANCE, &["1 10:00 1 0 0"]);
    place.await_rows(IDLE, &["ad-events 0"]);
    place.append("in/ad-events/0.ndjson", tail);
    place.await_rows(PERFORMANCE, &["1 10:00 2 0 0"]);
    place.append("in/ad-events/0.ndjson", head);
    place.append("in/ad-events/1.ndjson", impression("10:00:02", 2));
    place.await_rows(PERFORMANCE, &["1 10:00 2 0 0", "2 10:00 1 0 0"]);
    running.end(Signal::SIGINT).succeeded();
    assert!(place.topic("dead-letter").is_empty());
}

#[test]
fn a_file_that_is_cut_ends_the_run_with_its_name() {
    let place = Place::new();
    place.write("in/ad-events/0.ndjson", impression("10:00:00", 1).repeat(2));
    let mut running = follow(&place, "");
    place.await_rows(PERFORMANCE, &["1 10:00 2 0 0"]);
    place.write("in/ad-events/0.ndjson", impression("10:00:00", 1));
    running.finish().failed_saying(&["in/ad-events/0.ndjson", "shorter", "may only grow", "--fresh"]);
}

#[test]
fn whoever_comes_first_makes_the_database() {
    for first in ["init-demo --data-dir out", "worker all --from in --data-dir out --until-end"] {
        let place = Place::new();
        place.write("in/ad-events.ndjson", impression("10:00:00", 1));
        place.run(first).succeeded();
        follow(&place, "").end_when(|| place.rows(PERFORMANCE) == ["1 10:00 1 0 0"]);
    }
    // As a kill in its first moments leaves it.
    let place = Place::new();
    place.write("in/ad-events.ndjson", impression("10:00:00", 1));
    place.write("out/adtide.db", "");
    follow(&place, "").end_when(|| place.rows(PERFORMANCE) == ["1 10:00 1 0 0"]);
}

#[test]
fn links_are_not_followed_and_results_are_not_for_everybody() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let names =
        [".adtide.lock", "adtide.db", "topics/compensation-events.ndjson", "topics/.adtide-progress.json"];
    for (at, name) in names.into_iter().enumerate() {
        let place = Place::new();
        place.write("in/ad-events.ndjson", impression("10:00:00", 1));
        place.write("victim", "mine");
        std::fs::create_dir_all(place.path("out/topics")).unwrap();
        symlink(place.path("victim"), place.path("out").join(name)).unwrap();
        let outcome = place.run("--from in --data-dir out --fresh");
        if at < 2 {
            outcome.failed_saying(&[name, "symbolic link"]);
        } else {
            outcome.succeeded();
            for name in names {
                let mode =
                    std::fs::symlink_metadata(place.path("out").join(name)).unwrap().permissions().mode();
                assert_eq!(mode & 0o137, 0, "{name} {mode:o}");
            }
        }
        assert_eq!(std::fs::read_to_string(place.path("victim")).unwrap(), "mine", "{name}");
    }
}

#[test]
fn what_is_appended_while_it_is_not_running_is_read_when_it_starts() {
    let place = Place::new();
    place.write("in/ad-events/0.ndjson", impression("10:00:00", 1));
    place.write("in/ad-events/1.ndjson", impression("10:00:00", 2));
    let mut running = follow(&place, "");
    place.await_rows(IDLE, &["ad-events 0", "ad-events 1"]);
    running.end(Signal::SIGTERM).succeeded();
    // Both partitions slept. Neither closes a window before the other has been read.
    place.append("in/ad-events/0.ndjson", impression("10:30:00", 1));
    place.append("in/ad-events/1.ndjson", click("10:01:00", 2, "d-1") + &impression("10:30:00", 2));
    let mut running = follow(&place, "");
    place.await_rows(PERFORMANCE, &["1 10:00 1 0 1", "1 10:30 1 0 0", "2 10:00 1 1 1", "2 10:30 1 0 0"]);
    running.end(Signal::SIGTERM).succeeded();
    assert!(place.topic("late-events").is_empty());
    place.run("verify --from in --data-dir out").verified(&["performance"]);
}

#[test]
fn a_file_that_is_rotated_is_read_to_its_end_and_then_its_successor() {
    let place = Place::new();
    let file = "in/ad-events/0.ndjson";
    place.write(file, impression("10:00:00", 1));
    let mut running = follow(&place, "");
    place.await_rows(PERFORMANCE, &["1 10:00 1 0 0"]);
    // Who writes has the old file open for a while, and ends it within a line.
    place.rotate(file, 1);
    place.append("in/ad-events/0.ndjson.1", impression("10:00:01", 1));
    place.await_rows(PERFORMANCE, &["1 10:00 2 0 0"]);
    place.append("in/ad-events/0.ndjson.1", "{\"torn");
    place.append(file, impression("10:00:02", 1));
    place.await_rows(PERFORMANCE, &["1 10:00 3 0 0"]);
    place.append(file, "bad\n");
    assert!(eventually(|| place.topic("dead-letter").len() == 2));
    let offsets: Vec<_> =
        place.topic("dead-letter").iter().map(|letter| letter["offset"].to_string()).collect();
    assert_eq!(offsets, ["2", "4"]);
    place.run("verify --from in --data-dir out").verified(&["performance", "dead letters"]);
    running.end(Signal::SIGTERM).succeeded();

    // While it is not running it is rotated twice, each time with more in it.
    place.append(file, impression("10:00:03", 1));
    place.rotate(file, 2);
    place.append(file, impression("10:00:04", 1));
    place.rotate(file, 3);
    place.append(file, impression("10:06:00", 1));
    let mut running = follow(&place, "");
    place.await_rows(PERFORMANCE, &["1 10:00 5 0 1", "1 10:05 1 0 0"]);
    running.end(Signal::SIGTERM).succeeded();
    place.run("verify --from in --data-dir out").verified(&["performance", "dead letters"]);
    assert_eq!(place.topic("dead-letter").len(), 2);

    // What was rotated away is gone: of what was read nothing is needed but for verifying it.
    for number in 1..=3 {
        std::fs::remove_file(place.path(&format!("{file}.{number}"))).unwrap();
    }
    let mut running = follow(&place, "");
    place.append(file, impression("10:06:01", 1));
    place.await_rows(PERFORMANCE, &["1 10:00 5 0 1", "1 10:05 2 0 0"]);
    running.end(Signal::SIGTERM).succeeded();
    place.run("verify --from in --data-dir out").failed_saying(&[
        file,
        "rotated away",
        "put those files back",
    ]);
    // But a part that was not read is not passed over, and neither is its beginning without a checkpoint.
    std::fs::remove_dir_all(place.path("out/checkpoints")).unwrap();
    follow(&place, "").finish().failed_saying(&[file, "rotated away", "--fresh"]);
    place.rotate(file, 4);
    place.append(file, impression("10:06:02", 1));
    std::fs::remove_file(place.path("in/ad-events/0.ndjson.4")).unwrap();
    follow(&place, "").finish().failed_saying(&[file, "not the file that was read before", "--fresh"]);
}

#[test]
fn a_rotated_file_that_was_compressed_unread_is_named() {
    let place = Place::new();
    let file = "in/ad-events/0.ndjson";
    place.write(file, impression("10:00:00", 1));
    let mut running = follow(&place, "");
    place.await_rows(PERFORMANCE, &["1 10:00 1 0 0"]);
    running.end(Signal::SIGTERM).succeeded();
    place.rotate(file, 2);
    place.append("in/ad-events/0.ndjson.1.gz", "compressed");
    std::thread::sleep(std::time::Duration::from_millis(20));
    place.append(file, impression("10:00:01", 1));
    follow(&place, "").finish().failed_saying(&["in/ad-events/0.ndjson.1.gz", "uncompress"]);
}

#[test]
fn a_file_that_was_cut_while_it_was_not_running_is_refused() {
    let place = Place::new();
    place.write("in/ad-events/0.ndjson", impression("10:00:00", 1).repeat(2));
    let mut running = follow(&place, "");
    place.await_rows(PERFORMANCE, &["1 10:00 2 0 0"]);
    running.end(Signal::SIGTERM).succeeded();
    // Longer than before, but not what it was.
    place.write("in/ad-events/0.ndjson", impression("10:01:00", 1).repeat(5));
    follow(&place, "").finish().failed_saying(&["in/ad-events/0.ndjson", "written anew", "--fresh"]);
    place.write("in/ad-events/0.ndjson", impression("10:00:00", 1));
    follow(&place, "").finish().failed_saying(&["in/ad-events/0.ndjson", "written anew", "--fresh"]);
    follow(&place, "--fresh").end_when(|| place.rows(PERFORMANCE) == ["1 10:00 1 0 0"]);
}

#[test]
fn a_folder_that_was_copied_is_gone_on_with() {
    let place = Place::new();
    place.write("in/ad-events/0.ndjson", impression("10:00:00", 1));
    let mut running = follow(&place, "");
    place.await_rows(PERFORMANCE, &["1 10:00 1 0 0"]);
    running.end(Signal::SIGTERM).succeeded();
    let text = std::fs::read_to_string(place.path("in/ad-events/0.ndjson")).unwrap();
    std::fs::rename(place.path("in/ad-events/0.ndjson"), place.path("elsewhere")).unwrap();
    place.write("in/ad-events/0.ndjson", text + &impression("10:00:01", 1));
    follow(&place, "").end_when(|| place.rows(PERFORMANCE) == ["1 10:00 2 0 0"]);
}

#[test]
fn a_folder_without_topics_is_followed_until_they_come() {
    let place = Place::new();
    std::fs::create_dir(place.path("in")).unwrap();
    let mut running = follow(&place, "");
    assert!(eventually(|| place.path("out/adtide.db").exists()));
    place.append("in/ad-events.ndjson", impression("10:00:00", 1));
    place.await_rows(PERFORMANCE, &["1 10:00 1 0 0"]);
    running.end(Signal::SIGINT).succeeded();
}

/// A moment in the recent past whose window has ended.
fn twenty_minutes_ago() -> i64 {
    adtide::now().plus(-20 * 60 * 1000).0
}

const FINAL: &str = "SELECT is_final FROM ad_performance_metrics_realtime";

#[test]
fn when_all_is_quiet_the_last_window_closes_by_the_clock_if_that_is_wanted() {
    let place = Place::new();
    place.write("in/ad-events/0.ndjson", click(twenty_minutes_ago(), 1, "d-1").repeat(2));
    place.write("in/ad-events/1.ndjson", impression(twenty_minutes_ago(), 2));
    place.write("in/conversion-events.ndjson", conversion(twenty_minutes_ago(), "o-1", "d-1"));
    let mut running = follow(
        &place,
        "--set watermark.idle_advance=true --set watermark.performance=1s --set watermark.duplicates=1s",
    );
    place.await_rows(FINAL, &["1", "1"]);
    assert!(eventually(|| place.topic("compensation-events").len() == 1));
    running.end(Signal::SIGINT).succeeded();
}

#[test]
fn otherwise_it_stays_open() {
    let place = Place::new();
    place.write("in/ad-events.ndjson", click(twenty_minutes_ago(), 1, "d-1").repeat(2));
    let mut running = follow(&place, "--set watermark.performance=1s --set watermark.duplicates=1s");
    place.await_rows(IDLE, &["ad-events 0"]);
    running.end(Signal::SIGINT).succeeded();
    assert_eq!(place.rows(FINAL), ["0"]);
    assert!(place.topic("compensation-events").is_empty());
}

#[test]
fn a_partition_that_wakes_up_finds_closed_what_the_others_have_closed() {
    let place = Place::new();
    place.write("in/ad-events/0.ndjson", impression("10:00:00", 1));
    place.write("in/ad-events/1.ndjson", impression("10:00:00", 2));
    let mut running = follow(&place, "");
    place.await_rows(IDLE, &["ad-events 0", "ad-events 1"]);

    // Partition 0 alone closes the first window.
    place.append("in/ad-events/0.ndjson", impression("10:08:00", 1));
    place.await_rows(PERFORMANCE, &["1 10:00 1 0 1", "1 10:05 1 0 0", "2 10:00 1 0 1"]);
    // Within the lateness, partition 1 corrects it.
    place.append("in/ad-events/1.ndjson", impression("10:04:00", 2));
    place.await_rows(PERFORMANCE, &["1 10:00 1 0 1", "1 10:05 1 0 0", "2 10:00 2 0 1"]);
    place.await_rows(IDLE, &["ad-events 0", "ad-events 1"]);
    assert!(place.topic("late-events").is_empty());

    // Half an hour on it can't any more.
    place.append("in/ad-events/0.ndjson", impression("10:30:00", 1));
    place.await_rows(
        "SELECT is_final FROM ad_performance_metrics_realtime WHERE metric_time LIKE '%10:05%'",
        &["1"],
    );
    place.append("in/ad-events/1.ndjson", click("10:04:30", 2, "d-1"));
    assert!(eventually(|| place.topic("late-events").len() == 2));
    running.end(Signal::SIGINT).succeeded();

    let mut late: Vec<_> = place
        .topic("late-events")
        .iter()
        .map(|late| {
            format!("{} {} {} {}", late["statement"], late["partition"], late["offset"], late["watermark"])
        })
        .collect();
    late.sort();
    assert_eq!(
        late,
        [
            r#""duplicate_detector" 1 2 "2026-01-05 10:29:30.000""#,
            r#""performance_aggregator" 1 2 "2026-01-05 10:29:50.000""#
        ]
    );
    assert!(place.rows(PERFORMANCE).contains(&"2 10:00 2 0 1".to_owned()));
    let outcome = place.run("verify --from in --data-dir out");
    outcome.says(&["late by idleness: 2"]);
    outcome.verified(&["performance", "late events"]);
}
