//! A server that is away for a while under load: memory stays bounded, who asks is told why nothing moves,
//! and all goes on by itself when it is back.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::deployment::{Deployment, Running, eventually};
use crate::servers::Servers;
use crate::supervisor::died_in_librdkafka;
use crate::{number, steady_traffic};

/// Ad events a second, unless ADTIDE_CHAOS_RATE says otherwise.
const RATE: u64 = 20_000;

/// For how many seconds the server is away, unless ADTIDE_CHAOS_OUTAGE says otherwise.
const AWAY: u64 = 20;

/// How many bytes each of the processes may take.
const MEMORY: u64 = 1 << 30;

#[test]
fn postgres_may_be_away_for_a_while() {
    outage("postgres", "PostgreSQL at ");
}

#[test]
fn redis_may_be_away_for_a_while() {
    outage("redis", "Redis at ");
}

#[test]
fn kafka_may_be_away_for_a_while() {
    outage("kafka", "Kafka at ");
}

/// Stops the server for a while; `cause` is in what a run says of it.
fn outage(server: &'static str, cause: &str) {
    let Some(servers) = Servers::start() else { return };
    let away = number("ADTIDE_CHAOS_OUTAGE").unwrap_or(AWAY);
    let rate = number("ADTIDE_CHAOS_RATE").unwrap_or(RATE);
    let deployment = Deployment::new(&servers.addresses, 0, "");
    let seconds = 15 + away;
    let mut traffic = steady_traffic(&deployment, seconds, rate);
    let mut system = System::start(&deployment, server == "kafka");
    system.awaits("it is not ready", |system| system.ready().0 == 200 && system.commits() > 0.0);

    let began = Instant::now();
    servers.stop(server);
    let told = |system: &System<'_>| matches!(system.ready(), (503, said) if said.contains(cause));
    system.awaits(&format!("it does not tell that {server} is away"), told);
    eprintln!(
        "  {:.1?} after {server} was stopped: {}",
        began.elapsed(),
        system.ready().1.trim().replace('\n', ": ")
    );
    while began.elapsed() < Duration::from_secs(away) {
        system.look_after();
        assert!(told(&system), "{server} is away, and it says: {:?}", system.ready());
        std::thread::sleep(Duration::from_millis(200));
    }
    system.commits_before = system.commits();
    servers.up(server);
    let back = Instant::now();
    system.awaits("it does not go on", |system| {
        system.ready().0 == 200 && system.commits() > system.commits_before
    });
    eprintln!("  ready again {:.1?} after {server} was", back.elapsed());
    system.awaits("the traffic does not end", |_| traffic.ended().is_some());
    traffic.finish().succeeded();
    system.awaits("it does not catch up", |system| system.lag() == 0.0 && system.ready().0 == 200);
    eprintln!("  caught up {:.1?} after {server} was back", back.elapsed());
    system.stop();
    deployment.run("run -w 2 --until-end").succeeded();
    deployment.run("worker all --until-end").succeeded();
    deployment.verified();
}

/// A run and the workers.
pub struct System<'a> {
    deployment: &'a Deployment,
    /// How many of both were started.
    starts: u32,
    pub run: Running,
    pub workers: Running,
    /// Where the run answers.
    address: String,
    /// Where the workers answer.
    workers_address: String,
    /// How many commits the run had done when the server was away.
    pub commits_before: f64,
    /// Whether one may die in librdkafka, and is then started again.
    may_die: bool,
}

impl System<'_> {
    pub fn start(deployment: &Deployment, may_die: bool) -> System<'_> {
        let (run, workers) = (start_run(deployment, 1), start_workers(deployment, 1));
        let (address, workers_address) = (address(&run), address(&workers));
        System { deployment, starts: 1, run, workers, address, workers_address, commits_before: 0.0, may_die }
    }

    /// None may have ended, but see `may_die`.
    pub fn look_after(&mut self) {
        for (name, process) in [("run", &mut self.run), ("workers", &mut self.workers)] {
            let Some(status) = process.ended() else { continue };
            assert!(
                self.may_die && died_in_librdkafka(status),
                "{name} has ended: {status}\n{}",
                process.stderr()
            );
            eprintln!("  {name} died in librdkafka, and is started again: {status}");
            self.starts += 1;
            if name == "run" {
                *process = start_run(self.deployment, self.starts);
                self.address = address(process);
                self.commits_before = 0.0;
            } else {
                *process = start_workers(self.deployment, self.starts);
                self.workers_address = address(process);
            }
        }
    }

    #[track_caller]
    pub fn awaits(&mut self, or_else: &str, mut is_true: impl FnMut(&System<'_>) -> bool) {
        let becomes_true = eventually(|| {
            self.look_after();
            is_true(self)
        });
        assert!(becomes_true, "{or_else}: {:?}\n{}", self.ready(), self.run.stderr());
    }

    /// What it says of its readiness.
    pub fn ready(&self) -> (u16, String) {
        get(&self.address, "/readyz").unwrap_or_else(|error| (0, error.to_string()))
    }

    /// What the workers say of theirs.
    pub fn workers_ready(&self) -> (u16, String) {
        get(&self.workers_address, "/readyz").unwrap_or_else(|error| (0, error.to_string()))
    }

    /// The values of a metric.
    fn metric(&self, name: &str) -> Vec<f64> {
        let text = get(&self.address, "/metrics").unwrap_or_default().1;
        text.lines().filter_map(|line| line.strip_prefix(name)?.rsplit_once(' ')?.1.parse().ok()).collect()
    }

    /// How many commits each of the sinks has done at least.
    pub fn commits(&self) -> f64 {
        self.metric("adtide_sink_commits_total").into_iter().reduce(f64::min).unwrap_or_default()
    }

    /// Records that were not read yet; infinite if it does not tell.
    pub fn lag(&self) -> f64 {
        self.metric("adtide_source_lag_records")
            .into_iter()
            .reduce(|one, other| one + other)
            .unwrap_or(f64::INFINITY)
    }

    /// Stops both. They must not have taken too much memory.
    pub fn stop(mut self) {
        for (name, process) in [("run", &mut self.run), ("workers", &mut self.workers)] {
            let peak = peak_memory(process);
            eprintln!("  {name}: at most {} MiB", peak >> 20);
            assert!(peak < MEMORY, "{name} has taken {peak} bytes");
            process.end(Signal::SIGTERM).succeeded();
        }
    }
}

/// Each with a log of its own.
fn start_run(deployment: &Deployment, number: u32) -> Running {
    deployment.start(&format!("run-{number}"), "run -w 2 --listen 127.0.0.1:0")
}

fn start_workers(deployment: &Deployment, number: u32) -> Running {
    deployment.start(&format!("workers-{number}"), "worker all --listen 127.0.0.1:0")
}

/// The address that the log names.
fn address(run: &Running) -> String {
    let mut found = None;
    let named = eventually(|| {
        let log = run.stderr();
        found = log.lines().find_map(|line| Some(line.split_once(" address=")?.1.trim().to_owned()));
        found.is_some()
    });
    assert!(named, "{}", run.stderr());
    found.unwrap()
}

/// What a page answers: status and body.
fn get(address: &str, page: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address)?;
    write!(stream, "GET {page} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    Ok((head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0), body.to_owned()))
}

fn peak_memory(process: &Running) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process.pid())).unwrap();
    let peak =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")).unwrap();
    peak.parse::<u64>().unwrap() * 1024
}
