//! Everything that can die is killed, or is away for a while, and nothing may be lost or doubled.
//!
//! These tests kill servers, so they start some of their own with `scripts/services`, and they take minutes.
//! They run only with ADTIDE_TEST_CHAOS=1, one at a time: `ADTIDE_TEST_CHAOS=1 cargo test --test chaos --
//! --test-threads=1 --nocapture`.
//!
//! | variable | what |
//! |---|---|
//! | `ADTIDE_CHAOS_ROUNDS` | rounds of kills, 10 if not set, 30 before a release; of a cluster, 3 and 10 |
//! | `ADTIDE_CHAOS_SEED` | only this round, or as many as are set from this one on |
//! | `ADTIDE_CHAOS_OUTAGE` | for how many seconds a server is away, 20 if not set |
//! | `ADTIDE_CHAOS_FREEZE` | for how many seconds each server is frozen, 12 if not set; 60 and 180 before a release |
//! | `ADTIDE_CHAOS_KILLS` | how often a broker is killed in a row, once if not set; 50 before a release |
//! | `ADTIDE_CHAOS_PLAIN` | without the way around librdkafka's fault: see `returns` |
//! | `ADTIDE_CHAOS_PORT` | the first of four ports for the servers, where those of these tests are taken; with another `TMPDIR`, too |
//! | `ADTIDE_CHAOS_RATE` | ad events a second meanwhile, 20000 if not set, for a cluster and for freezes 2000; for more, add `--release` |

#![cfg(unix)]

mod cluster;
#[path = "../deployment/mod.rs"]
mod deployment;
mod freezes;
mod outages;
mod returns;
mod rounds;
mod servers;
mod supervisor;

use deployment::{Deployment, Running};

/// The number that a variable of the environment holds; None if it is not set.
fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable}={value} is no number")))
}

/// Begins to send `rate` ad events a second for so many seconds, in each of which two minutes of event time
/// pass.
fn steady_traffic(deployment: &Deployment, seconds: u64, rate: u64) -> Running {
    const SPEED: u64 = 120;
    let (span, events) = (seconds * SPEED, seconds * rate);
    let how =
        format!("--speed {SPEED} --span {span}s --ad-events {events} --set generator.daily_curve=false");
    deployment.start("generate", &format!("generate --to-kafka {how}"))
}
