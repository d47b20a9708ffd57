//! `adtide` without topics: the demonstration.

use std::fs;

use nix::sys::signal::Signal;

use crate::support::{PERFORMANCE, Place, eventually};

const SECTIONS: [&str; 6] = ["rankings", "performance", "attributions", "refunds", "late events", "dead letters"];
const DEMO: &str = "--data-dir out -w 2 --set generator.ad_events=20000";

#[test]
fn it_shows_all_four_results_and_verifies_them_and_can_be_repeated() {
    let place = Place::new();
    for _ in 0..2 {
        let outcome = place.run(DEMO).succeeded();
        outcome.says(&["1  RTB rankings: ", "2  Performance: ", "3  Last-click attributions: ", "4  Refunds "]);
        outcome.says(&["ad-events", "from out/topics", "not_json", "events without campaign"]);
        outcome.says(&["out/adtide.db and out/topics"]);
        outcome.verified(&SECTIONS);
    }
}

#[test]
fn it_refuses_a_folder_of_other_topics_and_leaves_them_alone() {
    for arguments in ["--data-dir out", "--data-dir out --live"] {
        let place = Place::new();
        place.write("out/topics/ad-events/7.ndjson", "mine\n");
        place.run(arguments).failed_saying(&["out/topics", "did not generate", "another folder"]);
        assert_eq!(fs::read_to_string(place.path("out/topics/ad-events/7.ndjson")).unwrap(), "mine\n");
        assert_eq!(fs::read_dir(place.path("out/topics")).unwrap().count(), 1);
        assert!(!place.path("out/adtide.db").exists());
    }
}

#[test]
fn live_traffic_goes_on_until_it_is_interrupted() {
    let place = Place::new();
    let mut running = place.start("live", "--live --data-dir out -w 2 --set generator.ad_events=1000000");
    let arrived =
        eventually(|| !place.rows(PERFORMANCE).is_empty() && !place.rows("SELECT * FROM rtb_ranking_cache").is_empty());
    let outcome = running.end(Signal::SIGINT).succeeded();
    assert!(arrived, "{}{}", outcome.stdout, outcome.stderr);
    outcome.says(&["1  RTB rankings: ", "2  Performance: ", " from out/topics"]);
}

#[test]
fn it_needs_topics_to_follow_and_processes_need_topics_to_share() {
    let place = Place::new();
    place.run("--follow").failed_saying(&["--follow", "--from"]);
    place.write("live.toml", "[source]\nfrom = 'in'\n");
    place.write("in/ad-events.ndjson", "");
    place.run("--live --config live.toml").failed_saying(&["--live", "source.from"]);
    place.run("-n 2 -p 0").failed_saying(&["one process", "adtide generate", "--from"]);
    assert!(!place.path("adtide-data").exists());
}
