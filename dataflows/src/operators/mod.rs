//! What the statements share.

mod epochs;
mod left_join;
mod newest;
mod retain;
mod stash;
mod top_k;
mod watermark;

pub use epochs::{EpochLogic, epochs};
pub use left_join::left_join;
pub use newest::{Upsert, newest};
pub use retain::retain;
pub use stash::Stash;
pub use top_k::{Ranked, top_k};
pub use watermark::{
    Cut, FileMark, Fingerprint, PartitionReport, PartitionState, Wake, WatermarkView, Watermarks, watermarks,
};
