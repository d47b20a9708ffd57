//! The tables in PostgreSQL: what adtide needs is created by numbered steps, each once.

use anyhow::{Context, anyhow};
use refinery::error::Kind;
use refinery::{Migration, Runner};

use super::Fault;
use super::postgres::{Client, PostgresConfig};

/// The steps, by number. A step that was released never changes: a change is another step.
const STEPS: &[(&str, &str)] = &[
    ("V1__results", include_str!("../../migrations/V1__results.sql")),
    ("V2__ledger", include_str!("../../migrations/V2__ledger.sql")),
    ("V3__columns", include_str!("../../migrations/V3__columns.sql")),
    ("V4__large_amounts", include_str!("../../migrations/V4__large_amounts.sql")),
    ("V5__superseded", include_str!("../../migrations/V5__superseded.sql")),
    ("V6__marks", include_str!("../../migrations/V6__marks.sql")),
];

/// The advisory lock that is held while steps are applied: any number that nobody else uses.
const LOCK: i64 = 0x6164_7469_6465;

/// Applies the steps that the database does not have yet, all in one transaction, and returns their names.
/// Processes that start at the same time wait for each other. Where nothing is missing nothing is written, so
/// that a user who may not create tables can run adtide once another has run `adtide migrate`.
///
/// # Errors
/// Passing if the server went away. Lasting if a step fails, or if the tables are those of another version of
/// adtide.
pub fn apply(client: &mut Client, config: &PostgresConfig) -> Result<Vec<String>, Fault> {
    let mut steps = Vec::new();
    for (name, sql) in STEPS {
        let step = Migration::unapplied(name, sql);
        steps.push(
            step.with_context(|| format!("migration {name} has a wrong name")).map_err(Fault::Lasting)?,
        );
    }
    if is_complete(client, &steps).map_err(|error| config.fault(error))? {
        return Ok(Vec::new());
    }
    client.execute("SELECT pg_advisory_lock($1)", &[&LOCK]).map_err(|error| config.fault(error))?;
    // Grouped: step and record of the step in one transaction. By default the record would have its own, and
    // a crash between the two would leave tables that the next start tries to create again.
    let applied =
        client.migrate(&Runner::new(&steps).set_grouped(true)).map_err(|error| fault(config, error));
    let unlocked =
        client.execute("SELECT pg_advisory_unlock($1)", &[&LOCK]).map_err(|error| config.fault(error));
    let applied = applied?;
    unlocked?;
    Ok(applied.applied_migrations().iter().map(ToString::to_string).collect())
}

/// What the tables lack of what the steps make, in words: somebody may have changed them by hand.
///
/// # Errors
/// As [`apply`].
pub fn missing_columns(client: &mut Client, config: &PostgresConfig) -> Result<Vec<String>, Fault> {
    let fault = |error| config.fault(error);
    let mut transaction = client.transaction().map_err(fault)?;
    // The same steps once more, on temporary tables that go with the transaction.
    transaction.batch_execute("SET LOCAL search_path = pg_temp").map_err(fault)?;
    for (_, sql) in STEPS {
        transaction.batch_execute(sql).map_err(fault)?;
    }
    transaction.batch_execute("SET LOCAL search_path TO DEFAULT").map_err(fault)?;
    let rows = transaction.query(MISSING, &[]).map_err(fault)?;
    let missing = rows.iter().map(|row| {
        let (table, column, kind): (&str, &str, &str) = (row.get(0), row.get(1), row.get(2));
        format!("table {table} lacks the column {column} {kind}")
    });
    Ok(missing.collect())
}

/// The columns of the temporary tables that the tables of the same names don't have.
const MISSING: &str = "
    SELECT wanted.relname::text, a.attname::text, format_type(a.atttypid, a.atttypmod)
    FROM pg_class AS wanted
    JOIN pg_attribute AS a ON a.attrelid = wanted.oid AND a.attnum > 0 AND NOT a.attisdropped
    WHERE wanted.relnamespace = pg_my_temp_schema() AND wanted.relkind = 'r' AND NOT EXISTS (
        SELECT FROM pg_class AS found
        JOIN pg_attribute AS b ON b.attrelid = found.oid AND b.attname = a.attname AND NOT b.attisdropped
        WHERE found.relname = wanted.relname AND found.relnamespace = ANY (
            SELECT oid FROM pg_namespace WHERE nspname = ANY (current_schemas(FALSE))))
    ORDER BY 1, a.attnum";

/// Whether the database has exactly these steps.
fn is_complete(client: &mut Client, steps: &[Migration]) -> Result<bool, tokio_postgres::Error> {
    let there: bool =
        client.query_one("SELECT to_regclass('refinery_schema_history') IS NOT NULL", &[])?.get(0);
    if !there {
        return Ok(false);
    }
    let rows = client
        .query("SELECT version::bigint, checksum FROM refinery_schema_history ORDER BY version", &[])?;
    let applied = rows.iter().map(|row| (row.get::<_, i64>(0), row.get::<_, String>(1)));
    Ok(applied.eq(steps.iter().map(|step| (i64::from(step.version()), step.checksum().to_string()))))
}

fn fault(config: &PostgresConfig, error: refinery::Error) -> Fault {
    match error.kind() {
        Kind::Connection(_, cause) => {
            let code = cause.downcast_ref::<tokio_postgres::Error>().map(|cause| cause.code().cloned());
            match code {
                Some(code) => config.classify(code, anyhow!(error).context("can't create adtide's tables")),
                None => Fault::Lasting(anyhow!(error).context("can't create adtide's tables")),
            }
        }
        _ => Fault::Lasting(anyhow!(error).context(format!(
            "the tables in PostgreSQL at {} are those of another version of adtide; use that version, or another database",
            config.url
        ))),
    }
}
