//! What a run waits for that its dataflow does not owe.

use crate::{connect, sink};

/// Whether this process waits for what the dataflow does not owe: a server that is away or does not answer, a
/// sink that is committing, the store of checkpoints, a long file.
pub fn waits_outside() -> bool {
    connect::is_waiting() || !connect::troubles().is_empty() || !sink::writing_sinks().is_empty()
}
