//! Tables in PostgreSQL.

use anyhow::{Context, bail};
use tokio_postgres::types::Type;

use super::{Kind, Table};
use crate::connect::persist;
use crate::connect::postgres::{Client, PostgresConfig};
use crate::sink::{self, Stored};
use crate::verify::cells::{Cell, Row};

/// One moment of the database: everything is read in one transaction that sees no later commit.
pub struct Tables {
    config: PostgresConfig,
    client: Client,
}

impl Tables {
    /// Opens the database and holds it at this moment.
    ///
    /// # Errors
    /// The server can't be reached within `connect_timeout`, or refuses.
    pub fn open(config: &PostgresConfig) -> anyhow::Result<Tables> {
        let client = persist("opening PostgreSQL", Some(config.connect_timeout), || {
            let mut client = config.connect("adtide verify")?;
            let begin = "SET TIME ZONE 'UTC'; BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY";
            client.batch_execute(begin).map_err(|error| config.fault(error))?;
            Ok(client)
        })?;
        Ok(Tables { config: config.clone(), client })
    }

    /// What the deployment `name` has committed.
    ///
    /// # Errors
    /// It can't be read.
    pub fn stored(&mut self, name: &str) -> anyhow::Result<Option<Stored>> {
        sink::postgres::stored(&mut self.client, name)
    }

    /// Whether a table is there.
    ///
    /// # Errors
    /// The server can't be asked.
    pub fn has(&mut self, table: &Table) -> anyhow::Result<bool> {
        let row = self.client.query_one("SELECT to_regclass($1) IS NOT NULL", &[&table.name]);
        Ok(row.map_err(|error| self.config.fault(error).into_error())?.get(0))
    }

    /// Calls `each` with every row of a table.
    ///
    /// # Errors
    /// The table can't be read.
    pub fn each_row(&mut self, table: &Table, each: &mut dyn FnMut(Row)) -> anyhow::Result<()> {
        let columns: Vec<_> = table.columns().collect();
        let selected: Vec<_> = columns.iter().map(|(name, kind)| select(name, *kind)).collect();
        let sql = format!("SELECT {} FROM {}", selected.join(", "), table.name);
        let unreadable = || format!("table {} can't be read", table.name);
        let fault = |error| self.config.fault(error).into_error();
        let mut read = Ok(());
        let rows = self.client.each_row(&sql, |row| {
            let mut cells = Row::with_capacity(columns.len());
            for (at, (name, _)) in columns.iter().enumerate() {
                match cell(&row, at) {
                    Ok(cell) => cells.push(((*name).into(), cell)),
                    Err(error) => read = Err(error),
                }
            }
            each(cells);
        });
        rows.map_err(fault).and(read).with_context(unreadable)
    }
}

/// A column as one of the four types that [`cell`] reads.
fn select(name: &str, kind: Kind) -> String {
    match kind {
        Kind::Integer => format!("\"{name}\"::bigint"),
        Kind::Real => format!("\"{name}\"::double precision"),
        Kind::Text | Kind::Money => format!("\"{name}\"::text"),
        Kind::Time => format!("to_char(\"{name}\", 'YYYY-MM-DD HH24:MI:SS.MS')"),
        Kind::Second => format!("to_char(\"{name}\", 'YYYY-MM-DD HH24:MI:SS')"),
        Kind::Flag => format!("\"{name}\"::int::bigint"),
    }
}

fn cell(row: &tokio_postgres::Row, at: usize) -> anyhow::Result<Cell> {
    let cell = match *row.columns()[at].type_() {
        Type::INT8 => row.try_get::<_, Option<i64>>(at)?.map(Cell::Integer),
        Type::FLOAT8 => row.try_get::<_, Option<f64>>(at)?.map(Cell::Real),
        Type::TEXT => row.try_get::<_, Option<String>>(at)?.map(Cell::Text),
        ref other => bail!("a column of type {other}"),
    };
    Ok(cell.unwrap_or(Cell::Null))
}
