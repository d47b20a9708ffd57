//! Which records open a conversion, and which repeat one.
//!
//! The records of an identity, in their order, are a chain: the first opens a conversion, each one up to
//! `repeat_within` after it is a repeat, the next one opens another, and so on. A record is *settled* once
//! every record of an earlier time is late: by then it is certain whether it opens or repeats, and of all
//! settled records only the time of the last that opened matters, until no record that is not late can repeat
//! that one.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::ops::Bound::{Excluded, Included};
use std::rc::Rc;

use differential_dataflow::VecCollection;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::Concat;
use timely::dataflow::operators::vec::Map;

use super::input::{Conversion, Opener, Order};
use crate::hash::{HashMap, RoutingKey, table_bytes};
use crate::model::{Epoch, EventTime, IdHash};
use crate::operators::{EpochLogic, Watermarks, epochs};
use crate::{DeltaLog, StateDelta};

/// How much there is of conversions, for metrics and tests.
#[derive(Debug, Default)]
pub struct OpenersState {
    /// Identities that have a conversion which no record can make a repeat any more, and which one could
    /// still repeat.
    pub settled: Cell<usize>,
    /// Bytes of memory for these and for the records that are not settled, about, texts of ids not counted.
    pub bytes: Cell<usize>,
    /// Records that repeated a conversion, each counted when that is certain.
    pub repeats: Cell<u64>,
}

/// The records that open a conversion, right at every moment for the records so far.
///
/// `settled` gives back what a checkpoint knows of records that it does not have.
pub fn openers<'scope>(
    records: StreamVec<'scope, Epoch, Conversion>,
    settled: StreamVec<'scope, Epoch, Opener>,
    watermarks: StreamVec<'scope, Epoch, Watermarks>,
    repeat_within: i64,
    allowed_lateness: i64,
    routing: RoutingKey,
    delta_log: &DeltaLog,
) -> (VecCollection<'scope, Epoch, Conversion>, Rc<OpenersState>) {
    let records = records.map(IdentityEntry::Unsettled).concat(settled.map(IdentityEntry::Opener));
    let exchange = Exchange::new(move |record: &IdentityEntry| {
        routing.hash(&match record {
            IdentityEntry::Unsettled(conversion) => conversion.route(),
            IdentityEntry::Opener(opener) => opener.route,
        })
    });
    let state = Rc::new(OpenersState::default());
    let logic = Openers {
        chains: Chains::new(repeat_within),
        log: if delta_log.is_on() { Log::Restoring } else { Log::Off },
        allowed_lateness,
        state: Rc::clone(&state),
    };
    (epochs(records, exchange, watermarks, |marks| marks.conversions, "Openers", delta_log, logic), state)
}

/// What comes of an identity.
#[derive(Clone, serde::Serialize, serde::Deserialize)]
enum IdentityEntry {
    Unsettled(Conversion),
    Opener(Opener),
}

struct Openers {
    chains: Chains,
    log: Log,
    allowed_lateness: i64,
    state: Rc<OpenersState>,
}

/// What no checkpoint has.
enum Log {
    /// There are no checkpoints.
    Off,
    /// What is here came from one. Nothing settles until all of it has come.
    Restoring,
    On {
        conversions: Vec<Conversion>,
        openers: Vec<Opener>,
    },
}

impl EpochLogic for Openers {
    type In = IdentityEntry;
    type Beside = Infallible;
    type Out = Conversion;

    fn epoch(
        &mut self,
        records: Vec<IdentityEntry>,
        watermark: EventTime,
        mut emit: impl FnMut(Conversion, isize),
    ) {
        let mut touched = BTreeSet::new();
        for record in records {
            match record {
                IdentityEntry::Unsettled(conversion) => {
                    if let Log::On { conversions, .. } = &mut self.log {
                        conversions.push(conversion.clone());
                    }
                    touched.insert(self.chains.insert(conversion));
                }
                IdentityEntry::Opener(opener) => _ = touched.insert(self.chains.restore(&opener)),
            }
        }
        self.chains.update(touched, &mut emit);
        self.settle(watermark.plus(-self.allowed_lateness));
        self.state.settled.set(self.chains.settled.len());
        self.state.bytes.set(self.chains.bytes());
    }

    fn flush(&mut self, to: Option<&mut StateDelta>) {
        let log = std::mem::replace(&mut self.log, Log::On { conversions: Vec::new(), openers: Vec::new() });
        if let (Some(to), Log::On { conversions, openers }) = (to, log) {
            to.extend(conversions);
            to.extend(openers);
        }
    }
}

impl Openers {
    /// Settles the records from before a time.
    fn settle(&mut self, time: EventTime) {
        if matches!(self.log, Log::Restoring) {
            return;
        }
        let (log, repeats) = (&mut self.log, &self.state.repeats);
        self.chains.settle(time, |opener| match (opener, &mut *log) {
            (Some(opener), Log::On { openers, .. }) => openers.push(opener),
            (Some(_), _) => {}
            (None, _) => repeats.set(repeats.get() + 1),
        });
    }
}

/// A record among those of its identity.
type ConversionKey = (IdHash, Order);

/// The end of a time among orders.
const fn end_of(time: EventTime) -> Order {
    (time, u32::MAX, u64::MAX)
}

/// The records of one worker.
struct Chains {
    /// All that are not settled.
    records: BTreeMap<ConversionKey, Conversion>,
    /// Those of them that open a conversion.
    openers: BTreeSet<ConversionKey>,
    /// The records by time.
    due: BTreeSet<(Order, IdHash)>,
    /// The time of each identity's last settled opener.
    settled: HashMap<IdHash, EventTime>,
    /// The same by time, and openers before them.
    expiring: BTreeSet<(EventTime, IdHash)>,
    repeat_within: i64,
}

impl Chains {
    fn new(repeat_within: i64) -> Chains {
        Chains {
            records: BTreeMap::new(),
            openers: BTreeSet::new(),
            due: BTreeSet::new(),
            settled: HashMap::default(),
            expiring: BTreeSet::new(),
            repeat_within,
        }
    }

    fn bytes(&self) -> usize {
        // Nodes of a B-tree are two thirds full.
        let tree = |entries: usize, size: usize| entries * size * 3 / 2;
        tree(self.records.len(), size_of::<(ConversionKey, Conversion)>() + size_of::<(Order, IdHash)>())
            + tree(self.openers.len(), size_of::<ConversionKey>())
            + tree(self.expiring.len(), size_of::<(EventTime, IdHash)>())
            + table_bytes::<(IdHash, EventTime)>(self.settled.capacity())
    }

    /// Adds a record. What it changes is found by [`Chains::update`].
    fn insert(&mut self, conversion: Conversion) -> ConversionKey {
        let place = (conversion.id(), conversion.order);
        self.due.insert((place.1, place.0));
        self.records.insert(place, conversion);
        place
    }

    /// Gives a settled opener back. The result is what may start a chain now.
    fn restore(&mut self, opener: &Opener) -> ConversionKey {
        (opener.id, end_of(self.settle_opener(opener)))
    }

    /// Brings the chains up to date in which records are new, or of which settled openers are, and emits
    /// which records open a conversion now, or do no more. Costs what changes, not what there is: a chain is
    /// followed until it meets what it was before.
    fn update(&mut self, touched: BTreeSet<ConversionKey>, emit: &mut impl FnMut(Conversion, isize)) {
        for place in touched {
            if self.openers.contains(&place) {
                continue;
            }
            match self.opener_before(place) {
                // What is new repeats a conversion, or is the settled opener of it.
                Some(time) if place.1.0 <= time.plus(self.repeat_within) => {
                    if !self.records.contains_key(&place) {
                        self.follow(place, emit);
                    }
                }
                _ => {
                    self.open_at(place, emit);
                    self.follow(place, emit);
                }
            }
        }
    }

    /// The time of the last opener before a place.
    fn opener_before(&self, place: ConversionKey) -> Option<EventTime> {
        let (id, _) = place;
        let first = (id, (EventTime::MIN, 0, 0));
        let open = self.openers.range(first..place).next_back().map(|(_, order)| order.0);
        open.or_else(|| self.settled.get(&id).copied())
    }

    /// Brings what comes after an opener up to date.
    fn follow(&mut self, opener: ConversionKey, emit: &mut impl FnMut(Conversion, isize)) {
        let (id, _) = opener;
        let mut from = opener;
        loop {
            let reach = (id, end_of(from.1.0.plus(self.repeat_within)));
            while let Some(&repeat) = self.openers.range((Excluded(from), Included(reach))).next() {
                self.openers.remove(&repeat);
                if let Some(conversion) = self.records.get(&repeat) {
                    emit(conversion.clone(), -1);
                }
            }
            let last = (id, end_of(EventTime::MAX));
            match self.records.range((Excluded(reach), Included(last))).next() {
                Some((&next, _)) if !self.openers.contains(&next) => {
                    self.open_at(next, emit);
                    from = next;
                }
                // From here on it is as it was.
                _ => return,
            }
        }
    }

    fn open_at(&mut self, place: ConversionKey, emit: &mut impl FnMut(Conversion, isize)) {
        let Some(conversion) = self.records.get(&place) else { return };
        self.openers.insert(place);
        emit(conversion.clone(), 1);
    }

    /// Takes the records from before `time`; every other record of such a time is late. Says of each which
    /// opener it is, or None of a repeat.
    fn settle(&mut self, time: EventTime, mut settled: impl FnMut(Option<Opener>)) {
        while let Some(&(order, id)) = self.due.first()
            && order.0 < time
        {
            self.due.pop_first();
            let place = (id, order);
            let Some(conversion) = self.records.remove(&place) else { continue };
            let opener = self.openers.remove(&place).then(|| conversion.opener());
            if let Some(opener) = &opener {
                self.settle_opener(opener);
            }
            settled(opener);
        }
        while let Some(&(opener, id)) = self.expiring.first()
            && opener.plus(self.repeat_within) < time
        {
            self.expiring.pop_first();
            // A later one may have taken its place.
            if self.settled.get(&id) == Some(&opener) {
                self.settled.remove(&id);
            }
        }
        debug_assert!(self.openers.len() <= self.records.len() && self.due.len() == self.records.len());
    }

    /// The time of the identity's last settled opener, this one included.
    fn settle_opener(&mut self, opener: &Opener) -> EventTime {
        self.expiring.insert((opener.time, opener.id));
        let last = self.settled.entry(opener.id).or_insert(opener.time);
        *last = opener.time.max(*last);
        *last
    }
}
