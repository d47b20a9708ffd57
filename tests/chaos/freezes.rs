//! A server that is frozen under load: it keeps its connections and answers nothing. Who asks is told so, the
//! log has it, and all resumes by itself when the server does.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::deployment::{Deployment, Running};
use crate::outages::System;
use crate::servers::Servers;
use crate::{number, steady_traffic};

/// Ad events a second, unless ADTIDE_CHAOS_RATE says otherwise.
const RATE: u64 = 2_000;

/// For how many seconds each server is frozen, unless ADTIDE_CHAOS_FREEZE says otherwise.
const FROZEN: u64 = 12;

/// What may pass before all have said that the server does not answer. The figure is 15 s, and 10 s until all
/// is caught up after its return; what it was is printed, as a machine that runs tests may be busy.
const TOLD: Duration = Duration::from_secs(60);

/// A server, how a cause of not being ready names it, and what in a warning does.
const SERVERS: [(&str, &[&str]); 3] = [
    ("postgres", &["PostgreSQL", "postgres"]),
    ("redis", &["Redis", "redis"]),
    ("kafka", &["Kafka", "kafka"]),
];

#[test]
fn each_server_may_freeze_for_a_while() {
    let Some(servers) = Servers::start() else { return };
    let frozen = Duration::from_secs(number("ADTIDE_CHAOS_FREEZE").unwrap_or(FROZEN));
    let rate = number("ADTIDE_CHAOS_RATE").unwrap_or(RATE);
    let deployment = Deployment::new(&servers.addresses, 0, "");
    let seconds = 20 + 3 * (frozen.as_secs() + 14);
    let mut traffic = steady_traffic(&deployment, seconds, rate);
    let mut system = System::start(&deployment, false);
    system.awaits("it is not ready", |system| system.ready().0 == 200 && system.commits() > 0.0);
    system.awaits("the workers are not ready", |system| system.workers_ready().0 == 200);
    for (server, names) in SERVERS {
        freeze(&servers, &mut system, server, names, frozen);
        assert!(traffic.ended().is_none(), "the traffic has ended too soon");
    }
    system.awaits("the traffic does not end", |_| traffic.ended().is_some());
    traffic.finish().succeeded();
    system.awaits("it does not catch up", |system| system.lag() == 0.0 && system.ready().0 == 200);
    system.stop();
    deployment.run("run -w 2 --until-end").succeeded();
    deployment.run("worker all --until-end").succeeded();
    deployment.verified();
}

fn freeze(
    servers: &Servers,
    system: &mut System<'_>,
    server: &'static str,
    names: &[&str],
    frozen: Duration,
) {
    let logged = [system.run.stderr().len(), system.workers.stderr().len()];
    let began = Instant::now();
    servers.signal_all(server, Signal::SIGSTOP);
    let is_told =
        |(status, said): (u16, String)| status == 503 && names.iter().any(|name| said.contains(name));
    let is_warned = |process: &Running, before: usize| {
        let log = process.stderr();
        log[before..]
            .lines()
            .any(|line| line.contains("WARN") && names.iter().any(|name| line.contains(name)))
    };
    // When each has said so: the run and the workers by /readyz, and both in their logs.
    let mut told: [Option<Duration>; 4] = [None; 4];
    while began.elapsed() < frozen || began.elapsed() < TOLD && told.contains(&None) {
        system.look_after();
        let now = [
            is_told(system.ready()),
            is_told(system.workers_ready()),
            is_warned(&system.run, logged[0]),
            is_warned(&system.workers, logged[1]),
        ];
        for (told, now) in told.iter_mut().zip(now) {
            *told = told.or(now.then(|| began.elapsed()));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    system.commits_before = system.commits();
    servers.signal_all(server, Signal::SIGCONT);
    let back = Instant::now();
    eprintln!(
        "  {server} frozen for {:.1?}; /readyz of run and workers, and both logs, named it after {told:.1?}",
        began.elapsed()
    );
    assert!(told.iter().all(Option::is_some), "{}\n{}", system.run.stderr(), system.workers.stderr());
    system.awaits("it does not resume", |system| {
        let resumed = system.ready().0 == 200 && system.workers_ready().0 == 200;
        resumed && system.commits() > system.commits_before
    });
    // Of some 2,000 events a second a few hundred are always under way.
    system.awaits("it does not catch up", |system| system.lag() < 10_000.0);
    eprintln!("  caught up {:.1?} after its return", back.elapsed());
}
