//! Checkpoints of a run on real servers: what a restart goes on from, and what it does instead if it may not.

use nix::sys::signal::Signal;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;

use crate::deployment::{Deployment, eventually};
use crate::end_to_end::deploy;

const SETTINGS: &str = "epoch_interval = '20ms'\ncheckpoint.interval = '300ms'";

/// Runs until there is a checkpoint of something new, and ends it by a signal.
fn run_until_checkpoint(deployment: &Deployment, workers: usize, end: Signal) {
    let mut run = deployment.start(&format!("run-{workers}"), &format!("run -w {workers}"));
    let is_new = |line: &str| line.contains("INFO checkpoint epoch=") && !line.ends_with(" written=0");
    assert!(eventually(|| run.stderr().lines().any(is_new)), "{}", run.stderr());
    run.end(end);
}

#[test]
fn a_killed_run_goes_on_from_its_checkpoint_on_other_workers() {
    let Some((_alone, deployment)) = deploy(SETTINGS) else { return };
    let mut traffic = deployment.start("generate", "generate --to-kafka --speed 300");
    run_until_checkpoint(&deployment, 1, Signal::SIGKILL);
    run_until_checkpoint(&deployment, 3, Signal::SIGKILL);
    run_until_checkpoint(&deployment, 2, Signal::SIGTERM);
    assert!(eventually(|| traffic.ended().is_some()), "{}", traffic.stderr());
    let last = deployment.run("run -w 2 --until-end").succeeded();
    assert!(last.stderr.contains("checkpoint=Some("), "{}", last.stderr);
    deployment.run("checkpoint verify --all").succeeded();
    deployment.run("worker all --until-end").succeeded();
    deployment.verified();
}

#[test]
fn what_a_checkpoint_does_not_hold_is_read_again_from_the_topics() {
    let Some((_alone, deployment)) = deploy(SETTINGS) else { return };
    deployment.run("generate --to-kafka").succeeded();
    run_until_checkpoint(&deployment, 2, Signal::SIGTERM);
    let run =
        |more: &str| deployment.run(&format!("run -w 2 --until-end --set conversion.lookback=48h {more}"));
    run("").failed_saying(&[
        "conversion.lookback = 1day",
        "now it is 2days",
        "--from-checkpoint none",
        "--backfill-from",
    ]);
    run("--backfill-from 2099-01-01T00:00:00Z").exited_saying(2, &["--backfill-from", "is in the future"]);
    deployment.run("generate --to-kafka --seed 2").succeeded();
    let now = adtide::now().to_string().replace(' ', "T");
    // All that was appended since the stop would be passed over.
    let late = run(&format!("--backfill-from {now}Z"));
    late.failed_saying(&["would be read from offset", "give --backfill-from an earlier time"]);
    let all = run("--backfill-from 1970-01-02T00:00:00Z").succeeded();
    assert!(all.stderr.contains("checkpoint=None"), "{}", all.stderr);
    deployment.run("worker all --until-end").succeeded();
    deployment.run("verify --set conversion.lookback=48h").succeeded();
}

#[test]
fn checkpoints_that_no_server_knows_of_are_left_alone_and_named() {
    let Some((_alone, deployment)) = deploy(SETTINGS) else { return };
    deployment.run("generate --to-kafka --ad-events 3000").succeeded();
    run_until_checkpoint(&deployment, 1, Signal::SIGTERM);
    let list = || deployment.run("checkpoint list").succeeded().stdout;
    let before = list();
    // As if the URLs named other servers: none has anything of this name.
    deployment.postgres().execute("DELETE FROM adtide_progress", &[]).unwrap();
    redis::cmd("FLUSHDB").exec(&mut deployment.redis()).unwrap();
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", deployment.brokers()).create().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let name = format!("{}-adtide-progress", deployment.name);
    let deleted = runtime.block_on(admin.delete_topics(&[&name], &AdminOptions::new())).unwrap();
    assert_eq!(deleted, [Ok(name)]);
    deployment.run("topics create").succeeded();
    let refused = ["there are checkpoints of them in ", "is it the right database", "--from-checkpoint none"];
    deployment.run("run --until-end").failed_saying(&refused);
    assert_eq!(list(), before);
    deployment.run("run --until-end --from-checkpoint none").succeeded();
    let (after, mut rows) =
        (list(), before.lines().filter(|line| line.contains(" KiB") || line.contains(" B ")));
    assert!(rows.all(|row| after.contains(row)), "they are not this run's: {before}, {after}");
}
