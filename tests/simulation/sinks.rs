//! Servers that take results, each commit in one atomic step, sooner or later.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use adtide::engine::restart::Holding;
use adtide::sink::{Change, Commit, Committer, Opener, Progress, Run, Stored, latest};
use adtide_dataflows::conversion_matcher::AttributionRow;
use adtide_dataflows::duplicate_detector::Compensation;
use adtide_dataflows::model::{Epoch, EventTime, Text};
use adtide_dataflows::performance_aggregator::{PerformanceKey, PerformanceRow};
use adtide_dataflows::rtb_cache_updater::RankingRow;
use adtide_dataflows::{DeadLetter, LateEvent};
use timely::scheduling::SyncActivator;
use tracing::debug;

use crate::dice::Dice;

/// What a server holds.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    pub rankings: BTreeMap<(Text, Text), RankingRow>,
    pub performance: BTreeMap<PerformanceKey, PerformanceRow>,
    /// Of each order and product the rows of its conversions; the table has the last.
    pub attributions: BTreeMap<(Text, i64), BTreeMap<EventTime, AttributionRow>>,
    pub compensations: Vec<Compensation>,
    pub late: Vec<LateEvent>,
    pub dead: Vec<DeadLetter>,
}

/// How a server keeps the progress that comes with results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeps {
    /// With every commit.
    All,
    /// The first, with results, and now and then, as in Kafka.
    SomeOf,
    /// Only now and then: broken, to see whether anybody notices.
    TooLittle,
}

pub struct Server {
    pub name: &'static str,
    keeps: Keeps,
    /// Whether it may be new in the middle of a run, as Redis may.
    joins_late: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    tables: Tables,
    /// What a restart will find.
    stored: Option<Stored>,
    /// How far its results really are.
    reached: Option<Stored>,
    run: Option<Run>,
    underway: Option<Underway>,
    refunds: BTreeSet<String>,
    violations: Vec<String>,
}

/// A commit on its way.
struct Underway {
    /// None once it is applied.
    commit: Option<Commit>,
    is_acknowledged: bool,
    activator: SyncActivator,
}

impl Server {
    pub fn new(name: &'static str, keeps: Keeps, joins_late: bool) -> Arc<Server> {
        Arc::new(Server { name, keeps, joins_late, state: Mutex::default() })
    }

    /// Loses everything.
    pub fn empty(&self) {
        *self.state() = State::default();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn holding(&self) -> Holding {
        Holding {
            name: self.name,
            stored: self.state().stored.clone(),
            joins_late: self.joins_late,
            is_exact: self.keeps != Keeps::SomeOf,
        }
    }

    /// Opens it for a run.
    pub fn opener(self: &Arc<Server>, run: Run) -> Opener {
        self.state().run = Some(run);
        let server = Arc::clone(self);
        Box::new(move |activator| {
            let committed = server.state().stored.as_ref().map(|stored| stored.progress.epoch);
            Box::new(Client { server, activator, committed })
        })
    }

    /// Whether it has anything to do.
    pub fn is_busy(&self) -> bool {
        self.state().underway.is_some()
    }

    /// Applies what is under way, or if that is done acknowledges it.
    pub fn go_on(&self, dice: &mut Dice) {
        let keeps = self.keeps;
        let state = &mut *self.state();
        let Some(underway) = &mut state.underway else { return };
        match underway.commit.take() {
            Some(commit) => state.apply(commit, keeps, dice),
            None if !underway.is_acknowledged => {
                underway.is_acknowledged = true;
                let _ = underway.activator.activate();
            }
            None => {}
        }
    }

    /// The engine has died. What was under way may still be applied; nobody will hear of it.
    pub fn lose_client(&self, dice: &mut Dice) -> bool {
        let keeps = self.keeps;
        let state = &mut *self.state();
        let commit = state.underway.take().and_then(|underway| underway.commit);
        let Some(commit) = commit.filter(|_| dice.percent(50)) else { return false };
        state.apply(commit, keeps, dice);
        true
    }

    pub fn tables(&self) -> Tables {
        self.state().tables.clone()
    }

    /// How far its results are, and whose they are.
    pub fn reached(&self) -> Option<Stored> {
        self.state().reached.clone()
    }

    /// How far its results are.
    pub fn progress(&self) -> Option<Progress> {
        self.state().reached.as_ref().map(|stored| stored.progress.clone())
    }

    pub fn violations(&self) -> Vec<String> {
        self.state().violations.clone()
    }
}

impl State {
    fn apply(&mut self, commit: Commit, keeps: Keeps, dice: &mut Dice) {
        let Commit { epochs, progress } = commit;
        debug!(?epochs, ?progress, "applied");
        let stored = self.stored.as_ref().map(|stored| &stored.progress);
        if let Some(stored) = stored
            && !(progress.epoch > stored.epoch && progress.covers(stored))
        {
            self.violations.push(format!("progress goes back from {stored:?} to {progress:?}"));
        }
        let has_results = epochs.iter().any(|changes| !changes.is_empty());
        self.tables.apply(epochs, &mut self.refunds, &mut self.violations);
        let is_kept = match keeps {
            Keeps::All => true,
            Keeps::SomeOf => self.stored.is_none() || has_results || dice.percent(20),
            Keeps::TooLittle => dice.percent(80),
        };
        self.reached = self.run.clone().map(|run| Stored { run, progress });
        if is_kept {
            self.stored.clone_from(&self.reached);
        }
    }
}

impl Tables {
    fn apply(
        &mut self,
        epochs: Vec<Vec<Change>>,
        refunds: &mut BTreeSet<String>,
        violations: &mut Vec<String>,
    ) {
        let (mut rankings, mut performance, mut attributions) = (Vec::new(), Vec::new(), Vec::new());
        for changes in epochs {
            let mut rows = (Vec::new(), Vec::new(), Vec::new());
            for change in changes {
                match change {
                    Change::Ranking(row, diff) => rows.0.push((row, diff)),
                    Change::Performance(row, diff) => rows.1.push((row, diff)),
                    Change::Attribution(row, diff) => rows.2.push((row, diff)),
                    Change::Compensation(row) => {
                        if !refunds.insert(row.id()) {
                            violations.push(format!("a refund comes twice: {row:?}"));
                        }
                        self.compensations.push(row);
                    }
                    Change::Late(late) => self.late.push(late),
                    Change::Dead(dead) => self.dead.push(dead),
                    Change::Report(_) | Change::Watermarks(_) => {}
                }
            }
            rankings.push(rows.0);
            performance.push(rows.1);
            attributions.push(rows.2);
        }
        for (key, row) in latest(rankings, |row| (row.placement.clone(), row.category.clone())) {
            set(&mut self.rankings, key, row);
        }
        for (key, row) in latest(performance, |row| row.key.clone()) {
            set(&mut self.performance, key, row);
        }
        for ((order, product, time), row) in
            latest(attributions, |row| (row.order_id.clone(), row.product_id, row.conversion_time))
        {
            let conversions = self.attributions.entry((order, product)).or_default();
            set(conversions, time, row);
        }
    }
}

fn set<K: Ord, R>(table: &mut BTreeMap<K, R>, key: K, row: Option<R>) {
    match row {
        Some(row) => _ = table.insert(key, row),
        None => _ = table.remove(&key),
    }
}

/// The engine's end of a server.
struct Client {
    server: Arc<Server>,
    activator: SyncActivator,
    committed: Option<Epoch>,
}

impl Committer for Client {
    fn committed(&self) -> Option<Epoch> {
        self.committed
    }

    fn start(&mut self, commit: Commit) {
        let activator = self.activator.clone();
        let underway = Underway { commit: Some(commit), is_acknowledged: false, activator };
        self.server.state().underway = Some(underway);
    }

    fn is_done(&mut self) -> bool {
        let mut state = self.server.state();
        state.underway.take_if(|underway| underway.is_acknowledged).is_some()
    }
}
