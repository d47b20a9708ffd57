//! The as-of join: of every probe, the last candidate at or before it, by any of several keys and within a
//! lookback.
//!
//! ```text
//! candidates ── exchange by route ── store: by key and time ──┐
//! probes ────── exchange by route ── open: by key and time ───┴── a row for each probe that has a candidate
//! watermark ────────────────────────────┘
//! ```
//!
//! - **Keys.** A candidate matches a probe if they have an equal key on the same side; a key that is not
//!   known matches nothing.
//! - **Ties.** Of the candidates of one time the greatest value is the best. Whichever key it was found by
//!   means nothing.
//! - **Disorder.** Order within an epoch or between epochs means nothing: a candidate that comes after a
//!   probe changes its row.
//! - **Repeats.** Candidates that are equal count as one. Probes are a set, and may be taken back while they
//!   are open.
//! - **Lateness.** A probe is open until every candidate at or before it is late, and a candidate is kept
//!   until every probe that could match it is late. The caller turns away what is late before; it must not
//!   change probes that are not open.
//! - **Output.** A row changes at most once an epoch. Rows of probes that are not open stay in the
//!   collection.
//! - **Cost.** An epoch costs what it touches: a candidate improves only the probes of its key between itself
//!   and the next one that is better.
//! - **State.** Candidates of the lookback and the lateness, and probes of the lateness. Checkpoints have the
//!   candidates; probes come back from whoever keeps them.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, Hash};
use std::rc::Rc;

use differential_dataflow::consolidation::consolidate;
use differential_dataflow::{ExchangeData, VecCollection};
use hashbrown::HashTable;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Exchange as ByHash;
use timely::dataflow::operators::vec::Map;
use timely::dataflow::operators::{Concat, Exchange};

use super::{Beside, EpochLogic, Watermarks, changes, epochs_beside};
use crate::hash::{HashMap, RandomState, table_bytes};
use crate::model::{Epoch, EventTime, IdHash};
use crate::{DeltaLog, StateDelta, StateRow};

mod candidates;

use candidates::Candidates;

/// The keys of a record, by any of which it may match, each on its side; None where it is not known. Keys are
/// hashes, because only their equality matters.
pub type Keys = [Option<IdHash>; 2];

/// What is joined.
pub trait AsOf: 'static {
    /// What the operator is called in timely's logs.
    const NAME: &'static str;
    /// What is looked for.
    type Candidate: StateRow + ExchangeData;
    /// The part of a candidate that its keys and its time don't hold; of one time, the greatest is the best.
    type Value: Ord + Clone + 'static;
    /// What it is looked for by.
    type Probe: ExchangeData + Hash;
    /// A row of the result.
    type Row: Clone + Eq + 'static;

    /// How long before a probe its candidate may lie, in milliseconds.
    fn lookback(&self) -> i64;

    /// A hash of what all candidates of a probe share with it.
    fn candidate_route(&self, candidate: &Self::Candidate) -> u64;

    /// The same of a probe.
    fn probe_route(&self, probe: &Self::Probe) -> u64;

    /// A candidate's keys, its time and the rest.
    fn split(candidate: Self::Candidate) -> (Keys, EventTime, Self::Value);

    /// The candidate that was split.
    fn candidate(keys: Keys, time: EventTime, value: &Self::Value) -> Self::Candidate;

    /// A probe's keys and its time.
    fn probe(probe: &Self::Probe) -> (Keys, EventTime);

    /// The row of a probe and its best candidate.
    fn row(probe: &Self::Probe, time: EventTime, value: &Self::Value) -> Self::Row;
}

/// How much state there is, for metrics and tests.
#[derive(Debug, Default)]
pub struct AsOfState {
    /// Live candidates.
    pub candidates: Cell<usize>,
    /// Bytes of memory for them, indexes included, without what their values have on the heap.
    pub candidate_bytes: Cell<usize>,
    /// Open probes.
    pub probes: Cell<usize>,
    /// Bytes of memory for them, about, without what they have on the heap.
    pub probe_bytes: Cell<usize>,
}

/// The rows of the probes that have a candidate.
///
/// `select` picks the watermark. Candidates are in checkpoints by `delta_log`.
pub fn last_before<'scope, A: AsOf>(
    as_of: A,
    candidates: StreamVec<'scope, Epoch, A::Candidate>,
    probes: VecCollection<'scope, Epoch, A::Probe>,
    watermarks: StreamVec<'scope, Epoch, Watermarks>,
    select: fn(&Watermarks) -> EventTime,
    allowed_lateness: i64,
    delta_log: &DeltaLog,
) -> (VecCollection<'scope, Epoch, A::Row>, Rc<AsOfState>) {
    let lookback = as_of.lookback();
    let as_of = Rc::new(as_of);
    let (of_candidate, of_probe) = (Rc::clone(&as_of), as_of);
    let by_route = ByHash::new(move |candidate: &A::Candidate| of_candidate.candidate_route(candidate));
    let probes =
        changes(probes, |probe, diff| (probe, diff)).exchange(move |(probe, _)| of_probe.probe_route(probe));
    let beside = watermarks.map(Beside::Watermarks).concat(probes.map(Beside::Other));
    let state = Rc::new(AsOfState::default());
    let logic = Join::<A> {
        candidates: Candidates::new(lookback, allowed_lateness),
        probes: Probes::default(),
        changes: Vec::new(),
        closes: !delta_log.is_on(),
        lookback,
        allowed_lateness,
        state: Rc::clone(&state),
    };
    (epochs_beside(candidates, by_route, beside, select, A::NAME, delta_log, logic), state)
}

struct Join<A: AsOf> {
    candidates: Candidates<A::Value>,
    probes: Probes<A>,
    /// How the probes change in this epoch.
    changes: Vec<(A::Probe, isize)>,
    /// Whether probes are closed: not before all of a checkpoint has come.
    closes: bool,
    lookback: i64,
    allowed_lateness: i64,
    state: Rc<AsOfState>,
}

impl<A: AsOf> EpochLogic for Join<A> {
    type In = A::Candidate;
    type Beside = (A::Probe, isize);
    type Out = A::Row;

    fn beside(&mut self, change: (A::Probe, isize)) {
        self.changes.push(change);
    }

    fn epoch(
        &mut self,
        records: Vec<A::Candidate>,
        watermark: EventTime,
        mut emit: impl FnMut(A::Row, isize),
    ) {
        let mut wanted = Vec::new();
        for candidate in records {
            let (keys, time, value) = A::split(candidate);
            if self.probes.await_any(&keys) {
                wanted.push((keys, time, value.clone()));
            }
            self.candidates.insert(keys, time, value);
        }
        let mut changes = std::mem::take(&mut self.changes);
        consolidate(&mut changes);
        let (added, removed): (Vec<_>, Vec<_>) = changes.into_iter().partition(|(_, diff)| *diff > 0);
        for (probe, _) in removed {
            let open = self.probes.remove(&probe);
            debug_assert!(open.is_some(), "a probe was taken back that is not open");
            open.and_then(|open| open.row()).into_iter().for_each(|row| emit(row, -1));
        }
        self.improve(&wanted, &mut emit);
        for (probe, _) in added {
            let (keys, time) = A::probe(&probe);
            let best = self.candidates.best(&keys, time).map(|(time, value)| (time, value.clone()));
            let open = Open { probe, best };
            open.row().into_iter().for_each(|row| emit(row, 1));
            self.probes.insert(open);
        }
        self.candidates.expire(watermark);
        if self.closes {
            self.probes.close(watermark.plus(-self.allowed_lateness));
        }
        self.report();
    }

    fn flush(&mut self, to: Option<&mut StateDelta>) {
        if let Some(to) = to {
            to.extend(self.candidates.unsaved().map(|(keys, time, value)| A::candidate(keys, time, value)));
        }
        self.candidates.mark_saved();
        self.closes = true;
    }
}

impl<A: AsOf> Join<A> {
    /// Gives open probes the candidates of this epoch that are better. All of the epoch's are in the store.
    ///
    /// Along a key's probes in order of time, the best candidate of that key only becomes better. So a
    /// candidate improves those from its own time on until one that has a better one, and none of the epoch
    /// passes another.
    fn improve(&mut self, wanted: &[(Keys, EventTime, A::Value)], emit: &mut impl FnMut(A::Row, isize)) {
        let mut before = BTreeMap::new();
        for side in 0..2 {
            let mut candidates: Vec<_> =
                wanted.iter().filter_map(|(keys, time, value)| Some((keys[side]?, *time, value))).collect();
            candidates.sort();
            candidates.dedup();
            for (key, time, value) in candidates {
                self.improve_with(side, key, (time, value), &mut before);
            }
        }
        for (at, before) in before {
            let after = self.probes.at(at).and_then(Open::row);
            if before != after {
                before.into_iter().for_each(|row| emit(row, -1));
                after.into_iter().for_each(|row| emit(row, 1));
            }
        }
    }

    fn improve_with(
        &mut self,
        side: usize,
        key: IdHash,
        candidate: (EventTime, &A::Value),
        before: &mut BTreeMap<u32, Option<A::Row>>,
    ) {
        let (time, value) = candidate;
        let mut better = Vec::new();
        for (probe_time, at) in self.probes.waiting[side].between(key, time, time.plus(self.lookback)) {
            if !self.candidates.is_best_of(side, key, candidate, probe_time) {
                break;
            }
            better.push(at);
        }
        for at in better {
            let Some(open) = self.probes.at_mut(at) else { continue };
            if open.best.as_ref().is_none_or(|(best_time, best)| (*best_time, best) < candidate) {
                before.entry(at).or_insert_with(|| open.row());
                open.best = Some((time, value.clone()));
            }
        }
    }

    fn report(&self) {
        self.state.candidates.set(self.candidates.len());
        self.state.candidate_bytes.set(self.candidates.bytes());
        self.state.probes.set(self.probes.due.len());
        self.state.probe_bytes.set(self.probes.bytes());
    }
}

/// An open probe with its best candidate.
struct Open<A: AsOf> {
    probe: A::Probe,
    best: Option<(EventTime, A::Value)>,
}

impl<A: AsOf> Open<A> {
    fn row(&self) -> Option<A::Row> {
        self.best.as_ref().map(|(time, value)| A::row(&self.probe, *time, value))
    }
}

/// The open probes of one worker. Each has a number while it is open.
struct Probes<A: AsOf> {
    open: Vec<Option<Open<A>>>,
    free: Vec<u32>,
    index: HashTable<u32>,
    hasher: RandomState,
    /// By time, at which they are closed.
    due: BTreeSet<(EventTime, u32)>,
    /// By the keys of each side.
    waiting: [Waiting; 2],
}

impl<A: AsOf> Default for Probes<A> {
    fn default() -> Self {
        Probes {
            open: Vec::new(),
            free: Vec::new(),
            index: HashTable::new(),
            hasher: RandomState::default(),
            due: BTreeSet::new(),
            waiting: Default::default(),
        }
    }
}

impl<A: AsOf> Probes<A> {
    /// Whether one has any of the keys.
    fn await_any(&self, keys: &Keys) -> bool {
        self.waiting.iter().zip(keys).any(|(waiting, key)| key.is_some_and(|key| waiting.has(key)))
    }

    fn at(&self, at: u32) -> Option<&Open<A>> {
        self.open.get(at as usize)?.as_ref()
    }

    fn at_mut(&mut self, at: u32) -> Option<&mut Open<A>> {
        self.open.get_mut(at as usize)?.as_mut()
    }

    fn insert(&mut self, open: Open<A>) {
        let (keys, time) = A::probe(&open.probe);
        let at = self.free.pop().unwrap_or_else(|| {
            self.open.push(None);
            self.open.len() as u32 - 1
        });
        let (probes, hasher) = (&self.open, &self.hasher);
        let hash = hasher.hash_one(&open.probe);
        let hash_of = |at: &u32| probes[*at as usize].as_ref().map_or(0, |open| hasher.hash_one(&open.probe));
        self.index.insert_unique(hash, at, hash_of);
        self.open[at as usize] = Some(open);
        self.due.insert((time, at));
        for (waiting, key) in self.waiting.iter_mut().zip(keys) {
            key.into_iter().for_each(|key| waiting.insert(key, time, at));
        }
    }

    fn remove(&mut self, probe: &A::Probe) -> Option<Open<A>> {
        let open = &self.open;
        let is_it = |at: &u32| open[*at as usize].as_ref().is_some_and(|open| open.probe == *probe);
        let at = *self.index.find(self.hasher.hash_one(probe), is_it)?;
        self.remove_at(at)
    }

    fn remove_at(&mut self, at: u32) -> Option<Open<A>> {
        let open = self.open.get_mut(at as usize)?.take()?;
        if let Ok(found) = self.index.find_entry(self.hasher.hash_one(&open.probe), |known| *known == at) {
            found.remove();
        }
        let (keys, time) = A::probe(&open.probe);
        self.due.remove(&(time, at));
        for (waiting, key) in self.waiting.iter_mut().zip(keys) {
            key.into_iter().for_each(|key| waiting.remove(key, time, at));
        }
        self.free.push(at);
        Some(open)
    }

    /// Closes those from before a time.
    fn close(&mut self, time: EventTime) {
        while let Some(&(due, at)) = self.due.first()
            && due < time
        {
            self.remove_at(at);
        }
    }

    fn bytes(&self) -> usize {
        // Nodes of a B-tree are two thirds full.
        self.open.capacity() * size_of::<Option<Open<A>>>()
            + table_bytes::<u32>(self.index.capacity())
            + self.due.len() * size_of::<(EventTime, u32)>() * 3 / 2
            + self.waiting.iter().map(Waiting::bytes).sum::<usize>()
    }
}

/// The numbers of probes by a key and their time.
#[derive(Default)]
struct Waiting {
    probes: BTreeSet<(IdHash, EventTime, u32)>,
    /// How many there are of each key: for most candidates there is none, and this is how that is found
    /// quickest.
    counts: HashMap<IdHash, u32>,
}

impl Waiting {
    fn insert(&mut self, key: IdHash, time: EventTime, at: u32) {
        if self.probes.insert((key, time, at)) {
            *self.counts.entry(key).or_default() += 1;
        }
    }

    fn remove(&mut self, key: IdHash, time: EventTime, at: u32) {
        if self.probes.remove(&(key, time, at))
            && let Some(count) = self.counts.get_mut(&key)
        {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&key);
            }
        }
    }

    fn has(&self, key: IdHash) -> bool {
        self.counts.contains_key(&key)
    }

    /// The probes from one time to another, both included, in order.
    fn between(&self, key: IdHash, from: EventTime, to: EventTime) -> impl Iterator<Item = (EventTime, u32)> {
        self.probes.range((key, from, 0)..=(key, to, u32::MAX)).map(|(_, time, at)| (*time, *at))
    }

    fn bytes(&self) -> usize {
        self.probes.len() * size_of::<(IdHash, EventTime, u32)>() * 3 / 2
            + table_bytes::<(IdHash, u32)>(self.counts.capacity())
    }
}

/// What [`last_before()`] computes, in plain differential operators: a join by each key, a filter by time and
/// a reduce to the greatest. It keeps all that it was given for ever, and joins each probe with every
/// candidate of its keys.
///
/// Both sides are records with their keys and their time; what comes out is each probe with its best
/// candidate.
///
/// # Examples
///
/// ```
/// use std::sync::mpsc::channel;
///
/// use adtide_dataflows::model::{Epoch, EventTime, IdHash};
/// use adtide_dataflows::operators::last_before;
/// use differential_dataflow::input::Input as _;
///
/// let (rows, matches) = channel();
/// timely::execute_directly(move |worker| {
///     worker.dataflow::<Epoch, _, _>(|scope| {
///         let keys = |device: &str, session: &str| [device, session].map(|id| Some(IdHash::of(id)));
///         let clicks = [
///             (keys("phone", "morning"), EventTime(1000), 7i64),
///             (keys("laptop", "evening"), EventTime(2000), 8),
///             (keys("phone", "night"), EventTime(9000), 9),
///         ];
///         let sales = [(keys("phone", "evening"), EventTime(5000), 1u64)];
///         let (_, clicks) = scope.new_collection_from(clicks);
///         let (_, sales) = scope.new_collection_from(sales);
///         // The phone's last click came after the sale, and the session has a later one than the phone.
///         last_before::definition(clicks, sales, 60_000)
///             .inspect(move |((sale, (time, click)), _, _)| rows.send((*sale, time.0, *click)).unwrap());
///     });
/// });
/// assert_eq!(matches.iter().collect::<Vec<_>>(), [(1, 2000, 8)]);
/// ```
pub fn definition<'scope, V, P>(
    candidates: VecCollection<'scope, Epoch, (Keys, EventTime, V)>,
    probes: VecCollection<'scope, Epoch, (Keys, EventTime, P)>,
    lookback: i64,
) -> VecCollection<'scope, Epoch, (P, (EventTime, V))>
where
    V: ExchangeData,
    P: ExchangeData + Hash,
{
    by_key(probes)
        .join(by_key(candidates))
        .flat_map(move |(_, ((probe_time, probe), (time, value)))| {
            let matches = time <= probe_time && probe_time.0 - time.0 <= lookback;
            matches.then_some((probe, (time, value)))
        })
        .reduce_named("LastBefore", |_, candidates, best| {
            best.extend(candidates.last().map(|(candidate, _)| ((*candidate).clone(), 1isize)));
        })
}

/// Records by a key and its side.
type ByKey<'scope, R> = VecCollection<'scope, Epoch, ((usize, IdHash), (EventTime, R))>;

/// The records by each of their keys.
fn by_key<'scope, R: ExchangeData>(
    records: VecCollection<'scope, Epoch, (Keys, EventTime, R)>,
) -> ByKey<'scope, R> {
    records.flat_map(|(keys, time, record)| {
        let sides = keys.into_iter().enumerate();
        sides.filter_map(move |(side, key)| Some(((side, key?), (time, record.clone()))))
    })
}
