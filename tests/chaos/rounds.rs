//! Rounds of kill -9 at random moments: at the end of each, every result and every account is right.

use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

use crate::deployment::{Deployment, eventually};
use crate::number;
use crate::servers::Servers;
use crate::supervisor::{Supervisor, died_in_librdkafka};

/// What can be killed.
const VICTIMS: [&str; 8] =
    ["run", "balance", "budget", "campaign-status", "compensation", "postgres", "redis", "kafka"];

/// Two hours of events pass in about so long.
const TRAFFIC: Duration = Duration::from_secs(6);

/// Many commits to kill in the middle of. Who follows a worker that was killed waits for its session to end.
const SETTINGS: &str = "epoch_interval = '20ms'\ncheckpoint.interval = '300ms'\nkafka.properties.'session.timeout.ms' = 2000\n\
    kafka.properties.'heartbeat.interval.ms' = 500\n";

/// A kill: when after the start of the traffic, what, and for servers how long it stays down.
#[derive(Debug)]
struct Kill {
    at: Duration,
    victim: &'static str,
    down: Duration,
}

/// What a seed says.
#[derive(Debug)]
struct Plan {
    seed: u64,
    workers: u64,
    kills: Vec<Kill>,
    /// When the run that closes everything is killed, if it is.
    kill_of_the_last_run: Option<Duration>,
}

impl Plan {
    fn new(seed: u64) -> Plan {
        let mut dice = Xoshiro256PlusPlus::seed_from_u64(seed);
        let mut below = |limit: u64| dice.next_u64() % limit;
        let workers = 1 + below(3);
        // Each thing is at least once among those of any eight seeds in a row.
        let mut victims = vec![VICTIMS[(seed % 8) as usize]];
        let count = 2 + below(3);
        while (victims.len() as u64) < count {
            let victim = VICTIMS[below(8) as usize];
            // A server takes seconds to come back.
            if victim == "run" || !victims.contains(&victim) {
                victims.push(victim);
            }
        }
        let mut kill = |victim| {
            let at = Duration::from_millis(300 + below(TRAFFIC.as_millis() as u64));
            Kill { at, victim, down: Duration::from_millis(below(2000)) }
        };
        let mut kills: Vec<_> = victims.into_iter().map(&mut kill).collect();
        kills.sort_by_key(|kill| kill.at);
        let kill_of_the_last_run = (below(2) == 0).then(|| Duration::from_millis(below(1500)));
        Plan { seed, workers, kills, kill_of_the_last_run }
    }
}

#[test]
fn whatever_is_killed_nothing_is_lost_and_nothing_is_doubled() {
    let Some(mut servers) = Servers::start() else { return };
    let seeds = match number("ADTIDE_CHAOS_SEED") {
        Some(seed) => seed..seed + number("ADTIDE_CHAOS_ROUNDS").unwrap_or(1),
        None => 0..number("ADTIDE_CHAOS_ROUNDS").unwrap_or(10),
    };
    for seed in seeds {
        let plan = Plan::new(seed);
        eprintln!("{plan:?}; this round alone: ADTIDE_CHAOS_SEED={seed}");
        let started = Instant::now();
        round(&mut servers, &plan);
        eprintln!("  verified after {:.1?}", started.elapsed());
    }
}

fn round(servers: &mut Servers, plan: &Plan) {
    let deployment = Deployment::new(&servers.addresses, 1 + plan.seed % 60, SETTINGS);
    let run = format!("run -w {}", plan.workers);
    let mut traffic =
        deployment.start("generate", &format!("generate --to-kafka --speed 1200 --seed {}", plan.seed));
    let mut processes = Supervisor::new(&deployment);
    processes.start("run", &run);
    for worker in ["balance", "budget", "campaign-status", "compensation"] {
        processes.start(worker, &format!("worker {worker}"));
    }
    let began = Instant::now();
    let mut kills = plan.kills.iter().peekable();
    let all_over = eventually(|| {
        if let Some(Kill { victim, down, .. }) = kills.next_if(|kill| began.elapsed() >= kill.at) {
            eprintln!("  {:.2?}: kill -9 {victim}", began.elapsed());
            if ["postgres", "redis", "kafka"].contains(victim) {
                servers.kill(victim, *down);
            } else {
                processes.kill(victim);
            }
        }
        let all_up = servers.look_after();
        assert!(!processes.look_after(), "one has stopped by itself");
        kills.peek().is_none() && all_up && traffic.ended().is_some()
    });
    assert!(all_over, "the traffic does not end: {}", traffic.stderr());
    traffic.finish().succeeded();
    eprintln!("  {:.2?}: the traffic is complete", began.elapsed());
    processes.stop();
    assert!(eventually(|| processes.look_after()), "the processes do not stop");
    let is_explained =
        |status| died_in_librdkafka(status) && plan.kills.iter().any(|kill| kill.victim == "kafka");
    let (explained, failures): (Vec<_>, Vec<_>) =
        processes.failures.iter().partition(|(_, status)| is_explained(*status));
    for (name, status) in explained {
        eprintln!("  {name} died in librdkafka when Kafka came back, and was started again: {status}");
    }
    assert_eq!(failures, [], "they ended though nobody killed them");
    close(&deployment, plan);
    deployment.verified();
}

/// Closes all windows and brings the accounts up to that.
fn close(deployment: &Deployment, plan: &Plan) {
    let mut last = Supervisor::new(deployment);
    last.start("run", &format!("run -w {} --until-end", plan.workers));
    let (began, mut kill) = (Instant::now(), plan.kill_of_the_last_run);
    let closed = eventually(|| {
        if kill.take_if(|at| began.elapsed() >= *at).is_some() {
            eprintln!("  kill -9 of the last run");
            last.kill("run");
        }
        last.look_after()
    });
    assert!(closed, "the last run does not end");
    assert_eq!(last.failures, [], "it ended though nobody killed it");
    deployment.run("worker all --until-end").succeeded();
}
