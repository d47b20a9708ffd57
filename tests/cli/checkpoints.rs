//! Checkpoints on files: what a restart goes on from, and `adtide checkpoint`.

use std::fs;
use std::path::PathBuf;

use nix::sys::signal::Signal;

use crate::cluster::free_addresses;
use crate::support::{Place, eventually};

const RUN: &str =
    "run --from in --data-dir out --follow --set checkpoint.interval=200ms --set idle_timeout=1h";

const TRAFFIC: &str = "--ad-events 4000 --campaigns 100 --campaign-events 300 --span 1h";

/// A place with two checkpoints, each of a run that was stopped in order; what the second run read came after
/// the first.
fn stopped() -> Place {
    let place = Place::new();
    place.run(&format!("generate --to in {TRAFFIC}")).succeeded();
    run_until_checkpoint(&place, "first", 2);
    append(&place, 9, &["ad-events/0"]);
    run_until_checkpoint(&place, "second", 2);
    assert_eq!(files(&place, "manifests").len(), 2);
    place
}

/// Appends traffic of another hour to partitions.
fn append(place: &Place, hour: u32, partitions: &[&str]) {
    let more = format!("more-{hour}");
    place
        .run(&format!("generate --to {more} --start 2026-01-05T{hour:02}:00:00Z --seed {hour} {TRAFFIC}"))
        .succeeded();
    for partition in partitions {
        let bytes = fs::read(place.path(&format!("{more}/{partition}.ndjson"))).unwrap();
        place.append(&format!("in/{partition}.ndjson"), bytes);
    }
}

/// Runs until there is a checkpoint of something new, and ends it in order.
fn run_until_checkpoint(place: &Place, name: &str, workers: usize) {
    let mut run = place.start(name, &format!("{RUN} -w {workers}"));
    let is_new = |line: &str| line.contains("INFO checkpoint epoch=") && !line.ends_with(" written=0");
    assert!(eventually(|| run.stderr().lines().any(is_new)), "{}", run.stderr());
    run.end(Signal::SIGTERM).succeeded();
}

/// The files of the checkpoints, the newest manifest last.
fn files(place: &Place, kind: &str) -> Vec<PathBuf> {
    let files = fs::read_dir(place.path("out/checkpoints/adtide").join(kind));
    let mut files: Vec<_> = files.into_iter().flatten().map(|file| file.unwrap().path()).collect();
    files.sort();
    files
}

/// Reads the rest to its end. What it says.
fn finish(place: &Place, more: &str) -> String {
    let resume = RUN.replace("--follow", "--resume");
    let outcome = place.run(&format!("{resume} {more}")).succeeded();
    place.run("verify --from in --data-dir out").succeeded().says(&["verified"]);
    outcome.stderr
}

#[test]
fn a_restart_goes_on_from_the_last_checkpoint_on_any_number_of_workers() {
    let place = stopped();
    let said = finish(&place, "-w 3");
    assert!(said.contains("checkpoint=Some(") && said.contains("replay_through=[]"), "{said}");
}

#[test]
fn two_workers_one_three_one_and_two_processes_make_what_one_run_makes_row_by_row() {
    let all = [
        "ad-events/0",
        "ad-events/1",
        "ad-events/2",
        "ad-events/3",
        "campaign-events/0",
        "conversion-events/1",
    ];
    let place = Place::new();
    place.run(&format!("generate --to in --partitions 4 {TRAFFIC}")).succeeded();
    for (hour, workers) in [(9, 2), (10, 1), (11, 3), (12, 1)] {
        run_until_checkpoint(&place, &format!("before-{hour}"), workers);
        append(&place, hour, &all);
    }
    place.write("hosts", free_addresses(2));
    let resume = RUN.replace("--follow", "--resume");
    let start = |process: usize| {
        place.start(&format!("process-{process}"), &format!("{resume} -w 2 -n 2 -h hosts -p {process}"))
    };
    let mut processes = [start(0), start(1)];
    let said = processes.each_mut().map(|process| process.finish().succeeded().stderr);
    assert!(said[0].contains("checkpoint=Some(") && said[0].contains("replay_through=[]"), "{}", said[0]);
    place.run("run --from in --data-dir one").succeeded();
    assert!(place.tables("one") == place.tables("out"), "the tables differ");
    place.run("verify --from in --data-dir out").verified(&[]);
}

#[test]
fn a_checkpoint_that_is_named_is_gone_on_from_and_the_sinks_are_told_nothing_twice() {
    let place = stopped();
    let old = files(&place, "manifests")[0].file_stem().unwrap().to_str().unwrap().parse::<u64>().unwrap();
    let said = finish(&place, &format!("-w 1 --from-checkpoint {old}"));
    assert!(
        said.contains(&format!("checkpoint=Some({old})")) && !said.contains("replay_through=[]"),
        "{said}"
    );
}

#[test]
fn a_damaged_checkpoint_is_passed_over_for_the_one_before_and_that_for_the_topics() {
    for damaged in 1..=2 {
        let place = stopped();
        for manifest in files(&place, "manifests").iter().rev().take(damaged) {
            let bytes = fs::read(manifest).unwrap();
            fs::write(manifest, &bytes[..bytes.len() / 2]).unwrap();
        }
        let said = finish(&place, "-w 1");
        assert_eq!(said.matches("can't be used").count(), damaged, "{said}");
        assert_eq!(said.contains("checkpoint=Some("), damaged == 1, "{said}");
    }
}

#[test]
fn what_may_be_changed_is_taken_and_what_may_not_is_refused_with_what_to_do() {
    let place = stopped();
    let advice = ["conversion.lookback = 1day", "now it is 2days", "--from-checkpoint none"];
    place.run(&format!("{RUN} --lookback 48h")).failed_saying(&advice);
    place
        .run(&format!("{RUN} --product-metrics live"))
        .failed_saying(&["rtb.product_metrics", "--from-checkpoint none"]);
    place.run(&format!("{RUN} --from-checkpoint 7")).failed_saying(&["no usable checkpoint of epoch 7"]);
    place.run(&format!("{RUN} --from-checkpoint yes")).exited_with(2);
    place
        .run(&format!("{RUN} --backfill-from 2026-01-01T00:00:00Z"))
        .failed_saying(&["read from their start"]);
    place.run(&format!("{RUN} --set checkpoint.url=ftp://a")).refused_saying(&["checkpoint.url", "s3://"]);
    // Its windows are closed: a shorter lateness changes nothing of them.
    let said = finish(&place, "--allowed-lateness 9m");
    assert!(said.contains("checkpoint=Some("), "{said}");
}

#[test]
fn another_length_of_rankings_holds_for_all_of_them_at_once() {
    let place = stopped();
    let longer = "SELECT COUNT(*) FROM rtb_ranking_cache WHERE json_array_length(ranking_list) > 2";
    assert_ne!(place.rows(longer), ["0"]);
    let mut run = place.start("third", &format!("{RUN} --ranking-limit 2"));
    // One event more, which is in no ranking.
    fs::write(place.path("in/ad-events/9.ndjson"), "{}\n").unwrap();
    assert!(eventually(|| place.rows(longer) == ["0"]), "{}", run.stderr());
    run.end(Signal::SIGTERM).succeeded();
}

#[test]
fn checkpoints_are_listed_shown_verified_and_deleted() {
    let place = stopped();
    let checkpoint = |arguments: &str| place.run(&format!("checkpoint {arguments} --data-dir out"));
    let epochs: Vec<u64> = files(&place, "manifests")
        .iter()
        .map(|path| path.file_stem().unwrap().to_str().unwrap().parse().unwrap())
        .collect();
    let [old, new] = epochs[..] else { panic!("{epochs:?}") };
    checkpoint("list").succeeded().says(&["epoch", &old.to_string(), &new.to_string(), "segments"]);
    checkpoint("show").succeeded().says(&[&new.to_string(), "Clicks", "ad-events", "next offset"]);
    checkpoint("verify --all").succeeded().says(&[&format!("{old}: all"), &format!("{new}: all")]);
    checkpoint("show 7").failed_saying(&["no checkpoint of epoch 7", "adtide checkpoint list"]);
    checkpoint(&format!("delete {new}")).failed_saying(&["is the newest checkpoint", "--all"]);
    let segment = files(&place, "segments").remove(0);
    let mut bytes = fs::read(&segment).unwrap();
    bytes[30] ^= 4;
    fs::write(&segment, bytes).unwrap();
    checkpoint("verify").exited_with(1).says(&["damaged", segment.file_name().unwrap().to_str().unwrap()]);
    checkpoint(&format!("delete {old}")).succeeded().says(&["deleted"]);
    checkpoint("delete --all").succeeded();
    assert_eq!(files(&place, "segments"), Vec::<PathBuf>::new());
    checkpoint("list").failed_saying(&["there are no checkpoints in"]);
}

#[test]
fn checkpoints_of_results_that_are_not_there_are_left_alone_and_named() {
    let place = stopped();
    for file in ["adtide.db", "adtide.db-wal", "adtide.db-shm"] {
        let _ = fs::remove_file(place.path(&format!("out/{file}")));
    }
    fs::remove_dir_all(place.path("out/topics")).unwrap();
    let before = (files(&place, "manifests"), files(&place, "segments"));
    place.run(RUN).failed_saying(&["there are checkpoints of them", "--fresh", "--from-checkpoint none"]);
    assert_eq!((files(&place, "manifests"), files(&place, "segments")), before);

    // Results that start over are of another generation: its checkpoints are kept apart from the old ones,
    // which stay.
    let mut anew = place.start("anew", &format!("{RUN} --from-checkpoint none"));
    let is_new = |line: &str| line.contains("INFO checkpoint epoch=") && !line.ends_with(" written=0");
    assert!(
        eventually(|| anew.stderr().lines().filter(|line| is_new(line)).count() > 0),
        "{}",
        anew.stderr()
    );
    anew.end(Signal::SIGTERM).succeeded();
    assert!(before.0.iter().all(|manifest| manifest.is_file()), "{:?}", files(&place, "manifests"));
    place.run("checkpoint verify --data-dir out --all").succeeded();
    for manifest in files(&place, "manifests").iter().filter(|manifest| !before.0.contains(manifest)) {
        fs::remove_file(manifest).unwrap();
    }
    let said = finish(&place, "-w 1");
    assert!(said.contains("checkpoint=None"), "those of the old results are not used: {said}");
}

#[test]
fn who_starts_over_with_fresh_deletes_the_checkpoints_of_the_folder() {
    let place = stopped();
    let before = files(&place, "manifests");
    let mut fresh = place.start("fresh", &format!("{RUN} --fresh"));
    assert!(eventually(|| before.iter().all(|manifest| !manifest.exists())), "{}", fresh.stderr());
    fresh.end(Signal::SIGTERM).succeeded();
}
