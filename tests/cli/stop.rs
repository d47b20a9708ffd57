//! `adtide stop`.

use std::fs;

use nix::sys::signal::Signal;

use crate::support::{Place, Running, impression};

fn start(place: &Place, more: &str) -> Running {
    place.write("in/ad-events/0.ndjson", impression("10:00:00", 1));
    let running = place.start("run", &format!("--from in --data-dir out --follow {more}"));
    place.await_rows("SELECT count(*) FROM ad_performance_metrics_realtime", &["1"]);
    running
}

#[test]
fn it_stops_a_run_in_order_and_waits_for_its_end() {
    let place = Place::new();
    let mut running = start(&place, "");
    place.run("stop --data-dir out").succeeded().says(&["stopping adtide, process ", "stopped after "]);
    running.finish().succeeded();
    assert_eq!(fs::read_dir(place.path("out/run")).unwrap().count(), 0);
    place
        .run("stop --data-dir out")
        .failed_saying(&["no run of \"adtide\" keeps its files in out", "--data-dir"]);
}

#[test]
fn it_stops_only_runs_of_its_name() {
    let place = Place::new();
    let mut running = start(&place, "--set name=mine");
    place.run("stop --data-dir out").failed_saying(&["no run of \"adtide\""]);
    place.run("stop --data-dir out --set name=mine").succeeded();
    running.finish().succeeded();
}

#[test]
fn a_run_that_does_not_end_in_time_is_named() {
    let place = Place::new();
    let mut running = start(&place, "");
    running.signal(Signal::SIGSTOP);
    let pid = running.pid().to_string();
    place.run("stop --data-dir out --timeout 200ms").failed_saying(&[
        &pid,
        "has not ended within 200ms",
        "--timeout",
    ]);
    running.end(Signal::SIGCONT).succeeded();
}

/// The number that a killed run leaves may be another program's by now: here it is this test's.
#[test]
fn a_file_that_nobody_holds_names_nobody() {
    let place = Place::new();
    let mut running = start(&place, "");
    running.end(Signal::SIGKILL);
    let left: Vec<_> =
        fs::read_dir(place.path("out/run")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(left.len(), 1);
    let own = std::process::id();
    fs::rename(&left[0], place.path(&format!("out/run/adtide.{own}"))).unwrap();
    place.run("stop --data-dir out").failed_saying(&["no run of \"adtide\""]);
}
