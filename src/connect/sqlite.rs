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
const TABLES: [&str; 2] = [include_str!("../sink/schema.sql"), include_str!("../ledger/store/schema.sql")];

/// Which version of the tables these are: the database's `user_version`.
const VERSION: i64 = 5;

/// Columns, all of texts, that tables of earlier versions don't have.
const ADDED: [(&str, &str); 4] = [
    ("adtide_progress_partitions", "file"),
    ("adtide_progress_partitions", "judgements"),
    ("adtide_progress_partitions", "wakes"),
    ("worker_offsets", "file"),
];

/// Sets the tables of statements 2 and 3 aside that have the columns of the first version.
const SET_ASIDE: &str = "
    ALTER TABLE ad_performance_metrics_realtime RENAME TO former_performance;
    ALTER TABLE conversion_attribution_results RENAME TO former_attributions;";

/// Copies their rows to the tables of this version.
const COPY_BACK: &str = "
    INSERT INTO ad_performance_metrics_realtime
    SELECT id, campaign_id, product_id, placement, substr(window_start, 1, 19), impression_count, click_count,
        conversion_count, total_spend, total_revenue, ctr, cvr, roas, updated_at, is_final FROM former_performance;
    INSERT INTO conversion_attribution_results
    SELECT ad_id, campaign_id, advertiser_id, product_id, order_id, revenue_amount, time_to_conversion,
        attribution_model, click_time, conversion_time, processed_at FROM former_attributions;
    DROP TABLE former_performance; DROP TABLE former_attributions;";

/// Opens a database with all its tables, or makes it: whoever comes first, run or worker, makes all of them
/// in one step. With WAL, `synchronous = NORMAL` loses at most the last commits on power failure and never
/// half of one.
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
    // Of several that make a database at once, those that come second are told that it is locked: the timeout
    // does not count for this.
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
    let results = "ad_performance_metrics_realtime";
    let is_former = transaction.table_exists(None, results)?
        && transaction.column_exists(None, results, "window_start")?;
    if is_former {
        transaction.execute_batch(SET_ASIDE)?;
    }
    for tables in TABLES {
        transaction.execute_batch(tables)?;
    }
    if is_former {
        transaction.execute_batch(COPY_BACK)?;
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
            let make = || {
                open(&path)
                    .unwrap()
                    .execute_batch("CREATE TABLE IF NOT EXISTS t (a); INSERT INTO t VALUES (1)")
            };
            std::thread::scope(|scope| {
                let makers: Vec<_> = (0..4).map(|_| scope.spawn(make)).collect();
                makers.into_iter().for_each(|maker| maker.join().unwrap().unwrap());
            });
        }
    }

    /// What the first version made, with rows.
    const OLDER: &str = "
        CREATE TABLE ad_performance_metrics_realtime (
            id INTEGER PRIMARY KEY AUTOINCREMENT, campaign_id INTEGER NOT NULL, product_id INTEGER NOT NULL,
            placement TEXT NOT NULL, window_start TEXT NOT NULL, window_end TEXT NOT NULL,
            impression_count INTEGER NOT NULL, click_count INTEGER NOT NULL, conversion_count INTEGER NOT NULL,
            total_spend TEXT NOT NULL, total_revenue TEXT NOT NULL, ctr REAL NOT NULL, cvr REAL NOT NULL,
            roas REAL NOT NULL, is_final INTEGER NOT NULL, updated_at TEXT NOT NULL,
            UNIQUE (window_start, campaign_id, product_id, placement)
        );
        CREATE TABLE conversion_attribution_results (
            order_id TEXT NOT NULL, product_id INTEGER NOT NULL, attribution_model TEXT NOT NULL, ad_id TEXT,
            campaign_id INTEGER, advertiser_id INTEGER NOT NULL, revenue_amount TEXT NOT NULL,
            time_to_conversion INTEGER NOT NULL, click_time TEXT NOT NULL, conversion_time TEXT NOT NULL,
            processed_at TEXT NOT NULL, PRIMARY KEY (order_id, product_id, attribution_model)
        );
        INSERT INTO ad_performance_metrics_realtime VALUES (3, 5, 7, 'top', '2026-01-05 08:00:00.000',
            '2026-01-05 08:05:00.000', 2, 1, 0, '4.50', '0.00', 50, 0, 0, 1, '2026-01-05 08:06:00.000');
        INSERT INTO conversion_attribution_results VALUES ('a', 7, 'LAST_CLICK', '1', 5, 9, '6.00', 7,
            '2026-01-05 08:00:03.000', '2026-01-05 08:00:10.999', '2026-01-05 08:06:00.000');";

    /// The columns of a table and its rows, as text.
    fn table(connection: &Connection, name: &str) -> (String, Vec<String>) {
        let mut statement = connection.prepare(&format!("SELECT * FROM {name}")).unwrap();
        let columns = statement.column_names().collect::<Vec<_>>().join(" ");
        let cells = statement.column_count();
        let rows = statement.query_map([], |row| {
            let cells =
                (0..cells).map(|at| format!("{:?}", row.get::<_, rusqlite::types::Value>(at).unwrap()));
            Ok(cells.collect::<Vec<_>>().join(" "))
        });
        let rows = rows.unwrap().map(Result::unwrap).collect();
        (columns, rows)
    }

    #[test]
    fn tables_of_an_older_version_get_the_columns_of_this_one_and_keep_their_rows() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("adtide.db");
        Connection::open(&path).unwrap().execute_batch(OLDER).unwrap();
        for _ in 0..2 {
            let connection = open(&path).unwrap();
            let (columns, rows) = table(&connection, "ad_performance_metrics_realtime");
            assert_eq!(
                columns,
                "id campaign_id product_id placement metric_time impression_count click_count conversion_count \
                 total_spend total_revenue ctr cvr roas updated_at is_final"
            );
            let row = r#"Integer(3) Integer(5) Integer(7) Text("top") Text("2026-01-05 08:00:00") Integer(2) Integer(1)"#;
            let end = r#"Text("2026-01-05 08:06:00.000") Integer(1)"#;
            assert!(rows.len() == 1 && rows[0].starts_with(row) && rows[0].ends_with(end), "{rows:?}");
            let (columns, rows) = table(&connection, "conversion_attribution_results");
            assert_eq!(
                columns,
                "ad_id campaign_id advertiser_id product_id order_id revenue_amount time_to_conversion \
                 attribution_model click_time conversion_time processed_at"
            );
            let row = r#"Text("1") Integer(5) Integer(9) Integer(7) Text("a") Text("6.00") Integer(7) Text("LAST_CLICK")"#;
            assert!(rows.len() == 1 && rows[0].starts_with(row), "{rows:?}");
            let left = "SELECT count(*) FROM sqlite_schema WHERE name LIKE 'former%'";
            assert_eq!(connection.query_row(left, [], |row| row.get::<_, i64>(0)), Ok(0));
        }
    }
}
