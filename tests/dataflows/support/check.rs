//! How random cases are drawn.

use std::time::{SystemTime, UNIX_EPOCH};

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngSeed, TestRunner};

/// How many cases a property is tried with: `few`, or what `ADTIDE_TEST_CASES` says.
fn cases(few: u32) -> u32 {
    from_env("ADTIDE_TEST_CASES").unwrap_or(few)
}

/// Tries a property, which panics where it does not hold, with [`cases`]`(few)` values. A failure shows the
/// seed, to be set as `ADTIDE_TEST_SEED`, and the simplest value that was found to fail.
pub fn check<S: Strategy>(few: u32, values: S, property: impl Fn(S::Value)) {
    let seed = from_env("ADTIDE_TEST_SEED").unwrap_or_else(clock);
    let config = Config {
        cases: cases(few),
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        ..Config::default()
    };
    // Enough for a case that can be read, without trying for hours.
    let config = Config { max_shrink_iters: config.max_shrink_iters.min(1000), ..config };
    let tried = TestRunner::new(config).run(&values, |value| {
        property(value);
        Ok(())
    });
    if let Err(failure) = tried {
        panic!("ADTIDE_TEST_SEED={seed}\n{failure}");
    }
}

fn from_env<T: std::str::FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}; want a number")))
}

fn clock() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}
