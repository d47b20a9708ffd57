//! What the tests share: records, histories of them, a driver, and the comparison with the batch
//! recomputation.

mod check;
mod checkpoint;
mod history;
mod line;
mod mutate;
mod oracle;
mod plain;
mod random;
mod run;

pub use check::check;
pub use checkpoint::Checkpoint;
pub use history::{History, Step};
pub use line::{Line, campaign, click, impression, metrics, no_metrics, no_price, pause, price, sale, sold};
pub use mutate::{Dice, mutated};
pub use oracle::{RefundSum, refund_sums};
pub use plain::{MatchEvent, Turn, nets};
pub use random::{Disorder, histories, settings};
pub use run::{Changes, Held, Plan, Run};

use adtide_dataflows::model::{EventTime, WINDOW_MS};
use adtide_dataflows::{Emit, Settings};

pub const SECOND: i64 = 1000;
pub const MINUTE: i64 = 60 * SECOND;
pub const HOUR: i64 = 60 * MINUTE;

/// The clock of the tests, far after all events.
pub const NOW: EventTime = EventTime(1_000_000_000_000);

/// Bounds of seconds, a lookback of ten minutes and an allowed lateness of one, so that a short history has
/// everything: records in order, out of order and late, windows that close, clicks that expire.
pub fn small() -> Settings {
    Settings {
        performance_bound: 10 * SECOND,
        conversions_bound: 20 * SECOND,
        duplicates_bound: 30 * SECOND,
        allowed_lateness: MINUTE,
        lookback: 10 * MINUTE,
        ..Settings::default()
    }
}

/// As [`small`], but rows of statement 2 come out only when their window has closed.
pub fn on_close() -> Settings {
    Settings { emit: Emit::OnClose, ..small() }
}

/// The end of the n-th window, counted from 0.
pub fn window_end(n: i64) -> i64 {
    (n + 1) * WINDOW_MS
}
