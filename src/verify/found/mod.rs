//! What a run wrote, wherever it wrote it.
//!
//! It is seen as it was at one moment of each sink, together with the progress that stands for that moment: a
//! run may go on while its results are verified.

use std::borrow::Cow;

use adtide_dataflows::Settings;
use anyhow::{Context, ensure};

use super::cells::Row;
use crate::sink::{Progress, Run, Stored};

mod embedded;
mod kafka;
mod postgres;
mod redis;
mod services;

pub use embedded::Embedded;
pub use services::{Services, ServicesConfig};

/// A table of results.
#[derive(Debug)]
pub struct Table {
    /// Its name.
    pub name: &'static str,
    /// The columns that tell its rows apart.
    pub key: &'static [Column],
    /// The others that are compared.
    pub values: &'static [Column],
}

/// A column and what it holds.
pub type Column = (&'static str, Kind);

/// What a column holds. Each comes as the same [`Cell`](super::cells::Cell), whatever the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A whole number.
    Integer,
    /// A floating-point number.
    Real,
    /// A text.
    Text,
    /// An amount, as a text with two decimals.
    Money,
    /// A time, as a text `yyyy-MM-dd HH:mm:ss.SSS`, UTC.
    Time,
    /// A time without its milliseconds, as a text `yyyy-MM-dd HH:mm:ss`, UTC.
    Second,
    /// Yes or no, as 1 or 0.
    Flag,
}

impl Table {
    /// All its columns, the key first.
    pub fn columns(&self) -> impl Iterator<Item = Column> {
        self.key.iter().chain(self.values).copied()
    }
}

/// Statement 1: a row a ranking, the list as JSON.
pub const RANKINGS: Table = Table {
    name: "rtb_ranking_cache",
    key: &[("placement", Kind::Text), ("category", Kind::Text)],
    values: &[("total_campaigns", Kind::Integer), ("ranking_list", Kind::Text)],
};

/// Statement 2.
pub const PERFORMANCE: Table = Table {
    name: "ad_performance_metrics_realtime",
    key: &[
        ("campaign_id", Kind::Integer),
        ("product_id", Kind::Integer),
        ("placement", Kind::Text),
        ("metric_time", Kind::Second),
    ],
    values: &[
        ("impression_count", Kind::Integer),
        ("click_count", Kind::Integer),
        ("conversion_count", Kind::Integer),
        ("total_spend", Kind::Money),
        ("total_revenue", Kind::Money),
        ("ctr", Kind::Real),
        ("cvr", Kind::Real),
        ("roas", Kind::Real),
        ("is_final", Kind::Flag),
    ],
};

/// Statement 3.
pub const ATTRIBUTIONS: Table = Table {
    name: "conversion_attribution_results",
    key: &[("order_id", Kind::Text), ("product_id", Kind::Integer), ("attribution_model", Kind::Text)],
    values: &[
        ("ad_id", Kind::Text),
        ("campaign_id", Kind::Integer),
        ("advertiser_id", Kind::Integer),
        ("revenue_amount", Kind::Money),
        ("time_to_conversion", Kind::Integer),
        ("click_time", Kind::Time),
        ("conversion_time", Kind::Time),
    ],
};

/// Whose money the ledger accounts for.
pub const ADVERTISERS: Table = Table {
    name: "advertisers",
    key: &[("advertiser_id", Kind::Integer)],
    values: &[("opening_balance", Kind::Money), ("balance", Kind::Money)],
};

/// What campaigns sum up of the ledger.
pub const CAMPAIGNS: Table = Table {
    name: "campaigns",
    key: &[("campaign_id", Kind::Integer)],
    values: &[
        ("debits", Kind::Money),
        ("credits", Kind::Money),
        ("last_entry", Kind::Time),
        ("status", Kind::Text),
        ("state_time", Kind::Time),
        ("state_partition", Kind::Integer),
        ("state_offset", Kind::Integer),
        ("advertiser_id", Kind::Integer),
        ("product_id", Kind::Integer),
        ("placement", Kind::Text),
        ("category", Kind::Text),
        ("bid_price", Kind::Money),
    ],
};

/// The ledger.
pub const LEDGER: Table = Table {
    name: "balance_ledger",
    key: &[("entry_id", Kind::Integer)],
    values: &[
        ("entry_type", Kind::Text),
        ("advertiser_id", Kind::Integer),
        ("campaign_id", Kind::Integer),
        ("amount", Kind::Money),
        ("event_time", Kind::Time),
        ("topic", Kind::Text),
        ("partition", Kind::Integer),
        ("offset", Kind::Integer),
        ("compensation_id", Kind::Text),
    ],
};

/// What campaigns have spent and got back, for whoever decides on bids: a row a campaign.
pub const BUDGETS: Table = Table {
    name: "campaign_budget",
    key: &[("campaign_id", Kind::Integer)],
    values: &[("spent", Kind::Money), ("refunded", Kind::Money)],
};

/// How far the workers are.
pub const WORKER_OFFSETS: Table = Table {
    name: "worker_offsets",
    key: &[("worker", Kind::Text), ("topic", Kind::Text), ("partition", Kind::Integer)],
    values: &[("next_offset", Kind::Integer)],
};

/// A sink and where it stands.
#[derive(Clone, Debug)]
pub struct Standing {
    /// The sink.
    pub sink: &'static str,
    /// Where it stands; None if it has committed nothing yet.
    pub progress: Option<Progress>,
}

/// The sinks of a run.
#[derive(Clone, Debug)]
pub struct Sinks {
    /// The one that holds the rankings.
    pub rankings: Standing,
    /// The one that holds the tables of statements 2 and 3.
    pub tables: Standing,
    /// The one that holds the topics.
    pub topics: Standing,
    /// The settings that the run worked by.
    pub settings: Settings,
}

/// What a run wrote.
pub trait Found {
    /// The sinks and where they stand.
    fn sinks(&self) -> &Sinks;

    /// What else there is to say of the results.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }

    /// The full name of a topic, as the workers know it.
    fn topic(&self, name: &str) -> String {
        name.to_owned()
    }

    /// How a text stands in the tables of statements 2 and 3.
    fn stored_text(&self) -> fn(&str) -> Cow<'_, str> {
        |text| Cow::Borrowed(text)
    }

    /// How a text stands in `campaigns`.
    fn held_text(&self) -> fn(&str) -> Cow<'_, str> {
        |text| Cow::Borrowed(text)
    }

    /// Whether a table is there.
    ///
    /// # Errors
    /// The database can't be read.
    fn has(&mut self, table: &Table) -> anyhow::Result<bool>;

    /// Calls `each` with every row of a table, the key's columns first.
    ///
    /// # Errors
    /// The table can't be read.
    fn each_row(&mut self, table: &Table, each: &mut dyn FnMut(Row)) -> anyhow::Result<()>;

    /// Calls `each` with partition, offset and value of every committed record of an output topic.
    ///
    /// # Errors
    /// The topic can't be read.
    fn each_record(&mut self, topic: &str, each: &mut dyn FnMut(u32, u64, &[u8])) -> anyhow::Result<()>;
}

/// The run that all of the sinks hold results of.
///
/// # Errors
/// There is none, or they hold results of different settings.
fn one_run(stored: &[(&'static str, Option<Stored>)], place: &str) -> anyhow::Result<Run> {
    let mut runs = stored.iter().filter_map(|(sink, stored)| Some((sink, &stored.as_ref()?.run)));
    let (first, run) = runs
        .next()
        .with_context(|| format!("{place}: nothing has been committed there; run adtide first"))?;
    for (sink, other) in runs {
        ensure!(
            other.settings == run.settings && other.source == run.source,
            "{sink} holds results of other settings or topics than {first}; they are of different runs, which can't be \
             verified together"
        );
    }
    Ok(run.clone())
}
