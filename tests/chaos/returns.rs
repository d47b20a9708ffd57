//! A broker that is killed again and again: how often that kills who reads from it, and what it costs.
//!
//! librdkafka may die when a broker comes back (see `connect::fill_fresh_memory`). To see how often without
//! the way around that: `ADTIDE_CHAOS_PLAIN=1`. The log then has no line of a partition 2139062143, which is
//! what filled memory reads as.

use std::time::{Duration, Instant};

use crate::deployment::{Deployment, eventually};
use crate::servers::Servers;
use crate::supervisor::{Supervisor, died_in_librdkafka};
use crate::{number, steady_traffic};

/// How many kills there are, unless ADTIDE_CHAOS_KILLS says otherwise.
const KILLS: u64 = 1;

/// Ad events a second.
const RATE: u64 = 500;

/// A kill and the return take no longer; the traffic is ended with the last.
const ROUND: u64 = 120;

/// What shows that the fault was met, and was harmless.
const MET: &str = "2139062143";

#[test]
fn a_broker_may_be_killed_again_and_again() {
    let Some(mut servers) = Servers::start() else { return };
    let kills = number("ADTIDE_CHAOS_KILLS").unwrap_or(KILLS);
    let deployment =
        Deployment::new(&servers.addresses, 0, "log.level = 'info,adtide::connect::kafka=debug'\n");
    let mut traffic = steady_traffic(&deployment, ROUND * kills + 20, RATE);
    let mut processes = Supervisor::new(&deployment);
    processes.start("run", "run -w 2");
    processes.start("workers", "worker all");
    let mut postgres = deployment.postgres();
    let mut processed = |wanted: i64| {
        let row = postgres.query_one("SELECT coalesce(max(epoch), 0) FROM adtide_progress", &[]).unwrap();
        row.get::<_, i64>(0) >= wanted
    };
    let (mut plain, mut struck) = (Vec::new(), Vec::new());
    for round in 0..kills {
        // Epochs are named by the clock: this one was read after the last return.
        let wanted = adtide::now().0 + 1000;
        assert!(eventually(|| !processes.look_after() && processed(wanted)), "it does not process");
        let deaths = processes.failures.len();
        servers.kill("kafka", Duration::from_millis(200 * (round % 5)));
        let began = Instant::now();
        assert!(
            eventually(|| !processes.look_after() && servers.look_after()),
            "the broker does not come back"
        );
        let wanted = adtide::now().0 + 1000;
        assert!(eventually(|| !processes.look_after() && processed(wanted)), "it does not process again");
        let of_this = processes.failures.len() - deaths;
        if of_this == 0 { &mut plain } else { &mut struck }.push(began.elapsed());
        eprintln!("  kill {round}: {of_this} deaths, processing again after {:.1?}", began.elapsed());
    }
    let mean = |all: &[Duration]| all.iter().sum::<Duration>() / u32::try_from(all.len().max(1)).unwrap();
    let logs =
        ["run.stderr", "workers.stderr"].map(|log| std::fs::read_to_string(deployment.path(log)).unwrap());
    let met = logs.iter().flat_map(|log| log.lines()).filter(|line| line.contains(MET)).count();
    eprintln!(
        "  {kills} kills: {} with a death; processing again after {:.1?} without one, {:.1?} with one; {met} partitions passed over",
        struck.len(),
        mean(&plain),
        mean(&struck)
    );
    let unexplained = processes.failures.iter().filter(|(_, status)| !died_in_librdkafka(*status)).count();
    assert_eq!(unexplained, 0, "{:?}", processes.failures);
    traffic.end(nix::sys::signal::Signal::SIGTERM).succeeded();
    processes.stop();
    assert!(eventually(|| processes.look_after()), "the processes do not stop");
    deployment.run("run -w 2 --until-end").succeeded();
    deployment.run("worker all --until-end").succeeded();
    // A short time has no late events.
    deployment.verified_with(&["performance", "debits"]);
    let is_plain = std::env::var("ADTIDE_CHAOS_PLAIN").is_ok();
    assert!(is_plain || struck.is_empty(), "{:?}", processes.failures);
}
