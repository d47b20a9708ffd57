//! Checkpoints on files: what a restart goes on from, and `adtide checkpoint`.

use std::fs;
use std::path::PathBuf;

use nix::sys::signal::Signal;

use crate::support::{Place, eventually};

const RUN: &str = "run --from in --data-dir out --follow --set checkpoint.interval=200ms --set idle_timeout=1h";

/// A place with two checkpoints, each of a run that was stopped in order; what the second run read came after the first.
fn stopped() -> Place {
    let place = Place::new();
    let traffic = "--ad-events 4000 --campaigns 100 --campaign-events 300 --span 1h";
    place.run(&format!("generate --to in {traffic}")).succeeded();
    place.run(&format!("generate --to more --start 2026-01-05T09:00:00Z {traffic}")).succeeded();
    run_until_checkpoint(&place, "first");
    place.append("in/ad-events/0.ndjson", fs::read(place.path("more/ad-events/0.ndjson")).unwrap());
    run_until_checkpoint(&place, "second");
    assert_eq!(files(&place, "manifests").len(), 2);
    place
}

/// Runs until there is a checkpoint of something new, and ends it in order.
fn run_until_checkpoint(place: &Place, name: &str) {
    let mut run = place.start(name, &format!("{RUN} -w 2"));
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
    place.run(&format!("{RUN} --backfill-from 2026-01-01T00:00:00Z")).failed_saying(&["read from their start"]);
    place.run(&format!("{RUN} --set checkpoint.url=ftp://a")).failed_saying(&["checkpoint.url", "s3://"]);
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
