//! A guard against standing still: a worker that hangs, a peer that does not answer, a stop that does not
//! come.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::cluster::Peers;
use super::waits::waits_outside;
use super::{Monitor, Phase};
use crate::{fatal, sink};

/// How long a process that is asked to stop may go on opening its sources and sinks.
const GRACE: Duration = Duration::from_secs(3);

/// Watches this process, until it is dropped.
pub struct Watchdog {
    shared: Arc<Shared>,
}

struct Shared {
    monitor: Arc<Monitor>,
    timeout: Duration,
    stop: Arc<AtomicBool>,
    /// Set once the processes of a cluster have found each other: from then on the frontier counts.
    peers: OnceLock<Option<Arc<Peers>>>,
    is_over: AtomicBool,
}

impl Watchdog {
    /// Begins to watch. While sources and sinks are opened, a `stop` that they do not heed, because a server
    /// does not answer, ends the process: nothing was read yet.
    pub fn start(monitor: Arc<Monitor>, timeout: Duration, stop: Arc<AtomicBool>) -> Watchdog {
        let (peers, is_over) = (OnceLock::new(), AtomicBool::new(false));
        let shared = Arc::new(Shared { monitor, timeout, stop, peers, is_over });
        let watch = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("watchdog".to_owned()).spawn(move || watch.run());
        if let Err(error) = thread {
            fatal(&anyhow::Error::new(error).context("can't start a thread"));
        }
        Watchdog { shared }
    }

    /// Watches the frontier from now on, which moves with every epoch even when there is no input: when it
    /// has stood still for the timeout, the process ends. What somebody outside owes is not counted, see
    /// [`waits_outside`]: starting anew would not bring it sooner.
    pub fn arm(&self, peers: Option<Arc<Peers>>) {
        let _ = self.shared.peers.set(peers);
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn run(&self) {
        let mut last = (self.monitor.heartbeat(), Instant::now());
        let mut stopping: Option<Instant> = None;
        while !self.is_over.load(Ordering::Relaxed) {
            std::thread::sleep((self.timeout / 10).min(Duration::from_millis(200)));
            sink::warn_of_slow_sinks();
            stopping = self.is_stopped_early().then(|| stopping.unwrap_or_else(Instant::now));
            if stopping.is_some_and(|since| since.elapsed() >= GRACE) {
                self.peers.get().into_iter().flatten().for_each(|peers| peers.leave());
                super::end_before_the_start();
            }
            let now = self.monitor.heartbeat();
            let peers = self.peers.get();
            let peer_waits = peers.into_iter().flatten().any(|peers| peers.is_any_waiting());
            if now != last.0 || peers.is_none() || peer_waits || waits_outside() {
                last = (now, Instant::now());
            } else if last.1.elapsed() > self.timeout && !self.is_over.load(Ordering::Relaxed) {
                fatal(&anyhow::anyhow!(
                    "the frontier has not moved for {:?}, though no server is away and no sink is committing: a worker hangs, \
                     or another process does not answer; start again (the key is watchdog.timeout)",
                    self.timeout
                ));
            }
        }
    }

    fn is_stopped_early(&self) -> bool {
        self.stop.load(Ordering::Relaxed) && self.monitor.phase() == Phase::Starting
    }
}
