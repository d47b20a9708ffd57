//! `adtide generate`.

use std::collections::BTreeMap;
use std::fs;

use crate::support::Place;

const SMALL: &str =
    "--campaign-events 50 --campaigns 20 --set generator.products=20 --set generator.devices=100";

/// All topic files of a folder.
fn files(place: &Place, folder: &str) -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    for topic in fs::read_dir(place.path(folder))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
    {
        for file in fs::read_dir(topic).unwrap().map(|entry| entry.unwrap().path()) {
            let name = file.strip_prefix(place.path(folder)).unwrap().display().to_string();
            files.insert(name, fs::read_to_string(file).unwrap());
        }
    }
    files
}

fn ad_events(files: &BTreeMap<String, String>) -> impl Iterator<Item = &str> {
    files.iter().filter(|(name, _)| name.starts_with("ad-events/")).flat_map(|(_, text)| text.lines())
}

#[test]
fn a_seed_gives_the_same_bytes_each_time_and_another_one_others() {
    let place = Place::new();
    for (folder, seed) in [("a", 7), ("b", 7), ("c", 8)] {
        place.run(&format!("generate --to {folder} --seed {seed} --ad-events 1000 {SMALL}")).succeeded();
    }
    assert_eq!(files(&place, "a").len(), 20);
    assert!(files(&place, "a") == files(&place, "b"));
    assert!(files(&place, "a") != files(&place, "c"));
}

#[test]
fn it_makes_as_many_records_as_it_says_and_is_told() {
    let place = Place::new();
    let outcome = place.run(&format!("generate --to in --ad-events 1234 --partitions 2 {SMALL}")).succeeded();
    let made = files(&place, "in");
    assert_eq!(ad_events(&made).count(), 1234);
    assert_eq!(made.len(), 10);
    outcome.says(&["ad-events", "1234 records", " in in"]);
}

#[test]
fn a_rate_is_by_the_second_of_the_span() {
    let place = Place::new();
    let span = "--rate 2.5 --span 10m --start 2026-03-01T00:00:00Z --set generator.malformed=0";
    place.run(&format!("generate --to in {span} {SMALL}")).succeeded();
    let made = files(&place, "in");
    assert_eq!(ad_events(&made).count(), 1500);
    let in_span = ad_events(&made).filter(|line| line.contains("2026-03-01 00:0")).count();
    assert!(in_span > 1400, "only {in_span} of 1500 events lie in the span");
    for rate in ["0", "-1", "NaN"] {
        place
            .run(&format!("generate --to other --rate={rate}"))
            .failed_saying(&["--rate must be more than 0"]);
    }
    place.run("generate --to other --rate 1 --ad-events 1").exited_with(2);
    assert!(!place.path("other").exists());
}

#[test]
fn traffic_replaces_traffic_and_nothing_else() {
    let place = Place::new();
    place.run(&format!("generate --to in --ad-events 500 --partitions 3 {SMALL}")).succeeded();
    place.run(&format!("generate --to in --ad-events 500 --partitions 1 {SMALL}")).succeeded();
    assert_eq!(files(&place, "in").len(), 5);
    place.write("mine/ad-events.ndjson", "mine");
    place
        .run(&format!("generate --to mine {SMALL}"))
        .failed_saying(&["mine holds topics", "did not generate"]);
    assert_eq!(fs::read_to_string(place.path("mine/ad-events.ndjson")).unwrap(), "mine");
    assert_eq!(fs::read_dir(place.path("mine")).unwrap().count(), 1);
}

#[test]
fn what_can_not_be_made_is_refused_and_nothing_is_touched() {
    let place = Place::new();
    place.run(&format!("generate --to in --ad-events 500 {SMALL}")).succeeded();
    let before = files(&place, "in");
    place.run("generate --to in --campaigns 0").failed_saying(&["campaigns must be from 1"]);
    place.run("generate --to in --partitions 0").failed_saying(&["partitions must be at least 1"]);
    place.run("generate --to in --start yesterday").refused_saying(&["generator.start", "not a time"]);
    assert!(before == files(&place, "in"));
}
