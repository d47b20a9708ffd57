//! Rounds of kill -9 and SIGSTOP of one of three processes of a cluster: each time all are started again and
//! go on, and at the end every result and every account is right.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

use crate::deployment::{Deployment, eventually};
use crate::servers::Servers;
use crate::{number, steady_traffic};

/// How many rounds there are, unless ADTIDE_CHAOS_ROUNDS says otherwise.
const ROUNDS: u64 = 3;

/// Ad events a second, unless ADTIDE_CHAOS_RATE says otherwise.
const RATE: u64 = 2_000;

/// A round takes no longer, or the traffic has to be raised.
const ROUND: u64 = 30;

const PROCESSES: u64 = 3;

/// `scripts/cluster` in the folder of a deployment; stopped with this value.
struct Cluster<'a> {
    deployment: &'a Deployment,
}

impl Cluster<'_> {
    fn up(deployment: &Deployment) -> Cluster<'_> {
        let cluster = Cluster { deployment };
        cluster.run(&format!("up -n {PROCESSES} -w 1 --config adtide.toml --port 23101"));
        cluster
    }

    fn script(&self, arguments: &str) -> Command {
        let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/cluster"));
        command.args(arguments.split(' ')).current_dir(self.deployment.path(".")).stdin(Stdio::null());
        command.env("ADTIDE_CLUSTER_DIR", self.deployment.path("cluster"));
        command.env("ADTIDE_BIN", env!("CARGO_BIN_EXE_adtide"));
        command
    }

    #[track_caller]
    fn run(&self, arguments: &str) {
        let status = self.script(arguments).status().unwrap();
        assert!(status.success(), "scripts/cluster {arguments}: {status}\n{}", self.log());
    }

    /// What the supervisor has said.
    fn log(&self) -> String {
        fs::read_to_string(self.deployment.path("cluster/log/supervisor.log")).unwrap_or_default()
    }

    fn signal(&self, process: u64, signal: Signal) {
        let record =
            fs::read_to_string(self.deployment.path(&format!("cluster/run/process-{process}"))).unwrap();
        let pid = record.split(' ').next().unwrap().parse().unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
    }
}

impl Drop for Cluster<'_> {
    fn drop(&mut self) {
        let _ = self.script("down").stdout(Stdio::null()).status();
    }
}

/// Waits until events are processed that were read at least a second from now. Epochs are named by the clock,
/// while what is replayed has the names that it had before.
#[track_caller]
fn processes_again(deployment: &Deployment, cluster: &Cluster<'_>) {
    let wanted = adtide::now().0 + 1000;
    let mut postgres = deployment.postgres();
    let mut committed = || -> Option<i64> {
        postgres.query_one("SELECT max(epoch) FROM adtide_progress", &[]).unwrap().get(0)
    };
    let again = eventually(|| committed().is_some_and(|epoch| epoch >= wanted));
    assert!(again, "it does not go on\n{}", cluster.log());
}

#[test]
fn a_cluster_heals_when_one_of_its_processes_is_killed_or_frozen() {
    let Some(servers) = Servers::start() else { return };
    let rounds = number("ADTIDE_CHAOS_ROUNDS").unwrap_or(ROUNDS);
    let rate = number("ADTIDE_CHAOS_RATE").unwrap_or(RATE);
    let first = number("ADTIDE_CHAOS_SEED").unwrap_or(0);
    let deployment = Deployment::new(&servers.addresses, 0, "");
    let seconds = ROUND * (rounds + 1);
    let mut traffic = steady_traffic(&deployment, seconds, rate);
    let cluster = Cluster::up(&deployment);
    processes_again(&deployment, &cluster);
    for seed in first..first + rounds {
        let mut dice = Xoshiro256PlusPlus::seed_from_u64(seed);
        // So long that the supervisor does not take the next end for a failure of the start.
        std::thread::sleep(Duration::from_millis(5000 + dice.next_u64() % 3000));
        let (victim, frozen) = (dice.next_u64() % PROCESSES, dice.next_u64().is_multiple_of(2));
        assert!(traffic.ended().is_none(), "the traffic has ended too soon");
        let began = Instant::now();
        cluster.signal(victim, if frozen { Signal::SIGSTOP } else { Signal::SIGKILL });
        processes_again(&deployment, &cluster);
        let what = if frozen { "frozen" } else { "killed" };
        eprintln!("  seed {seed}: process {victim} {what}, processing again after {:.1?}", began.elapsed());
    }
    traffic.end(Signal::SIGTERM).succeeded();
    cluster.run("status");
    cluster.run("down");
    let log = cluster.log();
    assert!(log.trim_end().ends_with("stopped"), "{log}");
    deployment.run("run -w 2 --until-end").succeeded();
    deployment.run("worker all --until-end").succeeded();
    deployment.verified();
}
