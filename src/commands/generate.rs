//! `adtide generate`, and the traffic of the demonstration.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use adtide_dataflows::model::Topic;
use anyhow::{Context, ensure};
use indicatif::{HumanBytes, HumanCount};

use super::output::say;
use super::progress::Bar;
use super::{start_log, stop_on_signal};
use crate::cli::GenerateArgs;
use crate::config::Config;
use crate::connect::topics;
use crate::files;
use crate::ops::usage::Span;
use crate::source::file::topic_files;
use crate::source::generator::{self, Generated, GeneratorConfig, Pace};

/// The file that marks a folder of topics as generated, so that nobody's own topics are overwritten.
const MARK: &str = ".adtide-generated";

/// How long live traffic lasts at most: nobody watches it for longer.
pub const MONTH: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Writes topic files, or sends to Kafka.
pub fn generate(args: &GenerateArgs) -> anyhow::Result<ExitCode> {
    let config = Config::load(args.sources.config.as_deref(), &args.overrides())?;
    for (flag, value) in [("--rate", args.rate), ("--speed", args.speed)] {
        ensure!(value.is_none_or(|value| value.is_finite() && value > 0.0), "{flag} must be more than 0");
    }
    let (generated, place) = match &args.to {
        Some(folder) => {
            (write(&with_rate(config.generator(), args.rate), folder)?, folder.display().to_string())
        }
        None => (send(args, &config)?, format!("Kafka at {}", config.kafka().brokers)),
    };
    for (topic, records) in Topic::ALL.iter().zip(generated.records) {
        say!("{:<18}{records:>12} records", topic.name());
    }
    say!("{} in {place}", HumanBytes(generated.bytes));
    Ok(ExitCode::SUCCESS)
}

/// The same traffic with so many ad events a second of its span.
fn with_rate(traffic: GeneratorConfig, rate: Option<f64>) -> GeneratorConfig {
    let ad_events = |rate: f64| (rate * traffic.span_ms as f64 / 1000.0).round() as u64;
    GeneratorConfig { ad_events: rate.map_or(traffic.ad_events, ad_events), ..traffic }
}

/// Sends the traffic to Kafka.
fn send(args: &GenerateArgs, config: &Config) -> anyhow::Result<Generated> {
    config.needs_kafka()?;
    start_log(&config.log)?;
    let kafka = config.kafka();
    let partitions = topics::input_partitions(&kafka)?;
    let mut traffic = GeneratorConfig { partitions, ..config.generator() };
    let mut pace = args.speed.map_or(Pace::Unbounded, Pace::Times);
    if args.rate.is_some() {
        let span = args.duration.map_or(MONTH, Into::into);
        let span_ms = i64::try_from(span.as_millis()).context("--for is too long")?;
        let live = GeneratorConfig { start: crate::now(), daily_curve: false, ..traffic };
        traffic = with_rate(live.for_span(span_ms), args.rate);
        pace = Pace::Times(1.0);
    }
    traffic.check()?;
    let stop = Arc::new(AtomicBool::new(false));
    stop_on_signal(&stop)?;
    let bar = Bar::new("sending", traffic.ad_events, "events");
    let span = Span::start();
    let stopped = || stop.load(Ordering::Relaxed);
    let generated = generator::produce(&traffic, &kafka, pace, &stopped, &mut |done, _| bar.set(done))?;
    bar.finish();
    let sent: u64 = generated.records.iter().sum();
    let used = span.used();
    let rate = sent as f64 / used.elapsed.as_secs_f64().max(0.001);
    let cpu = used.cpu_seconds.map_or_else(String::new, |seconds| format!(", {seconds:.2} s of CPU"));
    say!("{} records in {:.2?}, {} records/s{cpu}", HumanCount(sent), used.elapsed, HumanCount(rate as u64));
    Ok(generated)
}

/// Writes the traffic into a folder that is new or was generated before.
pub fn write(traffic: &GeneratorConfig, topics: &Path) -> anyhow::Result<Generated> {
    traffic.check()?;
    claim(topics)?;
    let bar = Bar::new("generating", traffic.ad_events, "events");
    let generated = generator::generate(traffic, topics, &mut |done, _| bar.set(done))?;
    bar.finish();
    Ok(generated)
}

/// Writes traffic in real time until `stop` is set. The opening catalogue comes at once.
pub fn write_live(traffic: &GeneratorConfig, topics: &Path, stop: &AtomicBool) -> anyhow::Result<()> {
    generator::live(traffic, topics, &|| stop.load(Ordering::Relaxed))
}

/// Whether a folder is marked as one of generated topics.
pub fn is_generated(topics: &Path) -> bool {
    topics.join(MARK).is_file()
}

/// Makes sure that the folder holds no topics but generated ones, marks it, and clears it of them.
pub fn claim(topics: &Path) -> anyhow::Result<()> {
    let mark = topics.join(MARK);
    let files = if topics.is_dir() { topic_files(topics)? } else { Vec::new() };
    ensure!(
        files.is_empty() || is_generated(topics),
        "{} holds topics that adtide did not generate; name another folder, or move them away",
        topics.display()
    );
    for (_, _, file) in files {
        std::fs::remove_file(&file).with_context(|| format!("can't remove {}", file.display()))?;
    }
    std::fs::create_dir_all(topics)
        .with_context(|| format!("can't create the folder {}", topics.display()))?;
    files::replace(&mark, b"").with_context(|| format!("can't write {}", mark.display()))
}
