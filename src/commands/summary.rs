//! What a run has done, for people.

use std::path::Path;

use adtide_dataflows::model::{Money, Topic};
use anyhow::Context;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use indicatif::{HumanBytes, HumanCount};
use rusqlite::{Connection, OpenFlags, Row};
use serde_json::{Value, json};

use super::output::say;
use crate::engine::{EngineConfig, Monitor, Services, SinkConfig, SourceConfig};
use crate::ops::usage::{self, Used};
use crate::terminal::plain;

/// How many rows of each result are shown.
const SHOWN: i64 = 5;

/// Prints the best of the results.
pub fn results(data_dir: &Path) -> anyhow::Result<()> {
    let connection = open(data_dir)?;
    rankings(&connection)?;
    performance(&connection)?;
    attributions(&connection)?;
    refunds(&data_dir.join("topics/compensation-events.ndjson"))
}

fn open(data_dir: &Path) -> anyhow::Result<Connection> {
    let path = data_dir.join("adtide.db");
    let connection = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY);
    connection.with_context(|| format!("can't read {}", path.display()))
}

/// Prints what the workers made of it; nothing where none has run.
pub fn balances(data_dir: &Path) -> anyhow::Result<()> {
    let connection = open(data_dir)?;
    let sum = |column: &str| -> anyhow::Result<Money> {
        let mut statement = connection.prepare(&format!("SELECT {column} FROM campaigns"))?;
        let amounts = statement.query_map([], |row| row.get::<_, String>(0))?;
        Ok(amounts
            .map(|amount| Ok(amount?.parse()?))
            .collect::<anyhow::Result<Vec<Money>>>()?
            .into_iter()
            .sum())
    };
    let (debits, credits) = (sum("debits")?, sum("credits")?);
    let count = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0));
    let exhausted = count("SELECT count(*) FROM campaigns WHERE budget_status = 'BUDGET_EXHAUSTED'")?;
    let back = count(
        "SELECT count(DISTINCT campaign_id) FROM campaign_outbox WHERE event LIKE '%\"CAMPAIGN_ACTIVATE\"%'",
    )?;
    let rows = query(
        &connection,
        "SELECT campaign_id, advertiser_id, budget, debits, credits, budget_status FROM campaigns
         WHERE budget IS NOT NULL ORDER BY CAST(debits AS REAL) DESC, campaign_id LIMIT ?1",
        |row| {
            let number = |column| {
                row.get::<_, Option<i64>>(column).map(|id| id.map_or("-".into(), |id| id.to_string()))
            };
            Ok(vec![number(0)?, number(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?])
        },
    )?;
    let title = format!(
        "5  Budgets and balances: {debits} debited, {credits} credited; {exhausted} campaigns paused, {back} came back; the \
         greatest spenders"
    );
    print(
        &title,
        &["campaign", "advertiser", "budget", "debits", "credits", "status"],
        2,
        &["advertiser"],
        rows,
    );
    Ok(())
}

/// Prints what came of the records, and how fast.
pub fn run(monitor: &Monitor, used: &Used, engine: &EngineConfig) {
    let elapsed = used.elapsed;
    let counts = monitor.counts();
    let records: u64 = counts.good.iter().sum::<u64>() + counts.bad.values().sum::<u64>();
    let by_topic = Topic::ALL.iter().zip(counts.good).filter(|(_, good)| *good > 0);
    let by_topic: Vec<_> =
        by_topic.map(|(topic, good)| format!("{} {}", HumanCount(good), topic.name())).collect();
    say!("");
    let read = if by_topic.is_empty() { "nothing".to_owned() } else { by_topic.join(", ") };
    let from = match &engine.source {
        SourceConfig::Files(files) => files.folder.display().to_string(),
        SourceConfig::Kafka(kafka) => format!("Kafka at {}", kafka.kafka.brokers),
    };
    let listed = |counts: Vec<(String, u64)>| {
        let list: Vec<_> =
            counts.iter().map(|(name, count)| format!("{} {name}", HumanCount(*count))).collect();
        if list.is_empty() { "none".to_owned() } else { list.join(", ") }
    };
    let late = counts.late.into_iter().map(|(statement, count)| (statement.name().to_owned(), count));
    let repeats: u64 = monitor.workers().iter().map(|worker| worker.repeats).sum();
    let (campaignless, repeats) = (HumanCount(counts.without_campaign), HumanCount(repeats));
    let without = counts.ids.named().map(|(what, count)| (what.to_owned(), count));
    let rate = records as f64 / elapsed.as_secs_f64().max(0.001);
    let cpu = used.cpu_seconds.map_or_else(String::new, |seconds| format!(", {seconds:.2} s of CPU"));
    let memory =
        usage::peak_memory().map_or_else(String::new, |bytes| format!(", peak memory {}", HumanBytes(bytes)));
    let results = match &engine.sinks {
        SinkConfig::None => None,
        SinkConfig::Embedded(data_dir) => Some(format!(
            "{} and {}",
            data_dir.join("adtide.db").display(),
            data_dir.join("topics").display()
        )),
        SinkConfig::Services(services) => {
            let Services { postgres, redis, kafka, .. } = services.as_ref();
            Some(format!("{}, {} and Kafka at {}", postgres.url, redis.url, kafka.brokers))
        }
    };
    let fields = [
        ("read", format!("{read} from {from}")),
        ("dead", listed(counts.bad.into_iter().collect())),
        ("late", listed(late.collect())),
        ("left out", format!("{campaignless} events without campaign, {repeats} repeated conversions")),
        ("no id", listed(without.into_iter().filter(|(_, count)| *count > 0).collect())),
        ("took", format!("{elapsed:.2?}, {} records/s{cpu}{memory}", HumanCount(rate as u64))),
    ];
    print_fields(fields.into_iter().chain(results.map(|results| ("results", results))));
}

/// Prints a name and its value a line, and wraps values where the terminal is too narrow.
fn print_fields(fields: impl Iterator<Item = (&'static str, String)>) {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    for (name, value) in fields {
        table.add_row([format!("{name:11}"), value]);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 0));
    }
    if table.width().is_some() {
        table.set_content_arrangement(ContentArrangement::Dynamic);
    }
    say!("{}", table.trim_fmt());
}

/// Writes what [`run`] prints as JSON, for scripts.
pub fn report(monitor: &Monitor, used: &Used, file: &Path) -> anyhow::Result<()> {
    let counts = monitor.counts();
    let good: serde_json::Map<_, _> = Topic::ALL
        .iter()
        .zip(counts.good)
        .map(|(topic, good)| (topic.name().to_owned(), json!(good)))
        .collect();
    let late: serde_json::Map<_, _> =
        counts.late.iter().map(|(statement, late)| (statement.name().to_owned(), json!(late))).collect();
    let report = json!({
        "elapsed_seconds": used.elapsed.as_secs_f64(),
        "cpu_seconds": used.cpu_seconds,
        "peak_memory_bytes": usage::peak_memory(),
        "records": good,
        "dead_letters": counts.bad,
        "late_events": late,
        "events_without_campaign": counts.without_campaign,
        "without_id": counts.ids,
        "repeated_conversions": monitor.workers().iter().map(|worker| worker.repeats).sum::<u64>(),
    });
    std::fs::write(file, format!("{report:#}\n"))
        .with_context(|| format!("can't write the report {}", file.display()))
}

/// How much of a cell is shown: ids may be of any length.
const CELL: usize = 40;

/// Prints a table; columns from `first_number` on are aligned to the right. Where the terminal is too narrow
/// for it, the columns named in `spare` are left out, one after the other, until it fits; cells break only if
/// that is not enough.
///
/// The title says what the rows are behind a semicolon; without rows there is nothing more to say.
fn print(title: &str, header: &[&str], first_number: usize, spare: &[&str], rows: Vec<Vec<String>>) {
    if rows.is_empty() {
        say!("\n{}", title.split(';').next().unwrap_or(title));
        return;
    }
    let terminal = Table::new().width();
    let (mut header, mut rows, mut first_number) = (header.to_vec(), rows, first_number);
    let mut spare = spare.iter();
    let table = loop {
        let table = table(&header, first_number, &rows);
        let width = table.lines().map(|line| line.chars().count()).max().unwrap_or_default();
        let column = spare.next().and_then(|name| header.iter().position(|column| column == name));
        match (terminal, column) {
            (Some(terminal), Some(column)) if width > usize::from(terminal) => {
                header.remove(column);
                rows.iter_mut().for_each(|row| drop(row.remove(column)));
                first_number -= usize::from(column < first_number);
            }
            (Some(_), _) => {
                let mut table = table;
                break table.set_content_arrangement(ContentArrangement::Dynamic).to_string();
            }
            (None, _) => break table.to_string(),
        }
    };
    say!("\n{title}\n{table}");
}

fn table(header: &[&str], first_number: usize, rows: &[Vec<String>]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY).set_header(header.to_vec());
    for row in rows {
        table.add_row(row.iter().map(|cell| shortened(cell)));
    }
    for column in table.column_iter_mut().skip(first_number) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn shortened(cell: &str) -> String {
    match cell.char_indices().nth(CELL) {
        Some((end, _)) => format!("{}…", plain(&cell[..end])),
        None => plain(cell).into_owned(),
    }
}

fn query(
    connection: &Connection,
    sql: &str,
    row: impl FnMut(&Row<'_>) -> rusqlite::Result<Vec<String>>,
) -> anyhow::Result<Vec<Vec<String>>> {
    let mut statement = connection.prepare(sql)?;
    Ok(statement.query_map([SHOWN], row)?.collect::<Result<_, _>>()?)
}

fn rankings(connection: &Connection) -> anyhow::Result<()> {
    let rows = query(
        connection,
        "SELECT placement, category, ranking_list, total_campaigns FROM rtb_ranking_cache
         ORDER BY total_campaigns DESC, placement, category LIMIT ?1",
        |row| {
            let list: Value = serde_json::from_str(&row.get::<_, String>(2)?).unwrap_or_default();
            let best = |field: &str| list[0][field].to_string();
            Ok(vec![
                row.get(0)?,
                row.get(1)?,
                row.get::<_, i64>(3)?.to_string(),
                best("campaign_id"),
                best("bid_price"),
                format!("{:.5}", list[0]["score"].as_f64().unwrap_or_default()),
            ])
        },
    )?;
    let count: i64 = connection.query_row("SELECT count(*) FROM rtb_ranking_cache", [], |row| row.get(0))?;
    let title = format!("1  RTB rankings: {count}; the longest and the best campaign of each");
    print(&title, &["placement", "category", "campaigns", "best", "bid", "score"], 2, &["bid"], rows);
    Ok(())
}

fn performance(connection: &Connection) -> anyhow::Result<()> {
    let (count, last): (i64, Option<String>) = connection.query_row(
        "SELECT count(*), max(metric_time) FROM ad_performance_metrics_realtime",
        [],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    let rows = query(
        connection,
        "SELECT campaign_id, product_id, placement, impression_count, click_count, conversion_count, total_spend,
             total_revenue, ctr, cvr, roas
         FROM ad_performance_metrics_realtime
         WHERE metric_time = (SELECT max(metric_time) FROM ad_performance_metrics_realtime)
         ORDER BY impression_count DESC, campaign_id LIMIT ?1",
        |row| {
            let mut cells = vec![row.get::<_, i64>(0)?.to_string(), row.get::<_, i64>(1)?.to_string(), row.get(2)?];
            for count in 3..6 {
                cells.push(row.get::<_, i64>(count)?.to_string());
            }
            cells.extend([row.get(6)?, row.get(7)?]);
            for ratio in 8..11 {
                cells.push(format!("{:.2}", row.get::<_, f64>(ratio)?));
            }
            Ok(cells)
        },
    )?;
    let title =
        format!("2  Performance: {count} rows; the busiest of the window {}", last.unwrap_or_default());
    let header = [
        "campaign",
        "product",
        "placement",
        "impressions",
        "clicks",
        "conv.",
        "spend",
        "revenue",
        "ctr %",
        "cvr %",
        "roas",
    ];
    print(&title, &header, 3, &["product", "conv.", "cvr %", "ctr %", "revenue"], rows);
    Ok(())
}

fn attributions(connection: &Connection) -> anyhow::Result<()> {
    let count: i64 =
        connection.query_row("SELECT count(*) FROM conversion_attribution_results", [], |row| row.get(0))?;
    let rows = query(
        connection,
        "SELECT order_id, product_id, ad_id, campaign_id, revenue_amount, time_to_conversion, conversion_time
         FROM conversion_attribution_results ORDER BY conversion_time DESC, order_id LIMIT ?1",
        |row| {
            let optional = |value: Option<i64>| value.map_or("-".to_owned(), |value| value.to_string());
            Ok(vec![
                row.get(0)?,
                row.get(6)?,
                row.get::<_, i64>(1)?.to_string(),
                row.get::<_, Option<String>>(2)?.unwrap_or("-".to_owned()),
                optional(row.get(3)?),
                row.get(4)?,
                format!("{} s", row.get::<_, i64>(5)?),
            ])
        },
    )?;
    let title = format!("3  Last-click attributions: {count}; the latest");
    print(
        &title,
        &["order", "converted", "product", "ad", "campaign", "revenue", "after"],
        2,
        &["product", "ad"],
        rows,
    );
    Ok(())
}

fn refunds(path: &Path) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(path).with_context(|| format!("can't read {}", path.display()))?;
    let records: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let amount = |record: &Value| record["refund_amount"].to_string().parse::<Money>().unwrap_or_default();
    let total: Money = records.iter().map(amount).sum();
    let mut largest: Vec<_> = records.iter().collect();
    largest.sort_by_key(|record| std::cmp::Reverse(amount(record)));
    let rows = largest.into_iter().take(SHOWN as usize).map(|record| {
        let plain =
            |field: &str| record[field].as_str().map_or_else(|| record[field].to_string(), str::to_owned);
        ["advertiser_id", "ad_id", "device_id", "window_start", "duplicate_click_count", "refund_amount"]
            .map(plain)
            .to_vec()
    });
    let title =
        format!("4  Refunds for duplicate clicks: {} records, {total} in all; the largest", records.len());
    print(
        &title,
        &["advertiser", "ad", "device", "window", "clicks", "refund"],
        4,
        &["ad", "window"],
        rows.collect(),
    );
    Ok(())
}
