//! The four statements together.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use differential_dataflow::VecCollection;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::operators::core::input::Handle;
use timely::dataflow::operators::{Enter, Input};
use timely::dataflow::{Scope, StreamVec};

use crate::conversion_matcher::{self, AttributionRow, MatchInput, MatcherState};
use crate::duplicate_detector::Compensation;
use crate::duplicate_detector::{self, DetectorState, duplicate_detector};
use crate::hash::RoutingKey;
use crate::model::Epoch;
use crate::operators::{
    Cut, PartitionReport, WatermarkView, Watermarks, WindowedState, at_epochs, watermarks,
};
use crate::performance_aggregator::PerformanceRow;
use crate::performance_aggregator::{self, performance_aggregator};
use crate::rtb_cache_updater::RankingRow;
use crate::rtb_cache_updater::{self, Updates, rtb_cache_updater};
use crate::state::{StateInputs, StateStreams};
use crate::{Batch, DeadLetter, DeltaLog, LateEvent, Settings, StateDelta, Statement, StatementPlan};

type InputHandle<D> = Handle<Epoch, CapacityContainerBuilder<Vec<D>>>;

/// One worker's inputs. They advance together: all that is sent between two advances is one epoch.
pub struct Inputs {
    state: StateInputs,
    dead: InputHandle<DeadLetter>,
    late: InputHandle<LateEvent>,
    reports: InputHandle<PartitionReport>,
}

impl Inputs {
    /// Sends a batch at the current epoch and leaves it empty.
    pub fn send(&mut self, batch: &mut Batch) {
        self.state.send(&mut batch.entered);
        self.dead.send_batch(&mut batch.dead);
        self.late.send_batch(&mut batch.late);
        self.reports.send_batch(&mut batch.reports);
        // What was recycled into their place.
        batch.dead.clear();
        batch.late.clear();
        batch.reports.clear();
    }

    /// Gives back, at the current epoch, what once entered the state. That epoch must be before
    /// [`RESTORED`](crate::RESTORED).
    pub fn restore(&mut self, mut delta: StateDelta) {
        self.state.send(&mut delta);
    }

    /// Ends the current epoch; the next one is `epoch`.
    pub fn advance_to(&mut self, epoch: Epoch) {
        self.state.advance_to(epoch);
        self.dead.advance_to(epoch);
        self.late.advance_to(epoch);
        self.reports.advance_to(epoch);
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

/// A region of the statement's name, so that timely's tools draw it as one.
fn region<'scope, R>(
    scope: Scope<'scope, Epoch>,
    statement: Statement,
    build: impl FnOnce(Scope<'_, Epoch>) -> R,
) -> R {
    scope.region_named(statement.name(), build)
}

/// Builds the four statements in a scope. Call it on every worker.
///
/// A statement that `settings` leaves out is built all the same: without input it costs nothing. Records are
/// dealt out by a fixed key: whoever sends the input could load one worker with all of it; [`replay`] takes a
/// key that they can't foresee.
pub fn dataflow<'scope>(
    scope: Scope<'scope, Epoch>,
    settings: &Settings,
) -> (Inputs, Outputs<'scope>, State) {
    replay(scope, settings, &[], &DeltaLog::off(), RoutingKey::default())
}

/// As [`dataflow`], for a replay that must pass the `cuts` of an earlier run, in ascending order, in the same
/// state as that run did; see [`watermarks`]. The delta log takes what enters the statements' state. Records
/// are dealt out to workers by `routing`, which must be the same on all of them.
///
/// A checkpoint is restored by [`Inputs::restore`] on any of the workers, in any epochs before
/// [`RESTORED`](crate::RESTORED), with the cuts of [`Cut::of_checkpoint`] before all others. In epoch
/// `RESTORED` the partitions are reported, as the checkpoint knows them. What comes out up to there was there
/// before. Topics are read on in epochs after the checkpoint's own: a sink takes nothing up to the one that
/// it has committed, and that may be the checkpoint's.
pub fn replay<'scope>(
    scope: Scope<'scope, Epoch>,
    settings: &Settings,
    cuts: &[Cut],
    delta_log: &DeltaLog,
    routing: RoutingKey,
) -> (Inputs, Outputs<'scope>, State) {
    let (state_inputs, entered) = StateInputs::new(scope);
    let StateStreams {
        campaigns,
        rates,
        prices,
        live_rates,
        sums,
        clicks,
        conversions,
        openers,
        paid_clicks,
    } = entered;
    let (dead_input, dead) = scope.new_input();
    let (late_input, late) = scope.new_input();
    let (reports_input, reports) = scope.new_input();

    let (marks, view) = watermarks(reports.clone(), settings, cuts);
    let is_defined = |statement| settings.plan(statement) == StatementPlan::Definition;
    let (performance, aggregator) = region(scope, Statement::PerformanceAggregator, |inner| {
        let aggregate = match is_defined(Statement::PerformanceAggregator) {
            true => performance_aggregator::definition,
            false => performance_aggregator,
        };
        let (rows, state) =
            aggregate(sums.enter(inner), marks.clone().enter(inner), settings, routing, delta_log);
        (rows.leave_region(scope), state)
    });
    let (attributions, matcher) = region(scope, Statement::ConversionMatcher, |inner| {
        let attribute = match is_defined(Statement::ConversionMatcher) {
            true => conversion_matcher::definition,
            false => conversion_matcher::conversion_matcher,
        };
        let (clicks, conversions, openers) =
            (clicks.enter(inner), conversions.enter(inner), openers.enter(inner));
        let input = MatchInput { clicks, conversions, openers };
        let (rows, state) = attribute(input, marks.clone().enter(inner), settings, routing, delta_log);
        (rows.leave_region(scope), state)
    });
    let (compensations, detector) = region(scope, Statement::DuplicateDetector, |inner| {
        let detect = match is_defined(Statement::DuplicateDetector) {
            true => duplicate_detector::definition,
            false => duplicate_detector,
        };
        let (rows, state) =
            detect(paid_clicks.enter(inner), marks.clone().enter(inner), settings, routing, delta_log);
        (rows.leave_region(scope), state)
    });
    let rankings = region(scope, Statement::RtbCacheUpdater, |inner| {
        let rank = match is_defined(Statement::RtbCacheUpdater) {
            true => rtb_cache_updater::definition,
            false => rtb_cache_updater,
        };
        let (campaigns, rates, prices) = (campaigns.enter(inner), rates.enter(inner), prices.enter(inner));
        let performance = performance.clone().enter_region(inner);
        let restored = at_epochs(live_rates.enter(inner));
        let updates = Updates { campaigns, rates, prices };
        rank(updates, performance, restored, settings, routing, delta_log).leave_region(scope)
    });
    let ranked_campaigns = Rc::new(Cell::new(0u64));
    let ranked = Rc::clone(&ranked_campaigns);
    let rankings = rankings.inspect(move |(row, _, diff)| {
        // An update retracts as many campaigns as stood before, in either order.
        ranked.set(ranked.get().wrapping_add_signed(row.total_campaigns as i64 * *diff as i64));
    });

    let inputs = Inputs { state: state_inputs, dead: dead_input, late: late_input, reports: reports_input };
    let outputs = Outputs {
        rankings,
        performance,
        attributions,
        compensations,
        late,
        dead,
        reports,
        watermarks: marks,
    };
    let state =
        State { watermarks: view, ranked_campaigns, performance: aggregator, matcher, duplicates: detector };
    (inputs, outputs, state)
}
