//! What the command line can do, command by command.

mod checkpoint;
mod demo;
mod execute;
mod generate;
mod migrate;
mod output;
mod progress;
mod run;
mod stop;
mod summary;
mod topics;
mod verify;
mod worker;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use output::say;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::cli::{Cli, Command, ConfigCommand, ConfigSources};
use crate::config::{Config, Log, LogFormat};

/// Carries out a command. The code says whether all went well; of `verify`, whether there is no difference.
///
/// # Errors
/// What stopped it, with what to do about it.
pub fn dispatch(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command.unwrap_or(Command::Run(cli.run)) {
        Command::Run(args) => run::run(&args),
        Command::Generate(args) => generate::generate(&args),
        Command::Checkpoint(args) => checkpoint::checkpoint(&args.command),
        Command::Topics(args) => topics::topics(&args.command),
        Command::Verify(args) => verify::verify(&args),
        Command::Worker(args) => worker::worker(&args),
        Command::InitDemo(args) => worker::init_demo(&args),
        Command::Stop(args) => stop::stop(&args),
        Command::Config(args) => config(&args.command),
        Command::Migrate(sources) => migrate::migrate(&sources),
    }
}

fn config(command: &ConfigCommand) -> anyhow::Result<ExitCode> {
    match command {
        ConfigCommand::Check(ConfigSources { config, set }) => {
            let loaded = Config::load(config.as_deref(), set)?;
            for warning in loaded.warnings() {
                say!("warning: {warning}");
            }
            let name =
                config.as_ref().map_or("the configuration".to_owned(), |file| file.display().to_string());
            say!("{name} is right");
        }
        ConfigCommand::Show(ConfigSources { config, set }) => {
            say!("{}", Config::show(config.as_deref(), set)?.trim_end())
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Sends log lines to standard error, so that results on standard output stay clean.
fn start_log(log: &Log) -> anyhow::Result<()> {
    let filter = log.filter()?;
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| output::LogLines).with_ansi(
            std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty()),
        );
    let started = match log.format {
        LogFormat::Text => builder.with_target(false).try_init(),
        LogFormat::Json => {
            crate::log_json();
            builder.json().flatten_event(true).try_init()
        }
    };
    started.map_err(|error| anyhow::anyhow!("can't start logging: {error}"))
}

/// Sets the flag on Ctrl-C and on SIGTERM, which is how a supervisor ends a process. A second signal does not
/// wait for the sinks. SIGHUP is left alone, so that nohup works.
fn stop_on_signal(stop: &Arc<AtomicBool>) -> anyhow::Result<()> {
    let early = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // Between the next two steps one would go unheard.
        flag::register(signal, Arc::clone(&early)).context("can't handle signals")?;
        flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(stop))
            .context("can't handle signals")?;
        flag::register(signal, Arc::clone(stop)).context("can't handle signals")?;
    }
    if early.load(Ordering::Relaxed) {
        stop.store(true, Ordering::Relaxed);
    }
    Ok(())
}
