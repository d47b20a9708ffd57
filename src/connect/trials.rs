//! What this process tries again and again, for metrics and readiness.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

static TRIALS: Mutex<BTreeMap<String, Trial>> = Mutex::new(BTreeMap::new());

/// Something that failed at least once, and was or is tried again.
#[derive(Clone, Debug, Default)]
pub struct Trial {
    /// How often it has failed since the process started.
    pub failures: u64,
    /// Why it does not succeed now; None if it has.
    pub trouble: Option<Trouble>,
}

/// Why something does not succeed.
#[derive(Clone, Debug)]
pub struct Trouble {
    since: Instant,
    /// The last error.
    pub error: String,
}

impl Trouble {
    /// For how long.
    pub fn lasts(&self) -> Duration {
        self.since.elapsed()
    }
}

/// All that has failed and was tried again, by what it was, as [`persist`](super::persist) is told.
pub fn trials() -> BTreeMap<String, Trial> {
    lock().clone()
}

/// What does not succeed now, in words.
pub fn troubles() -> Vec<String> {
    let trials = lock();
    let troubles = trials.iter().filter_map(|(what, trial)| Some((what, trial.trouble.as_ref()?)));
    troubles
        .map(|(what, trouble)| {
            format!("{what} has not succeeded for {} s: {}", trouble.lasts().as_secs(), trouble.error)
        })
        .collect()
}

/// An attempt has failed.
pub(super) fn failed(what: &str, error: String) {
    let mut trials = lock();
    let trial = trials.entry(what.to_owned()).or_default();
    trial.failures += 1;
    let since = trial.trouble.as_ref().map_or_else(Instant::now, |trouble| trouble.since);
    trial.trouble = Some(Trouble { since, error });
}

/// It succeeds again, or is no longer tried.
pub(super) fn ended(what: &str) {
    if let Some(trial) = lock().get_mut(what) {
        trial.trouble = None;
    }
}

fn lock() -> MutexGuard<'static, BTreeMap<String, Trial>> {
    TRIALS.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connect::{Fault, persist};

    #[test]
    fn what_does_not_succeed_is_known_until_it_does() {
        let what = "a trial of the tests";
        let mut attempts = 0;
        let tried = persist(what, None, || {
            attempts += 1;
            let trial = trials().remove(what).unwrap_or_default();
            assert_eq!(trial.failures, attempts - 1);
            assert_eq!(trial.trouble.map(|trouble| trouble.error).as_deref(), (attempts > 1).then_some("away"));
            assert_eq!(troubles().iter().any(|trouble| trouble.starts_with(what)), attempts > 1);
            if attempts < 3 { Err(Fault::Passing(anyhow::anyhow!("away"))) } else { Ok(()) }
        });
        assert!(tried.is_ok());
        let trial = trials().remove(what).unwrap();
        assert_eq!(trial.failures, 2);
        assert!(trial.trouble.is_none());
    }
}
