//! SQLite databases that several programs write.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use backon::{BlockingRetryable, ExponentialBuilder};
use rusqlite::{Connection, ErrorCode, TransactionBehavior};

use crate::files;

/// How long to wait for others that write.
const BUSY: Duration = Duration::from_secs(30);

/// The tables, of the statements and of the workers.
const TABLES: [&str; 2] = [include_str!("../sink/schema.sql"), include_str!("../worker/store/schema.sql")];

/// Which version of the tables these are: the database's `user_version`.
const VERSION: i64 = 1;

/// Columns, all of texts, that tables of earlier versions don't have.
const ADDED: [(&str, &str); 2] = [("adtide_progress_partitions", "file"), ("worker_offsets", "file")];

/// Opens a database with all its tables, or makes it: whoever comes first, run or worker, makes all of them in one step. With WAL,
/// `synchronous = NORMAL` loses at most the last commits on power failure and never half of one.
///
/// # Errors
/// It can't be opened or written, or is no SQLite database.
pub fn open(path: &Path) -> anyhow::Result<Connection> {
    let is_link = path.symlink_metadata().is_ok_and(|metadata| metadata.is_symlink());
    ensure!(!is_link, "{} is a symbolic link; name the folder that it leads to", path.display());
    let is_new = !path.exists();
    let mut connection = Connection::open(path)?;
    if is_new {
        files::restrict(path).with_context(|| format!("can't set the permissions of {}", path.display()))?;
    }
    connection.busy_timeout(BUSY)?;
    // Of several that make a database at once, those that come second are told that it is locked: the timeout does not count
    // for this.
    let switch = || connection.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;");
    let delays = ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(5))
        .with_max_delay(Duration::from_millis(100))
        .with_jitter()
        .without_max_times()
        .with_total_delay(Some(BUSY));
    switch.retry(delays).when(|error| error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)).call()?;
    let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    ensure!(
        version <= VERSION,
        "{} was written by a later version of adtide (tables of version {version}, and this one knows {VERSION})",
        path.display()
    );
    if version < VERSION {
        create(&mut connection)?;
    }
    Ok(connection)
}

/// Makes the tables that are missing, and brings those of an earlier version up to this one.
fn create(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for tables in TABLES {
        transaction.execute_batch(tables)?;
    }
    for (table, column) in ADDED {
        if !transaction.column_exists(None, table, column)? {
            transaction.execute_batch(&format!("ALTER TABLE {table} ADD COLUMN {column} TEXT"))?;
        }
    }
    transaction.pragma_update(None, "user_version", VERSION)?;
    transaction.commit()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_may_make_it_at_once() {
        for _ in 0..100 {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("new.db");
            let make =
                || open(&path).unwrap().execute_batch("CREATE TABLE IF NOT EXISTS t (a); INSERT INTO t VALUES (1)");
            std::thread::scope(|scope| {
                let makers: Vec<_> = (0..4).map(|_| scope.spawn(make)).collect();
                makers.into_iter().for_each(|maker| maker.join().unwrap().unwrap());
            });
        }
    }
}
