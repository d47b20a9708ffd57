//! Going on after a crash or a stop: nothing lost, nothing twice.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::{PERFORMANCE, Place, click, conversion, eventually, impression};

/// Epochs so small that a crash finds many of them on their way.
const SMALL_EPOCHS: &str =
    "--epoch-interval 5ms --set epoch.catch_up_interval=5ms --set epoch.max_bytes=200000";

/// Crashes in a round; each round has a seed of its own, which says when they come and with how many workers.
const CRASHES: u64 = 6;
const SEEDS: [u64; 3] = [1, 2, 3];

const COMPENSATIONS: &str = "compensation-events";

#[test]
fn killed_at_any_moment_it_loses_nothing_and_pays_nothing_twice() {
    let place = Place::new();
    place.run("generate --to in --ad-events 80000 --campaign-events 3000 --campaigns 500").succeeded();
    for seed in SEEDS {
        let out = format!("out-{seed}");
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for crash in 0..CRASHES {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let (workers, delay) = (1 + (random >> 33) % 3, 30 + (random >> 40) % 500);
            let arguments = format!("--from in --data-dir {out} --resume -w {workers} {SMALL_EPOCHS}");
            let mut running = place.start(&format!("crash-{seed}-{crash}"), &arguments);
            std::thread::sleep(Duration::from_millis(delay));
            running.end(Signal::SIGKILL);
        }
        place.run(&format!("--from in --data-dir {out} --resume -w 2")).succeeded();
        let outcome = place.run(&format!("verify --from in --data-dir {out}"));
        assert!(outcome.stdout.starts_with("verified"), "seed {seed}: {}", outcome.stdout);
    }
}

#[test]
fn a_followed_topic_is_gone_on_with_where_it_was_left() {
    let place = Place::new();
    let (click, again) = (click("10:00:00", 1, "d-1"), click("10:00:01", 1, "d-1"));
    place.write("in/ad-events.ndjson", click + &again + &impression("10:06:00", 1));
    place.append("in/conversion-events.ndjson", conversion("10:04:00", "o-1", "d-1"));
    let refunds =
        || place.topic(COMPENSATIONS).iter().map(|record| record["refund_amount"].to_string()).collect();
    let attributions = || place.rows("SELECT order_id, click_time FROM conversion_attribution_results");

    let mut running = place.start("first", "--from in --data-dir out --follow");
    let closed = ["1 10:00 0 2 1", "1 10:05 1 0 0"];
    place.await_rows(PERFORMANCE, &closed);
    running.end(Signal::SIGTERM).succeeded();
    let before: Vec<String> = refunds();
    assert_eq!(before.len(), 1);

    // A third click of the same device raises the refund; a later impression closes the next window.
    place.append("in/ad-events.ndjson", crate::support::click("10:00:02", 1, "d-1"));
    place.append("in/ad-events.ndjson", impression("10:11:00", 1));
    let mut running = place.start("second", "--from in --data-dir out --follow -w 3");
    place.await_rows(PERFORMANCE, &["1 10:00 0 3 1", "1 10:05 1 0 1", "1 10:10 1 0 0"]);
    running.end(Signal::SIGTERM).succeeded();
    let after: Vec<String> = refunds();
    assert_eq!(after, [before[0].clone(), before[0].clone()], "one more click, one more price");
    assert!(attributions()[0].contains("10:00:02"), "the better click: {:?}", attributions());

    // Once more with nothing new: nothing changes.
    let mut running = place.start("third", "--from in --data-dir out --follow");
    place.append("in/ad-events.ndjson", impression("10:11:01", 1));
    place.await_rows(PERFORMANCE, &["1 10:00 0 3 1", "1 10:05 1 0 1", "1 10:10 2 0 0"]);
    running.end(Signal::SIGTERM).succeeded();
    assert_eq!(refunds() as Vec<String>, after);
}

#[test]
fn a_bounded_run_starts_over_unless_it_is_told_to_resume() {
    let place = Place::with_traffic();
    place.run("--from in --data-dir out").succeeded();
    let first = place.tables("out");
    place.run("--from in --data-dir out --resume -w 2").succeeded();
    assert_eq!(place.tables("out"), first);
    place.run("--from in --data-dir out --ranking-limit 1").succeeded();
    assert_ne!(place.tables("out"), first);
    place.run("verify --from in --data-dir out").succeeded();
}

#[test]
fn results_that_it_cant_go_on_with_are_named_with_what_to_do() {
    let place = Place::with_traffic();
    place.write("other/ad-events.ndjson", impression("10:00:00", 1));
    place.run("--from in --data-dir out").succeeded();
    let resume = |more: &str| place.run(&format!("--from in --data-dir out --resume {more}"));
    resume("--product-metrics live").failed_saying(&[
        "rtb.product_metrics = Topic",
        "now it is Live",
        "--fresh",
    ]);
    resume("--set ids.unknown=none,0").failed_saying(&[
        "ids.unknown = [\"00000000-",
        "now it is [\"0\", \"none\"]",
        "--fresh",
    ]);
    place.run("--from other --data-dir out --resume").failed_saying(&["results of the topics in", "--fresh"]);
    place.run("--from in --data-dir out --follow").failed_saying(&["closed all windows", "--fresh"]);
    place.write("in/ad-events/0.ndjson", impression("10:00:00", 1));
    resume("").failed_saying(&["in/ad-events/0.ndjson", "written anew", "--fresh"]);
    resume("--fresh").exited_with(2);
    place.run("--from in --data-dir out --fresh").succeeded();
    // Another order or case is the same list.
    let list = "N/A,none,null,undefined,Unknown,00000000-0000-0000-0000-000000000000";
    resume(&format!("--set ids.unknown={list}")).succeeded();
}

#[test]
fn what_was_too_far_in_the_future_is_rejected_in_a_replay_though_the_clock_has_reached_it() {
    let place = Place::new();
    let now = adtide::now().0;
    let follow = "--from in --data-dir out --follow --set max_future_skew=5s --set checkpoint.interval=10m";
    place.write(
        "in/ad-events.ndjson",
        click(now, 1, "d-1") + &click(now + 20_000, 1, "d-1") + &click(now, 1, "d-2"),
    );
    let mut running = place.start("first", follow);
    assert!(eventually(|| place.topic("dead-letter").len() == 1));
    let clicks = "SELECT sum(click_count) FROM ad_performance_metrics_realtime";
    place.await_rows(clicks, &["2"]);
    // By now it would be accepted, and others are.
    assert!(eventually(|| adtide::now().0 > now + 16_000));
    place.append("in/ad-events.ndjson", click(now + 20_000, 1, "d-3"));
    place.await_rows(clicks, &["3"]);
    running.end(Signal::SIGKILL);
    place.append("in/ad-events.ndjson", click(now, 1, "d-4") + &click(now + 20_000, 1, "d-5"));
    let mut running = place.start("second", &format!("{follow} -w 2"));
    place.await_rows(clicks, &["5"]);
    running.end(Signal::SIGTERM).succeeded();
    let rejected = place.topic("dead-letter");
    assert_eq!(
        (rejected.len(), &rejected[0]["reason"], &rejected[0]["offset"]),
        (1, &"time_in_future".into(), &1.into())
    );
    place.run("verify --from in --data-dir out").verified(&["performance", "dead letters"]);
}
