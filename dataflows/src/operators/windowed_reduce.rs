//! Tumbling windows under a watermark, with late corrections, over any aggregate.
//!
//! ```text
//! records ── exchange by key ── windows: rows of (key, accumulator) ── changes of the result
//! watermark ──────────────────────┘
//! ```
//!
//! - **Windows.** A record belongs to the window `[start, start + WINDOW_MS)` that holds its event time. The
//!   window closes once the watermark reaches its end, and expires once the watermark is past its last moment
//!   by more than the allowed lateness.
//! - **Disorder and ties.** Order within an epoch or between epochs means nothing: accumulators must be
//!   commutative.
//! - **Repeats.** Records are not deduplicated: each one counts.
//! - **Lateness.** A record for a closed window that has not expired corrects its row at once. The caller
//!   turns away records for expired windows before; one that comes all the same is aggregated alone and
//!   expires at once.
//! - **Output.** A row changes at most once an epoch. Rows of expired windows stay in the collection; only
//!   the state is dropped.
//! - **Cost.** An epoch costs as much as it touches: its records, and the rows of the windows that close in
//!   it.
//! - **State.** One row for each key of each window that has not expired.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::hash::{BuildHasher, Hash};
use std::rc::Rc;

use differential_dataflow::hashable::Hashable;
use differential_dataflow::{ExchangeData, VecCollection};
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Exchange;

use super::{EpochLogic, Watermarks, changes, epochs, left_join};
use crate::hash::{RandomState, table_bytes};
use crate::model::{Epoch, EventTime, WINDOW_MS};
use crate::{DeltaLog, StateDelta, StateRow};

/// How the records of one key and window become rows.
pub trait Aggregate: 'static {
    /// What the operator is called in timely's logs.
    const NAME: &'static str;
    /// A record, or the partial aggregate of several.
    type Record: StateRow + ExchangeData;
    /// What windows are grouped by.
    type Key: Hash + Eq + 'static;
    /// What is known of a key in a window; the default before the first record.
    type Accumulator: Default + 'static;
    /// The part of a record that the key and the window don't hold.
    type Value;
    /// A row of the result.
    type Row: Clone + 'static;
    /// What a checkpoint needs beside the accumulator to write a record again.
    type Unsaved: 'static;

    /// The start of a record's window, its key and the rest.
    fn split(record: Self::Record) -> (EventTime, Self::Key, Self::Value);

    /// Adds a value. While `records` is set, what [`Aggregate::record`] is to write later; None if that is
    /// noted already.
    fn add(accumulator: &mut Self::Accumulator, value: Self::Value, records: bool) -> Option<Self::Unsaved>;

    /// The record, or sum of records, of an [`Aggregate::add`].
    fn record(
        start: EventTime,
        key: &Self::Key,
        accumulator: &mut Self::Accumulator,
        unsaved: Self::Unsaved,
    ) -> Self::Record;

    /// Whether rows are in the result before their window closes.
    fn emits_open(&self) -> bool;

    /// Emits how the row has changed since the last call: once an epoch at most, and when the window closes.
    fn change(
        &self,
        start: EventTime,
        key: &Self::Key,
        accumulator: &mut Self::Accumulator,
        is_closed: bool,
        emit: &mut impl FnMut(Self::Row, isize),
    );

    /// Bytes that an accumulator has allocated.
    fn heap(_accumulator: &Self::Accumulator) -> usize {
        0
    }
}

/// How much state there is, for metrics and tests.
#[derive(Debug, Default)]
pub struct WindowedState {
    /// Rows of the windows that have not expired.
    pub rows: Cell<usize>,
    /// The memory allocated for them; texts in keys are not counted.
    pub bytes: Cell<usize>,
}

/// The rows of `aggregate` over the records, which are dealt out to workers by `exchange`: all of a key must
/// come to one.
///
/// `select` picks the watermark. State is in checkpoints by `delta_log`.
pub fn windowed_reduce<'scope, A: Aggregate>(
    records: StreamVec<'scope, Epoch, A::Record>,
    exchange: impl Fn(&A::Record) -> u64 + 'static,
    watermarks: StreamVec<'scope, Epoch, Watermarks>,
    select: fn(&Watermarks) -> EventTime,
    allowed_lateness: i64,
    delta_log: &DeltaLog,
    aggregate: A,
) -> (VecCollection<'scope, Epoch, A::Row>, Rc<WindowedState>) {
    let state = Rc::new(WindowedState::default());
    let logic = Windows {
        aggregate,
        windows: BTreeMap::new(),
        closed: EventTime::MIN,
        allowed_lateness,
        records: false,
        size: Size::default(),
        state: Rc::clone(&state),
    };
    (epochs(records, Exchange::new(exchange), watermarks, select, A::NAME, delta_log, logic), state)
}

struct Windows<A: Aggregate> {
    aggregate: A,
    windows: BTreeMap<EventTime, Window<A>>,
    /// The greatest watermark so far: windows that end by then are closed.
    closed: EventTime,
    allowed_lateness: i64,
    /// Whether checkpoints want what enters.
    records: bool,
    size: Size,
    state: Rc<WindowedState>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct Size {
    rows: usize,
    bytes: usize,
}

struct Window<A: Aggregate> {
    rows: Vec<(A::Key, A::Accumulator)>,
    index: HashTable<u32>,
    hasher: RandomState,
    /// Rows that changed in this epoch, once each, where that is to be emitted.
    touched: Vec<u32>,
    /// A bit for each row: whether it is in `touched`.
    marks: Vec<u64>,
    /// Of what no checkpoint has: the row, and the rest.
    unsaved: Vec<(u32, A::Unsaved)>,
    /// What the accumulators have allocated.
    heap: usize,
}

/// The moment at which the window closes.
fn end(start: EventTime) -> EventTime {
    start.plus(WINDOW_MS)
}

impl<A: Aggregate> EpochLogic for Windows<A> {
    type In = A::Record;
    type Beside = Infallible;
    type Out = A::Row;

    fn epoch(&mut self, records: Vec<A::Record>, watermark: EventTime, mut emit: impl FnMut(A::Row, isize)) {
        let mut touched = Vec::new();
        for record in records {
            let (start, key, value) = A::split(record);
            let window = self.windows.entry(start).or_default();
            let before = window.size();
            let emits = self.aggregate.emits_open() || end(start) <= watermark;
            if window.add(key, value, self.records, emits) {
                touched.push(start);
            }
            self.size.change(before, window.size());
        }
        self.close(watermark, &mut emit);
        for start in touched {
            let Some(window) = self.windows.get_mut(&start) else { continue };
            let before = window.size();
            window.emit_touched(&self.aggregate, start, end(start) <= watermark, &mut emit);
            self.size.change(before, window.size());
        }
        self.expire(watermark);
        self.state.rows.set(self.size.rows);
        self.state.bytes.set(self.size.bytes);
    }

    fn flush(&mut self, mut to: Option<&mut StateDelta>) {
        self.records = true;
        for (start, window) in &mut self.windows {
            let before = window.size();
            for (index, unsaved) in std::mem::take(&mut window.unsaved) {
                let (key, accumulator) = &mut window.rows[index as usize];
                let record = A::record(*start, key, accumulator, unsaved);
                if let Some(to) = &mut to {
                    to.extend([record]);
                }
            }
            self.size.change(before, window.size());
        }
    }
}

impl<A: Aggregate> Windows<A> {
    /// Emits all rows of the windows whose end the watermark has reached since the last call.
    fn close(&mut self, watermark: EventTime, emit: &mut impl FnMut(A::Row, isize)) {
        debug_assert!(self.closed <= watermark, "a watermark went back");
        let (from, to) = (self.closed.plus(-WINDOW_MS), watermark.plus(-WINDOW_MS));
        self.closed = watermark;
        for (start, window) in self.windows.range_mut(from..=to) {
            // The window that ends at the watermark before was closed then.
            if *start == from {
                continue;
            }
            let before = window.size();
            window.emit_all(&self.aggregate, *start, emit);
            self.size.change(before, window.size());
        }
    }

    fn expire(&mut self, watermark: EventTime) {
        while let Some(window) = self.windows.first_entry()
            && end(*window.key()).plus(self.allowed_lateness - 1) < watermark
        {
            self.size.change(window.remove().size(), Size::default());
        }
        debug_assert_eq!(
            self.size.rows,
            self.windows.values().map(|window| window.rows.len()).sum::<usize>()
        );
    }
}

impl Size {
    fn change(&mut self, before: Size, after: Size) {
        self.rows = self.rows - before.rows + after.rows;
        self.bytes = self.bytes - before.bytes + after.bytes;
    }
}

impl<A: Aggregate> Default for Window<A> {
    fn default() -> Self {
        Window {
            rows: Vec::new(),
            index: HashTable::new(),
            hasher: RandomState::default(),
            touched: Vec::new(),
            marks: Vec::new(),
            unsaved: Vec::new(),
            heap: 0,
        }
    }
}

impl<A: Aggregate> Window<A> {
    fn size(&self) -> Size {
        let rows = self.rows.capacity() * size_of::<(A::Key, A::Accumulator)>();
        let bytes = rows + table_bytes::<u32>(self.index.capacity()) + self.heap;
        Size { rows: self.rows.len(), bytes }
    }

    /// Adds a value; true if the window has its first touched row by it.
    fn add(&mut self, key: A::Key, value: A::Value, records: bool, emits: bool) -> bool {
        let index = self.row(key);
        let accumulator = &mut self.rows[index as usize].1;
        let heap = A::heap(accumulator);
        let unsaved = A::add(accumulator, value, records);
        self.heap = self.heap - heap + A::heap(accumulator);
        self.unsaved.extend(unsaved.map(|unsaved| (index, unsaved)));
        emits && self.touch(index) && self.touched.len() == 1
    }

    /// The index of the key's row, which is added if there is none.
    fn row(&mut self, key: A::Key) -> u32 {
        let (rows, hasher) = (&mut self.rows, &self.hasher);
        let entry = self.index.entry(
            hasher.hash_one(&key),
            |&index| rows[index as usize].0 == key,
            |&index| hasher.hash_one(&rows[index as usize].0),
        );
        match entry {
            Entry::Occupied(found) => *found.get(),
            Entry::Vacant(free) => {
                let index = rows.len() as u32;
                free.insert(index);
                rows.push((key, A::Accumulator::default()));
                index
            }
        }
    }

    /// True if the row was not touched yet.
    fn touch(&mut self, index: u32) -> bool {
        let (word, bit) = (index as usize / 64, 1 << (index % 64));
        if word >= self.marks.len() {
            self.marks.resize(word + 1, 0);
        }
        let is_new = self.marks[word] & bit == 0;
        if is_new {
            self.marks[word] |= bit;
            self.touched.push(index);
        }
        is_new
    }

    fn emit_touched(
        &mut self,
        aggregate: &A,
        start: EventTime,
        is_closed: bool,
        emit: &mut impl FnMut(A::Row, isize),
    ) {
        for index in std::mem::take(&mut self.touched) {
            self.marks[index as usize / 64] &= !(1 << (index % 64));
            let (key, accumulator) = &mut self.rows[index as usize];
            let heap = A::heap(accumulator);
            aggregate.change(start, key, accumulator, is_closed, emit);
            self.heap = self.heap - heap + A::heap(accumulator);
        }
    }

    fn emit_all(&mut self, aggregate: &A, start: EventTime, emit: &mut impl FnMut(A::Row, isize)) {
        self.touched.clear();
        self.marks.clear();
        for (key, accumulator) in &mut self.rows {
            let heap = A::heap(accumulator);
            aggregate.change(start, key, accumulator, true, emit);
            self.heap = self.heap - heap + A::heap(accumulator);
        }
    }
}

/// What `windowed_reduce` computes, in plain differential operators: a reduce by window and key, joined with
/// the windows that have closed. It keeps all records of all windows for ever, and is as fast as the
/// operators that it consists of.
///
/// `fold` makes a result of the values of a window and key, each with how often it came. A result says
/// whether its window has closed.
///
/// # Examples
///
/// ```
/// use std::sync::mpsc::channel;
///
/// use adtide_dataflows::model::{Epoch, EventTime, WINDOW_MS};
/// use adtide_dataflows::operators::{Watermarks, windowed_reduce};
/// use differential_dataflow::input::Input as _;
/// use timely::dataflow::operators::Input as _;
///
/// let (rows, changes) = channel();
/// timely::execute_directly(move |worker| {
///     let (mut clicks, mut marks) = worker.dataflow::<Epoch, _, _>(|scope| {
///         let (clicks, of_ads) = scope.new_collection();
///         let (marks, watermarks) = scope.new_input();
///         let count = |clicks: &[(&(), isize)]| clicks.iter().map(|(_, count)| *count).sum::<isize>();
///         windowed_reduce::definition(of_ads, count, watermarks, |marks| marks.duplicates)
///             .inspect(move |((_, clicks, is_closed), epoch, diff)| {
///                 rows.send((*epoch, *clicks, *is_closed, *diff)).unwrap();
///             });
///         (clicks, marks)
///     });
///     clicks.insert(((EventTime(0), 5i64), ()));
///     clicks.insert(((EventTime(0), 5i64), ()));
///     clicks.advance_to(1);
///     marks.advance_to(1);
///     marks.send(Watermarks { duplicates: EventTime(WINDOW_MS), ..Watermarks::MIN });
/// });
/// let mut changes: Vec<_> = changes.iter().collect();
/// changes.sort();
/// assert_eq!(changes, [(0, 2, false, 1), (1, 2, false, -1), (1, 2, true, 1)]);
/// ```
pub fn definition<'scope, K, V, R>(
    records: VecCollection<'scope, Epoch, ((EventTime, K), V)>,
    fold: impl Fn(&[(&V, isize)]) -> R + 'static,
    watermarks: StreamVec<'scope, Epoch, Watermarks>,
    select: fn(&Watermarks) -> EventTime,
) -> VecCollection<'scope, Epoch, ((EventTime, K), R, bool)>
where
    K: ExchangeData + Hash,
    V: ExchangeData,
    R: ExchangeData + Hash,
{
    let windows = records.clone().map(|((start, _), _)| start).distinct();
    let results =
        records.reduce_named("Windows", move |_, values, results| results.push((fold(values), 1isize)));
    let by_window = results.map(|((start, key), result)| (start, (key, result)));
    left_join(by_window, closed(windows, watermarks, select).map(|start| (start, ())))
        .map(|(start, ((key, result), closed))| ((start, key), result, closed.is_some()))
        // The join matches old and new results with the window one by one.
        .consolidate()
}

/// The windows that have closed, from the epoch on in which the watermark reached their end. A temporal
/// filter: differential has no operator that waits for event time.
fn closed<'scope>(
    windows: VecCollection<'scope, Epoch, EventTime>,
    watermarks: StreamVec<'scope, Epoch, Watermarks>,
    select: fn(&Watermarks) -> EventTime,
) -> VecCollection<'scope, Epoch, EventTime> {
    let starts = changes(windows, |start, _| start);
    let exchange = Exchange::new(|start: &EventTime| start.hashed());
    epochs(starts, exchange, watermarks, select, "ClosedWindows", &DeltaLog::off(), Closing(BTreeSet::new()))
}

/// The windows that have not closed.
struct Closing(BTreeSet<EventTime>);

impl EpochLogic for Closing {
    type In = EventTime;
    type Beside = Infallible;
    type Out = EventTime;

    fn epoch(
        &mut self,
        starts: Vec<EventTime>,
        watermark: EventTime,
        mut emit: impl FnMut(EventTime, isize),
    ) {
        self.0.extend(starts);
        while let Some(start) = self.0.pop_first() {
            if end(start) > watermark {
                self.0.insert(start);
                break;
            }
            emit(start, 1);
        }
    }

    fn flush(&mut self, _to: Option<&mut StateDelta>) {}
}
