//! Wakes a worker when one of its consumers has something for it.
//!
//! To wait in librdkafka's own poll costs more: the last part of a millisecond is spent spinning.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// A signal that is kept until somebody waits for it.
#[derive(Debug, Default)]
pub struct Bell {
    rung: Mutex<bool>,
    heard: Condvar,
}

impl Bell {
    /// Ends the wait that is under way, or else the next one.
    pub fn ring(&self) {
        *self.rung.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.heard.notify_one();
    }

    /// Waits until it rings, for `most` at most.
    pub fn wait(&self, most: Duration) {
        let rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.heard.wait_timeout_while(rung, most, |rung| !*rung);
        let (mut rung, _) = waited.unwrap_or_else(PoisonError::into_inner);
        *rung = false;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_signal_before_the_wait_ends_it() {
        let (bell, started) = (Bell::default(), Instant::now());
        bell.ring();
        bell.wait(Duration::from_secs(600));
        assert!(started.elapsed() < Duration::from_secs(300));
        bell.wait(Duration::from_millis(1));
    }
}
