//! The command line.

mod overrides;

use std::path::PathBuf;

use adtide_dataflows::model::EventTime;
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

use crate::config::Override;
use crate::engine::FromCheckpoint;
use crate::ledger::Job;

/// The stream processor for advertising platforms.
///
/// Without arguments it shows itself: it generates two hours of traffic, runs the four statements and the
/// four workers over it, prints the results and verifies them against a batch recomputation.
#[derive(Debug, Parser)]
#[command(version, disable_help_flag = true, args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// What to do; `run` if nothing is said.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// `run`'s own arguments.
    #[command(flatten)]
    pub run: RunArgs,
    /// Print help
    #[arg(long, action = ArgAction::Help, global = true)]
    help: Option<bool>,
}

impl Cli {
    /// Reads the command line of this process. Prints help, or what is wrong, and ends it then.
    pub fn read() -> Cli {
        Cli::try_parse().unwrap_or_else(|error| with_advice(error).exit())
    }
}

/// `-h` is timely's letter for its hostfile: whoever looks for help is shown the way.
fn with_advice(mut error: clap::Error) -> clap::Error {
    use clap::error::{ContextKind, ContextValue};
    let of_hostfile = |value: &ContextValue| matches!(value, ContextValue::String(text) if text.starts_with("-h") || text.starts_with("--hostfile"));
    if error.get(ContextKind::InvalidArg).is_some_and(of_hostfile) {
        let advice = "-h names the hostfile of a cluster, as in timely; for help, use --help";
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![advice.into()]));
    }
    error
}

/// What adtide can do.
#[derive(Debug, Subcommand)]
#[command(disable_help_flag = true)]
pub enum Command {
    /// Run the statements over topics, or show a demonstration if no topics are named
    Run(RunArgs),
    /// Stop the run of a configuration on this machine in order, and with it its cluster
    Stop(StopArgs),
    /// Generate traffic, as topic files or into Kafka
    Generate(GenerateArgs),
    /// Recompute the results of a run in batch and compare them with what it wrote, row by row
    Verify(VerifyArgs),
    /// Create or list the topics in Kafka
    Topics(TopicsArgs),
    /// List, show, verify or delete checkpoints
    Checkpoint(CheckpointArgs),
    /// Run workers: debit clicks, count what campaigns spend, pause those that are exhausted, credit refunds
    Worker(WorkerArgs),
    /// Give the advertisers and campaigns of generated traffic their balances and budgets
    InitDemo(InitDemoArgs),
    /// Check or show the configuration
    Config(ConfigArgs),
    /// Create the tables in PostgreSQL that are missing; `run` does so too, if its user may
    Migrate(ConfigSources),
}

/// Where settings come from.
#[derive(Clone, Debug, Default, Args)]
pub struct ConfigSources {
    /// Config file (TOML); config/adtide.toml describes every key
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Set any key of the config, e.g. --set watermark.performance=20s; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    pub set: Vec<Override>,
}

/// Arguments of `run`.
#[derive(Clone, Debug, Default, Args)]
pub struct RunArgs {
    /// Settings.
    #[command(flatten)]
    pub sources: ConfigSources,
    /// Folder of topics to read: DIR/TOPIC/PARTITION.ndjson or DIR/TOPIC.ndjson
    #[arg(long, value_name = "DIR")]
    pub from: Option<PathBuf>,
    /// Folder for results: DIR/adtide.db and DIR/topics/ [default: ./adtide-data]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Where results go: embedded (SQLite and topic files), services (PostgreSQL, Redis, Kafka) or none
    #[arg(long, value_name = "SINK")]
    pub sink: Option<String>,
    /// Go on at the end of the topics and read what is appended, until Ctrl-C [default for Kafka]
    #[arg(long)]
    pub follow: bool,
    /// Stop at the end of the topics, and close every window [default for files]
    #[arg(long, conflicts_with_all = ["follow", "live"])]
    pub until_end: bool,
    /// Go on where the results of an earlier run stop [default with --follow, and always with --sink
    /// services]
    #[arg(long, conflicts_with = "fresh")]
    pub resume: bool,
    /// Start over and replace the results of an earlier run [default without --follow]
    #[arg(long)]
    pub fresh: bool,
    /// Which checkpoint to go on from: newest, none (read the topics from their start), or an epoch that
    /// `adtide checkpoint list` shows [default: newest]
    #[arg(long, value_name = "WHICH", conflicts_with_all = ["fresh", "live"])]
    pub from_checkpoint: Option<FromCheckpoint>,
    /// Go on without a checkpoint, and read ads and conversions only from those on that Kafka got at this
    /// time, 'yyyy-MM-dd HH:mm:ss' (UTC)
    #[arg(long, value_name = "TIME", conflicts_with_all = ["fresh", "live", "from_checkpoint"], value_parser = time)]
    pub backfill_from: Option<EventTime>,
    /// Continue results although Kafka no longer has all records that they need: what the missing ones may
    /// concern stays as it is committed, and later records of it go to late-events
    #[arg(long, conflicts_with_all = ["fresh", "live"])]
    pub accept_loss: bool,
    /// Demonstration: generate traffic in real time until Ctrl-C
    #[arg(long, conflicts_with_all = ["from", "follow"])]
    pub live: bool,
    /// Statements to run, separated by commas [default: all four]
    #[arg(long, value_name = "NAMES")]
    pub statements: Option<String>,
    /// How long after its window's closing an event still counts, e.g. 0s, 10m, 100h [default: 10m]
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub allowed_lateness: Option<String>,
    /// How far an event may lie ahead of its record's timestamp, in files of now [default: 1h]
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub max_future_skew: Option<String>,
    /// How fresh results are [default: 100ms]
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub epoch_interval: Option<String>,
    /// How long before a conversion its click may lie [default: 24h]
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub lookback: Option<String>,
    /// Where statement 1 takes its rates from: topic or live [default: topic]
    #[arg(long, value_name = "SOURCE")]
    pub product_metrics: Option<String>,
    /// Length of a ranking, 0 for all [default: 100]
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub ranking_limit: Option<String>,
    /// When statement 2 writes: on_update or on_close [default: on_update]
    #[arg(long, value_name = "WHEN")]
    pub emit: Option<String>,
    /// Serve /metrics, /healthz and /readyz at this address, host:port
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<String>,
    /// Log level: error, warn, info, debug, trace [default: info; warn for the demonstration]
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// Write counts, times and memory of the run to this file as JSON
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Number of workers of this process
    #[arg(short = 'w', long = "threads", value_name = "NUM", default_value_t = 1, value_parser = at_least_one)]
    pub workers: usize,
    /// Number of processes
    #[arg(short = 'n', long, value_name = "NUM", default_value_t = 1, value_parser = at_least_one)]
    pub processes: usize,
    /// Which of the processes this one is, from 0
    #[arg(short = 'p', long, value_name = "IDX", default_value_t = 0)]
    pub process: usize,
    /// File whose lines are the processes' addresses, host:port, in order
    #[arg(short = 'h', long, value_name = "HOSTFILE")]
    pub hostfile: Option<PathBuf>,
}

/// Arguments of `stop`.
#[derive(Clone, Debug, Args)]
pub struct StopArgs {
    /// Settings.
    #[command(flatten)]
    pub sources: ConfigSources,
    /// Folder for results of the run [default: ./adtide-data]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// How long to wait for its end
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    pub timeout: humantime::Duration,
}

/// Arguments of `generate`.
#[derive(Clone, Debug, Args)]
pub struct GenerateArgs {
    /// Settings; the generator's are under `generator.`
    #[command(flatten)]
    pub sources: ConfigSources,
    /// Folder for the topics
    #[arg(long, value_name = "DIR", required_unless_present = "to_kafka")]
    pub to: Option<PathBuf>,
    /// Send to the topics in Kafka instead (kafka.brokers, kafka.prefix), as fast as it takes them or as
    /// --rate or --speed say
    #[arg(long, conflicts_with_all = ["to", "partitions"])]
    pub to_kafka: bool,
    /// Another seed gives other traffic
    #[arg(long)]
    pub seed: Option<String>,
    /// Ad events in all
    #[arg(long, value_name = "N")]
    pub ad_events: Option<String>,
    /// Ad events a second of event time, instead of a number in all; to Kafka: live traffic, whose events
    /// happen now
    #[arg(long, value_name = "N", conflicts_with = "ad_events")]
    pub rate: Option<f64>,
    /// To Kafka: event time passes X times as fast as the clock
    #[arg(long, value_name = "X", requires = "to_kafka", conflicts_with = "rate")]
    pub speed: Option<f64>,
    /// To Kafka with --rate: stop after this long [default: at Ctrl-C]
    #[arg(long = "for", value_name = "DURATION", requires_all = ["to_kafka", "rate"], conflicts_with_all = ["span", "start"])]
    pub duration: Option<humantime::Duration>,
    /// Event time to span
    #[arg(long, value_name = "DURATION")]
    pub span: Option<String>,
    /// Event time at which to start, 'yyyy-MM-dd HH:mm:ss'
    #[arg(long, value_name = "TIME")]
    pub start: Option<String>,
    /// Campaign events in all
    #[arg(long, value_name = "N")]
    pub campaign_events: Option<String>,
    /// Campaigns
    #[arg(long, value_name = "N")]
    pub campaigns: Option<String>,
    /// Partitions of each topic
    #[arg(long, value_name = "N")]
    pub partitions: Option<String>,
}

/// Arguments of `verify`.
#[derive(Clone, Debug, Args)]
pub struct VerifyArgs {
    /// Settings: where the topics and the results are. The statements' own settings come from the run
    #[command(flatten)]
    pub sources: ConfigSources,
    /// Folder of topics that the run read
    #[arg(long, value_name = "DIR")]
    pub from: Option<PathBuf>,
    /// Folder that the run wrote to [default: ./adtide-data]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}

/// Arguments of `topics`.
#[derive(Debug, Args)]
pub struct TopicsArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: TopicsCommand,
}

/// Arguments of `checkpoint`.
#[derive(Debug, Args)]
pub struct CheckpointArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: CheckpointCommand,
}

/// What can be done with checkpoints.
#[derive(Debug, Subcommand)]
#[command(disable_help_flag = true)]
pub enum CheckpointCommand {
    /// Say which there are, the newest first
    List(CheckpointSources),
    /// Show what one holds, and how far the topics had been read
    Show {
        /// Where they are.
        #[command(flatten)]
        sources: CheckpointSources,
        /// Its epoch, as `list` shows it [default: the newest]
        epoch: Option<u64>,
    },
    /// Read one, and say whether all of it is as it was written; exit code 1 if not
    Verify {
        /// Where they are.
        #[command(flatten)]
        sources: CheckpointSources,
        /// Its epoch, as `list` shows it [default: the newest]
        #[arg(conflicts_with = "all")]
        epoch: Option<u64>,
        /// All of them
        #[arg(long)]
        all: bool,
    },
    /// Delete one and what only it needs. Stop the run before
    Delete {
        /// Where they are.
        #[command(flatten)]
        sources: CheckpointSources,
        /// Its epoch, as `list` shows it
        #[arg(conflicts_with = "all")]
        epoch: Option<u64>,
        /// All of them: the next start reads the topics from their start
        #[arg(long)]
        all: bool,
    },
}

/// Where checkpoints are.
#[derive(Clone, Debug, Args)]
pub struct CheckpointSources {
    /// Settings; checkpoint.url and name matter here
    #[command(flatten)]
    pub sources: ConfigSources,
    /// Folder for results, in which checkpoints are if checkpoint.url is empty [default: ./adtide-data]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}

/// What can be done with the topics.
#[derive(Debug, Subcommand)]
#[command(disable_help_flag = true)]
pub enum TopicsCommand {
    /// Create those that are not there
    Create(TopicsCreateArgs),
    /// Say which there are, and what of their settings would lose data
    List(ConfigSources),
}

/// Arguments of `topics create`.
#[derive(Clone, Debug, Args)]
pub struct TopicsCreateArgs {
    /// Settings; kafka.brokers and kafka.prefix matter here
    #[command(flatten)]
    pub sources: ConfigSources,
    /// Partitions of each new topic, but of adtide-progress, which has one
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(i32).range(1..))]
    pub partitions: i32,
    /// Copies of each new topic [default: as the brokers are configured]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    pub replication: Option<i32>,
}

/// Arguments of `worker`.
#[derive(Clone, Debug, Args)]
pub struct WorkerArgs {
    /// Which one
    #[arg(value_enum, default_value_t = WorkerChoice::All)]
    pub worker: WorkerChoice,
    /// Settings.
    #[command(flatten)]
    pub sources: ConfigSources,
    /// Folder of topics to read: DIR/TOPIC/PARTITION.ndjson or DIR/TOPIC.ndjson
    #[arg(long, value_name = "DIR")]
    pub from: Option<PathBuf>,
    /// Folder for results: DIR/adtide.db, and DIR/topics/ with the compensations [default: ./adtide-data]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// End when everything that is there has had its effect
    #[arg(long)]
    pub until_end: bool,
    /// Serve /metrics, /healthz and /readyz at this address, host:port
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<String>,
    /// Log level: error, warn, info, debug, trace [default: info]
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
}

/// Which worker to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WorkerChoice {
    /// Debit clicks
    Balance,
    /// Count what campaigns spend
    Budget,
    /// Pause campaigns that have spent their budget, and activate those that a refund brings back
    CampaignStatus,
    /// Credit refunds
    Compensation,
    /// All four
    All,
}

impl WorkerChoice {
    /// The workers to run.
    pub fn jobs(self) -> &'static [Job] {
        match self {
            WorkerChoice::Balance => &[Job::Balance],
            WorkerChoice::Budget => &[Job::Budget],
            WorkerChoice::CampaignStatus => &[Job::CampaignStatus],
            WorkerChoice::Compensation => &[Job::Compensation],
            WorkerChoice::All => &Job::ALL,
        }
    }
}

/// Arguments of `init-demo`.
#[derive(Clone, Debug, Args)]
pub struct InitDemoArgs {
    /// Settings; the generator's are under `generator.`
    #[command(flatten)]
    pub sources: ConfigSources,
    /// Folder for results [default: ./adtide-data]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}

/// Arguments of `config`.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: ConfigCommand,
}

/// What can be done with the configuration.
#[derive(Debug, Subcommand)]
#[command(disable_help_flag = true)]
pub enum ConfigCommand {
    /// Say whether the configuration is right, and if not, what is wrong
    Check(ConfigSources),
    /// Print the configuration with everything merged: defaults, file, environment, command line
    Show(ConfigSources),
}

fn time(text: &str) -> Result<EventTime, String> {
    EventTime::parse(text).map_err(|error| format!("{error}; want a time such as '2026-01-05 08:00:00'"))
}

fn key_value(text: &str) -> Result<Override, String> {
    let (key, value) = text.split_once('=').ok_or("want KEY=VALUE, e.g. ranking.limit=50")?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}

fn at_least_one(text: &str) -> Result<usize, String> {
    let number = text.parse::<usize>().ok().filter(|number| *number >= 1);
    number.ok_or_else(|| "a whole number from 1 on".to_owned())
}
