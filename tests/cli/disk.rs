//! A disk that is full: the message names the file, and once there is room the run goes on as if nothing had
//! happened.

use crate::support::Place;

/// Runs over generated traffic and `dead` more KiB of dead letters, with at most `room` KiB a file, which is
/// too little for the file that is named; then again with enough.
fn fill(statements: &str, dead: usize, room: u32, file: &str) {
    let place = Place::with_traffic();
    place.append("in/conversion-events/0.ndjson", format!("{:1023}\n", "no JSON").repeat(dead));
    let run = format!("--from in --statements {statements} -w 2");
    place.run(&format!("{run} --data-dir whole")).succeeded();
    place
        .run_with_little_room(&format!("{run} --data-dir out"), room)
        .failed_saying(&[file, "is the disk full?"]);
    place.run(&format!("{run} --data-dir out --resume")).succeeded();
    assert_eq!(place.tables("out"), place.tables("whole"));
    place.run("verify --from in --data-dir out").verified(&["dead letters"]);
}

#[test]
fn a_disk_that_is_full_of_tables_is_named() {
    fill(
        "rtb_cache_updater,performance_aggregator,conversion_matcher,duplicate_detector",
        10,
        200,
        "out/adtide.db",
    );
}

#[test]
fn a_disk_that_is_full_of_topics_is_named() {
    // This statement leaves the database nearly empty, but for 4 MiB that its log may have.
    fill("duplicate_detector", 12_000, 8_000, "out/topics/dead-letter.ndjson");
}
