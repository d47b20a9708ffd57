//! `adtide checkpoint`.

use std::process::ExitCode;

use adtide_dataflows::model::{Epoch, EventTime};
use anyhow::{bail, ensure};
use comfy_table::{CellAlignment, Table, presets};
use indicatif::{HumanBytes, HumanCount};

use super::output::say;
use super::start_log;
use crate::checkpoint::{CheckpointConfig, Damage, Manifest, Store};
use crate::cli::{CheckpointCommand, CheckpointSources};
use crate::config::Config;

/// Lists, shows, verifies or deletes checkpoints.
pub fn checkpoint(command: &CheckpointCommand) -> anyhow::Result<ExitCode> {
    match command {
        CheckpointCommand::List(sources) => list(&open(sources)?),
        CheckpointCommand::Show { sources, epoch } => {
            let store = open(sources)?;
            show(&store.load(or_newest(&store, *epoch)?)?);
            Ok(ExitCode::SUCCESS)
        }
        CheckpointCommand::Verify { sources, epoch, all } => {
            let store = open(sources)?;
            let epochs = if *all { existing(&store)? } else { vec![or_newest(&store, *epoch)?] };
            verify(&store, &epochs)
        }
        CheckpointCommand::Delete { sources, epoch, all } => delete(&open(sources)?, *epoch, *all),
    }
}

fn open(sources: &CheckpointSources) -> anyhow::Result<Store> {
    let config = Config::load(sources.sources.config.as_deref(), &sources.overrides())?;
    start_log(&config.log)?;
    let checkpoints = config.checkpoints();
    ensure!(checkpoints.exists(), "{}", nothing(&checkpoints.url));
    let CheckpointConfig { url, name, .. } = &checkpoints;
    Store::open(url, name)
}

fn nothing(place: &str) -> String {
    format!(
        "there are no checkpoints in {place}; runs that follow their topics take them. Look elsewhere with --config, --data-dir \
         or --set checkpoint.url=..."
    )
}

fn existing(store: &Store) -> anyhow::Result<Vec<Epoch>> {
    let epochs = store.manifests()?;
    ensure!(!epochs.is_empty(), "{}", nothing(store.place()));
    Ok(epochs)
}

fn or_newest(store: &Store, epoch: Option<Epoch>) -> anyhow::Result<Epoch> {
    let epochs = existing(store)?;
    let epoch = epoch.unwrap_or(epochs[0]);
    ensure!(
        epochs.contains(&epoch),
        "there is no checkpoint of epoch {epoch} in {}; `adtide checkpoint list` shows those there are",
        store.place()
    );
    Ok(epoch)
}

fn list(store: &Store) -> anyhow::Result<ExitCode> {
    let mut table = table(&["epoch", "written", "rows", "segments", "size", "new"]);
    let mut damaged = Vec::new();
    for epoch in existing(store)? {
        match store.load(epoch) {
            Ok(manifest) => {
                let (rows, bytes) = manifest.size();
                table.add_row(vec![
                    epoch.to_string(),
                    manifest.at.to_string(),
                    HumanCount(rows).to_string(),
                    manifest.segments.len().to_string(),
                    HumanBytes(bytes).to_string(),
                    HumanBytes(manifest.written_bytes).to_string(),
                ]);
            }
            Err(error) if error.is::<Damage>() => damaged.push(error),
            Err(error) => return Err(error),
        }
    }
    say!("{table}");
    for error in &damaged {
        say!("damaged: {error:#}");
    }
    Ok(ExitCode::SUCCESS)
}

fn show(manifest: &Manifest) {
    let (rows, bytes) = manifest.size();
    say!("epoch      {} ({})", manifest.epoch, EventTime(i64::try_from(manifest.epoch).unwrap_or(i64::MAX)));
    say!("written    {} by adtide {}", manifest.at, manifest.adtide);
    say!("topics     {}", manifest.run.source);
    say!("generation {}", manifest.generation);
    say!(
        "size       {} rows, {}; {} new",
        HumanCount(rows),
        HumanBytes(bytes),
        HumanBytes(manifest.written_bytes)
    );
    let mut kinds = table(&["holds", "rows", "segments", "size"]);
    for (kind, (segments, rows, bytes)) in manifest.by_kind() {
        let row = [
            format!("{kind:?}"),
            HumanCount(rows).to_string(),
            segments.to_string(),
            HumanBytes(bytes).to_string(),
        ];
        kinds.add_row(row);
    }
    say!("{kinds}");
    let mut partitions = table(&["topic", "partition", "next offset", "greatest event time"]);
    for report in manifest.progress.partitions.values() {
        partitions.add_row([
            report.topic.name().to_owned(),
            report.partition.to_string(),
            report.next_offset.to_string(),
            report.greatest.map_or_else(String::new, |time| time.to_string()),
        ]);
    }
    say!("{partitions}");
}

fn verify(store: &Store, epochs: &[Epoch]) -> anyhow::Result<ExitCode> {
    let mut result = ExitCode::SUCCESS;
    for epoch in epochs {
        let checked = store.load(*epoch).and_then(|manifest| {
            store.verify(&manifest)?;
            Ok(manifest)
        });
        match checked {
            Ok(manifest) => {
                say!("{epoch}: all {} segments are as they were written", manifest.segments.len())
            }
            Err(error) if error.is::<Damage>() => {
                say!("{epoch}: damaged: {error:#}");
                result = ExitCode::FAILURE;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(result)
}

fn delete(store: &Store, epoch: Option<Epoch>, all: bool) -> anyhow::Result<ExitCode> {
    let epochs = existing(store)?;
    let chosen = match epoch {
        _ if all => epochs,
        Some(epoch) if epoch == epochs[0] && epochs.len() > 1 => {
            bail!(
                "{epoch} is the newest checkpoint, from which a restart goes on; delete --all, or an older one"
            )
        }
        Some(epoch) => vec![epoch],
        None => bail!("say which: the epoch of a checkpoint, or --all"),
    };
    for epoch in chosen {
        store.delete(epoch)?;
        say!("deleted {epoch}");
    }
    Ok(ExitCode::SUCCESS)
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY).set_header(header.to_vec());
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}
