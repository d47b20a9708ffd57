//! A guard against standing still: a worker that hangs, a peer that does not answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::Monitor;
use crate::connect;
use crate::fatal;

/// Watches the frontier, which moves with every epoch even when there is no input, and ends the process when it has
/// stood still for `timeout`. While a server is away and is tried again, that is no reason: starting anew would not bring
/// it back. Clear the flag that comes back to end the watch.
pub fn start(monitor: Arc<Monitor>, timeout: Duration) -> Arc<AtomicBool> {
    let watching = Arc::new(AtomicBool::new(true));
    let flag = Arc::clone(&watching);
    let watch = move || {
        let mut last = (monitor.heartbeat(), Instant::now());
        while flag.load(Ordering::Relaxed) {
            std::thread::sleep((timeout / 10).min(Duration::from_millis(200)));
            let now = monitor.heartbeat();
            if now != last.0 || !connect::troubles().is_empty() {
                last = (now, Instant::now());
            } else if last.1.elapsed() > timeout && flag.load(Ordering::Relaxed) {
                fatal(&anyhow::anyhow!(
                    "the frontier has not moved for {timeout:?}: a worker hangs, or another process does not answer; \
                     start again (the key is watchdog.timeout)"
                ));
            }
        }
    };
    let thread = std::thread::Builder::new().name("watchdog".to_owned()).spawn(watch);
    if let Err(error) = thread {
        fatal(&anyhow::Error::new(error).context("can't start a thread"));
    }
    watching
}
