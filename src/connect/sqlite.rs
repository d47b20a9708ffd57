//! SQLite databases that several programs write.

use std::path::Path;
use std::time::Duration;

use backon::{BlockingRetryable, ExponentialBuilder};
use rusqlite::{Connection, ErrorCode};

/// How long to wait for others that write.
const BUSY: Duration = Duration::from_secs(30);

/// Opens a database, or makes it. With WAL, `synchronous = NORMAL` loses at most the last commits on power failure and never
/// half of one.
///
/// # Errors
/// It can't be opened or written, or is no SQLite database.
pub fn open(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
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
    Ok(connection)
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
