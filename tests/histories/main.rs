//! Random histories through the binary: files grow record by record while runs on 1, 2 or 4 workers follow
//! them and are stopped or killed at any moment. In the end every result equals its batch recomputation, and
//! the tables those of one run that read everything at once.
//!
//! A history a seed: `ADTIDE_HISTORIES` of them from `ADTIDE_HISTORIES_FROM` on; `scripts/histories` plays
//! many.

#![cfg(unix)]

#[allow(dead_code, unused_imports)]
#[path = "../cli/support.rs"]
mod place;
#[allow(dead_code, unused_imports)]
#[path = "../dataflows/support/mod.rs"]
mod support;

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use adtide_dataflows::{Emit, MetricsSource, Settings};
use nix::sys::signal::Signal;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

use place::{Place, Running};
use support::{Disorder, History, Step, histories, settings};

#[test]
fn followed_stopped_and_killed_it_comes_to_what_one_reading_gives() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect(name));
    let from = number("ADTIDE_HISTORIES_FROM").unwrap_or(0);
    let seeds = from..from + number("ADTIDE_HISTORIES").unwrap_or(6);
    let failed: Vec<_> = seeds
        .clone()
        .filter(|seed| std::panic::catch_unwind(|| Player::new(*seed).play()).is_err())
        .collect();
    assert_eq!(
        failed,
        [0; 0],
        "{} histories played; play one alone with ADTIDE_HISTORIES=1 ADTIDE_HISTORIES_FROM=SEED",
        seeds.count()
    );
}

/// What `verify` says where no result has a row, and none should have one.
const NO_ROWS: &str = "NOTHING verified: there are no rows, neither of the run nor in the recomputation";

/// Plays one history.
struct Player {
    seed: u64,
    dice: Xoshiro256PlusPlus,
    place: Place,
    history: History,
    /// The flags of all runs.
    flags: String,
    /// Whether no partition ever is idle or appears, so that only the records decide what is late.
    is_steady: bool,
    runs: usize,
}

impl Player {
    fn new(seed: u64) -> Player {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let mut runner = TestRunner::new_with_rng(
            ProptestConfig::default(),
            TestRng::from_seed(RngAlgorithm::ChaCha, &bytes),
        );
        let cases = (histories(160, Disorder::Any), settings());
        let (history, settings) = cases.new_tree(&mut runner).expect("nothing is filtered").current();
        let mut dice = Xoshiro256PlusPlus::seed_from_u64(seed);
        let is_steady = dice.next_u64().is_multiple_of(2);
        let idle_timeout = if is_steady { "1h" } else { "40ms" };
        let flags = format!("{} --set idle_timeout={idle_timeout}", flags(&settings));
        Player { seed, dice, place: Place::new(), history, flags, is_steady, runs: 0 }
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.dice.next_u64() % limit
    }

    fn play(mut self) {
        if self.partitions().is_empty() {
            // To read nothing is an error, and `--test cli files` shows it.
            return;
        }
        std::fs::create_dir(self.place.path("in")).unwrap();
        if self.is_steady {
            self.partitions().iter().for_each(|file| self.place.append(file, ""));
        }
        let mut running = None;
        let steps = std::mem::take(&mut self.history.steps);
        let mut rest = &steps[..];
        while !rest.is_empty() {
            let (now, later) = rest.split_at((1 + self.below(50) as usize).min(rest.len()));
            rest = later;
            now.iter().for_each(|step| self.append(step));
            running = self.disturb(running);
        }
        self.history.steps = steps;
        if let Some(mut last) = running.take() {
            terminate(&mut last);
        }
        self.compare();
    }

    /// The files of all partitions that the history has.
    fn partitions(&self) -> BTreeSet<String> {
        self.history.steps.iter().filter_map(|step| Some(record(step)?.0)).collect()
    }

    fn append(&self, step: &Step) {
        let Some((file, bytes)) = record(step) else { return };
        self.place.append(&file, [bytes, b"\n"].concat());
    }

    /// Starts a run if there is none, gives it a moment, and perhaps ends it.
    fn disturb(&mut self, running: Option<Running>) -> Option<Running> {
        let mut running = running.unwrap_or_else(|| {
            self.runs += 1;
            let workers = [1, 2, 4][self.below(3) as usize];
            let flags =
                format!("--from in --data-dir out --follow -w {workers} --epoch-interval 5ms {}", self.flags);
            self.place.start(&format!("run-{}", self.runs), &flags)
        });
        let pause = [0, 10, 100, 400][self.below(4) as usize];
        std::thread::sleep(Duration::from_millis(self.below(pause + 1)));
        match self.below(4) {
            0 => drop(running.end(Signal::SIGKILL)),
            1 => terminate(&mut running),
            _ => return Some(running),
        }
        None
    }

    fn compare(&mut self) {
        let (seed, flags) = (self.seed, &self.flags);
        self.place.run(&format!("--from in --data-dir out --resume -w 2 {flags}")).succeeded();
        let outcome = self.place.run("verify --from in --data-dir out");
        // Its records may all be such as give no row, and none that could be late.
        let is_verified = outcome.stdout.starts_with("verified") || outcome.stdout.starts_with(NO_ROWS);
        assert!(is_verified, "seed {seed}\n{flags}\n{}\n{:?}", outcome.stdout, self.history);
        if self.is_steady {
            self.place.run(&format!("--from in --data-dir whole {flags}")).succeeded();
            let (pieces, whole) = (self.place.tables("out"), self.place.tables("whole"));
            assert_eq!(pieces, whole, "seed {seed}\n{flags}\n{:?}", self.history);
        }
    }
}

/// Ends a run in order, or at once if it has not come as far as to listen to signals.
fn terminate(running: &mut Running) {
    let outcome = running.end(Signal::SIGTERM);
    let ended = outcome.status.success() || outcome.status.signal() == Some(Signal::SIGTERM as i32);
    assert!(ended, "{}\n{}", outcome.status, outcome.stderr);
}

/// The file and the bytes of a record.
fn record(step: &Step) -> Option<(String, &[u8])> {
    let Step::Record((topic, partition), bytes) = step else { return None };
    Some((format!("in/{}/{partition}.ndjson", topic.name()), bytes))
}

/// The settings as flags.
fn flags(settings: &Settings) -> String {
    let metrics = match settings.product_metrics {
        MetricsSource::Topic => "topic".to_owned(),
        MetricsSource::Live { windows } => format!("live --set rtb.live_windows={windows}"),
    };
    let emit = match settings.emit {
        Emit::OnUpdate => "on_update",
        Emit::OnClose => "on_close",
    };
    format!(
        "--allowed-lateness {}ms --set max_future_skew=1s --set watermark.performance={}ms --set watermark.conversions={}ms \
         --set watermark.duplicates={}ms --set conversion.lookback={}ms --ranking-limit {} --product-metrics {metrics} \
         --set performance.emit={emit}",
        settings.allowed_lateness,
        settings.performance_bound,
        settings.conversions_bound,
        settings.duplicates_bound,
        settings.lookback,
        settings.ranking_limit,
    )
}
