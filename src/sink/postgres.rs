//! The tables in PostgreSQL: ad_performance_metrics_realtime and conversion_attribution_results.
//!
//! A commit is one transaction: it moves the progress on from the epoch before, under the number of this run,
//! and upserts the rows. If the progress is not where this run has left it, nothing is written; so a run that
//! was replaced can't write any more, and a commit whose outcome got lost with the connection is not done
//! twice.

use std::borrow::Cow;
use std::fmt::Write as _;

use adtide_dataflows::Settings;
use adtide_dataflows::model::{Epoch, Text};
use adtide_dataflows::operators::{PartitionReport, Watermarks};
use adtide_dataflows::performance_aggregator::PerformanceRow;
use anyhow::{Context, anyhow};
use tokio_postgres::types::{Json, ToSql};
use tokio_postgres::{Row, Statement};

use super::rows::Rows;
use super::{Commit, Progress, Run, Sink, Stored, by_partition, fenced, latest, rewound};
use crate::connect::postgres::{Client, PostgresConfig};
use crate::connect::text::stored_text;
use crate::connect::{Fault, migrate, persist};

mod attributions;

/// Statements 2 and 3 in PostgreSQL.
pub struct PostgresSink {
    config: PostgresConfig,
    name: String,
    run: Run,
    /// The number that this run has drawn.
    number: i64,
    stored: Option<Stored>,
    /// The last epoch that is committed.
    committed: Option<Epoch>,
    /// None after a fault.
    session: Option<Session>,
}

impl PostgresSink {
    /// Connects, creates tables that are missing, and takes over from any older run of the same name: nothing
    /// that it has not committed by now will be.
    ///
    /// # Errors
    /// The server can't be reached within `connect_timeout`, or refuses; with what to do.
    pub fn open(config: &PostgresConfig, name: &str, run: Run) -> anyhow::Result<PostgresSink> {
        let (session, number, stored) = persist("opening PostgreSQL", Some(config.connect_timeout), || {
            let mut client = config.connect(APPLICATION)?;
            check_encoding(&mut client, config)?;
            migrate::apply(&mut client, config)?;
            let mut session = Session::start(client).map_err(|error| config.fault(error))?;
            let row = session.client.query_one(TAKE_OVER, &[&name]).map_err(|error| config.fault(error))?;
            Ok((session, row.get("run"), decode(&row).map_err(Fault::Lasting)?))
        })?;
        let committed = stored.as_ref().map(|stored| stored.progress.epoch);
        let (config, name) = (config.clone(), name.to_owned());
        Ok(PostgresSink { config, name, run, number, stored, committed, session: Some(session) })
    }

    /// Tries to commit, in a new session if the last one failed.
    fn attempt(&mut self, batch: &Batch) -> Result<(), Fault> {
        let config = &self.config;
        let mut session = match self.session.take() {
            Some(session) => session,
            None => config
                .connect(APPLICATION)
                .and_then(|client| Session::start(client).map_err(|e| config.fault(e)))?,
        };
        let guard =
            Guard { name: &self.name, number: self.number, run: &self.run, committed: self.committed };
        if !session.write(&guard, batch, config)? {
            self.find_out(&mut session, batch.epoch)?;
        }
        self.session = Some(session);
        Ok(())
    }

    /// Why the progress could not be moved on. It is no fault if an earlier attempt has done so.
    fn find_out(&self, session: &mut Session, epoch: Epoch) -> Result<(), Fault> {
        let row = session
            .client
            .query_opt("SELECT run, epoch FROM adtide_progress WHERE sink = $1", &[&self.name])
            .map_err(|error| self.config.fault(error))?;
        let server = format!("PostgreSQL at {}", self.config.url);
        let (number, held) =
            row.map_or((None, None), |row| (Some(row.get::<_, i64>(0)), row.get::<_, Option<i64>>(1)));
        let held = held.and_then(|epoch| Epoch::try_from(epoch).ok());
        if number.is_some_and(|number| number > self.number) {
            return Err(Fault::Lasting(fenced(&server, &self.name)));
        }
        if number == Some(self.number) && held == Some(epoch) {
            return Ok(());
        }
        Err(Fault::Lasting(rewound(&server, held, self.committed)))
    }
}

impl Sink for PostgresSink {
    fn name(&self) -> &'static str {
        "postgres"
    }

    fn stored(&self) -> Option<Stored> {
        self.stored.clone()
    }

    fn commit(&mut self, commit: Commit) -> anyhow::Result<()> {
        let batch = Batch::new(commit);
        persist("writing to PostgreSQL", None, || self.attempt(&batch))?;
        self.committed = Some(batch.epoch);
        Ok(())
    }
}

/// What the deployment `name` has committed; None if nothing yet. Only reads.
///
/// # Errors
/// It can't be read, or another version of adtide wrote it.
pub fn stored(client: &mut Client, name: &str) -> anyhow::Result<Option<Stored>> {
    let mut read = || -> anyhow::Result<Option<Stored>> {
        let there: bool = client.query_one("SELECT to_regclass('adtide_progress') IS NOT NULL", &[])?.get(0);
        if !there {
            return Ok(None);
        }
        let row = client.query_opt(
            "SELECT settings, source, epoch, watermarks, partitions FROM adtide_progress WHERE sink = $1",
            &[&name],
        )?;
        row.as_ref().map_or(Ok(None), decode)
    };
    read().context("can't read the progress in PostgreSQL, table adtide_progress")
}

const APPLICATION: &str = "adtide sink";

/// Draws the next number. Waits for a transaction of the run before that is under way, and sees what it has
/// committed.
const TAKE_OVER: &str = "
    INSERT INTO adtide_progress (sink, run, updated_at) VALUES ($1, 1, now())
    ON CONFLICT (sink) DO UPDATE SET run = adtide_progress.run + 1, updated_at = now()
    RETURNING run, settings, source, epoch, watermarks, partitions";

/// Moves the progress on, if it is this run's ($2) and where this run has left it ($3).
const ADVANCE: &str = "
    UPDATE adtide_progress
    SET epoch = $4, settings = $5, source = $6, watermarks = $7, partitions = $8, updated_at = now()
    WHERE sink = $1 AND run = $2 AND epoch IS NOT DISTINCT FROM $3";

/// Rows come by COPY into tables of the session, and from there in one statement a table: several times as
/// fast as statements with the rows as parameters.
const INCOMING: &str = "
    CREATE TEMP TABLE incoming_performance ON COMMIT DELETE ROWS AS
        SELECT campaign_id, product_id, placement, metric_time, impression_count, click_count, conversion_count,
               total_spend, total_revenue, ctr, cvr, roas, is_final
        FROM ad_performance_metrics_realtime WITH NO DATA;";

const UPSERT_PERFORMANCE: &str = "
    INSERT INTO ad_performance_metrics_realtime (campaign_id, product_id, placement, metric_time, impression_count,
        click_count, conversion_count, total_spend, total_revenue, ctr, cvr, roas, is_final, updated_at)
    SELECT incoming_performance.*, now() FROM incoming_performance
    ON CONFLICT (metric_time, campaign_id, product_id, placement) DO UPDATE SET
        impression_count = excluded.impression_count, click_count = excluded.click_count,
        conversion_count = excluded.conversion_count, total_spend = excluded.total_spend,
        total_revenue = excluded.total_revenue, ctr = excluded.ctr, cvr = excluded.cvr, roas = excluded.roas,
        is_final = excluded.is_final, updated_at = excluded.updated_at";

/// Other encodings lack characters, and the first record that has one would stop everything.
fn check_encoding(client: &mut Client, config: &PostgresConfig) -> Result<(), Fault> {
    let row = client.query_one("SHOW server_encoding", &[]).map_err(|error| config.fault(error))?;
    let encoding: String = row.get(0);
    if encoding == "UTF8" {
        return Ok(());
    }
    let url = &config.url;
    Err(Fault::Lasting(anyhow!(
        "the database at {url} is encoded in {encoding}; create one WITH ENCODING 'UTF8'"
    )))
}

/// The progress in a row; None if it has only drawn a number yet.
fn decode(row: &Row) -> anyhow::Result<Option<Stored>> {
    let read = || -> anyhow::Result<Option<Stored>> {
        let Some(epoch) = row.try_get::<_, Option<i64>>("epoch")? else { return Ok(None) };
        let Json(settings) = row.try_get::<_, Json<Settings>>("settings")?;
        let Json(watermarks) = row.try_get::<_, Json<Option<Watermarks>>>("watermarks")?;
        let Json(partitions) = row.try_get("partitions")?;
        let progress =
            Progress { epoch: u64::try_from(epoch)?, watermarks, partitions: by_partition(partitions) };
        Ok(Some(Stored { run: Run { settings, source: row.try_get("source")? }, progress }))
    };
    read()
        .context("the row of table adtide_progress is not of this version of adtide; use that version, or another name")
}

/// What has to hold for a commit.
struct Guard<'a> {
    name: &'a str,
    number: i64,
    run: &'a Run,
    committed: Option<Epoch>,
}

/// A connection with what is prepared on it.
struct Session {
    client: Client,
    advance: Statement,
    copy_performance: Statement,
    upsert_performance: Statement,
    attributions: attributions::Statements,
}

impl Session {
    fn start(mut client: Client) -> Result<Session, tokio_postgres::Error> {
        // A run that hangs in the middle of a transaction must not hold up its successor for ever; and who
        // waits for a lock says so from time to time.
        client.batch_execute("SET idle_in_transaction_session_timeout = '60s'; SET lock_timeout = '20s'")?;
        client.batch_execute(INCOMING)?;
        Ok(Session {
            advance: client.prepare(ADVANCE)?,
            copy_performance: client.prepare("COPY incoming_performance FROM STDIN")?,
            upsert_performance: client.prepare(UPSERT_PERFORMANCE)?,
            attributions: attributions::Statements::prepare(&mut client)?,
            client,
        })
    }

    /// Writes the batch and moves the progress on; false if that is not where it has to be, and then nothing
    /// is written.
    fn write(&mut self, guard: &Guard<'_>, batch: &Batch, config: &PostgresConfig) -> Result<bool, Fault> {
        let fault = |error| config.fault(error);
        let mut transaction = self.client.transaction().map_err(fault)?;
        let advance: [&(dyn ToSql + Sync); 8] = [
            &guard.name,
            &guard.number,
            &guard.committed.map(epoch),
            &epoch(batch.epoch),
            &Json(&guard.run.settings),
            &guard.run.source,
            &Json(batch.watermarks),
            &Json(&batch.partitions),
        ];
        if transaction.execute(&self.advance, &advance).map_err(fault)? == 0 {
            return Ok(false);
        }
        if !batch.performance.is_empty() {
            transaction.copy_in(&self.copy_performance, &batch.performance).map_err(fault)?;
            transaction.execute(&self.upsert_performance, &[]).map_err(fault)?;
        }
        batch.attributions.write(&mut transaction, &self.attributions).map_err(fault)?;
        transaction.commit().map_err(fault)?;
        Ok(true)
    }
}

/// An epoch as a BIGINT. Epochs are milliseconds, so they fit for 292 million years.
fn epoch(epoch: Epoch) -> i64 {
    i64::try_from(epoch).unwrap_or(i64::MAX)
}

/// A commit as it is sent: the rows in the text format of COPY.
struct Batch {
    epoch: Epoch,
    watermarks: Option<Watermarks>,
    partitions: Vec<PartitionReport>,
    performance: String,
    attributions: attributions::Changes,
}

impl Batch {
    fn new(commit: Commit) -> Batch {
        let rows = Rows::sort(commit.epochs);
        Batch {
            epoch: commit.progress.epoch,
            watermarks: commit.progress.watermarks,
            partitions: commit.progress.partitions.into_values().collect(),
            performance: performance(rows.performance),
            attributions: attributions::Changes::new(rows.attributions),
        }
    }
}

/// Statement 2's rows. They never go away, so nothing is ever deleted.
fn performance(epochs: Vec<Vec<(PerformanceRow, isize)>>) -> String {
    // By the text that is stored: two rows of one key in one statement would be an error.
    let key = |row: &PerformanceRow| {
        let key = &row.key;
        (key.window_start, key.campaign_id, key.product_id, key_text(&key.placement))
    };
    let mut rows: Vec<_> =
        latest(epochs, key).into_iter().filter_map(|(key, row)| row.map(|row| (key, row))).collect();
    // Written in key order, neighbours share pages.
    rows.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    let mut text = String::with_capacity(rows.len() * 160);
    for ((start, campaign, product, placement), PerformanceRow { sums, is_final, .. }) in rows {
        let _ = write!(text, "{campaign}\t{product}\t{}\t{}\t", Escaped(&placement), start.to_seconds());
        let _ = write!(text, "{}\t{}\t{}\t", sums.impressions, sums.clicks, sums.conversions);
        let _ = write!(
            text,
            "{}\t{}\t{}\t{}\t{}\t",
            sums.spend,
            sums.revenue,
            sums.ctr(),
            sums.cvr(),
            sums.roas()
        );
        let _ = writeln!(text, "{is_final}");
    }
    text
}

/// [`stored_text`] without a copy where nothing changes.
fn key_text(text: &Text) -> Text {
    match stored_text(text) {
        Cow::Borrowed(_) => Text::clone(text),
        Cow::Owned(changed) => changed.into(),
    }
}

/// A text in the text format of COPY.
struct Escaped<'a>(&'a str);

impl std::fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut rest = self.0;
        while let Some(at) = rest.find(['\\', '\t', '\n', '\r']) {
            f.write_str(&rest[..at])?;
            f.write_str(match rest.as_bytes()[at] {
                b'\\' => "\\\\",
                b'\t' => "\\t",
                b'\n' => "\\n",
                _ => "\\r",
            })?;
            rest = &rest[at + 1..];
        }
        f.write_str(rest)
    }
}
