//! Where events come from.

pub mod file;
pub mod generator;

use adtide_dataflows::Ingest;
use adtide_dataflows::model::Epoch;
use adtide_dataflows::operators::WatermarkView;

/// One worker's share of the input.
pub trait Source {
    /// Adds this worker's partitions to the ingest and reports them, for epoch 0.
    ///
    /// # Errors
    /// The input can't be read.
    fn start(&mut self, ingest: &mut Ingest) -> anyhow::Result<()>;

    /// Reads a little, some milliseconds' worth at most, without waiting. `epoch` is the one that is being filled.
    ///
    /// # Errors
    /// The input can't be read.
    fn poll(&mut self, ingest: &mut Ingest, epoch: Epoch, view: &WatermarkView) -> anyhow::Result<Poll>;

    /// Reports, at an epoch's end, the partitions that changed in it.
    fn report(&mut self, ingest: &mut Ingest);

    /// How many bytes have been read.
    fn bytes_read(&self) -> u64;

    /// How many bytes there are to read, as far as is known.
    fn bytes_total(&self) -> u64;
}

/// What came of a poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Poll {
    /// There is more.
    Ready,
    /// There is nothing now.
    Pending,
    /// There will never be more.
    Finished,
}
