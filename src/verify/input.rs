//! Reads topic files into model events: each line by itself, with `serde_json`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind};
use std::path::{Path, PathBuf};

use adtide_dataflows::model::{
    ActiveCampaign, AdEvent, AdEventType, CampaignEvent, CampaignEventType, ConversionEvent, EventTime, Money,
    ProductMeta, ProductMetrics, Topic,
};
use anyhow::{Context, bail};

use super::fields::{Bad, Fields};

/// A longer line is no record.
const LONGEST_LINE: usize = 1_048_576;

/// An event and where it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located<E> {
    /// The partition of the event's topic.
    pub partition: u32,
    /// The line within the partition, from 0.
    pub offset: u64,
    /// What was read there.
    pub event: E,
}

/// The place of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Location {
    /// The topic.
    pub topic: Topic,
    /// The partition.
    pub partition: u32,
    /// The line within the partition, from 0.
    pub offset: u64,
}

/// The records that can't be read, each with the reason.
pub type BadRecords = BTreeMap<Location, String>;

/// What decides whether a time is too far ahead.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// A greater event time is bad input.
    pub latest: EventTime,
}

impl Clock {
    /// The clock of an input that is read at `now`.
    pub fn new(now: EventTime, max_future_skew: i64) -> Clock {
        Clock { latest: now.plus(max_future_skew) }
    }
}

/// Calls `each` with every line of a topic's files that is not empty, partition by partition in offset order. A
/// missing topic is an empty one.
///
/// # Errors
/// A file that can't be read, or a topic that is there both as a file and as a folder.
pub fn for_each_line(dir: &Path, topic: &str, mut each: impl FnMut(u32, u64, &[u8])) -> anyhow::Result<()> {
    for (partition, path) in topic_files(dir, topic)? {
        let unreadable = || format!("{}: can't be read", path.display());
        let mut reader = BufReader::with_capacity(1 << 16, File::open(&path).with_context(unreadable)?);
        let mut line = Vec::new();
        for offset in 0.. {
            line.clear();
            if reader.read_until(b'\n', &mut line).with_context(unreadable)? == 0 {
                break;
            }
            let text = line.strip_suffix(b"\n").unwrap_or(&line);
            let text = text.strip_suffix(b"\r").unwrap_or(text);
            if !text.is_empty() {
                each(partition, offset, text);
            }
        }
    }
    Ok(())
}

/// Calls `each` with every record of a topic that `parse` can read; the others are noted in `bad`.
///
/// # Errors
/// Those of [`for_each_line`].
pub fn for_each_event<E>(
    dir: &Path,
    topic: Topic,
    parse: impl Fn(&[u8]) -> Result<E, Bad>,
    bad: &mut BadRecords,
    mut each: impl FnMut(Located<E>),
) -> anyhow::Result<()> {
    for_each_line(dir, topic.name(), |partition, offset, line| {
        let parsed = if line.len() > LONGEST_LINE { Err(Bad("line too long".into())) } else { parse(line) };
        match parsed {
            Ok(event) => each(Located { partition, offset, event }),
            Err(Bad(why)) => {
                bad.insert(Location { topic, partition, offset }, why);
            }
        }
    })
}

/// All events of a topic.
///
/// # Errors
/// Those of [`for_each_line`].
pub fn read_all<E>(
    dir: &Path,
    topic: Topic,
    parse: impl Fn(&[u8]) -> Result<E, Bad>,
    bad: &mut BadRecords,
) -> anyhow::Result<Vec<Located<E>>> {
    let mut events = Vec::new();
    for_each_event(dir, topic, parse, bad, |event| events.push(event))?;
    Ok(events)
}

/// The files of a topic by partition: `DIR/<topic>/<partition>.ndjson`, or `DIR/<topic>.ndjson` as partition 0.
fn topic_files(dir: &Path, topic: &str) -> anyhow::Result<BTreeMap<u32, PathBuf>> {
    let file = dir.join(format!("{topic}.ndjson"));
    let mut files = partition_files(&dir.join(topic))?;
    if file.is_file() {
        if !files.is_empty() {
            bail!("{}: the topic is there as a file and as a folder of partitions: keep one", file.display());
        }
        files.insert(0, file);
    }
    Ok(files)
}

fn partition_files(folder: &Path) -> anyhow::Result<BTreeMap<u32, PathBuf>> {
    let unreadable = || format!("{}: can't be listed", folder.display());
    let mut files = BTreeMap::new();
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(files),
        Err(error) => return Err(error).with_context(unreadable),
    };
    for entry in entries {
        let path = entry.with_context(unreadable)?.path();
        if let Some(partition) = partition_of(&path)
            && let Some(other) = files.insert(partition, path.clone())
        {
            bail!("{} and {} are the same partition: keep one", other.display(), path.display());
        }
    }
    Ok(files)
}

/// Other files in the folder are nobody's partition.
fn partition_of(path: &Path) -> Option<u32> {
    let stem = path.file_name()?.to_str()?.strip_suffix(".ndjson")?;
    if stem.bytes().all(|byte| byte.is_ascii_digit()) { stem.parse().ok() } else { None }
}

/// A line of `campaign-events`.
pub fn campaign_event(line: &[u8], clock: Clock) -> Result<CampaignEvent, Bad> {
    let fields = Fields::read(
        line,
        &[
            "event_type",
            "timestamp_field",
            "campaign_id",
            "advertiser_id",
            "product_id",
            "placement",
            "category",
            "bid_price",
            "status",
        ],
    )?;
    let event_type = match fields.required("event_type", Fields::text)?.as_str() {
        "CAMPAIGN_CREATE" => CampaignEventType::Create,
        "CAMPAIGN_UPDATE" => CampaignEventType::Update,
        "CAMPAIGN_ACTIVATE" => CampaignEventType::Activate,
        "CAMPAIGN_PAUSE" => CampaignEventType::Pause,
        "CAMPAIGN_DELETE" => CampaignEventType::Delete,
        other => return Err(Bad(format!("event_type {other:?} is unknown"))),
    };
    let time = fields.required("timestamp_field", |fields, name| fields.time(name, clock.latest))?;
    let campaign_id = fields.required("campaign_id", Fields::bigint)?;
    let state = campaign_state(&fields)?;
    let active = match event_type {
        CampaignEventType::Pause | CampaignEventType::Delete => None,
        _ => {
            let (campaign, status) = state.ok_or_else(|| Bad("a field is missing".into()))?;
            (status == "ACTIVE").then_some(campaign)
        }
    };
    Ok(CampaignEvent { event_type, time, campaign_id, active })
}

/// The campaign and its status, if every field is there. Those that are there must be well-typed in any case.
fn campaign_state(fields: &Fields) -> Result<Option<(ActiveCampaign, String)>, Bad> {
    let advertiser_id = fields.bigint("advertiser_id")?;
    let product_id = fields.bigint("product_id")?;
    let placement = fields.text("placement")?;
    let category = fields.text("category")?;
    let bid_price = fields.money("bid_price", Money::MAX_PRICE)?;
    let status = fields.text("status")?;
    let whole = || {
        let campaign = ActiveCampaign {
            advertiser_id: advertiser_id?,
            product_id: product_id?,
            placement: placement?,
            category: category?,
            bid_price: bid_price?,
        };
        Some((campaign, status?))
    };
    Ok(whole())
}

/// A line of `ad-events`.
pub fn ad_event(line: &[u8], clock: Clock) -> Result<AdEvent, Bad> {
    let fields = Fields::read(
        line,
        &[
            "event_type",
            "timestamp_field",
            "ad_id",
            "campaign_id",
            "advertiser_id",
            "product_id",
            "placement",
            "category",
            "device_id",
            "session_id",
            "user_id",
            "actual_price",
            "revenue_amount",
        ],
    )?;
    let event_type = match fields.required("event_type", Fields::text)?.as_str() {
        "IMPRESSION" => AdEventType::Impression,
        "CLICK" => AdEventType::Click,
        "CONVERSION" => AdEventType::Conversion,
        other => return Err(Bad(format!("event_type {other:?} is unknown"))),
    };
    let advertiser_id = fields.bigint("advertiser_id")?;
    let actual_price = fields.money("actual_price", Money::MAX_PRICE)?;
    let revenue_amount = fields.money("revenue_amount", Money::MAX_REVENUE)?;
    match event_type {
        AdEventType::Click if advertiser_id.is_none() => return Err(Bad::missing("advertiser_id")),
        AdEventType::Click if actual_price.is_none() => return Err(Bad::missing("actual_price")),
        AdEventType::Conversion if revenue_amount.is_none() => return Err(Bad::missing("revenue_amount")),
        _ => {}
    }
    // Read by no statement, but an ill-typed one makes the record bad.
    fields.text("category")?;
    fields.id_text("user_id")?;
    Ok(AdEvent {
        event_type,
        time: fields.required("timestamp_field", |fields, name| fields.time(name, clock.latest))?,
        ad_id: fields.ad_id("ad_id")?,
        campaign_id: fields.bigint("campaign_id")?,
        advertiser_id,
        product_id: fields.required("product_id", Fields::bigint)?,
        placement: fields.required("placement", Fields::text)?,
        device_id: fields.id_text("device_id")?,
        session_id: fields.id_text("session_id")?,
        actual_price: actual_price.unwrap_or(Money::ZERO),
        revenue_amount: revenue_amount.unwrap_or(Money::ZERO),
    })
}

/// A line of `conversion-events`.
pub fn conversion_event(line: &[u8], clock: Clock) -> Result<ConversionEvent, Bad> {
    let fields = Fields::read(
        line,
        &[
            "event_type",
            "timestamp_field",
            "device_id",
            "session_id",
            "user_id",
            "order_id",
            "product_id",
            "revenue_amount",
        ],
    )?;
    let event_type = fields.required("event_type", Fields::text)?;
    if event_type != "CONVERSION" {
        return Err(Bad(format!("event_type {event_type:?} is unknown")));
    }
    fields.id_text("user_id")?;
    Ok(ConversionEvent {
        time: fields.required("timestamp_field", |fields, name| fields.time(name, clock.latest))?,
        device_id: fields.id_text("device_id")?,
        session_id: fields.id_text("session_id")?,
        order_id: fields.required("order_id", Fields::id_text)?,
        product_id: fields.required("product_id", Fields::bigint)?,
        revenue_amount: fields.required("revenue_amount", |fields, name| fields.money(name, Money::MAX_REVENUE))?,
    })
}

/// A line of `product-metrics`.
pub fn product_metrics(line: &[u8]) -> Result<ProductMetrics, Bad> {
    let fields = Fields::read(line, &["product_id", "ctr", "cvr"])?;
    let product_id = fields.required("product_id", Fields::bigint)?;
    let rates = match (fields.rate("ctr")?, fields.rate("cvr")?) {
        (Some(ctr), Some(cvr)) => Some((ctr, cvr)),
        (None, None) => None,
        _ => return Err(Bad("one of ctr and cvr is missing".into())),
    };
    Ok(ProductMetrics { product_id, rates })
}

/// A line of `product-meta`.
pub fn product_meta(line: &[u8]) -> Result<ProductMeta, Bad> {
    let fields = Fields::read(line, &["product_id", "product_price"])?;
    let product_id = fields.required("product_id", Fields::bigint)?;
    Ok(ProductMeta { product_id, price: fields.money("product_price", Money::MAX_REVENUE)? })
}
