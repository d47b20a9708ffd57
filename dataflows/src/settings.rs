//! What a user may set about the statements. The defaults are those of `docs/semantics.md`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::UnknownIds;

const SECOND: i64 = 1000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;

/// One of the four statements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Statement {
    /// Statement 1.
    RtbCacheUpdater,
    /// Statement 2.
    PerformanceAggregator,
    /// Statement 3.
    ConversionMatcher,
    /// Statement 4.
    DuplicateDetector,
}

impl Statement {
    /// All four, in order.
    pub const ALL: [Statement; 4] = [
        Statement::RtbCacheUpdater,
        Statement::PerformanceAggregator,
        Statement::ConversionMatcher,
        Statement::DuplicateDetector,
    ];

    /// The statement's name in the config, in `late-events` and in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Statement::RtbCacheUpdater => "rtb_cache_updater",
            Statement::PerformanceAggregator => "performance_aggregator",
            Statement::ConversionMatcher => "conversion_matcher",
            Statement::DuplicateDetector => "duplicate_detector",
        }
    }
}

/// How a statement is computed. Its results are the same either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StatementPlan {
    /// By operators that are written for speed, and whose state expires.
    #[default]
    Operators,
    /// By its definition in plain differential operators, which keep their input for ever.
    Definition,
}

/// The settings of the four statements. All durations are milliseconds of event time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Which statements run. Statement 1 with live metrics needs statement 2.
    pub statements: Vec<Statement>,
    /// How long after its closing a window still takes corrections. 0 drops every late record, as Flink does.
    pub allowed_lateness: i64,
    /// How far an event time may lead its record's timestamp, and a timestamp that its producer made up the
    /// reader's clock; where there is no timestamp, the event time the clock. What leads by more is bad
    /// input.
    pub max_future_skew: i64,
    /// Texts that stand for an unknown id.
    #[serde(default)]
    pub unknown_ids: UnknownIds,
    /// Disorder that is expected in `ad-events` by statement 2: watermark = greatest event time - bound.
    pub performance_bound: i64,
    /// The same for statement 3, in `ad-events` and `conversion-events`.
    pub conversions_bound: i64,
    /// The same for statement 4.
    pub duplicates_bound: i64,
    /// Statement 3: how long before a conversion its click may lie.
    pub lookback: i64,
    /// Statement 3: how long after a record that opens a conversion others of its order and product repeat
    /// it; None for the lookback.
    #[serde(default)]
    pub repeat_within: Option<i64>,
    /// Statement 1: the length of a ranking, 0 for no limit.
    pub ranking_limit: usize,
    /// Statement 1: where click-through and conversion rates come from.
    pub product_metrics: MetricsSource,
    /// Statement 2: when rows are written.
    pub emit: Emit,
    /// The statements that don't run by [`StatementPlan::Operators`]. As results don't depend on it, it is
    /// not kept with them.
    #[serde(skip)]
    pub plan: BTreeMap<Statement, StatementPlan>,
}

/// Where statement 1 takes ctr and cvr from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MetricsSource {
    /// The topic `product-metrics`.
    Topic,
    /// Each product's last closed windows of statement 2.
    Live {
        /// How many of them.
        windows: usize,
    },
}

/// When statement 2 writes a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Emit {
    /// Whenever the row changed, and as final when its window closed.
    OnUpdate,
    /// Only when its window has closed, and on late corrections.
    OnClose,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            statements: Statement::ALL.to_vec(),
            allowed_lateness: 10 * MINUTE,
            max_future_skew: 5 * MINUTE,
            unknown_ids: UnknownIds::default(),
            performance_bound: 10 * SECOND,
            conversions_bound: HOUR,
            duplicates_bound: 30 * SECOND,
            lookback: 24 * HOUR,
            repeat_within: None,
            ranking_limit: 100,
            product_metrics: MetricsSource::Topic,
            emit: Emit::OnUpdate,
            plan: BTreeMap::new(),
        }
    }
}

impl Settings {
    /// How long after a record that opens a conversion others of its order and product repeat it.
    pub fn repeat_within(&self) -> i64 {
        self.repeat_within.unwrap_or(self.lookback)
    }

    /// How a statement is computed.
    pub fn plan(&self, statement: Statement) -> StatementPlan {
        self.plan.get(&statement).copied().unwrap_or_default()
    }

    /// How long statement 3 remembers.
    pub fn memory(&self) -> Memory {
        Memory { lookback: self.lookback, repeat_within: self.repeat_within() }
    }
}

/// How long statement 3 remembers, in milliseconds of event time before what is late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Clicks.
    pub lookback: i64,
    /// Conversions.
    pub repeat_within: i64,
}
