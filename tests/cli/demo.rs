//! `adtide` without topics: the demonstration.

use std::fs;

use nix::sys::signal::Signal;

use crate::support::{PERFORMANCE, Place, eventually};

const SECTIONS: [&str; 6] =
    ["rankings", "performance", "attributions", "refunds", "late events", "dead letters"];
const DEMO: &str = "--data-dir out -w 2 --set generator.ad_events=20000";

#[test]
fn it_shows_all_four_results_and_verifies_them_and_can_be_repeated() {
    let place = Place::new();
    for _ in 0..2 {
        let outcome = place.run(DEMO).succeeded();
        outcome.says(&[
            "1  RTB rankings: ",
            "2  Performance: ",
            "3  Last-click attributions: ",
            "4  Refunds ",
        ]);
        outcome.says(&["ad-events", "from out/topics", "not_json", "events without campaign"]);
        outcome.says(&["out/adtide.db and out/topics"]);
        outcome.verified(&SECTIONS);
    }
}

/// What it shows, but for how long it took.
fn figures(shown: &str) -> String {
    let is_figure = |line: &&str| !line.starts_with("took ") && !line.contains(" as of epoch ");
    shown.lines().filter(is_figure).collect::<Vec<_>>().join("\n")
}

/// `ADTIDE_TEST_ROUNDS=20 cargo test --test cli demo::` is what has to be shown before a release.
#[test]
fn it_shows_the_same_figures_each_time_on_any_number_of_workers_in_a_used_folder() {
    let rounds = std::env::var("ADTIDE_TEST_ROUNDS").map_or(3, |rounds| rounds.parse().unwrap());
    let place = Place::new();
    place.run("generate --to rp --ad-events 30000 --partitions 1").succeeded();
    place.run("--from rp --data-dir out").succeeded();
    place.run("worker all --from rp --data-dir out --until-end").succeeded();
    let mut first = None;
    for round in 0..rounds {
        let workers = [2, 1, 4, 3, 8][round % 5];
        let outcome =
            place.run(&format!("--data-dir out -w {workers} --set generator.ad_events=60000")).succeeded();
        let shown = figures(&outcome.stdout);
        outcome.says(&["verified", "credits", " came back"]);
        assert!(!shown.contains(" 0 came back"), "{shown}");
        let first = first.get_or_insert_with(|| shown.clone());
        assert!(*first == shown, "-w {workers}, round {round}:\n{first}\n\n{shown}");
    }
}

#[test]
fn it_replaces_no_results_but_those_of_generated_traffic() {
    let place = Place::new();
    place.write("in/ad-events.ndjson", crate::support::impression("10:00:00", 1));
    place.run("--from in --data-dir out").succeeded();
    place.run(DEMO).failed_saying(&["out", "results of the topics in", "/in;", "--fresh", "--data-dir"]);
    place.run("verify --from in --data-dir out").verified(&["performance"]);
    place.run(&format!("{DEMO} --fresh")).succeeded();
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
    let arrived = eventually(|| {
        !place.rows(PERFORMANCE).is_empty() && !place.rows("SELECT * FROM rtb_ranking_cache").is_empty()
    });
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

/// The sequence of commands that README.md shows for files, with less traffic.
#[test]
fn the_commands_of_the_readme_work_one_after_the_other() {
    let readme = include_str!("../../README.md");
    let section = readme.split("## On files").nth(1).unwrap();
    let block = section.split("```console\n").nth(1).unwrap().split("```").next().unwrap();
    let commands: Vec<_> =
        block.lines().filter_map(|line| line.split('#').next()?.strip_prefix("adtide ")).collect();
    assert!(commands.len() >= 6 && commands[0].contains("--ad-events 1000000"), "{block}");
    let place = Place::new();
    for (at, command) in commands.iter().enumerate() {
        let command = command.replace("1000000", "20000");
        if command.contains("--follow") || command.contains("--live") {
            let mut running = place.start(&format!("command-{at}"), &command);
            // It is interrupted when it has its signal handlers.
            let folder = if command.contains("--live") { "adtide-data" } else { "live" };
            let rows = "SELECT 1 FROM ad_performance_metrics_realtime LIMIT 1";
            assert!(eventually(|| place.rows_in(folder, rows) == ["1"]), "{command}: {}", running.stderr());
            running.end(Signal::SIGINT).succeeded();
        } else {
            place.run(&command).succeeded();
        }
    }
    assert!(place.path("run.json").is_file());
}
