//! What this process has used, where the system tells it (Linux).

use std::fs::read_to_string;
use std::time::{Duration, Instant};

/// Clock ticks a second in /proc: 100 on every Linux there is.
const TICKS: f64 = 100.0;

/// A span of time in which usage is measured.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    started: Instant,
    cpu_seconds: Option<f64>,
}

/// What was used in a [`Span`].
#[derive(Clone, Copy, Debug)]
pub struct Used {
    /// How long it was.
    pub elapsed: Duration,
    /// Seconds of processor time within it, where the system has them.
    pub cpu_seconds: Option<f64>,
}

impl Span {
    /// One that begins now.
    pub fn start() -> Span {
        Span { started: Instant::now(), cpu_seconds: cpu_seconds() }
    }

    /// What was used since it began.
    pub fn used(&self) -> Used {
        let cpu_seconds = self.cpu_seconds.zip(cpu_seconds()).map(|(before, now)| now - before);
        Used { elapsed: self.started.elapsed(), cpu_seconds }
    }
}

/// The greatest resident memory so far, in bytes.
pub fn peak_memory() -> Option<u64> {
    memory("VmHWM:")
}

/// The resident memory now, in bytes.
pub fn resident_memory() -> Option<u64> {
    memory("VmRSS:")
}

fn memory(field: &str) -> Option<u64> {
    let status = read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

/// Seconds of processor time so far, of user and system together.
pub fn cpu_seconds() -> Option<f64> {
    let stat = read_to_string("/proc/self/stat").ok()?;
    // The second field is the program's name and may hold anything; utime and stime are the 14th and 15th.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<f64>().ok();
    Some((ticks()? + ticks()?) / TICKS)
}
