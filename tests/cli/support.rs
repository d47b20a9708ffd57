//! What the tests share: a folder of their own, the binary run in it, its tables and topics, and tiny
//! records.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rusqlite::types::Value as Sql;
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;
use tempfile::TempDir;

/// The binary.
const ADTIDE: &str = env!("CARGO_BIN_EXE_adtide");

/// How long anything may take before a test gives up.
const DEADLINE: Duration = Duration::from_secs(90);

/// The tables of results.
pub const TABLES: [&str; 3] =
    ["rtb_ranking_cache", "ad_performance_metrics_realtime", "conversion_attribution_results"];

/// Performance rows: campaign, window, impressions, clicks, is_final.
pub const PERFORMANCE: &str =
    "SELECT campaign_id, substr(metric_time, 12, 5), impression_count, click_count, is_final
     FROM ad_performance_metrics_realtime ORDER BY 1, 2";

/// A folder that goes away with the test. Topics are in `in`, results in `out`; the binary runs in it.
pub struct Place {
    folder: TempDir,
}

/// What a finished run left on the terminal.
pub struct Outcome {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

/// A run that goes on in the background; killed when the test ends before it does.
pub struct Running {
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Place {
    pub fn new() -> Place {
        Place { folder: tempfile::tempdir().unwrap() }
    }

    /// With some minutes of generated traffic in `in`: rows in every result, and every kind of bad record.
    pub fn with_traffic() -> Place {
        let place = Place::new();
        place
            .run(
                "generate --to in --ad-events 12000 --campaign-events 500 --campaigns 100 --partitions 3 \
                   --set generator.products=80 --set generator.devices=1000 --set generator.malformed=0.003",
            )
            .succeeded();
        place
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file and the folders it needs.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// Appends to a file, which may be new.
    pub fn append(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        OpenOptions::new().create(true).append(true).open(path).unwrap().write_all(content.as_ref()).unwrap();
    }

    /// Renames a file as a rotation does.
    pub fn rotate(&self, name: &str, number: u32) {
        // Two times that are to be told apart.
        std::thread::sleep(Duration::from_millis(20));
        fs::rename(self.path(name), self.path(&format!("{name}.{number}"))).unwrap();
    }

    /// `adtide ARGUMENTS`, split at spaces, to its end.
    pub fn run(&self, arguments: &str) -> Outcome {
        self.run_with(arguments, &[])
    }

    /// The same with environment variables.
    pub fn run_with(&self, arguments: &str, environment: &[(&str, &str)]) -> Outcome {
        let mut command = assert_cmd::Command::from_std(self.command(arguments));
        let output = command.envs(environment.iter().copied()).timeout(DEADLINE).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Outcome { status: output.status, stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// The same when no file may become larger than so many KiB: what is written beyond fails, as on a full
    /// disk.
    pub fn run_with_little_room(&self, arguments: &str, kib: u32) -> Outcome {
        let mut command = Command::new("bash");
        command.args(["-c", &format!("trap '' XFSZ; ulimit -f {kib}; exec \"$0\" \"$@\""), ADTIDE]);
        let output = self.prepare(command, arguments).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Outcome { status: output.status, stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// `adtide ARGUMENTS` in the background. `name` tells its output from that of others.
    pub fn start(&self, name: &str, arguments: &str) -> Running {
        self.start_command(name, self.command(arguments))
    }

    fn start_command(&self, name: &str, mut command: Command) -> Running {
        let (stdout, stderr) = (self.path(&format!("{name}.stdout")), self.path(&format!("{name}.stderr")));
        command
            .stdout(File::create(&stdout).unwrap())
            .stderr(File::create(&stderr).unwrap())
            .stdin(Stdio::null());
        Running { child: command.spawn().unwrap(), stdout, stderr }
    }

    /// The same as `nohup` does it: a hang-up is ignored.
    pub fn start_with_nohup(&self, name: &str, arguments: &str) -> Running {
        let mut command = Command::new("sh");
        command.args(["-c", "trap '' HUP; exec \"$0\" \"$@\"", ADTIDE]);
        self.start_command(name, self.prepare(command, arguments))
    }

    /// The same in a network namespace.
    pub fn start_in_namespace(&self, namespace: &str, name: &str, arguments: &str) -> Running {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace, ADTIDE]);
        self.start_command(name, self.prepare(command, arguments))
    }

    /// `adtide ARGUMENTS`, to be started.
    pub fn command(&self, arguments: &str) -> Command {
        self.prepare(Command::new(ADTIDE), arguments)
    }

    fn prepare(&self, mut command: Command, arguments: &str) -> Command {
        // Settings of whoever runs the tests must not matter.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ADTIDE_") {
                command.env_remove(name);
            }
        }
        command.args(arguments.split_whitespace()).current_dir(self.folder.path());
        command
    }

    /// The rows of a query on the results in `out`; none while there is no database.
    pub fn rows(&self, sql: &str) -> Vec<String> {
        query(&self.path("out/adtide.db"), sql).unwrap_or_default()
    }

    /// The same of the results in another folder.
    pub fn rows_in(&self, out: &str, sql: &str) -> Vec<String> {
        query(&self.path(out).join("adtide.db"), sql).unwrap_or_default()
    }

    /// All tables of a folder of results, without the columns that tell when and in which order rows were
    /// written.
    pub fn tables(&self, out: &str) -> BTreeMap<&'static str, Vec<String>> {
        let database = self.path(out).join("adtide.db");
        let rows = |table: &str| {
            let columns = format!("SELECT name FROM pragma_table_info('{table}')");
            let columns: Vec<_> = query(&database, &columns).unwrap();
            let columns: Vec<_> = columns
                .into_iter()
                .filter(|name| !["id", "updated_at", "processed_at"].contains(&&**name))
                .collect();
            let mut rows = query(&database, &format!("SELECT {} FROM {table}", columns.join(", "))).unwrap();
            rows.sort();
            rows
        };
        TABLES.into_iter().map(|table| (table, rows(table))).collect()
    }

    /// The records of an output topic in `out`; none while there is no such file.
    pub fn topic(&self, name: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.path(&format!("out/topics/{name}.ndjson"))).unwrap_or_default();
        // The last line may be half written.
        text.lines().map_while(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits until the query gives these rows.
    pub fn await_rows(&self, sql: &str, expected: &[&str]) {
        let mut found = Vec::new();
        let arrived = eventually(|| {
            found = self.rows(sql);
            found == expected
        });
        assert!(arrived, "{sql}\n  gives    {found:?}\n  and not  {expected:?}");
    }
}

fn query(database: &Path, sql: &str) -> rusqlite::Result<Vec<String>> {
    let connection = Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    connection.busy_timeout(DEADLINE)?;
    let mut statement = connection.prepare(sql)?;
    let columns = statement.column_count();
    let row = |row: &rusqlite::Row<'_>| {
        let cells: rusqlite::Result<Vec<Sql>> = (0..columns).map(|column| row.get(column)).collect();
        let text = |cell| match cell {
            Sql::Null => "null".to_owned(),
            Sql::Integer(number) => number.to_string(),
            Sql::Real(number) => number.to_string(),
            Sql::Text(text) => text,
            Sql::Blob(bytes) => format!("{bytes:?}"),
        };
        Ok(cells?.into_iter().map(text).collect::<Vec<_>>().join(" "))
    };
    statement.query_map([], row)?.collect()
}

/// Whether it becomes true before the deadline.
pub fn eventually(mut is_true: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + DEADLINE;
    while !is_true() {
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    true
}

impl Outcome {
    #[track_caller]
    pub fn succeeded(self) -> Outcome {
        self.exited_with(0)
    }

    /// It must have failed with status 1, saying all of `words` on standard error.
    #[track_caller]
    pub fn failed_saying(self, words: &[&str]) -> Outcome {
        let outcome = self.exited_with(1);
        // Lines of the log may come before it.
        assert!(outcome.stderr.lines().any(|line| line.starts_with("adtide: error: ")), "{}", outcome.stderr);
        for word in words {
            assert!(outcome.stderr.contains(word), "{word:?} is not in: {}", outcome.stderr);
        }
        outcome
    }

    /// Its arguments must have been refused with status 2, saying all of `words` on standard error.
    #[track_caller]
    pub fn refused_saying(self, words: &[&str]) -> Outcome {
        let outcome = self.exited_with(2);
        for word in words {
            assert!(outcome.stderr.contains(word), "{word:?} is not in: {}", outcome.stderr);
        }
        outcome
    }

    #[track_caller]
    pub fn exited_with(self, code: i32) -> Outcome {
        assert_eq!(self.status.code(), Some(code), "{}\n{}{}", self.status, self.stdout, self.stderr);
        self
    }

    #[track_caller]
    pub fn says(&self, words: &[&str]) {
        for word in words {
            assert!(self.stdout.contains(word), "{word:?} is not in: {}", self.stdout);
        }
    }

    /// The sections of a verification that was printed: rows compared, rows different.
    pub fn sections(&self) -> BTreeMap<&'static str, (u64, u64)> {
        let names = ["rankings", "performance", "attributions", "refunds", "late events", "dead letters"];
        let section = |name: &'static str| {
            let line = self.stdout.lines().find_map(|line| line.trim_start().strip_prefix(name));
            let (compared, different) = line?.split_once(" different")?.0.split_once(" compared ")?;
            Some((name, (compared.trim().parse().ok()?, different.trim().parse().ok()?)))
        };
        let sections: BTreeMap<_, _> = names.into_iter().filter_map(section).collect();
        assert_eq!(sections.len(), names.len(), "{}{}", self.stdout, self.stderr);
        sections
    }

    /// A verification must have compared something in each of the sections and found no difference.
    #[track_caller]
    pub fn verified(self, with_rows: &[&str]) {
        let outcome = self.succeeded();
        outcome.says(&["verified up to ", ": every row equals its recomputation"]);
        for (name, (compared, different)) in outcome.sections() {
            assert_eq!(different, 0, "{}", outcome.stdout);
            assert!(
                compared > 0 || !with_rows.contains(&name),
                "no {name} were compared: {}",
                outcome.stdout
            );
        }
    }
}

impl Running {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    /// What it has said on standard error so far.
    pub fn stderr(&self) -> String {
        fs::read_to_string(&self.stderr).unwrap()
    }

    /// Sends a signal and waits for the end.
    pub fn end(&mut self, signal: Signal) -> Outcome {
        self.signal(signal);
        self.finish()
    }

    /// Ends it in order once something has come true.
    #[track_caller]
    pub fn end_when(mut self, is_true: impl FnMut() -> bool) {
        let came = eventually(is_true);
        let outcome = self.end(Signal::SIGTERM).succeeded();
        assert!(came, "{}", outcome.stderr);
    }

    /// Waits for the end.
    pub fn finish(&mut self) -> Outcome {
        let ended = eventually(|| self.child.try_wait().unwrap().is_some());
        let read = |path| fs::read_to_string(path).unwrap();
        let (stdout, stderr) = (read(&self.stdout), read(&self.stderr));
        assert!(ended, "it does not end: {stdout}{stderr}");
        Outcome { status: self.child.wait().unwrap(), stdout, stderr }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A record of `ad-events`, with its line feed; the time as `HH:mm:ss` of a fixed day, or as epoch
/// milliseconds.
pub fn impression(at: impl Display, campaign: u32) -> String {
    ad_event("IMPRESSION", at, campaign, "d-1")
}

/// The same for a click, which costs 0.50.
pub fn click(at: impl Display, campaign: u32, device: &str) -> String {
    ad_event("CLICK", at, campaign, device)
}

fn ad_event(event_type: &str, at: impl Display, campaign: u32, device: &str) -> String {
    format!(
        r#"{{"event_type":"{event_type}","timestamp_field":{},"ad_id":{campaign}0,"campaign_id":{campaign},"advertiser_id":1,"product_id":7,"placement":"top","category":"toys","device_id":"{device}","actual_price":0.50}}"#,
        time(at)
    ) + "\n"
}

/// A record of `conversion-events`.
pub fn conversion(at: impl Display, order: &str, device: &str) -> String {
    format!(
        r#"{{"event_type":"CONVERSION","timestamp_field":{},"device_id":"{device}","order_id":"{order}","product_id":7,"revenue_amount":25.00}}"#,
        time(at)
    ) + "\n"
}

/// A record of `campaign-events`.
pub fn campaign(at: impl Display, id: u32, bid: &str) -> String {
    format!(
        r#"{{"event_type":"CAMPAIGN_CREATE","timestamp_field":{},"campaign_id":{id},"advertiser_id":1,"product_id":7,"placement":"top","category":"toys","bid_price":{bid},"status":"ACTIVE"}}"#,
        time(at)
    ) + "\n"
}

fn time(at: impl Display) -> String {
    let at = at.to_string();
    if at.contains(':') { format!("\"2026-01-05 {at}\"") } else { at }
}
