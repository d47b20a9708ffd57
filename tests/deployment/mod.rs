//! A deployment of adtide on real servers: a database, topics and a Redis database of its own, and the binary
//! run on them. Several test binaries share it, and not each of them uses all of it.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use postgres::{Client, NoTls};
use tempfile::TempDir;

/// The binary.
const ADTIDE: &str = env!("CARGO_BIN_EXE_adtide");

/// How long anything may take before a test gives up.
pub const DEADLINE: Duration = Duration::from_secs(120);

/// What verification compares, with a ledger.
const SECTIONS: [&str; 10] = [
    "rankings",
    "performance",
    "attributions",
    "refunds",
    "late events",
    "dead letters",
    "balances",
    "debits",
    "credits",
    "budgets",
];

/// What is generated if nothing else is said: two hours with some of everything.
const TRAFFIC: &str = "generator.ad_events = 60000\ngenerator.campaign_events = 1500\ngenerator.campaigns = 300\n\
    generator.products = 200\ngenerator.devices = 4000\ngenerator.malformed = 0.002\n";

/// Where the servers are.
#[derive(Clone, Debug, Default)]
pub struct Addresses {
    postgres: String,
    redis: String,
    brokers: String,
}

impl Addresses {
    /// By the names of the environment variables; None, and a word about it, where one is missing.
    pub fn find(variable: impl Fn(&str) -> Option<String>) -> Option<Addresses> {
        let find = |name: &str| {
            let found = variable(name).filter(|address| !address.is_empty());
            if found.is_none() {
                eprintln!("SKIPPED: {name} is not set; see scripts/services");
            }
            found
        };
        // What stands behind the last slash is a database that is not ours.
        let server = |url: String| url.rsplit_once('/').unwrap().0.to_owned();
        Some(Addresses {
            postgres: server(find("ADTIDE_TEST_POSTGRES_URL")?),
            redis: server(find("ADTIDE_TEST_REDIS_URL")?),
            brokers: find("ADTIDE_TEST_KAFKA_BROKERS")?,
        })
    }

    fn postgres(&self, database: &str) -> String {
        format!("{}/{database}", self.postgres)
    }

    fn redis(&self, database: u64) -> String {
        format!("{}/{database}", self.redis)
    }
}

/// A deployment. Its database and its folder go away with it.
pub struct Deployment {
    folder: TempDir,
    addresses: Addresses,
    /// Of the database and, with a dash, the prefix of the topics.
    pub name: String,
    redis_database: u64,
}

/// What a finished process left.
pub struct Outcome {
    status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

/// A process that goes on in the background; killed when the test ends before it does.
pub struct Running {
    name: String,
    child: Child,
    folder: PathBuf,
}

impl Deployment {
    /// Everything that a deployment needs: topics of 4 partitions, tables, balances and budgets. `settings`
    /// are lines for the config, with dotted keys.
    pub fn new(addresses: &Addresses, redis_database: u64, settings: &str) -> Deployment {
        let name = format!("t_{}", uuid::Uuid::new_v4().simple());
        let deployment = Deployment {
            folder: tempfile::tempdir().unwrap(),
            addresses: addresses.clone(),
            name,
            redis_database,
        };
        deployment.maintain(&format!("CREATE DATABASE {}", deployment.name));
        redis::cmd("FLUSHDB").exec(&mut deployment.redis()).unwrap();
        fs::write(deployment.path("adtide.toml"), deployment.config(settings)).unwrap();
        for command in ["topics create", "migrate", "init-demo"] {
            deployment.run(command).succeeded();
        }
        deployment
    }

    /// Partitions are never idle: if they were taken for idle, results would depend on when.
    fn config(&self, settings: &str) -> String {
        let Deployment { addresses, name, redis_database, .. } = self;
        format!(
            "{settings}\nidle_timeout = '1h'\nsource.kind = 'kafka'\nsink.kind = 'services'\n\
             kafka.brokers = '{}'\nkafka.prefix = '{name}-'\npostgres.url = '{}'\nredis.url = '{}'\n\
             worker.status_interval = '200ms'\n{TRAFFIC}",
            addresses.brokers,
            addresses.postgres(name),
            addresses.redis(*redis_database),
        )
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn brokers(&self) -> &str {
        &self.addresses.brokers
    }

    /// The database.
    pub fn postgres(&self) -> Client {
        Client::connect(&self.addresses.postgres(&self.name), NoTls).unwrap()
    }

    /// The database.
    pub fn redis(&self) -> redis::Connection {
        redis::Client::open(self.addresses.redis(self.redis_database)).unwrap().get_connection().unwrap()
    }

    fn maintain(&self, sql: &str) {
        Client::connect(&self.addresses.postgres("postgres"), NoTls).unwrap().batch_execute(sql).unwrap();
    }

    /// `adtide ARGUMENTS`, split at spaces, with the deployment's config.
    pub fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(ADTIDE);
        // Settings of whoever runs the tests must not matter.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ADTIDE_") {
                command.env_remove(name);
            }
        }
        if std::env::var_os("ADTIDE_CHAOS_PLAIN").is_some() {
            command.env("GLIBC_TUNABLES", "");
        }
        command
            .args(arguments.split_whitespace())
            .args(["--config", "adtide.toml"])
            .current_dir(self.folder.path());
        command.stdin(Stdio::null());
        command
    }

    /// The same in the background. Its output is appended to that of earlier ones of this name.
    pub fn start(&self, name: &str, arguments: &str) -> Running {
        let open = |ending: &str| {
            let path = self.path(&format!("{name}.{ending}"));
            OpenOptions::new().create(true).append(true).open(path).unwrap()
        };
        let (stdout, stderr): (File, File) = (open("stdout"), open("stderr"));
        let child = self.command(arguments).stdout(stdout).stderr(stderr).spawn().unwrap();
        Running { name: name.to_owned(), child, folder: self.folder.path().to_owned() }
    }

    /// The same to its end.
    #[track_caller]
    pub fn run(&self, arguments: &str) -> Outcome {
        let name = uuid::Uuid::new_v4().simple().to_string();
        self.start(&name, arguments).finish()
    }

    /// What verification says. It must say that nothing differs, and must have compared something of
    /// everything.
    #[track_caller]
    pub fn verified(&self) -> String {
        self.verified_with(&SECTIONS)
    }

    /// The same, where something must have been compared of these.
    #[track_caller]
    pub fn verified_with(&self, sections: &[&str]) -> String {
        let outcome = self.run("verify").succeeded();
        assert!(outcome.stdout.starts_with("verified"), "{}", outcome.stdout);
        let compared = compared(&outcome.stdout);
        for section in sections {
            assert!(compared.get(*section).is_some_and(|rows| *rows > 0), "no {section}: {}", outcome.stdout);
        }
        outcome.stdout
    }
}

/// Rows that were compared, by section.
pub fn compared(report: &str) -> BTreeMap<&str, u64> {
    let section = |line| {
        let (before, _) = str::split_once(line, " compared ")?;
        let (name, rows) = before.trim().rsplit_once(' ')?;
        Some((name.trim(), rows.parse().ok()?))
    };
    report.lines().filter_map(section).collect()
}

impl Drop for Deployment {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.folder.disable_cleanup(true);
            eprintln!("the logs are in {}", self.folder.path().display());
            return;
        }
        self.maintain(&format!("DROP DATABASE {} WITH (FORCE)", self.name));
        redis::cmd("FLUSHDB").exec(&mut self.redis()).unwrap();
    }
}

/// Whether it becomes true before the deadline.
pub fn eventually(mut is_true: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + DEADLINE;
    while !is_true() {
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    true
}

impl Outcome {
    #[track_caller]
    pub fn succeeded(self) -> Outcome {
        assert!(self.status.success(), "{}\n{}{}", self.status, self.stdout, self.stderr);
        self
    }

    /// It must have failed with status 1, with an error that has all of `words`.
    #[track_caller]
    pub fn failed_saying(self, words: &[&str]) -> Outcome {
        self.exited_saying(1, words)
    }

    /// The same with another status.
    #[track_caller]
    pub fn exited_saying(self, code: i32, words: &[&str]) -> Outcome {
        assert_eq!(self.status.code(), Some(code), "{}\n{}{}", self.status, self.stdout, self.stderr);
        let error = self.stderr.split_once("adtide: error: ").map_or("", |(_, error)| error);
        for word in words {
            assert!(error.contains(word), "{word:?} is not in the error of: {}", self.stderr);
        }
        self
    }
}

impl Running {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    /// How it has ended; None if it has not.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// What it has said on standard error so far, and others of its name before.
    pub fn stderr(&self) -> String {
        fs::read_to_string(self.folder.join(format!("{}.stderr", self.name))).unwrap()
    }

    /// Waits for the end.
    #[track_caller]
    pub fn finish(&mut self) -> Outcome {
        let ended = eventually(|| self.ended().is_some());
        let (stdout, stderr) =
            (fs::read_to_string(self.folder.join(format!("{}.stdout", self.name))).unwrap(), self.stderr());
        assert!(ended, "{} does not end: {stdout}{stderr}", self.name);
        Outcome { status: self.child.wait().unwrap(), stdout, stderr }
    }

    /// Sends a signal and waits for the end.
    #[track_caller]
    pub fn end(&mut self, signal: Signal) -> Outcome {
        self.signal(signal);
        self.finish()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
