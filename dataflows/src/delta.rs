//! What enters the statements' state, for checkpoints.
//!
//! State is what came in and has not expired, so a checkpoint is a log of what came in, from which what has expired is
//! dropped. Each operator that holds state keeps at hand what entered it since the last *boundary*, a multiple of the
//! checkpoints' interval on the scale of epochs, and hands it over before it goes past the next one. A boundary that all
//! operators of all workers have passed is a consistent cut: it holds exactly the epochs up to it. Nothing waits for it.
//!
//! None of it depends on an order or on who kept it: sums come as increments, upserts carry their order, everything else
//! is a set. So what many workers kept in many boundaries can be given to any number of workers in any order.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::conversion_matcher::{Conversion, Opener, RoutedClick};
use crate::duplicate_detector::PaidClick;
use crate::model::{Epoch, EventTime, WINDOW_MS};
use crate::operators::Watermarks;
use crate::performance_aggregator::PartialSums;
use crate::performance_aggregator::PerformanceSums;
use crate::rtb_cache_updater::{CampaignUpdate, PriceUpdate, RatesUpdate};
use crate::settings::Memory;
use crate::state::StateRow;

/// A restored state is given back in epochs before this one; with it the watermarks of its checkpoint take effect. No
/// real epoch is so early.
pub const RESTORED: Epoch = 1 << 20;

/// The boundary after all epochs: no real epoch is so late.
pub const LAST: Epoch = Epoch::MAX - 1;

/// What a closed window of statement 2 adds to a product's live rates: the product, the window's start, the sums.
pub type RateSums = (i64, EventTime, PerformanceSums);

/// What entered the state of the statements.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StateDelta {
    /// Statement 1: the campaigns' newest events.
    pub campaigns: Vec<CampaignUpdate>,
    /// Statement 1: the products' newest rates.
    pub rates: Vec<RatesUpdate>,
    /// Statement 1: the products' newest prices.
    pub prices: Vec<PriceUpdate>,
    /// Statement 1 with live rates: increments.
    pub live_rates: Vec<RateSums>,
    /// Statement 2: increments.
    pub sums: Vec<PartialSums>,
    /// Statement 3: clicks.
    pub clicks: Vec<RoutedClick>,
    /// Statement 3: records of conversions, repeats too.
    pub conversions: Vec<Conversion>,
    /// Statement 3: which of them opened one, when that was certain.
    pub openers: Vec<Opener>,
    /// Statement 4.
    pub paid_clicks: Vec<PaidClick>,
}

/// The parts of [`StateDelta`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// [`StateDelta::campaigns`].
    Campaigns,
    /// [`StateDelta::rates`].
    Rates,
    /// [`StateDelta::prices`].
    Prices,
    /// [`StateDelta::live_rates`].
    LiveRates,
    /// [`StateDelta::sums`].
    Sums,
    /// [`StateDelta::clicks`].
    Clicks,
    /// [`StateDelta::conversions`].
    Conversions,
    /// [`StateDelta::paid_clicks`].
    PaidClicks,
    /// [`StateDelta::openers`].
    Openers,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 9] = [
        Kind::Campaigns,
        Kind::Rates,
        Kind::Prices,
        Kind::LiveRates,
        Kind::Sums,
        Kind::Clicks,
        Kind::Conversions,
        Kind::PaidClicks,
        Kind::Openers,
    ];

    /// Whether what has this event time (of sums, the start of their window) has left the state of a run that remembers for so
    /// long.
    ///
    /// `forgotten` says, for each statement, from before which times records are late: by the run itself, which is its
    /// watermarks less the allowed lateness, or by one before it that it goes on from, where less lateness was allowed.
    ///
    /// Clicks may stay in memory for longer, where no conversion can match them. Conversions leave it earlier, when they are
    /// settled: those of an old checkpoint say which of them opened. All else leaves exactly then.
    pub fn has_expired(self, time: EventTime, forgotten: &Watermarks, memory: Memory) -> bool {
        let window_end = || time.window_start().plus(WINDOW_MS - 1);
        match self {
            Kind::Campaigns | Kind::Rates | Kind::Prices | Kind::LiveRates => false,
            Kind::Sums => window_end() < forgotten.performance,
            Kind::PaidClicks => window_end() < forgotten.duplicates,
            Kind::Clicks => time.plus(memory.lookback) < forgotten.conversions,
            Kind::Conversions | Kind::Openers => time.plus(memory.repeat_within) < forgotten.conversions,
        }
    }
}

impl StateDelta {
    /// Adds rows of one kind.
    pub fn extend<R: StateRow>(&mut self, rows: impl IntoIterator<Item = R>) {
        R::rows(self).extend(rows);
    }

    /// Adds what somebody else kept.
    pub fn append(&mut self, mut other: StateDelta) {
        self.campaigns.append(&mut other.campaigns);
        self.rates.append(&mut other.rates);
        self.prices.append(&mut other.prices);
        self.live_rates.append(&mut other.live_rates);
        self.sums.append(&mut other.sums);
        self.clicks.append(&mut other.clicks);
        self.conversions.append(&mut other.conversions);
        self.openers.append(&mut other.openers);
        self.paid_clicks.append(&mut other.paid_clicks);
    }

    /// About how much memory it takes.
    pub fn bytes(&self) -> usize {
        /// Of a text that no other row shares.
        const TEXT: usize = 48;
        fn of<T>(rows: &[T], texts: usize) -> usize {
            rows.len() * (size_of::<T>() + texts * TEXT)
        }
        of(&self.campaigns, 0)
            + of(&self.rates, 0)
            + of(&self.prices, 0)
            + of(&self.live_rates, 0)
            + of(&self.sums, 0)
            + of(&self.clicks, 0)
            + of(&self.conversions, 1)
            + of(&self.openers, 1)
            + of(&self.paid_clicks, 1)
    }

    /// For a restore: drops, to the record, what had left the state of the run that kept it; see [`Kind::has_expired`].
    /// Settings that have changed since then don't count: by them, more may be live, but it is not whole any more.
    ///
    /// Of the live rates it drops the windows that statement 2 still held: it will give them once more.
    pub fn retain_live(&mut self, forgotten: &Watermarks, memory: Memory) {
        self.live_rates.retain(|(_, window_start, _)| Kind::Sums.has_expired(*window_start, forgotten, memory));
        self.drop_expired(forgotten, memory);
        let is_settled = |conversion: &Conversion| conversion.order.0 < forgotten.conversions;
        let opened =
            self.conversions.iter().filter(|conversion| is_settled(conversion) && conversion.opened_until.is_some());
        self.openers.extend(opened.map(Conversion::opener));
        self.conversions.retain(|conversion| !is_settled(conversion));
    }

    /// Drops what has expired; see [`Kind::has_expired`].
    pub fn drop_expired(&mut self, forgotten: &Watermarks, memory: Memory) {
        let lives = |kind: Kind, time| !kind.has_expired(time, forgotten, memory);
        self.sums.retain(|(key, _)| lives(Kind::Sums, key.window_start));
        self.clicks.retain(|(_, click)| lives(Kind::Clicks, click.click_time));
        self.conversions.retain(|conversion| lives(Kind::Conversions, conversion.expires_by()));
        self.openers.retain(|opener| lives(Kind::Openers, opener.time));
        self.paid_clicks.retain(|click| lives(Kind::PaidClicks, click.time));
    }
}

/// Takes from a worker's operators what entered their state.
#[derive(Clone, Debug, Default)]
pub struct DeltaLog(Option<Rc<RefCell<Inner>>>);

#[derive(Debug)]
struct Inner {
    /// The distance of boundaries.
    interval: u64,
    /// The boundary that each operator has passed.
    passed: Vec<Epoch>,
    /// What the operators handed over, by boundary.
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

    /// The last boundary that all operators of this worker have passed: what they kept up to it is complete. After the last epoch it
    /// is [`LAST`]; before the first boundary 0.
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

    /// Says that the operator has done all epochs before `epoch` and none from there on. If a boundary lies between, calls
    /// `flush`, which must leave nothing at hand; None instead of a place for it means that it is not wanted, because it
    /// came from a checkpoint.
    pub fn reach(&mut self, epoch: Epoch, flush: impl FnOnce(Option<&mut StateDelta>)) {
        if epoch < self.next {
            return;
        }
        let Some(inner) = &self.delta_log.0 else { return };
        let mut inner = inner.borrow_mut();
        // What is at hand entered by the first boundary that was not passed; the last one before `epoch` may be later.
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
        let taken = [2_001_000, 2_002_000, 2_003_000, 2_004_000].map(|boundary| delta_log.take(boundary).prices.len());
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
