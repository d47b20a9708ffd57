//! Processes that are started again when they die, as systemd would.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use nix::sys::signal::Signal;

use crate::deployment::{Deployment, Running};

/// Whether a process has died of a fault of librdkafka: when a broker comes back that does not know the
/// leaders of its partitions yet, it may read past the end of an array (issue 5280 there, in all versions
/// from 2.5 to 2.12.1 at least). What started the process starts it again, as after any other kill.
pub fn died_in_librdkafka(status: ExitStatus) -> bool {
    status.signal() == Some(Signal::SIGSEGV as i32)
}

/// A process of a deployment that has to be there.
struct Supervised {
    name: &'static str,
    arguments: String,
    running: Running,
    /// Whether it was killed and has not been started again yet.
    killed: bool,
    done: bool,
}

/// All of them.
pub struct Supervisor<'a> {
    deployment: &'a Deployment,
    processes: Vec<Supervised>,
    stopping: bool,
    /// Those that ended with an error though nobody killed them.
    pub failures: Vec<(&'static str, ExitStatus)>,
}

impl Supervisor<'_> {
    pub fn new(deployment: &Deployment) -> Supervisor<'_> {
        Supervisor { deployment, processes: Vec::new(), stopping: false, failures: Vec::new() }
    }

    /// Starts `adtide ARGUMENTS`; it is killed by this name.
    pub fn start(&mut self, name: &'static str, arguments: &str) {
        let running = self.deployment.start(name, arguments);
        let arguments = arguments.to_owned();
        self.processes.push(Supervised { name, arguments, running, killed: false, done: false });
    }

    /// Starts those again that have died, unless all are to stop. Whether all have ended.
    pub fn look_after(&mut self) -> bool {
        for process in self.processes.iter_mut().filter(|process| !process.done) {
            let Some(status) = process.running.ended() else { continue };
            // Who is told to stop before he can hear it dies of that.
            let is_told = self.stopping && status.signal() == Some(Signal::SIGTERM as i32);
            if !(status.success() || process.killed || is_told) {
                self.failures.push((process.name, status));
            }
            // Who is started now would not hear any more that all are to stop.
            process.done = status.success() || self.stopping;
            if !process.done {
                process.killed = false;
                process.running = self.deployment.start(process.name, &process.arguments);
            }
        }
        self.processes.iter().all(|process| process.done)
    }

    /// kill -9.
    pub fn kill(&mut self, name: &str) {
        for process in self.processes.iter_mut().filter(|process| process.name == name && !process.done) {
            process.running.signal(Signal::SIGKILL);
            process.killed = true;
        }
    }

    /// Asks all to stop.
    pub fn stop(&mut self) {
        self.stopping = true;
        for process in self.processes.iter_mut().filter(|process| !process.done) {
            process.running.signal(Signal::SIGTERM);
        }
    }
}
