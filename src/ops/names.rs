//! The names of all metrics and labels: the contract that docs/metrics.md describes.

/// How a metric behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows while the process lives; its samples end in `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A distribution: its samples end in `_bucket`, `_sum` and `_count`.
    Histogram,
    /// Always 1; what it tells is in its labels. Its sample ends in `_info`.
    Info,
}

/// A metric: what it is called and what it is.
#[derive(Debug)]
pub struct Metric {
    /// Its name without what its kind puts behind it.
    pub name: &'static str,
    /// What it counts.
    pub help: &'static str,
    /// How it behaves.
    pub kind: Kind,
    /// Its labels.
    pub labels: &'static [&'static str],
}

impl Metric {
    /// The name as it is seen: in queries, and in docs/metrics.md.
    pub fn seen_as(&self) -> String {
        let ending = match self.kind {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            Kind::Gauge | Kind::Histogram => "",
        };
        format!("{}{ending}", self.name)
    }
}

/// A topic of the input.
pub const TOPIC: &str = "topic";
/// A partition of it.
pub const PARTITION: &str = "partition";
/// What came of a record: `good` or `dead`.
pub const OUTCOME: &str = "outcome";
/// A statement.
pub const STATEMENT: &str = "statement";
/// What a statement holds.
pub const WHAT: &str = "what";
/// Why a record is a dead letter.
pub const REASON: &str = "reason";
/// A sink.
pub const SINK: &str = "sink";
/// Something that is tried until it succeeds.
pub const ACTION: &str = "action";
/// One of the four workers.
pub const WORKER: &str = "worker";
/// The version of the binary.
pub const VERSION: &str = "version";
/// Which id: `device`, `ad` or `session`.
pub const ID: &str = "id";

macro_rules! metrics {
    ($($constant:ident = $kind:ident $name:literal [$($label:ident),*] $help:literal;)*) => {
        $(
            #[doc = concat!("`", $name, "`: ", $help, ".")]
            pub const $constant: Metric =
                Metric { name: $name, help: $help, kind: Kind::$kind, labels: &[$($label),*] };
        )*
        /// Every metric.
        pub const ALL: &[&Metric] = &[$(&$constant),*];
    };
}

metrics! {
    BUILD = Info "adtide_build" [VERSION] "The version of the binary";
    READY = Gauge "adtide_ready" [] "1 when /readyz answers 200, else 0";

    EVENTS = Counter "adtide_events" [TOPIC, PARTITION, OUTCOME] "Records read";
    DEAD_LETTERS = Counter "adtide_dead_letters" [REASON] "Records that could not be read";
    LATE_EVENTS = Counter "adtide_late_events" [STATEMENT] "Records that came too late for a statement";
    WITHOUT_CAMPAIGN = Counter "adtide_events_without_campaign" [] "Ad events that statement 2 left out";
    CLICKS_WITHOUT_ID = Counter "adtide_clicks_without_id" [ID] "Clicks without an id that matches them with others";
    CONVERSIONS_WITHOUT_ID =
        Counter "adtide_conversions_without_id" [ID] "Conversions without an id that matches them with clicks";
    REPEATED_CONVERSIONS = Counter "adtide_repeated_conversions" [] "Conversions that repeated another";
    SPEND = Counter "adtide_spend" [] "What the clicks read cost, duplicates included, in currency units";
    REFUNDS = Counter "adtide_refunds" [] "Refunds found for duplicate clicks, in currency units";

    WORKER_RECORDS = Counter "adtide_worker_records" [WORKER] "Records that a worker has read";
    WORKER_BAD = Counter "adtide_worker_bad_records" [WORKER] "Records that a worker could not read";
    WORKER_DEBITS = Counter "adtide_worker_debits" [WORKER] "Clicks debited, or counted against budgets";
    WORKER_DEBITED = Counter "adtide_worker_debited" [WORKER] "Their sum, in currency units";
    WORKER_CREDITS = Counter "adtide_worker_credits" [WORKER] "Refunds credited, or counted for budgets";
    WORKER_CREDITED = Counter "adtide_worker_credited" [WORKER] "Their sum, in currency units";
    WORKER_PAUSED = Counter "adtide_worker_campaigns_paused" [WORKER] "Campaigns paused, their budget being spent";
    WORKER_ACTIVATED = Counter "adtide_worker_campaigns_activated" [WORKER] "Campaigns that a refund brought back";
    WORKER_REFUSED = Counter "adtide_worker_commits_refused" [WORKER] "Commits that another process had forestalled";
    WORKER_LAG = Gauge "adtide_worker_lag_records" [WORKER] "Records that a worker has not read yet";

    LAG_RECORDS = Gauge "adtide_source_lag_records" [TOPIC, PARTITION] "Records in Kafka that were not read yet";
    LAG_BYTES = Gauge "adtide_source_lag_bytes" [] "Bytes of the topic files that were not read yet";
    NEXT_OFFSET = Gauge "adtide_source_next_offset" [TOPIC, PARTITION] "The offset to be read next";
    IDLE = Gauge "adtide_source_idle" [TOPIC, PARTITION] "1 if the partition is idle, else 0";
    READ_BYTES = Counter "adtide_source_read_bytes" [] "Bytes read";

    WATERMARK = Gauge "adtide_watermark_seconds" [STATEMENT] "The watermark, in seconds since 1970";
    FRONTIER_LAG = Gauge "adtide_frontier_lag_seconds" [] "Now minus the first epoch that is not committed everywhere";
    EPOCH_SECONDS = Histogram "adtide_epoch_seconds" [] "From an epoch's first record to its commit everywhere";
    IN_FLIGHT = Gauge "adtide_epochs_in_flight" [] "Ended epochs that wait for a sink";
    STATE_ROWS = Gauge "adtide_state_rows" [STATEMENT, WHAT] "What a statement holds";
    STATE_BYTES = Gauge "adtide_state_bytes" [STATEMENT, WHAT] "How much memory that takes, about";

    CHECKPOINTS = Counter "adtide_checkpoints" [] "Checkpoints completed";
    CHECKPOINT_EPOCH = Gauge "adtide_checkpoint_epoch" [] "The epoch of the last checkpoint";
    CHECKPOINT_AGE = Gauge "adtide_checkpoint_age_seconds" [] "How long ago the last checkpoint was completed";
    CHECKPOINT_ROWS = Gauge "adtide_checkpoint_rows" [] "Rows that the last checkpoint holds";
    CHECKPOINT_BYTES = Gauge "adtide_checkpoint_bytes" [] "Bytes that the last checkpoint holds, as stored";
    CHECKPOINT_WAITING = Gauge "adtide_checkpoint_waiting_bytes" [] "Bytes of new state that wait to be written for a checkpoint";
    CHECKPOINT_WRITTEN = Counter "adtide_checkpoint_written_bytes" [] "Bytes of new state written for checkpoints";

    SINK_ROWS = Counter "adtide_sink_rows" [SINK] "Rows and records committed";
    SINK_COMMITS = Counter "adtide_sink_commits" [SINK] "Commits that succeeded";
    SINK_EPOCHS = Counter "adtide_sink_epochs" [SINK] "Epochs committed";
    SINK_SECONDS = Histogram "adtide_sink_commit_seconds" [SINK] "How long a commit took, retries included";
    SINK_AGE = Gauge "adtide_sink_last_commit_age_seconds" [SINK] "How long ago the last commit was";
    SINK_WRITING = Gauge "adtide_sink_writing_seconds" [SINK] "How long the commit under way has taken; 0 without one";
    RETRIES = Counter "adtide_retries" [ACTION] "Attempts that failed and were or will be made again";

    MEMORY = Gauge "process_resident_memory_bytes" [] "Resident memory";
    CPU = Counter "process_cpu_seconds" [] "Processor time, of user and system together";
    START = Gauge "process_start_time_seconds" [] "When the process started, in seconds since 1970";
}
