//! What this process tries again and again, for metrics and readiness.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::{info, warn};

static TRIALS: Mutex<BTreeMap<String, Trial>> = Mutex::new(BTreeMap::new());

/// What is waited for, by place and number of the wait: since when, and whether a long wait is trouble.
static WAITS: Mutex<BTreeMap<(String, u64), (Instant, bool)>> = Mutex::new(BTreeMap::new());

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

/// What does not succeed now, in words, and which servers don't answer.
pub fn troubles() -> Vec<String> {
    let trials = lock();
    let troubles = trials.iter().filter_map(|(what, trial)| Some((what, trial.trouble.as_ref()?)));
    let troubles = troubles.map(|(what, trouble)| {
        format!("{what} has not succeeded for {} s: {}", trouble.lasts().as_secs(), trouble.error)
    });
    troubles.chain(silent()).collect()
}

/// The servers that have been waited for too long, each once.
fn silent() -> Vec<String> {
    let mut longest: BTreeMap<String, Duration> = BTreeMap::new();
    for ((place, _), (since, _)) in waits().iter().filter(|(_, (_, is_trouble))| *is_trouble) {
        let waited = longest.entry(place.clone()).or_default();
        *waited = since.elapsed().max(*waited);
    }
    longest.retain(|_, waited| *waited >= Wait::LONG);
    longest.into_iter().map(|(place, waited)| silence(&place, waited)).collect()
}

fn silence(place: &str, waited: Duration) -> String {
    format!("{place} has not answered for {} s", waited.as_secs())
}

/// Whether something outside of this process has been waited for, for a second or longer.
pub fn is_waiting() -> bool {
    !waits().is_empty()
}

/// An answer from outside of this process that is waited for. Who waits calls [`Wait::look`] every
/// [`Wait::LOOK`].
pub(crate) struct Wait {
    key: (String, u64),
    since: Instant,
    is_trouble: bool,
    is_known: bool,
    is_told: bool,
}

impl Wait {
    /// How often a wait is to be looked at.
    pub const LOOK: Duration = Duration::from_secs(1);

    /// A longer one is trouble.
    const LONG: Duration = Duration::from_secs(5);

    /// A longer one is worth a line in the log.
    const TELL: Duration = Duration::from_secs(10);

    /// From now on, for the server that messages call `place`. If it takes long, that is among the
    /// [`troubles`] and in the log.
    pub fn new(place: &str) -> Wait {
        Wait::start(place, true)
    }

    /// The same for what may well take long: it is no trouble, but keeps the watchdog from counting.
    pub fn patient(place: &str) -> Wait {
        Wait::start(place, false)
    }

    fn start(place: &str, is_trouble: bool) -> Wait {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let key = (place.to_owned(), NUMBER.fetch_add(1, Ordering::Relaxed));
        Wait { key, since: Instant::now(), is_trouble, is_known: false, is_told: false }
    }

    /// It still lasts.
    pub fn look(&mut self) {
        if !self.is_known {
            self.is_known = true;
            waits().insert(self.key.clone(), (self.since, self.is_trouble));
        }
        if self.is_trouble && !self.is_told && self.since.elapsed() >= Wait::TELL {
            self.is_told = true;
            warn!("{}", silence(&self.key.0, self.since.elapsed()));
        }
    }

    /// The answer has come.
    pub fn answered(&mut self) {
        if self.is_told {
            info!("{} answers again, after {} s", self.key.0, self.since.elapsed().as_secs());
        }
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        if self.is_known {
            waits().remove(&self.key);
        }
    }
}

fn waits() -> MutexGuard<'static, BTreeMap<(String, u64), (Instant, bool)>> {
    WAITS.lock().unwrap_or_else(PoisonError::into_inner)
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
    fn a_server_that_is_waited_for_too_long_is_trouble_until_it_answers() {
        let place = "a server of the tests";
        let told = || troubles().into_iter().filter(|trouble| trouble.starts_with(place)).count();
        let mut wait = Wait::new(place);
        wait.since -= Wait::LONG;
        assert_eq!(told(), 0, "nobody has looked yet");
        wait.look();
        let mut second = Wait::new(place);
        second.since -= Wait::TELL;
        second.look();
        assert_eq!(told(), 1);
        assert!(second.is_told && !wait.is_told);
        drop(second);
        assert_eq!(told(), 1);
        wait.answered();
        drop(wait);
        assert_eq!(told(), 0);
        let mut wait = Wait::patient(place);
        wait.since -= Wait::TELL;
        wait.look();
        assert!(is_waiting());
        assert_eq!(told(), 0);
    }

    #[test]
    fn what_does_not_succeed_is_known_until_it_does() {
        let what = "a trial of the tests";
        let mut attempts = 0;
        let tried = persist(what, None, || {
            attempts += 1;
            let trial = trials().remove(what).unwrap_or_default();
            assert_eq!(trial.failures, attempts - 1);
            assert_eq!(
                trial.trouble.map(|trouble| trouble.error).as_deref(),
                (attempts > 1).then_some("away")
            );
            assert_eq!(troubles().iter().any(|trouble| trouble.starts_with(what)), attempts > 1);
            if attempts < 3 { Err(Fault::Passing(anyhow::anyhow!("away"))) } else { Ok(()) }
        });
        assert!(tried.is_ok());
        let trial = trials().remove(what).unwrap();
        assert_eq!(trial.failures, 2);
        assert!(trial.trouble.is_none());
    }
}
