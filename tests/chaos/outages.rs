//! A server that is away for a while under load: memory stays bounded, who asks is told why nothing moves, and all goes on by
//! itself when it is back.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::deployment::{Deployment, Running, eventually};
use crate::number;
use crate::servers::Servers;

/// Ad events a second, unless ADTIDE_CHAOS_RATE says otherwise.
const RATE: u64 = 20_000;

/// For how many seconds the server is away, unless ADTIDE_CHAOS_OUTAGE says otherwise.
const AWAY: u64 = 20;

/// How much event time passes in a second.
const SPEED: u64 = 120;

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
    let mut traffic = deployment.start(
        "generate",
        &format!(
            "generate --to-kafka --speed {SPEED} --span {}s --ad-events {} --set generator.daily_curve=false",
            seconds * SPEED,
            seconds * rate
        ),
    );
    let mut run = deployment.start("run", "run -w 2 --listen 127.0.0.1:0");
    let mut workers = deployment.start("workers", "worker all");
    let ops = address(&run);
    let ready = || get(&ops, "/readyz");
    assert!(eventually(|| ready().0 == 200 && committed(&ops) > 0.0), "{:?}\n{}", ready(), run.stderr());

    let began = Instant::now();
    servers.stop(server);
    let told = || ready().0 == 503 && ready().1.contains(cause);
    assert!(eventually(told), "it does not tell that {server} is away: {:?}", ready());
    eprintln!("  {:.1?} after {server} was stopped: {}", began.elapsed(), ready().1.trim().replace('\n', ": "));
    let rest = Duration::from_secs(away).saturating_sub(began.elapsed());
    let deadline = Instant::now() + rest;
    while Instant::now() < deadline {
        assert_eq!(
            (run.ended(), workers.ended()),
            (None, None),
            "one has stopped: {}{}",
            run.stderr(),
            workers.stderr()
        );
        let (status, said) = ready();
        assert!(status == 503 && said.contains(cause), "{server} is away, and it says: {said}");
        std::thread::sleep(Duration::from_millis(200));
    }
    let before = committed(&ops);
    servers.up(server);
    let back = Instant::now();
    assert!(eventually(|| ready().0 == 200 && committed(&ops) > before), "{:?}\n{}", ready(), run.stderr());
    eprintln!("  ready again {:.1?} after {server} was", back.elapsed());
    assert!(eventually(|| traffic.ended().is_some()), "{}", traffic.stderr());
    traffic.finish().succeeded();
    assert!(eventually(|| lag(&ops) == 0.0 && ready().0 == 200), "it does not catch up: {:?}", ready());
    eprintln!("  caught up {:.1?} after {server} was back", back.elapsed());
    for (name, process) in [("run", &mut run), ("workers", &mut workers)] {
        let peak = peak_memory(process);
        eprintln!("  {name}: at most {} MiB", peak >> 20);
        assert!(peak < MEMORY, "{name} has taken {peak} bytes");
        process.end(Signal::SIGTERM).succeeded();
    }
    deployment.run("run -w 2 --until-end").succeeded();
    deployment.run("worker all --until-end").succeeded();
    deployment.verified();
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
fn get(address: &str, page: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {page} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// The least of a metric's values, and their sum.
fn metric(address: &str, name: &str) -> (f64, f64) {
    let text = get(address, "/metrics").1;
    let samples = text.lines().filter_map(|line| line.strip_prefix(name)?.rsplit_once(' ')?.1.parse::<f64>().ok());
    let samples: Vec<f64> = samples.collect();
    assert!(!samples.is_empty(), "no {name} in {text}");
    (samples.iter().copied().fold(f64::INFINITY, f64::min), samples.iter().sum())
}

/// How many commits every sink has done.
fn committed(address: &str) -> f64 {
    metric(address, "adtide_sink_commits_total").0
}

/// Records that were not read yet.
fn lag(address: &str) -> f64 {
    metric(address, "adtide_source_lag_records").1
}

fn peak_memory(process: &Running) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process.pid())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")).unwrap();
    peak.parse::<u64>().unwrap() * 1024
}
