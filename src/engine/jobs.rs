//! Work beside the dataflow.

use std::sync::mpsc::{Receiver, TryRecvError, channel};

/// What is done elsewhere.
pub type Job = Box<dyn FnOnce() + Send>;

/// Runs jobs elsewhere: on threads, or in a simulation when that pleases.
pub trait Jobs {
    /// Begins one.
    fn start(&self, job: Job);

    /// How many results may wait for somebody to take them, given what is meant: a job that is not on a
    /// thread of its own can't wait for that.
    fn room(&self, meant: usize) -> usize {
        meant
    }
}

/// Each job on a thread of its own.
pub struct Threads;

impl Jobs for Threads {
    fn start(&self, job: Job) {
        let thread = std::thread::Builder::new().name("checkpoint".to_owned()).spawn(job);
        if let Err(error) = thread {
            crate::fatal(&anyhow::Error::new(error).context("can't start a thread"));
        }
    }
}

/// A job that gives something back.
pub struct Task<T>(Receiver<T>);

impl<T: Send + 'static> Task<T> {
    /// Begins one.
    pub fn start(jobs: &dyn Jobs, work: impl FnOnce() -> T + Send + 'static) -> Task<T> {
        let (send, result) = channel();
        jobs.start(Box::new(move || {
            // Nobody may be waiting any more when the process is ending.
            let _ = send.send(work());
        }));
        Task(result)
    }

    /// What came of it, once it is done.
    pub fn poll(&self) -> Option<T> {
        match self.0.try_recv() {
            Ok(result) => Some(result),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => crate::fatal(&anyhow::anyhow!("a thread has died")),
        }
    }
}
