//! Progress: a bar on a terminal, a line now and then elsewhere.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use adtide_dataflows::model::EventTime;
use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressStyle};
use tracing::info;

use super::output::{BARS, tell};
use crate::engine::{Monitor, Phase};

/// How often there is a line where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// One bar.
pub struct Bar {
    bar: ProgressBar,
    name: &'static str,
    unit: &'static str,
    total: u64,
    last_line: std::cell::Cell<Instant>,
}

impl Bar {
    /// A bar of `total` units.
    pub fn new(name: &'static str, total: u64, unit: &'static str) -> Bar {
        let bar = shown(std::io::stderr().is_terminal(), total);
        let template = format!("{name:>11} [{{bar:30}}] {{human_pos}}/{{human_len}} {unit}  {{msg}}");
        if let Ok(style) = ProgressStyle::with_template(&template) {
            bar.set_style(style.progress_chars("=> "));
        }
        Bar { bar, name, unit, total, last_line: std::cell::Cell::new(Instant::now()) }
    }

    /// Shows how much is done.
    pub fn set(&self, done: u64) {
        self.bar.set_position(done);
        if self.bar.is_hidden() && self.last_line.get().elapsed() >= LINE_INTERVAL {
            self.last_line.set(Instant::now());
            let line =
                format!("{}: {} of {} {}", self.name, HumanCount(done), HumanCount(self.total), self.unit);
            if crate::logs_json() {
                info!("{line}");
            } else {
                tell!("{line}");
            }
        }
    }

    /// Ends the bar and leaves it standing.
    pub fn finish(&self) {
        self.bar.finish();
    }
}

/// A bar, if it can be shown.
fn shown(terminal: bool, total: u64) -> ProgressBar {
    if terminal { BARS.add(ProgressBar::new(total)) } else { ProgressBar::hidden() }
}

/// Shows the progress of a run until it is dropped.
pub struct RunProgress {
    running: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl RunProgress {
    /// Starts to show what the monitor knows; `follow` if the input has no end. Says so when `stop` is set.
    pub fn start(monitor: Arc<Monitor>, follow: bool, stop: Arc<AtomicBool>) -> RunProgress {
        let running = Arc::new(AtomicBool::new(true));
        let flag = Arc::clone(&running);
        let thread = std::thread::Builder::new()
            .name("progress".to_owned())
            .spawn(move || show(&monitor, follow, &flag, &stop));
        RunProgress { running, thread: thread.ok() }
    }
}

impl Drop for RunProgress {
    fn drop(&mut self) {
        self.running.store(false, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

fn show(monitor: &Monitor, follow: bool, running: &AtomicBool, stop: &AtomicBool) {
    let terminal = std::io::stderr().is_terminal();
    let bar = shown(terminal, 0);
    let template =
        if follow { "    running {spinner} {wide_msg}" } else { "    running [{bar:10}] {wide_msg}" };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    let started = Instant::now();
    let mut last_line = Instant::now();
    let mut stopping = false;
    loop {
        if terminal {
            let Reading { done, total, message } = look(monitor, started);
            bar.set_length(total);
            bar.set_position(done);
            bar.set_message(message);
        } else if last_line.elapsed() >= LINE_INTERVAL {
            last_line = Instant::now();
            let message = look(monitor, started).message;
            if crate::logs_json() {
                info!("running: {message}");
            } else {
                tell!("running: {message}");
            }
        }
        if !stopping && stop.load(Ordering::Relaxed) {
            stopping = true;
            const STOPPING: &str = "stopping: committing what has been read";
            if crate::logs_json() {
                info!("{STOPPING}");
            } else {
                tell!("{STOPPING}; again to stop at once");
            }
        }
        if !running.load(Ordering::Relaxed) {
            break;
        }
        std::thread::park_timeout(Duration::from_millis(100));
    }
    bar.finish();
}

/// How far the input has been read: of files in bytes, of Kafka in offsets.
struct Reading {
    done: u64,
    total: u64,
    message: String,
}

fn look(monitor: &Monitor, started: Instant) -> Reading {
    if monitor.phase() == Phase::Restoring {
        return look_restoring(monitor);
    }
    let (workers, sources) = (monitor.workers(), monitor.sources());
    let read: u64 = workers.iter().map(|worker| worker.bytes).sum();
    let lag_bytes = sources.iter().map(|source| source.lag_bytes).collect::<Option<Vec<_>>>();
    let (done, total, of_all) = match lag_bytes {
        Some(lag) => {
            let total = read + lag.into_iter().sum::<u64>();
            (read, total, format!("{} of {}", HumanBytes(read), HumanBytes(total)))
        }
        None => {
            let partitions = || sources.iter().flat_map(|source| &source.partitions);
            let done = partitions().map(|partition| partition.next_offset).sum();
            let total = partitions().filter_map(|partition| partition.end_offset).sum::<u64>().max(done);
            (done, total, format!("{} of {} offsets", HumanCount(done), HumanCount(total)))
        }
    };
    let events: u64 = monitor.counts().good.iter().sum();
    let rate = events as f64 / started.elapsed().as_secs_f64().max(0.001);
    let watermark =
        workers.iter().filter_map(|worker| worker.watermarks).map(|marks| marks.performance).min();
    let watermark = watermark.filter(|watermark| *watermark > EventTime::MIN);
    let watermark = watermark.map_or_else(String::new, |watermark| format!(", watermark {watermark}"));
    let message =
        format!("{of_all}, {} events, {}/s{watermark}", HumanCount(events), HumanCount(rate as u64));
    Reading { done, total, message }
}

fn look_restoring(monitor: &Monitor) -> Reading {
    let restored = monitor.workers().into_iter().map(|worker| worker.restored);
    let (done, total) = restored.fold((0, 0), |all, worker| (all.0 + worker.0, all.1 + worker.1));
    Reading { done, total, message: format!("restored {} of {} rows", HumanCount(done), HumanCount(total)) }
}
