//! Progress: a bar on a terminal, a line now and then elsewhere.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use adtide_dataflows::model::EventTime;
use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressStyle};
use tracing::info;

use super::output::tell;
use crate::engine::Monitor;

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
        let bar = if std::io::stderr().is_terminal() { ProgressBar::new(total) } else { ProgressBar::hidden() };
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
            let line = format!("{}: {} of {} {}", self.name, HumanCount(done), HumanCount(self.total), self.unit);
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
        let thread =
            std::thread::Builder::new().name("progress".to_owned()).spawn(move || show(&monitor, follow, &flag, &stop));
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
    let bar = if terminal { ProgressBar::new(0) } else { ProgressBar::hidden() };
    let template =
        if follow { "    running {spinner} {msg}" } else { "    running [{bar:30}] {bytes}/{total_bytes}  {msg}" };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    let started = Instant::now();
    let mut last_line = Instant::now();
    let mut stopping = false;
    loop {
        let (read, total, message) = look(monitor, started);
        bar.set_length(total);
        bar.set_position(read);
        bar.set_message(message.clone());
        if !terminal && last_line.elapsed() >= LINE_INTERVAL {
            last_line = Instant::now();
            if crate::logs_json() {
                info!(read_bytes = read, total_bytes = total, "running: {message}");
            } else {
                tell!("running: {} of {}, {message}", HumanBytes(read), HumanBytes(total));
            }
        }
        if !stopping && stop.load(Ordering::Relaxed) {
            stopping = true;
            const STOPPING: &str = "stopping: committing what has been read";
            if crate::logs_json() {
                info!("{STOPPING}");
            } else {
                bar.suspend(|| tell!("{STOPPING}; again to stop at once"));
            }
        }
        if !running.load(Ordering::Relaxed) {
            break;
        }
        std::thread::park_timeout(Duration::from_millis(100));
    }
    bar.finish();
}

/// Bytes read, bytes there are, and the rest in words.
fn look(monitor: &Monitor, started: Instant) -> (u64, u64, String) {
    let workers = monitor.workers();
    let (read, total) = workers.iter().fold((0, 0), |sum, worker| (sum.0 + worker.bytes.0, sum.1 + worker.bytes.1));
    let events: u64 = monitor.counts().good.iter().sum();
    let rate = events as f64 / started.elapsed().as_secs_f64().max(0.001);
    let watermark = workers.iter().filter_map(|worker| worker.watermarks).map(|marks| marks.performance).min();
    let watermark = watermark.filter(|watermark| *watermark > EventTime::MIN);
    let watermark = watermark.map_or_else(String::new, |watermark| format!(", watermark {watermark}"));
    (read, total, format!("{} events, {}/s{watermark}", HumanCount(events), HumanCount(rate as u64)))
}
