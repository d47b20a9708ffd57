//! `adtide stop`, and how a run can be found by it.

use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{self, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::output::{say, tell};
use crate::cli::StopArgs;
use crate::config::Config;
use crate::files;

/// How often to look whether a run has ended.
const LOOK: Duration = Duration::from_millis(50);

/// How often there is a line while it has not.
const LINE_INTERVAL: Duration = Duration::from_secs(2);

/// The file `DATA_DIR/run/NAME.PID` of a process that runs. It is locked as long as the process lives,
/// whatever ends it, so a process number that belongs to another program by now is never taken for a run.
pub struct RunFile {
    path: PathBuf,
    _lock: File,
}

impl RunFile {
    /// Makes it. It gets its name when it is locked already, so a file that is not locked is of a run that
    /// has ended.
    pub fn create(config: &Config) -> anyhow::Result<RunFile> {
        // Removes what killed runs have left.
        running(config)?;
        let (folder, pid) = (folder(config), process::id());
        let path = folder.join(format!("{}.{pid}", config.name()));
        let create = || {
            fs::create_dir_all(&folder)?;
            let new = folder.join(format!(".{pid}.new"));
            let mut lock = files::options().create(true).write(true).truncate(true).open(&new)?;
            lock.lock()?;
            writeln!(lock, "{pid}")?;
            fs::rename(new, &path)?;
            Ok(lock)
        };
        let lock = create().map_err(|error: std::io::Error| anyhow::Error::new(error));
        Ok(RunFile { _lock: lock.with_context(|| format!("can't write {}", path.display()))?, path })
    }
}

impl Drop for RunFile {
    fn drop(&mut self) {
        // A file that stays is not locked any more, and that is what counts.
        let _ = fs::remove_file(&self.path);
    }
}

fn folder(config: &Config) -> PathBuf {
    config.data_dir().join("run")
}

/// Stops the run of this configuration on this machine, and waits for its end.
pub fn stop(args: &StopArgs) -> anyhow::Result<ExitCode> {
    let config = Config::load(args.sources.config.as_deref(), &args.overrides())?;
    let mut running = running(&config)?;
    ensure!(
        !running.is_empty(),
        "no run of {:?} keeps its files in {}; name its --config or its --data-dir",
        config.name(),
        config.data_dir().display()
    );
    for run in &running {
        run.terminate()?;
        say!("stopping adtide, process {}", run.pid);
    }
    let (started, timeout) = (Instant::now(), Duration::from(args.timeout));
    let mut next_line = LINE_INTERVAL;
    while !running.is_empty() {
        let waited = started.elapsed();
        if waited >= timeout {
            let pids: Vec<_> = running.iter().map(|run| run.pid.to_string()).collect();
            bail!(
                "process {} has not ended within {}; its log says why. It may still: wait longer with --timeout, or end it at \
                 once with kill -9, which loses nothing",
                pids.join(", "),
                args.timeout
            );
        }
        if waited >= next_line {
            next_line += LINE_INTERVAL;
            tell!("waiting for the sinks to commit what has been read, {} s", waited.as_secs());
        }
        std::thread::sleep(LOOK);
        running.retain(|run| run.is_alive());
    }
    say!("stopped after {:.1} s", started.elapsed().as_secs_f64());
    Ok(ExitCode::SUCCESS)
}

/// A process that runs.
struct Running {
    pid: i32,
    file: File,
}

impl Running {
    /// None, and the file is removed, if what it names has ended.
    fn find(path: &Path) -> anyhow::Result<Option<Running>> {
        let pid = path.extension().and_then(|pid| pid.to_str()?.parse().ok());
        let Some(pid) = pid else { return Ok(None) };
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("can't read {}", path.display())),
        };
        let running = Running { pid, file };
        if !running.is_alive() {
            let _ = fs::remove_file(path);
            return Ok(None);
        }
        Ok(Some(running))
    }

    fn is_alive(&self) -> bool {
        match self.file.try_lock_shared() {
            Ok(()) => {
                let _ = self.file.unlock();
                false
            }
            Err(TryLockError::WouldBlock) => true,
            Err(TryLockError::Error(_)) => false,
        }
    }

    fn terminate(&self) -> anyhow::Result<()> {
        match kill(Pid::from_raw(self.pid), Signal::SIGTERM) {
            // It has ended meanwhile.
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("can't stop process {}", self.pid)),
        }
    }
}

/// The processes that run with this configuration.
fn running(config: &Config) -> anyhow::Result<Vec<Running>> {
    let folder = folder(config);
    let cannot = || format!("can't read {}", folder.display());
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(cannot),
    };
    let mut running = Vec::new();
    for entry in entries {
        let path = entry.with_context(cannot)?.path();
        if path.file_stem().is_some_and(|name| name == config.name()) {
            running.extend(Running::find(&path)?);
        }
    }
    running.sort_by_key(|run| run.pid);
    Ok(running)
}
