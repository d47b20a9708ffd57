//! The engine in a simulated world: its clock, its topics, its sinks and the store of its checkpoints are
//! simulated, and each seed is a history of what comes in and what goes wrong. In the end, and wherever it
//! stops, the results must be what the batch recomputation makes of the same records.
//!
//! A seed that fails is printed with what happened; `ADTIDE_SIMULATE_SEED=<seed>` plays it alone, and with
//! `RUST_LOG=debug` shows its log and every commit. `ADTIDE_SIMULATE_SEEDS` says how many seeds are played,
//! `ADTIDE_SIMULATE_FROM` which is the first; `scripts/simulate` plays many.

mod check;
mod clock;
mod cluster;
mod dice;
mod history;
mod log;
mod sinks;
mod source;
mod store;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use tracing_subscriber::EnvFilter;

use history::{Size, Twist, idle, play, set_back, slow_writers, store_away};

/// Seeds that failed once, and what they found.
const KEPT: &[(u64, &str)] = &[
    (2, "a sink that stood at the checkpoint took a replay for what it had already"),
    (28, "watermarks went back behind a cut"),
    (31, "a run that was stopped before its first epoch left a checkpoint older than all restored epochs"),
    (166, "a record that was late because its partition had slept was taken in a replay"),
    (149, "a sink that was new in the middle of a run took half of what a checkpoint gave back"),
    (272, "live rates after a restore"),
    (876, "a restart was taken for a wake, and the real one forgotten"),
    (316, "a run without faults that did not get on"),
    (536, "an attribution that was lost after a restore"),
    (35, "a stop while one worker replayed and another had nothing to replay"),
    (
        104,
        "a checkpoint without the state of a worker whose write had failed, because another had written twice",
    ),
    (133, "what was rejected by the clock was accepted in a replay, while judgements were not remembered"),
    (3178, "a partition that appeared while no run was there, and whose late record was taken in a replay"),
    (2713, "what a checkpoint gave back, stored as progress from before all others"),
];

/// Seeds that are played if nobody says how many.
const SEEDS: u64 = 100;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}; want a number")))
}

/// Plays a seed; its story, if it fails.
fn failure(seed: u64, twist: Twist) -> Option<String> {
    let (result, story) = play(seed, twist);
    let error = result.err()?;
    let story = story.join("\n");
    Some(format!("{story}\n{error:#}\nADTIDE_SIMULATE_SEED={seed} cargo test --test simulation histories"))
}

/// Plays seeds on all cores; what those have to tell that failed.
fn failures(seeds: &[u64]) -> Vec<String> {
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let work = || {
        while let Some(&seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
            let failure = failure(seed, Twist::default());
            let mut failures = failures.lock().expect("nobody panics with it");
            if let Some(failure) = failure {
                eprintln!("{failure}\n");
                failures.push(failure);
            }
            let done = next.load(Ordering::Relaxed);
            if done % 1000 == 0 {
                eprintln!("{done} of {} seeds, {} failed", seeds.len(), failures.len());
            }
        }
    };
    std::thread::scope(|scope| (0..cores).for_each(|_| _ = scope.spawn(work)));
    failures.into_inner().expect("nobody panics with it")
}

#[test]
fn histories_end_as_if_nothing_had_happened() {
    let one = number("ADTIDE_SIMULATE_SEED");
    if one.is_some() {
        let _ = tracing_subscriber::fmt()
            .with_env_filter(EnvFilter::from_default_env())
            .with_test_writer()
            .try_init();
    }
    let from = number("ADTIDE_SIMULATE_FROM").unwrap_or(0);
    let seeds = from..from + number("ADTIDE_SIMULATE_SEEDS").unwrap_or(SEEDS);
    let all = KEPT.iter().map(|(seed, _)| *seed).chain(seeds);
    let seeds: Vec<u64> = one.map_or_else(|| all.collect(), |seed| vec![seed]);
    let failures = failures(&seeds);
    assert!(
        failures.is_empty(),
        "{}\n{} of {} seeds failed",
        failures.join("\n\n"),
        failures.len(),
        seeds.len()
    );
}

#[test]
fn a_sink_that_forgets_how_far_it_got_is_noticed() {
    let twist = Twist { forgetful: true };
    assert!((0..200).any(|seed| failure(seed, twist).is_some()), "200 histories, and nobody has noticed");
}

#[test]
fn writers_of_different_speeds_meet_on_checkpoints() {
    for seed in 0..2 {
        let checkpoints = slow_writers(seed).expect("the log can be read");
        assert!(checkpoints >= 15, "{checkpoints} checkpoints in six hours");
    }
}

#[test]
fn what_waits_for_a_store_that_is_away_is_bounded() {
    let all = u64::MAX;
    for seed in 0..4 {
        let (unbounded, unread) = store_away(seed, all).expect("the log can be read");
        assert_eq!(unread, 0, "results do not wait for the store");
        let bound = unbounded / 3;
        let (most, unread) = store_away(seed, bound).expect("the log can be read");
        // What operators have at hand when it is reached comes on top: all that was read since the last
        // boundary.
        assert!(most < unbounded && unread > 0, "{most} of {unbounded} bytes waited, {unread} records");
    }
}

#[test]
fn epochs_end_when_the_clock_is_set_back() {
    let advanced = set_back(3).expect("the log can be read");
    assert!(advanced >= 9 * log::MINUTE as u64, "in ten minutes the frontier has advanced by {advanced} ms");
}

#[test]
fn what_is_idle_does_not_grow() {
    let [before, after] = idle(3).expect("the log can be read");
    assert!(before.rows > 0 && before.objects > 0, "{before:?}");
    // The numbers in a manifest may be longer.
    let most = Size { bytes: before.bytes + 100, ..before };
    assert!(
        after.rows <= most.rows && after.objects <= most.objects && after.bytes <= most.bytes,
        "{before:?}, {after:?}"
    );
}
