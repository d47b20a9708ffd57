//! `adtide migrate`.

use std::process::ExitCode;

use anyhow::ensure;

use super::output::say;
use super::start_log;
use crate::cli::ConfigSources;
use crate::config::Config;
use crate::connect::{migrate, persist};

/// Creates the tables that are missing in PostgreSQL.
pub fn migrate(sources: &ConfigSources) -> anyhow::Result<ExitCode> {
    let config = Config::load(sources.config.as_deref(), &sources.set)?;
    start_log(&config.log)?;
    let postgres = config.postgres();
    ensure!(
        !postgres.url.is_empty(),
        "key postgres.url is empty; set it, e.g. --set postgres.url=postgres://user:password@localhost/adtide"
    );
    let (applied, missing) =
        persist("creating the tables in PostgreSQL", Some(postgres.connect_timeout), || {
            let mut client = postgres.connect("adtide migrate")?;
            Ok((migrate::apply(&mut client, &postgres)?, migrate::missing_columns(&mut client, &postgres)?))
        })?;
    ensure!(
        missing.is_empty(),
        "PostgreSQL at {}: {}; add what is missing with ALTER TABLE, or give adtide a database of its own",
        postgres.url,
        missing.join(", ")
    );
    match applied.as_slice() {
        [] => say!("PostgreSQL at {} has every table already", postgres.url),
        applied => say!("PostgreSQL at {}: applied {}", postgres.url, applied.join(", ")),
    }
    Ok(ExitCode::SUCCESS)
}
