//! `adtide verify`.

use std::cell::OnceCell;
use std::process::ExitCode;

use anyhow::{Context, bail};

use super::output::say;
use super::progress::Bar;
use super::start_log;
use crate::cli::VerifyArgs;
use crate::config::Config;
use crate::verify::{self, Results, ServicesConfig, Topics};

/// Verifies what the configured deployment has written.
pub fn verify(args: &VerifyArgs) -> anyhow::Result<ExitCode> {
    let config = Config::load(args.sources.config.as_deref(), &args.overrides())?;
    start_log(&config.log)?;
    report(&topics(&config)?, &results(&config)?)
}

/// Verifies and prints what was found.
pub fn report(topics: &Topics, results: &Results) -> anyhow::Result<ExitCode> {
    let bar = OnceCell::new();
    let report = verify::verify(topics, results, &mut |read, total| {
        let bar = bar.get_or_init(|| Bar::new("recomputing", total, "records"));
        bar.set(read);
        if read == total {
            bar.finish();
        }
    })?;
    say!("{report}");
    Ok(if report.ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn topics(config: &Config) -> anyhow::Result<Topics> {
    if config.reads_kafka() {
        return Ok(Topics::Kafka(config.kafka()));
    }
    let from = config.from().context(
        "key source.from is empty; name the folder of topics that the run read with --from, or with --config a file that says \
         where its topics and results are",
    )?;
    Ok(Topics::Files(from.to_owned()))
}

fn results(config: &Config) -> anyhow::Result<Results> {
    if config.writes_services() {
        return Ok(Results::Services(Box::new(ServicesConfig {
            name: config.name().to_owned(),
            postgres: config.postgres(),
            redis: config.redis(),
            kafka: config.kafka(),
        })));
    }
    if !config.writes() {
        bail!("key sink.kind is \"none\": such a run writes nothing that could be verified");
    }
    Ok(Results::Embedded(config.data_dir().to_owned()))
}
