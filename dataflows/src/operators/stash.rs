//! Input that waits until its epoch is complete.

use std::collections::BTreeMap;

use timely::dataflow::operators::{Capability, InputCapability};
use timely::progress::frontier::MutableAntichain;

use crate::model::Epoch;

/// Records by epoch, each epoch with the capability to answer it.
pub struct Stash<D> {
    epochs: BTreeMap<Epoch, (Capability<Epoch>, Vec<D>)>,
}

impl<D> Default for Stash<D> {
    fn default() -> Self {
        Stash { epochs: BTreeMap::new() }
    }
}

impl<D> Stash<D> {
    /// The records that wait for `epoch`, which must not lie before the message's stamp.
    pub fn at(&mut self, capability: &InputCapability<Epoch>, epoch: Epoch) -> &mut Vec<D> {
        &mut self.epochs.entry(epoch).or_insert_with(|| (capability.delayed(&epoch, 0), Vec::new())).1
    }

    /// Stashes a whole container under its message's stamp, without copying when it is the epoch's first.
    pub fn append(&mut self, capability: &InputCapability<Epoch>, records: &mut Vec<D>) {
        let Some(&epoch) = capability.least() else { return };
        let waiting = self.at(capability, epoch);
        if waiting.is_empty() {
            std::mem::swap(waiting, records);
        } else {
            waiting.append(records);
        }
    }

    /// Takes the least epoch, if no frontier admits more input for it.
    pub fn next_complete(
        &mut self,
        frontiers: &[&MutableAntichain<Epoch>],
    ) -> Option<(Capability<Epoch>, Vec<D>)> {
        let (&epoch, _) = self.epochs.first_key_value()?;
        if frontiers.iter().any(|frontier| frontier.less_equal(&epoch)) {
            return None;
        }
        self.epochs.pop_first().map(|(_, waiting)| waiting)
    }

    /// Takes the least epoch if it is at most `epoch`, complete or not.
    pub fn next_until(&mut self, epoch: Epoch) -> Option<(Capability<Epoch>, Vec<D>)> {
        let (&least, _) = self.epochs.first_key_value()?;
        if least > epoch {
            return None;
        }
        self.epochs.pop_first().map(|(_, waiting)| waiting)
    }
}
