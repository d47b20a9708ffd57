//! `adtide topics`.

use std::process::ExitCode;

use rdkafka::admin::ConfigResource;

use super::output::say;
use super::start_log;
use crate::cli::{ConfigSources, TopicsCommand, TopicsCreateArgs};
use crate::config::Config;
use crate::connect::topics::{Admin, Found, SystemTopic, timestamps};

type Configs = [(SystemTopic, ConfigResource)];

/// Creates or lists the topics.
pub fn topics(command: &TopicsCommand) -> anyhow::Result<ExitCode> {
    match command {
        TopicsCommand::Create(args) => create(args),
        TopicsCommand::List(sources) => list(sources),
    }
}

fn create(args: &TopicsCreateArgs) -> anyhow::Result<ExitCode> {
    let config = load(&args.sources)?;
    let kafka = config.kafka();
    let admin = Admin::new(&kafka)?;
    let found = admin.create(args.partitions, args.replication, &config.settings())?;
    let configs = admin.configs(&found)?;
    for topic in &found {
        let state = if topic.created { "created" } else { "there" };
        let few = topic.partitions.is_some_and(|there| there < usize::try_from(args.partitions).unwrap_or(0));
        let few = if few && !topic.topic.single {
            format!(", fewer than the {} asked for: add some with Kafka's own tools", args.partitions)
        } else {
            String::new()
        };
        say!("{state:<8} {:<30} {}{few}", kafka.topic(topic.topic.name), describe(topic, &configs));
    }
    warn(&admin, &configs, &config)
}

fn list(sources: &ConfigSources) -> anyhow::Result<ExitCode> {
    let config = load(sources)?;
    let kafka = config.kafka();
    let admin = Admin::new(&kafka)?;
    let found = admin.find()?;
    let configs = admin.configs(&found)?;
    for topic in &found {
        let name = kafka.topic(topic.topic.name);
        match topic.partitions {
            Some(_) => {
                say!("{name:<30} {:<40} {:>14} offsets", describe(topic, &configs), admin.span(topic)?)
            }
            None => say!("{name:<30} missing: create it with `adtide topics create`"),
        }
    }
    warn(&admin, &configs, &config)
}

fn load(sources: &ConfigSources) -> anyhow::Result<Config> {
    let config = Config::load(sources.config.as_deref(), &sources.set)?;
    config.needs_kafka()?;
    start_log(&config.log)?;
    Ok(config)
}

fn describe(topic: &Found, configs: &Configs) -> String {
    let partitions = topic.partitions.unwrap_or(0);
    let plural = if partitions == 1 { "" } else { "s" };
    let config = configs.iter().find(|(known, _)| *known == topic.topic);
    let timestamps =
        config.and_then(|(topic, config)| timestamps(topic, config)).map(|text| format!(", {text}"));
    let compacted = if topic.topic.compacted { ", compacted" } else { "" };
    format!("{partitions} partition{plural}{compacted}{}", timestamps.unwrap_or_default())
}

fn warn(admin: &Admin<'_>, configs: &Configs, config: &Config) -> anyhow::Result<ExitCode> {
    for warning in admin.warnings(configs, &config.settings()) {
        say!("warning: {warning}");
    }
    Ok(ExitCode::SUCCESS)
}
