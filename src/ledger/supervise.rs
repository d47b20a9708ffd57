//! Runs the workers of a process: each fails alone and is started again, while the others work on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use tracing::{error, info, warn};

use super::feed::ends::Ends;
use super::stats::{SLOW, WorkerStats};
use super::{Job, Jobs, WorkerConfig};

/// The pause before a worker that has failed starts again; it doubles with each failure, up to the second
/// value.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How often workers are tried that fail from the start, before the process ends.
const ATTEMPTS: u32 = 3;

/// How often it is looked whether a worker waits for a server.
const LOOK: Duration = Duration::from_secs(1);

/// Runs workers until `stop` is set. One that fails starts again after a pause, for as long as it takes.
///
/// With `until_end` they end when everything that is there has had its effect; campaign-status comes last, as
/// it looks at what the others have written.
///
/// # Errors
/// With `until_end`, the first fault that lasts; it stops all of them. Otherwise, if none of them could start
/// working in three attempts, the first error of one.
pub fn run_all(
    config: &WorkerConfig,
    jobs: &Jobs,
    until_end: bool,
    stop: &Arc<AtomicBool>,
) -> anyhow::Result<()> {
    let comes_last = |job: Job| until_end && job == Job::CampaignStatus && jobs.len() > 1;
    let (last, first): (Jobs, Jobs) = jobs.iter().cloned().partition(|(job, _)| comes_last(*job));
    for jobs in [first, last] {
        run_together(config, &jobs, until_end, stop)?;
    }
    Ok(())
}

fn run_together(
    config: &WorkerConfig,
    jobs: &Jobs,
    until_end: bool,
    stop: &Arc<AtomicBool>,
) -> anyhow::Result<()> {
    let (ended, results) = channel();
    let hopeless = Arc::new(Mutex::new(Vec::new()));
    let ends = super::watch_ends(config, &jobs.iter().map(|(job, _)| *job).collect::<Vec<_>>())?;
    for (job, stats) in jobs {
        let (hopeless, stop, ends) = (Arc::clone(&hopeless), Arc::clone(stop), ends.clone());
        let group = Group { jobs: jobs.clone(), ends, hopeless, stop };
        let (config, job, stats, ended) = (config.clone(), *job, Arc::clone(stats), ended.clone());
        let run = move || {
            let result = if until_end {
                super::run(&config, job, true, &group.stop, &stats, group.ends.as_ref())
                    .with_context(|| name(job))
            } else {
                group.keep_running(&config, job, &stats)
            };
            let _ = ended.send(result);
        };
        std::thread::Builder::new().name(format!("worker:{}", job.name())).spawn(run)?;
    }
    drop(ended);
    let mut result = Ok(());
    let mut slow = Slow::default();
    loop {
        match results.recv_timeout(LOOK) {
            Ok(ended) => {
                if ended.is_err() {
                    stop.store(true, Ordering::Relaxed);
                }
                result = result.and(ended);
            }
            Err(RecvTimeoutError::Timeout) => slow.look(jobs),
            Err(RecvTimeoutError::Disconnected) => return result,
        }
    }
}

fn name(job: Job) -> String {
    format!("worker {}", job.name())
}

/// The workers that run beside each other.
struct Group {
    jobs: Jobs,
    ends: Option<Arc<Ends>>,
    /// Those that have used up their attempts without ever working.
    hopeless: Arc<Mutex<Vec<Job>>>,
    stop: Arc<AtomicBool>,
}

impl Group {
    fn keep_running(&self, config: &WorkerConfig, job: Job, stats: &Arc<WorkerStats>) -> anyhow::Result<()> {
        let (mut pause, mut attempts) = (FIRST_PAUSE, 0);
        loop {
            let began = Instant::now();
            let result = super::run(config, job, false, &self.stop, stats, self.ends.as_ref());
            let Err(error) = result else { return Ok(()) };
            attempts += 1;
            if attempts >= ATTEMPTS && !stats.has_worked() && self.is_hopeless(job) {
                return Err(error.context(name(job)));
            }
            if began.elapsed() > LONGEST_PAUSE {
                pause = FIRST_PAUSE;
            }
            error!(worker = job.name(), error = format!("{error:#}"), restart_in = ?pause, "worker failed");
            stats.set_failure(format!("{error:#}"));
            if !self.wait(pause) {
                return Ok(());
            }
            pause = (2 * pause).min(LONGEST_PAUSE);
        }
    }

    /// Takes note that a worker can't start. Whether that is so of all.
    fn is_hopeless(&self, job: Job) -> bool {
        let mut hopeless = self.hopeless.lock().unwrap_or_else(PoisonError::into_inner);
        if !hopeless.contains(&job) {
            hopeless.push(job);
        }
        self.jobs.iter().all(|(job, stats)| hopeless.contains(job) && !stats.has_worked())
    }

    /// Waits; false if the workers are to stop meanwhile.
    fn wait(&self, pause: Duration) -> bool {
        let end = Instant::now() + pause;
        while Instant::now() < end && !self.stop.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(50));
        }
        !self.stop.load(Ordering::Relaxed)
    }
}

/// The workers that wait for a server and were reported so.
#[derive(Default)]
struct Slow(Vec<Job>);

impl Slow {
    fn look(&mut self, jobs: &Jobs) {
        for (job, stats) in jobs {
            let waits = stats.waits().filter(|(_, waited)| *waited >= SLOW);
            let is_known = self.0.contains(job);
            match waits {
                Some((what, waited)) if !is_known => {
                    self.0.push(*job);
                    warn!(worker = job.name(), ?waited, "{what} takes long");
                }
                None if is_known => {
                    self.0.retain(|known| known != job);
                    info!(worker = job.name(), "it no longer waits");
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_end_together_only_if_none_can_start() {
        let jobs: Jobs = [Job::Balance, Job::Budget].map(|job| (job, Arc::default())).into();
        let group = Group { jobs, ends: None, hopeless: Arc::default(), stop: Arc::default() };
        assert!(!group.is_hopeless(Job::Balance));
        assert!(!group.is_hopeless(Job::Balance), "the other may still start");
        assert!(group.is_hopeless(Job::Budget));
        group.jobs[0].1.set_assigned(true);
        assert!(!group.is_hopeless(Job::Budget), "one has started after all");
    }
}
