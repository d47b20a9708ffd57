//! Everything that can die is killed, or is away for a while, and nothing may be lost or doubled.
//!
//! These tests kill servers, so they start some of their own with `scripts/services`. They run only with ADTIDE_TEST_CHAOS=1,
//! and one at a time: `cargo test --test chaos -- --test-threads=1`.

#[path = "../deployment/mod.rs"]
mod deployment;
mod outages;
mod rounds;
mod servers;
mod supervisor;
