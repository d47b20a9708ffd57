//! The four statements of adtide as timely and differential dataflows: pure, no I/O.

pub mod model;
mod settings;

pub use settings::{Emit, MetricsSource, Settings};
