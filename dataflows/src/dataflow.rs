//! The four statements together.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use differential_dataflow::{AsCollection, VecCollection};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::operators::Input;
use timely::dataflow::operators::core::input::Handle;
use timely::dataflow::{Scope, StreamVec};

use crate::conversion_matcher::{self, AttributionRow, Conversion, MatchInput, MatcherState, Opener, RoutedClick};
use crate::duplicate_detector::Compensation;
use crate::duplicate_detector::{self, DetectorState, PaidClick, duplicate_detector};
use crate::hash::RoutingKey;
use crate::model::Epoch;
use crate::operators::{Cut, PartitionReport, WatermarkView, Watermarks, WindowedState, watermarks};
use crate::performance_aggregator::PerformanceRow;
use crate::performance_aggregator::{self, PartialSums, performance_aggregator};
use crate::rtb_cache_updater::RankingRow;
use crate::rtb_cache_updater::{self, CampaignUpdate, PriceUpdate, RatesUpdate, Updates, rtb_cache_updater};
use crate::{Batch, DeadLetter, DeltaLog, LateEvent, RateSums, Settings, StateDelta, Statement, StatementPlan};

type InputHandle<D> = Handle<Epoch, CapacityContainerBuilder<Vec<D>>>;

/// One worker's inputs. They advance together: all that is sent between two advances is one epoch.
pub struct Inputs {
    campaigns: InputHandle<CampaignUpdate>,
    rates: InputHandle<RatesUpdate>,
    prices: InputHandle<PriceUpdate>,
    live_rates: InputHandle<(RateSums, Epoch, isize)>,
    sums: InputHandle<PartialSums>,
    clicks: InputHandle<RoutedClick>,
    conversions: InputHandle<Conversion>,
    openers: InputHandle<Opener>,
    paid_clicks: InputHandle<PaidClick>,
    dead: InputHandle<DeadLetter>,
    late: InputHandle<LateEvent>,
    reports: InputHandle<PartitionReport>,
}

/// Calls a macro with the name of every input that a [`Batch`] fills, and others.
macro_rules! each_input {
    ($call:ident $(, $other:ident)*) => {
        $call!(campaigns, rates, prices, sums, clicks, conversions, paid_clicks, dead, late, reports $(, $other)*)
    };
}

impl Inputs {
    /// Sends a batch at the current epoch and leaves it empty.
    pub fn send(&mut self, batch: &mut Batch) {
        macro_rules! send {
            ($($input:ident),*) => { $(self.$input.send_batch(&mut batch.$input); batch.$input.clear();)* };
        }
        each_input!(send);
    }

    /// Gives back, at the current epoch, what once entered the state. That epoch must be before [`RESTORED`](crate::RESTORED).
    pub fn restore(&mut self, delta: StateDelta) {
        let StateDelta { campaigns, rates, prices, live_rates, sums, clicks, conversions, openers, paid_clicks } =
            delta;
        let epoch = self.epoch();
        self.campaigns.send_batch(&mut { campaigns });
        self.rates.send_batch(&mut { rates });
        self.prices.send_batch(&mut { prices });
        self.live_rates.send_batch(&mut live_rates.into_iter().map(|sums| (sums, epoch, 1)).collect());
        self.sums.send_batch(&mut { sums });
        self.clicks.send_batch(&mut { clicks });
        self.conversions.send_batch(&mut { conversions });
        self.openers.send_batch(&mut { openers });
        self.paid_clicks.send_batch(&mut { paid_clicks });
    }

    /// Ends the current epoch; the next one is `epoch`.
    pub fn advance_to(&mut self, epoch: Epoch) {
        macro_rules! advance {
            ($($input:ident),*) => { $(self.$input.advance_to(epoch);)* };
        }
        each_input!(advance, live_rates, openers);
    }

    /// The epoch that is being filled.
    pub fn epoch(&self) -> Epoch {
        *self.reports.time()
    }
}

/// What the statements give. Every collection is what its table holds.
pub struct Outputs<'scope> {
    /// Statement 1.
    pub rankings: VecCollection<'scope, Epoch, RankingRow>,
    /// Statement 2.
    pub performance: VecCollection<'scope, Epoch, PerformanceRow>,
    /// Statement 3.
    pub attributions: VecCollection<'scope, Epoch, AttributionRow>,
    /// Statement 4.
    pub compensations: VecCollection<'scope, Epoch, Compensation>,
    /// Records that came too late for a statement.
    pub late: StreamVec<'scope, Epoch, LateEvent>,
    /// Records that can't be read.
    pub dead: StreamVec<'scope, Epoch, DeadLetter>,
    /// How far the partitions were read, epoch by epoch.
    pub reports: StreamVec<'scope, Epoch, PartitionReport>,
    /// The watermarks, each at the epoch from which it is in effect; on every worker.
    pub watermarks: StreamVec<'scope, Epoch, Watermarks>,
}

/// What the statements of one worker hold.
pub struct State {
    /// The watermarks, as far as this worker knows.
    pub watermarks: Rc<RefCell<WatermarkView>>,
    /// Campaigns in the rankings of statement 1.
    pub ranked_campaigns: Rc<Cell<u64>>,
    /// Rows of open windows in statement 2.
    pub performance: Rc<WindowedState>,
    /// Clicks and conversions in statement 3.
    pub matcher: MatcherState,
    /// Groups of open windows in statement 4.
    pub duplicates: DetectorState,
}

/// Builds the four statements in a scope. Call it on every worker.
///
/// A statement that `settings` leaves out is built all the same: without input it costs nothing. Records are dealt out by a
/// fixed key: whoever sends the input could load one worker with all of it; [`replay`] takes a key that they can't foresee.
pub fn dataflow<'scope>(scope: Scope<'scope, Epoch>, settings: &Settings) -> (Inputs, Outputs<'scope>, State) {
    replay(scope, settings, &[], &DeltaLog::off(), RoutingKey::default())
}

/// As [`dataflow`], for a replay that must pass the `cuts` of an earlier run, in ascending order, in the same state
/// as that run did; see [`watermarks`]. The delta log takes what enters the statements' state. Records are dealt out to workers by
/// `routing`, which must be the same on all of them.
///
/// A checkpoint is restored by [`Inputs::restore`] on any of the workers, in any epochs before
/// [`RESTORED`](crate::RESTORED), with the cuts of [`Cut::of_checkpoint`] before all others. In epoch `RESTORED` the partitions
/// are reported, as the checkpoint knows them. What comes out up to there was there before. Topics are read on in epochs after
/// the checkpoint's own: a sink takes nothing up to the one that it has committed, and that may be the checkpoint's.
pub fn replay<'scope>(
    scope: Scope<'scope, Epoch>,
    settings: &Settings,
    cuts: &[Cut],
    delta_log: &DeltaLog,
    routing: RoutingKey,
) -> (Inputs, Outputs<'scope>, State) {
    let (campaigns_input, campaigns) = scope.new_input();
    let (rates_input, rates) = scope.new_input();
    let (prices_input, prices) = scope.new_input();
    let (live_rates_input, live_rates) = scope.new_input();
    let (sums_input, sums) = scope.new_input();
    let (clicks_input, clicks) = scope.new_input();
    let (conversions_input, conversions) = scope.new_input();
    let (openers_input, openers) = scope.new_input();
    let (paid_clicks_input, paid_clicks) = scope.new_input();
    let (dead_input, dead) = scope.new_input();
    let (late_input, late) = scope.new_input();
    let (reports_input, reports) = scope.new_input();

    let (marks, view) = watermarks(reports.clone(), settings, cuts);
    let is_defined = |statement| settings.plan(statement) == StatementPlan::Definition;
    let aggregate = match is_defined(Statement::PerformanceAggregator) {
        true => performance_aggregator::definition,
        false => performance_aggregator,
    };
    let (performance, aggregator) = aggregate(sums, marks.clone(), settings, routing, delta_log);
    let attribute = match is_defined(Statement::ConversionMatcher) {
        true => conversion_matcher::definition,
        false => conversion_matcher::conversion_matcher,
    };
    let input = MatchInput { clicks, conversions, openers };
    let (attributions, matcher) = attribute(input, marks.clone(), settings, routing, delta_log);
    let detect = match is_defined(Statement::DuplicateDetector) {
        true => duplicate_detector::definition,
        false => duplicate_detector,
    };
    let (compensations, detector) = detect(paid_clicks, marks.clone(), settings, routing, delta_log);
    let (updates, live_rates) = (Updates { campaigns, rates, prices }, live_rates.as_collection());
    let rank = match is_defined(Statement::RtbCacheUpdater) {
        true => rtb_cache_updater::definition,
        false => rtb_cache_updater,
    };
    let rankings = rank(updates, performance.clone(), live_rates, settings, routing, delta_log);
    let ranked_campaigns = Rc::new(Cell::new(0u64));
    let ranked = Rc::clone(&ranked_campaigns);
    let rankings = rankings.inspect(move |(row, _, diff)| {
        // An update retracts as many campaigns as stood before, in either order.
        ranked.set(ranked.get().wrapping_add_signed(row.total_campaigns as i64 * *diff as i64));
    });

    let inputs = Inputs {
        campaigns: campaigns_input,
        rates: rates_input,
        prices: prices_input,
        live_rates: live_rates_input,
        sums: sums_input,
        clicks: clicks_input,
        conversions: conversions_input,
        openers: openers_input,
        paid_clicks: paid_clicks_input,
        dead: dead_input,
        late: late_input,
        reports: reports_input,
    };
    let outputs =
        Outputs { rankings, performance, attributions, compensations, late, dead, reports, watermarks: marks };
    let state = State { watermarks: view, ranked_campaigns, performance: aggregator, matcher, duplicates: detector };
    (inputs, outputs, state)
}
