//! What the statements share.

mod epochs;
pub mod last_before;
pub mod left_join;
pub mod newest;
mod recorded;
mod stash;
pub mod top_k;
mod watermark;
pub mod windowed_reduce;

pub use epochs::{Beside, EpochLogic, epochs, epochs_beside};
pub use last_before::{AsOf, AsOfState, Keys, last_before};
pub use left_join::left_join;
pub use newest::{Upsert, newest};
pub use recorded::{at_epochs, changes, recorded};
pub use stash::Stash;
pub use top_k::{Ranked, top_k};
pub use watermark::{
    Cut, FileMark, Fingerprint, PartitionReport, PartitionState, Wake, WatermarkView, Watermarks, watermarks,
};
pub use windowed_reduce::{Aggregate, WindowedState, windowed_reduce};
