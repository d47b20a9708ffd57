//! Whether a run is well: what /readyz and /healthz answer.

use std::time::Duration;

use crate::connect;
use crate::engine::{self, Monitor, Phase};
use crate::ledger::Jobs;
use crate::sink;

/// Why results do not follow the input right now, in words; empty if they do.
pub fn unready(monitor: &Monitor, stall: Duration) -> Vec<String> {
    let phase = match monitor.phase() {
        Phase::Starting => Some("starting: opening the sources and sinks".to_owned()),
        Phase::Restoring => Some("starting: restoring the last checkpoint".to_owned()),
        Phase::Replaying => Some("starting: replaying what the sinks have committed".to_owned()),
        Phase::Stopping => Some("stopping: committing what has been read".to_owned()),
        Phase::Running => None,
    };
    let faults = monitor.sources().into_iter().filter_map(|source| source.fault);
    let mut causes: Vec<_> =
        phase.into_iter().chain(faults).chain(sink::slow_sinks()).chain(connect::troubles()).collect();
    let still = monitor.still_for();
    if causes.is_empty() && still >= stall {
        causes.push(format!("no epoch has been committed for {} s", still.as_secs()));
    }
    // Workers that share a fault say it once.
    let mut told = Vec::new();
    causes.retain(|cause| {
        !told.contains(cause) && {
            told.push(cause.clone());
            true
        }
    });
    causes
}

/// Why the effects of ledger workers do not follow their topics right now, in words; empty if they do.
pub fn workers_unready(jobs: &Jobs) -> Vec<String> {
    let own = jobs.iter().flat_map(|(job, stats)| stats.unready(job.name()));
    own.chain(connect::troubles()).collect()
}

/// The ledger workers for which the process should be ended and started again: the loop of each has stood
/// still for `limit`, and the process does not wait for anybody outside.
pub fn workers_hung(jobs: &Jobs, limit: Duration) -> Vec<String> {
    if engine::waits_outside() {
        return Vec::new();
    }
    let still =
        jobs.iter().map(|(job, stats)| (job.name(), stats.still_for())).filter(|(_, still)| *still >= limit);
    still.map(|(name, still)| format!("worker {name} has not moved for {} s", still.as_secs())).collect()
}

/// Why the process should be ended and started again, in words: it has stood still for `limit`, and does not
/// wait for anybody outside.
pub fn hung(monitor: &Monitor, limit: Duration) -> Option<String> {
    let still = monitor.still_for();
    (still >= limit && !engine::waits_outside())
        .then(|| format!("the frontier has not moved for {} s", still.as_secs()))
}
