//! Connections to the servers: how each is reached, and which of its errors pass by themselves.

mod fill;
pub mod kafka;
pub mod migrate;
pub mod postgres;
mod redact;
pub mod redis;
pub mod sqlite;
pub mod text;
pub mod topics;
mod transient;
mod trials;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use backon::{BlockingRetryable, ExponentialBuilder};
use tracing::{info, warn};

pub use fill::fill_fresh_memory;
pub use redact::{is_secret, redact};
pub(crate) use trials::Wait;
pub use trials::{Trial, Trouble, is_waiting, trials, troubles};

/// A server's address with all that is secret in it. Prints without the password.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Url(String);

impl Url {
    /// As it was configured, secrets included.
    pub fn new(url: String) -> Url {
        Url(url)
    }

    /// With the secrets: for connecting only.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether none was configured.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&redact(&self.0))
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What went wrong with a server.
#[derive(Debug)]
pub enum Fault {
    /// It may pass: the server is away or overloaded. Trying again is safe, as every step is atomic and
    /// guarded.
    Passing(anyhow::Error),
    /// It won't: wrong password, missing table, fenced by another run.
    Lasting(anyhow::Error),
}

impl Fault {
    /// The error, whichever it is.
    pub fn into_error(self) -> anyhow::Error {
        match self {
            Fault::Passing(error) | Fault::Lasting(error) => error,
        }
    }

    /// Of an attempt to connect: says what to look at if the server stays away. `key` holds its address.
    fn unconnected(self, server: &str, key: &str) -> Fault {
        match self {
            Fault::Passing(_) => {
                self.context(format!("no connection to {server}; does it run, and is {key} right?"))
            }
            lasting => lasting,
        }
    }

    /// Says more about where it went wrong.
    #[must_use]
    pub fn context(self, context: impl fmt::Display + Send + Sync + 'static) -> Fault {
        match self {
            Fault::Passing(error) => Fault::Passing(error.context(context)),
            Fault::Lasting(error) => Fault::Lasting(error.context(context)),
        }
    }
}

/// How far apart attempts are at most, but for the jitter, which may double it: a server that is back is
/// found soon.
const PAUSE: Duration = Duration::from_secs(2);

/// How far apart failures of one thing are logged.
const WARNINGS: Duration = Duration::from_secs(10);

/// Tries until it succeeds or fails for good, waiting longer and longer in between, up to a few seconds, with
/// jitter. Gives up after `patience`; None never does. `what` says in the log, in the metrics and to who asks
/// for readiness what is being tried, e.g. "writing to Redis"; as the label of a metric it names no epoch,
/// offset or other thing that varies.
///
/// # Errors
/// A fault that lasts, or the last one when patience ran out.
pub fn persist<T>(
    what: &str,
    patience: Option<Duration>,
    attempt: impl FnMut() -> Result<T, Fault>,
) -> anyhow::Result<T> {
    retry(what, patience, &AtomicBool::new(false), attempt).map_err(Fault::into_error)
}

/// As [`persist`] without end, but gives up after an attempt that fails while `stop` is set; None then.
///
/// # Errors
/// A fault that lasts.
pub fn persist_unless<T>(
    stop: &AtomicBool,
    what: &str,
    attempt: impl FnMut() -> Result<T, Fault>,
) -> anyhow::Result<Option<T>> {
    match retry(what, None, stop, attempt) {
        Ok(done) => Ok(Some(done)),
        Err(Fault::Passing(_)) => Ok(None),
        Err(Fault::Lasting(error)) => Err(error),
    }
}

fn retry<T>(
    what: &str,
    patience: Option<Duration>,
    stop: &AtomicBool,
    attempt: impl FnMut() -> Result<T, Fault>,
) -> Result<T, Fault> {
    let delays = ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(50))
        .with_max_delay(PAUSE)
        .with_jitter()
        .without_max_times()
        .with_total_delay(patience);
    let started = Instant::now();
    let mut warned: Option<Instant> = None;
    let result = attempt
        .retry(delays)
        // The attempts themselves take time too.
        .when(|fault| {
            let has_time = patience.is_none_or(|patience| started.elapsed() < patience);
            matches!(fault, Fault::Passing(_)) && has_time && !stop.load(Ordering::Relaxed)
        })
        .notify(|fault, delay| {
            let (Fault::Passing(error) | Fault::Lasting(error)) = fault;
            let error = format!("{error:#}");
            if warned.is_none_or(|last| last.elapsed() >= WARNINGS) {
                warn!(error, retry_in = ?delay, "{what} does not succeed");
                warned = Some(Instant::now());
            }
            trials::failed(what, error);
        })
        .call();
    if warned.is_some() {
        trials::ended(what);
        if result.is_ok() {
            info!("{what} succeeds again");
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_is_tried_again_and_what_lasts_is_not() {
        let mut attempts = 0;
        let result = persist("a test", None, || {
            attempts += 1;
            if attempts < 3 { Err(Fault::Passing(anyhow::anyhow!("away"))) } else { Ok(attempts) }
        });
        assert_eq!(result.unwrap(), 3);
        let result: anyhow::Result<()> =
            persist("a test", None, || Err(Fault::Lasting(anyhow::anyhow!("wrong password"))));
        assert_eq!(result.unwrap_err().to_string(), "wrong password");
    }

    #[test]
    fn who_is_told_to_stop_gives_up_what_passes_and_nothing_else() {
        let stop = AtomicBool::new(true);
        let away = persist_unless(&stop, "a test", || Err::<(), _>(Fault::Passing(anyhow::anyhow!("away"))));
        assert_eq!(away.unwrap(), None);
        assert_eq!(persist_unless(&stop, "a test", || Ok(1)).unwrap(), Some(1));
        let wrong =
            persist_unless(&stop, "a test", || Err::<(), _>(Fault::Lasting(anyhow::anyhow!("wrong"))));
        assert!(wrong.is_err());
    }
}
