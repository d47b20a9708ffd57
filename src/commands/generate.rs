//! `adtide generate`, and the traffic of the demonstration.

use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use adtide_dataflows::model::Topic;
use anyhow::{Context, ensure};
use indicatif::HumanBytes;

use super::output::say;
use super::progress::Bar;
use crate::cli::GenerateArgs;
use crate::config::Config;
use crate::source::file::topic_files;
use crate::source::generator::{self, Generated, GeneratorConfig};

/// The file that marks a folder of topics as generated, so that nobody's own topics are overwritten.
const MARK: &str = ".adtide-generated";

/// Writes topic files.
pub fn generate(args: &GenerateArgs) -> anyhow::Result<ExitCode> {
    let config = Config::load(args.sources.config.as_deref(), &args.overrides())?;
    let mut traffic = config.generator();
    if let Some(rate) = args.rate {
        ensure!(rate.is_finite() && rate > 0.0, "--rate must be more than 0");
        traffic.ad_events = (rate * traffic.span_ms as f64 / 1000.0).round() as u64;
    }
    let generated = write(&traffic, &args.to)?;
    for (topic, records) in Topic::ALL.iter().zip(generated.records) {
        say!("{:<18}{records:>12} records", topic.name());
    }
    say!("{} in {}", HumanBytes(generated.bytes), args.to.display());
    Ok(ExitCode::SUCCESS)
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

/// Makes sure that the folder holds no topics but generated ones, marks it, and clears it of them.
pub fn claim(topics: &Path) -> anyhow::Result<()> {
    let mark = topics.join(MARK);
    let files = if topics.is_dir() { topic_files(topics)? } else { Vec::new() };
    ensure!(
        files.is_empty() || mark.is_file(),
        "{} holds topics that adtide did not generate; name another folder, or move them away",
        topics.display()
    );
    for (_, _, file) in files {
        std::fs::remove_file(&file).with_context(|| format!("can't remove {}", file.display()))?;
    }
    std::fs::create_dir_all(topics).with_context(|| format!("can't create the folder {}", topics.display()))?;
    std::fs::write(&mark, "").with_context(|| format!("can't write {}", mark.display()))
}
