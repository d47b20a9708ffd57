//! PostgreSQL, Redis and Kafka of these tests' own, which can be killed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::deployment::Addresses;
use crate::number;

/// Ports that neither the servers of development nor those of a usual machine are at.
const PORTS: [(&str, &str); 4] = [
    ("ADTIDE_POSTGRES_PORT", "15532"),
    ("ADTIDE_REDIS_PORT", "16479"),
    ("ADTIDE_KAFKA_PORT", "19292"),
    ("ADTIDE_KAFKA_CONTROLLER_PORT", "19293"),
];

/// The servers; stopped with this value.
pub struct Servers {
    folder: PathBuf,
    pub addresses: Addresses,
    /// Those that are down, by when they are to be started.
    down: BTreeMap<&'static str, Instant>,
    /// Those that are being started.
    starting: Vec<(&'static str, Child)>,
    _alone: MutexGuard<'static, ()>,
}

/// There is one set of them: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

impl Servers {
    /// Starts them. None, and a word about it, unless these tests are wanted.
    pub fn start() -> Option<Servers> {
        if std::env::var("ADTIDE_TEST_CHAOS").is_err() {
            eprintln!(
                "SKIPPED: ADTIDE_TEST_CHAOS is not set; these tests take minutes and start servers of their own"
            );
            return None;
        }
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        // PostgreSQL runs as a user of its own, so not in a folder that only this one can reach.
        let folder = std::env::temp_dir().join("adtide-chaos-services");
        let (addresses, down, starting) = Default::default();
        let mut servers = Servers { folder, addresses, down, starting, _alone: alone };
        servers.run(&["reset"]);
        let env = fs::read_to_string(servers.folder.join("env")).unwrap();
        let variable = |name: &str| {
            let value = env
                .lines()
                .find_map(|line| line.strip_prefix("export ")?.strip_prefix(name)?.strip_prefix('='));
            value.map(|value| value.trim_matches('\'').to_owned())
        };
        servers.addresses = Addresses::find(variable).expect("all three are up");
        Some(servers)
    }

    fn script(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/services"));
        command.args(arguments).env("ADTIDE_SERVICES_DIR", &self.folder).stdin(Stdio::null());
        let first = number("ADTIDE_CHAOS_PORT");
        for (at, (variable, port)) in PORTS.into_iter().enumerate() {
            command.env(variable, first.map_or(port.to_owned(), |first| (first + at as u64).to_string()));
        }
        command
    }

    /// Sends a signal to a server's main process.
    fn signal(&self, name: &str, signal: Signal) {
        kill(self.pid(name), signal).unwrap();
    }

    fn pid(&self, name: &str) -> Pid {
        let record = fs::read_to_string(self.folder.join("run").join(name)).unwrap();
        Pid::from_raw(record.split(' ').next().unwrap().parse().unwrap())
    }

    /// Sends a signal to all processes of a server: PostgreSQL has one for each connection.
    pub fn signal_all(&self, name: &str, signal: Signal) {
        for pid in with_children(self.pid(name)) {
            // One may have ended meanwhile.
            let _ = kill(pid, signal);
        }
    }

    /// kill -9, and starts it again after a while: see [`Servers::look_after`].
    pub fn kill(&mut self, name: &'static str, down: Duration) {
        self.signal(name, Signal::SIGKILL);
        self.down.insert(name, Instant::now() + down);
    }

    /// Starts those whose time has come. Whether all are up.
    pub fn look_after(&mut self) -> bool {
        let now = Instant::now();
        let due: Vec<_> = self.down.iter().filter(|(_, at)| **at <= now).map(|(name, _)| *name).collect();
        for name in due {
            self.down.remove(name);
            let up = self.script(&["up", name]).stdout(Stdio::null()).spawn().unwrap();
            self.starting.push((name, up));
        }
        self.starting.retain_mut(|(name, up)| {
            let ended = up.try_wait().unwrap();
            assert!(ended.is_none_or(|status| status.success()), "{name} can't be started again");
            ended.is_none()
        });
        self.down.is_empty() && self.starting.is_empty()
    }

    /// Stops it, as an operator would.
    pub fn stop(&self, name: &str) {
        self.run(&["down", name]);
    }

    /// Starts it, and waits until it answers.
    pub fn up(&self, name: &str) {
        self.run(&["up", name]);
    }

    fn run(&self, arguments: &[&str]) {
        let status = self.script(arguments).stdout(Stdio::null()).status().unwrap();
        assert!(status.success(), "scripts/services {}: {status}", arguments.join(" "));
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for (_, up) in &mut self.starting {
            let _ = up.wait();
        }
        let _ = self.script(&["down"]).stdout(Stdio::null()).status();
        if std::thread::panicking() {
            eprintln!("what the servers held is in {}, until these tests run again", self.folder.display());
        } else {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

/// A process and its children, it first: then it can start no more of them.
fn with_children(pid: Pid) -> Vec<Pid> {
    let parent_of = |pid: &str| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse::<i32>().ok()
    };
    let processes =
        fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().into_string().ok());
    let children = processes.filter(|name| parent_of(name) == Some(pid.as_raw()));
    std::iter::once(pid).chain(children.filter_map(|name| name.parse().ok()).map(Pid::from_raw)).collect()
}
