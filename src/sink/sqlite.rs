//! The tables in SQLite: the embedded default.

use std::path::{Path, PathBuf};

use adtide_dataflows::model::{EventTime, Topic};
use adtide_dataflows::operators::PartitionReport;
use adtide_dataflows::performance_aggregator::PerformanceRow;
use adtide_dataflows::rtb_cache_updater::RankingRow;
use anyhow::Context;
use rusqlite::{Connection, OptionalExtension, Row, Transaction, TransactionBehavior, params};
use serde::de::DeserializeOwned;

use super::rows::Rows;
use super::{Commit, Progress, Run, Sink, Stored, cannot, latest};
use crate::{connect, json};

mod attributions;

/// Statements 1, 2 and 3 in one database file, each commit one transaction.
pub struct SqliteSink {
    path: PathBuf,
    connection: Connection,
    stored: Option<Stored>,
}

impl SqliteSink {
    /// Opens the database and creates what is missing. Unless `resume` is set, it is emptied of an earlier
    /// run's results.
    ///
    /// # Errors
    /// The file can't be opened or written, or is no SQLite database.
    pub fn open(path: &Path, run: &Run, resume: bool) -> anyhow::Result<SqliteSink> {
        let prepare = || -> anyhow::Result<SqliteSink> {
            let mut connection = connect::sqlite::open(path)?;
            connection.execute_batch("PRAGMA cache_size = -32768;")?;
            // In one step: a crash leaves either the old results with their run, or none with this one.
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            if !resume {
                // Another version may have kept its progress in other columns.
                transaction.execute_batch(
                    "DELETE FROM rtb_ranking_cache; DELETE FROM ad_performance_metrics_realtime;
                     DELETE FROM conversion_attribution_results; DELETE FROM adtide_superseded_attributions;
                     DROP TABLE adtide_progress; DROP TABLE adtide_progress_partitions; DROP TABLE adtide_run;",
                )?;
                transaction.execute_batch(include_str!("schema.sql"))?;
            }
            transaction.execute(
                "INSERT OR REPLACE INTO adtide_run (id, settings, source) VALUES (1, ?1, ?2)",
                [serde_json::to_string(&run.settings)?, run.source.clone()],
            )?;
            transaction.commit()?;
            connection.set_prepared_statement_cache_capacity(32);
            let stored = read_progress(&connection)?.map(|progress| Stored { run: run.clone(), progress });
            Ok(SqliteSink { path: path.to_owned(), connection, stored })
        };
        prepare().with_context(|| {
            format!(
                "can't use {} as the results database; is it writable, and an SQLite file?",
                path.display()
            )
        })
    }
}

/// How far the database at `path` has got, and the run that brought it there; None if there is none.
///
/// # Errors
/// It can't be read, or another version of adtide wrote it.
pub fn committed(path: &Path) -> anyhow::Result<Option<(Run, Option<Progress>)>> {
    if !path.is_file() {
        return Ok(None);
    }
    let read = || stored(&connect::sqlite::open(path)?);
    read().with_context(|| {
        format!(
            "can't read what {} holds; is it an SQLite file, and of this version of adtide? name another folder with --data-dir, \
             or start over with --fresh",
            path.display()
        )
    })
}

/// As [`committed`], in an open database. Workers may have made one without a run.
///
/// # Errors
/// As [`committed`].
pub fn stored(connection: &Connection) -> anyhow::Result<Option<(Run, Option<Progress>)>> {
    let run = connection
        .query_row("SELECT settings, source FROM adtide_run", [], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))
        })
        .optional()?;
    let Some((settings, source)) = run else { return Ok(None) };
    let run = Run { settings: serde_json::from_str(&settings)?, source };
    Ok(Some((run, read_progress(connection)?)))
}

fn read_progress(connection: &Connection) -> anyhow::Result<Option<Progress>> {
    let stored = connection
        .query_row("SELECT epoch, watermarks FROM adtide_progress WHERE sink = ?1", [NAME], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, Option<String>>(1)?))
        })
        .optional()?;
    let Some((epoch, watermarks)) = stored else { return Ok(None) };
    let mut statement = connection.prepare(
        "SELECT topic, partition, next_offset, greatest, watermarks, state, wakes, file, judgements
         FROM adtide_progress_partitions WHERE sink = ?1",
    )?;
    let mut rows = statement.query([NAME])?;
    let mut progress = Progress { epoch: u64::try_from(epoch)?, ..Progress::default() };
    progress.watermarks = watermarks.map(|watermarks| serde_json::from_str(&watermarks)).transpose()?;
    while let Some(row) = rows.next()? {
        let name: String = row.get(0)?;
        let topic = Topic::ALL.into_iter().find(|topic| topic.name() == name);
        let report = PartitionReport {
            topic: topic.with_context(|| format!("unknown topic {name}"))?,
            partition: row.get(1)?,
            next_offset: u64::try_from(row.get::<_, i64>(2)?)?,
            greatest: row.get::<_, Option<String>>(3)?.map(|time| EventTime::parse(&time)).transpose()?,
            watermarks: serde_json::from_str(&row.get::<_, String>(4)?)?,
            state: serde_json::from_str(&row.get::<_, String>(5)?)?,
            wakes: listed(row, 6)?,
            // The topic files' progress, and checkpoints, have these.
            first_offset: 0,
            last: None,
            file: row.get::<_, Option<String>>(7)?.map(|file| serde_json::from_str(&file)).transpose()?,
            judgements: listed(row, 8)?,
        };
        progress.partitions.insert((report.topic, report.partition), report);
    }
    Ok(Some(progress))
}

/// A list as JSON; an empty one where a version before has written none.
fn listed<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> anyhow::Result<Vec<T>> {
    let text: Option<String> = row.get(column)?;
    Ok(text.map(|text| serde_json::from_str(&text)).transpose()?.unwrap_or_default())
}

impl Sink for SqliteSink {
    fn name(&self) -> &'static str {
        NAME
    }

    fn stored(&self) -> Option<Stored> {
        self.stored.clone()
    }

    fn commit(&mut self, commit: Commit) -> anyhow::Result<()> {
        let now = crate::now().to_string();
        let rows = Rows::sort(commit.epochs);
        let write = |connection: &mut Connection| -> anyhow::Result<()> {
            let transaction = connection.transaction()?;
            write_rankings(&transaction, rows.rankings, &now)?;
            write_performance(&transaction, rows.performance, &now)?;
            attributions::write(&transaction, rows.attributions, &now)?;
            write_progress(&transaction, NAME, &commit.progress, &now)?;
            Ok(transaction.commit()?)
        };
        write(&mut self.connection).map_err(|error| cannot("write", &self.path, error))
    }
}

const NAME: &str = "sqlite";

fn write_rankings(
    transaction: &Transaction<'_>,
    epochs: Vec<Vec<(RankingRow, isize)>>,
    now: &str,
) -> rusqlite::Result<()> {
    let mut upsert = transaction.prepare_cached(
        "INSERT INTO rtb_ranking_cache (placement, category, ranking_list, total_campaigns, updated_at)
         VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT DO UPDATE SET ranking_list = excluded.ranking_list,
             total_campaigns = excluded.total_campaigns, updated_at = excluded.updated_at",
    )?;
    let mut delete =
        transaction.prepare_cached("DELETE FROM rtb_ranking_cache WHERE placement = ?1 AND category = ?2")?;
    for ((placement, category), row) in latest(epochs, |row| (row.placement.clone(), row.category.clone())) {
        match row {
            Some(row) => {
                let list = json::ranking_list(&row.list);
                upsert.execute(params![placement, category, list, row.total_campaigns as i64, now])?;
            }
            None => {
                delete.execute(params![placement, category])?;
            }
        }
    }
    Ok(())
}

fn write_performance(
    transaction: &Transaction<'_>,
    epochs: Vec<Vec<(PerformanceRow, isize)>>,
    now: &str,
) -> rusqlite::Result<()> {
    let mut upsert = transaction.prepare_cached(
        "INSERT INTO ad_performance_metrics_realtime (campaign_id, product_id, placement, metric_time, impression_count,
             click_count, conversion_count, total_spend, total_revenue, ctr, cvr, roas, updated_at, is_final)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)
         ON CONFLICT (metric_time, campaign_id, product_id, placement) DO UPDATE SET
             impression_count = excluded.impression_count, click_count = excluded.click_count,
             conversion_count = excluded.conversion_count, total_spend = excluded.total_spend,
             total_revenue = excluded.total_revenue, ctr = excluded.ctr, cvr = excluded.cvr, roas = excluded.roas,
             updated_at = excluded.updated_at, is_final = excluded.is_final",
    )?;
    // Most rows of a commit share their window.
    let mut time = (EventTime::MIN, String::new());
    // A row of statement 2 never goes away, so nothing is ever deleted. Written in key order, neighbours
    // share pages.
    let mut rows: Vec<_> = latest(epochs, |row| row.key.clone()).into_values().flatten().collect();
    rows.sort_unstable_by(|one, other| {
        let key = |row: &PerformanceRow| (row.key.window_start, row.key.campaign_id, row.key.product_id);
        key(one).cmp(&key(other))
    });
    for PerformanceRow { key, sums, is_final } in rows {
        if time.0 != key.window_start {
            time = (key.window_start, key.window_start.to_seconds());
        }
        upsert.execute(params![
            key.campaign_id,
            key.product_id,
            key.placement,
            time.1,
            sums.impressions,
            sums.clicks,
            sums.conversions,
            sums.spend.to_string(),
            sums.revenue.to_string(),
            sums.ctr(),
            sums.cvr(),
            sums.roas(),
            now,
            is_final,
        ])?;
    }
    Ok(())
}

fn write_progress(
    transaction: &Transaction<'_>,
    sink: &str,
    progress: &Progress,
    now: &str,
) -> anyhow::Result<()> {
    let watermarks = progress.watermarks.map(|watermarks| serde_json::to_string(&watermarks)).transpose()?;
    transaction
        .prepare_cached(
            "INSERT OR REPLACE INTO adtide_progress (sink, epoch, watermarks, updated_at) VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute(params![sink, i64::try_from(progress.epoch)?, watermarks, now])?;
    let mut partition = transaction.prepare_cached(
        "INSERT OR REPLACE INTO adtide_progress_partitions (sink, topic, partition, next_offset, greatest,
             watermarks, state, wakes, file, judgements)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
    )?;
    for report in progress.partitions.values() {
        partition.execute(params![
            sink,
            report.topic.name(),
            report.partition,
            i64::try_from(report.next_offset)?,
            report.greatest.map(|time| time.to_string()),
            serde_json::to_string(&report.watermarks)?,
            serde_json::to_string(&report.state)?,
            serde_json::to_string(&report.wakes)?,
            report.file.map(|file| serde_json::to_string(&file)).transpose()?,
            serde_json::to_string(&report.judgements)?,
        ])?;
    }
    Ok(())
}
