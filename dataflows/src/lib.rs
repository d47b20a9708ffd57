//! The four statements of adtide as timely and differential dataflows: pure, no I/O.

pub mod conversion_matcher;
mod counts;
mod dataflow;
pub mod duplicate_detector;
mod envelope;
mod hash;
mod ingest;
mod judgement;
pub mod model;
pub mod operators;
pub mod oracle;
pub mod performance_aggregator;
pub mod record;
mod rejected;
pub mod rtb_cache_updater;
mod settings;
mod state;
mod wakes;

pub use counts::{Counts, IdCounts, PartitionCounts};
pub use dataflow::{Inputs, Outputs, State, dataflow, replay};
pub use envelope::Envelope;
pub use hash::{HashMap, HashSet, RandomState, RoutingKey};
pub use ingest::{Batch, Ingest, PartitionHandle};
pub use judgement::{Judgement, Stamp};
pub use rejected::{DeadLetter, LateEvent};
pub use settings::{Emit, Memory, MetricsSource, Settings, Statement, StatementPlan};
pub use state::{
    Codec, CodecError, Column, Decoder, DeltaLog, DeltaRecorder, Encoder, Expiry, Kind, KindOfRow, LAST,
    RESTORED, StateDelta, StateRow,
};
