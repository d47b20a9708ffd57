//! Keeps at hand what enters the state, until a checkpoint takes it.
//!
//! Each operator that holds state keeps what entered it since the last *boundary*, a multiple of the
//! checkpoints' interval on the scale of epochs, and flushes it before it goes past the next one. A boundary
//! that all operators of all workers have passed is a consistent cut: it holds exactly the epochs up to it.
//! Nothing waits for it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use super::{StateDelta, StateRow};
use crate::model::Epoch;

/// A restored state is given back in epochs before this one; with it the watermarks of its checkpoint take
/// effect. No real epoch is so early.
pub const RESTORED: Epoch = 1 << 20;

/// The boundary after all epochs: no real epoch is so late.
pub const LAST: Epoch = Epoch::MAX - 1;

/// Takes from a worker's operators what entered their state.
#[derive(Clone, Debug, Default)]
pub struct DeltaLog(Option<Rc<RefCell<Inner>>>);

#[derive(Debug)]
struct Inner {
    /// The distance of boundaries.
    interval: u64,
    /// The boundary that each operator has passed.
    passed: Vec<Epoch>,
    /// What the operators flushed, by boundary.
    kept: BTreeMap<Epoch, StateDelta>,
}

/// An operator's part in a [`DeltaLog`].
#[derive(Debug)]
pub struct DeltaRecorder {
    delta_log: DeltaLog,
    index: usize,
    /// The first epoch that is past the next boundary.
    next: Epoch,
    restoring: bool,
}

impl DeltaLog {
    /// Keeps nothing.
    pub fn off() -> DeltaLog {
        DeltaLog(None)
    }

    /// Keeps what enters after [`RESTORED`], with a boundary every `interval` milliseconds of epochs.
    pub fn new(interval: u64) -> DeltaLog {
        let inner = Inner { interval: interval.max(1), passed: Vec::new(), kept: BTreeMap::new() };
        DeltaLog(Some(Rc::new(RefCell::new(inner))))
    }

    /// Whether it keeps anything.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Takes part. An operator that holds state does so once, when it is built.
    pub fn recorder(&self) -> DeltaRecorder {
        let index = self.0.as_ref().map_or(0, |inner| {
            let passed = &mut inner.borrow_mut().passed;
            passed.push(0);
            passed.len() - 1
        });
        DeltaRecorder { delta_log: self.clone(), index, next: RESTORED + 1, restoring: true }
    }

    /// The last boundary that all operators of this worker have passed: what they kept up to it is complete.
    /// After the last epoch it is [`LAST`]; before the first boundary 0.
    pub fn passed(&self) -> Epoch {
        let passed = self.0.as_ref().and_then(|inner| inner.borrow().passed.iter().copied().min());
        passed.filter(|passed| *passed > RESTORED).unwrap_or(0)
    }

    /// What entered by a boundary that was passed, without what was taken before.
    pub fn take(&self, boundary: Epoch) -> StateDelta {
        let mut delta = StateDelta::default();
        let Some(inner) = &self.0 else { return delta };
        let kept = &mut inner.borrow_mut().kept;
        while let Some(first) = kept.first_entry()
            && *first.key() <= boundary
        {
            delta.append(first.remove());
        }
        delta
    }

    /// About how much memory it takes what was kept and not taken.
    pub fn bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |inner| inner.borrow().kept.values().map(StateDelta::bytes).sum())
    }
}

impl DeltaRecorder {
    /// As [`DeltaRecorder::reach`], of rows that wait in a list.
    pub fn flush_before<R: StateRow>(&mut self, epoch: Epoch, unsaved: &mut Vec<R>) {
        self.reach(epoch, |to| match to {
            Some(to) => to.extend(std::mem::take(unsaved)),
            None => unsaved.clear(),
        });
    }

    /// Whether what enters has to be kept at hand: not what a checkpoint gives back.
    pub fn is_on(&self) -> bool {
        self.delta_log.0.is_some() && !self.restoring
    }

    /// The next boundary: all that is at hand entered by then.
    pub fn boundary(&self) -> Epoch {
        self.next - 1
    }

    /// Says that the operator has done all epochs before `epoch` and none from there on. If a boundary lies
    /// between, calls `flush`, which must leave nothing at hand; None instead of a place for it means that it
    /// is not wanted, because it came from a checkpoint.
    pub fn reach(&mut self, epoch: Epoch, flush: impl FnOnce(Option<&mut StateDelta>)) {
        if epoch < self.next {
            return;
        }
        let Some(inner) = &self.delta_log.0 else { return };
        let mut inner = inner.borrow_mut();
        // What is at hand entered by the first boundary that was not passed; the last one before `epoch` may
        // be later.
        let first = self.next - 1;
        let last = if epoch == Epoch::MAX { LAST } else { (epoch - 1) / inner.interval * inner.interval };
        self.next = last.saturating_add(inner.interval).saturating_add(1);
        if std::mem::take(&mut self.restoring) {
            flush(None);
        } else {
            flush(Some(inner.kept.entry(first).or_default()));
        }
        inner.passed[self.index] = last;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn price(product: i64) -> StateDelta {
        StateDelta { prices: vec![(product, (0, product as u64), None)], ..StateDelta::default() }
    }

    fn give(recorder: &mut DeltaRecorder, epoch: Epoch, product: i64) {
        recorder.reach(epoch, |to| {
            if let Some(to) = to {
                to.append(price(product));
            }
        });
    }

    #[test]
    fn a_boundary_is_passed_when_all_have_passed_it() {
        let delta_log = DeltaLog::new(1000);
        let (mut one, mut other) = (delta_log.recorder(), delta_log.recorder());
        let taken = |boundary| delta_log.take(boundary).prices.len();
        let start = 2_000_000;
        assert_eq!(delta_log.passed(), 0);
        give(&mut one, start + 1, 1);
        give(&mut other, start + 1, 2);
        assert_eq!((delta_log.passed(), taken(start)), (start, 0), "what was restored is not kept again");
        give(&mut one, start + 1000, 3);
        assert_eq!(delta_log.passed(), start, "not past it");
        give(&mut one, start + 1001, 4);
        give(&mut one, start + 2001, 5);
        assert_eq!(delta_log.passed(), start, "the other is not past it");
        give(&mut other, start + 1500, 6);
        assert!(delta_log.bytes() > 0);
        assert_eq!((delta_log.passed(), taken(start + 1000)), (start + 1000, 2));
        give(&mut one, Epoch::MAX, 7);
        give(&mut other, Epoch::MAX, 8);
        assert_eq!((delta_log.passed(), taken(LAST)), (LAST, 3));
        assert_eq!((delta_log.passed(), taken(LAST), delta_log.bytes()), (LAST, 0, 0));
    }

    #[test]
    fn any_boundary_can_be_taken_however_far_the_worker_is() {
        let delta_log = DeltaLog::new(1000);
        let (mut one, mut other) = (delta_log.recorder(), delta_log.recorder());
        give(&mut one, 2_000_001, 0);
        give(&mut other, 2_000_001, 0);
        give(&mut one, 2_005_000, 1);
        give(&mut other, 2_001_001, 2);
        give(&mut other, 2_002_001, 3);
        give(&mut other, 2_004_500, 4);
        let taken = [2_001_000, 2_002_000, 2_003_000, 2_004_000]
            .map(|boundary| delta_log.take(boundary).prices.len());
        assert_eq!(taken, [2, 1, 1, 0], "who passes several at once hands over to the first");
    }

    #[test]
    fn nothing_is_kept_without_checkpoints() {
        let delta_log = DeltaLog::off();
        let mut recorder = delta_log.recorder();
        assert!(!recorder.is_on());
        recorder.reach(Epoch::MAX, |_| unreachable!());
        assert_eq!((delta_log.passed(), delta_log.take(LAST)), (0, StateDelta::default()));
    }
}
