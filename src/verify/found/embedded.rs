//! Results in SQLite and topic files.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use rusqlite::{Connection, OpenFlags};

use super::{Found, Sinks, Standing, Table};
use crate::sink::{sqlite, topics};
use crate::verify::cells::{Cell, Row};

/// The results in a folder.
pub struct Embedded {
    path: PathBuf,
    /// In a transaction that sees one moment.
    connection: Connection,
    folder: PathBuf,
    /// How many bytes of each topic are committed.
    lengths: BTreeMap<String, u64>,
    sinks: Sinks,
}

impl Embedded {
    /// Opens the results in `data_dir`.
    ///
    /// # Errors
    /// There are none, or they can't be read.
    pub fn open(data_dir: &Path) -> anyhow::Result<Embedded> {
        let path = data_dir.join("adtide.db");
        ensure!(
            path.is_file(),
            "{}: no such file; run the statements first, or name the folder that a run wrote to",
            path.display()
        );
        let unreadable =
            || format!("{}: what the run left can't be read; was it written by adtide?", path.display());
        let connection =
            Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY).with_context(unreadable)?;
        connection.execute_batch("BEGIN").with_context(unreadable)?;
        let stored = sqlite::stored(&connection).with_context(unreadable)?;
        let nothing =
            || format!("{}: nothing has been committed there; run adtide first", data_dir.display());
        let (run, tables) = stored.with_context(nothing)?;
        let folder = data_dir.join("topics");
        let (topics, lengths) = topics::committed_lengths(&folder)?.unzip();
        let sinks = Sinks {
            rankings: Standing { sink: "sqlite", progress: tables.clone() },
            tables: Standing { sink: "sqlite", progress: tables },
            topics: Standing { sink: "topics", progress: topics },
            settings: run.settings,
        };
        Ok(Embedded { path, connection, folder, lengths: lengths.unwrap_or_default(), sinks })
    }
}

impl Found for Embedded {
    fn sinks(&self) -> &Sinks {
        &self.sinks
    }

    fn has(&mut self, table: &Table) -> anyhow::Result<bool> {
        Ok(self.connection.table_exists(None, table.name)?)
    }

    fn each_row(&mut self, table: &Table, each: &mut dyn FnMut(Row)) -> anyhow::Result<()> {
        let unreadable = || {
            let name = table.name;
            format!(
                "{}: table {name} can't be read; if an older version made it, run with --resume once",
                self.path.display()
            )
        };
        let columns: Vec<_> = table.columns().map(|(name, _)| name).collect();
        let quoted: Vec<_> = columns.iter().map(|name| format!("\"{name}\"")).collect();
        let sql = format!("SELECT {} FROM {}", quoted.join(", "), table.name);
        let mut statement = self.connection.prepare(&sql).with_context(unreadable)?;
        let mut rows = statement.query([]).with_context(unreadable)?;
        while let Some(row) = rows.next().with_context(unreadable)? {
            let mut cells = Row::with_capacity(columns.len());
            for (at, column) in columns.iter().enumerate() {
                cells.push(((*column).into(), Cell::from(row.get_ref(at).with_context(unreadable)?)));
            }
            each(cells);
        }
        Ok(())
    }

    fn each_record(&mut self, topic: &str, each: &mut dyn FnMut(u32, u64, &[u8])) -> anyhow::Result<()> {
        let length = self.lengths.get(topic).copied().unwrap_or(0);
        if length == 0 {
            return Ok(());
        }
        let path = self.folder.join(format!("{topic}.ndjson"));
        let unreadable = || format!("{}: can't be read", path.display());
        let file = File::open(&path).with_context(unreadable)?;
        let there = file.metadata().with_context(unreadable)?.len();
        ensure!(
            there >= length,
            "{}: {length} bytes were committed, but only {there} are there",
            path.display()
        );
        let mut lines = BufReader::new(file.take(length));
        let mut line = Vec::new();
        for offset in 0.. {
            line.clear();
            if lines.read_until(b'\n', &mut line).with_context(unreadable)? == 0 {
                break;
            }
            each(0, offset, line.strip_suffix(b"\n").unwrap_or(&line));
        }
        Ok(())
    }
}
