//! Records of conversions that another record could still come before, and which of them open a conversion.
//!
//! The records of an identity, in their order, are a chain: the first opens a conversion, each one up to `repeat_within`
//! after it is a repeat, the next one opens another, and so on. A record is *settled* once every record of an earlier time is
//! late: by then it is certain whether it opens or repeats, and of all settled records only the time of the last that opened
//! matters, until no record that is not late can repeat that one.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Included};

use super::{Conversion, MatchKey, Opener, Order, StoredClick};
use crate::hash::{HashMap, table_bytes};
use crate::model::{EventTime, IdHash};

/// A record among those of its identity.
pub type Place = (IdHash, Order);

/// The end of a time among orders.
const fn end_of(time: EventTime) -> Order {
    (time, u32::MAX, u64::MAX)
}

/// How a touched chain changes.
pub enum Turn {
    /// This record opens a conversion now.
    Opens(Place),
    /// This one does no more; its row, if it had one, was that of this click.
    Repeats(Place, Option<StoredClick>),
}

/// What came of a record that is settled.
pub enum Settled {
    /// It opened a conversion.
    Opener(Opener),
    /// It repeated one.
    Repeat,
}

/// The conversions of one worker.
pub struct Conversions {
    /// All records that are not settled.
    records: BTreeMap<Place, Conversion>,
    /// Those of them that open a conversion, with its best click.
    openers: BTreeMap<Place, Option<StoredClick>>,
    /// The records by time.
    due: BTreeSet<(Order, IdHash)>,
    /// The time of each identity's last settled opener.
    settled: HashMap<IdHash, EventTime>,
    /// The same by time, and openers before them.
    expiring: BTreeSet<(EventTime, IdHash)>,
    /// The openers by device and by session.
    pub waiting: [Waiting; 2],
    repeat_within: i64,
}

impl Conversions {
    /// None yet.
    pub fn new(repeat_within: i64) -> Conversions {
        Conversions {
            records: BTreeMap::new(),
            openers: BTreeMap::new(),
            due: BTreeSet::new(),
            settled: HashMap::default(),
            expiring: BTreeSet::new(),
            waiting: Default::default(),
            repeat_within,
        }
    }

    /// Conversions that are not settled.
    pub fn open(&self) -> usize {
        self.openers.len()
    }

    /// Identities with a settled conversion.
    pub fn settled(&self) -> usize {
        self.settled.len()
    }

    /// The memory for them, about, texts of ids not counted.
    pub fn bytes(&self) -> usize {
        // Nodes of a B-tree are two thirds full.
        let tree = |entries: usize, size: usize| entries * size * 3 / 2;
        tree(self.records.len(), size_of::<(Place, Conversion)>() + size_of::<(Order, IdHash)>())
            + tree(self.openers.len(), size_of::<(Place, Option<StoredClick>)>())
            + tree(self.expiring.len(), size_of::<(EventTime, IdHash)>())
            + table_bytes::<(IdHash, EventTime)>(self.settled.capacity())
            + self.waiting.iter().map(Waiting::bytes).sum::<usize>()
    }

    /// Adds a record. What it changes is found by [`Conversions::chain`].
    pub fn insert(&mut self, conversion: Conversion) -> Place {
        let place = (conversion.id(), conversion.order);
        self.due.insert((place.1, place.0));
        self.records.insert(place, conversion);
        place
    }

    /// Gives a settled opener back. The result is what may start a chain now.
    pub fn restore(&mut self, opener: &Opener) -> Place {
        (opener.id, end_of(self.settle_opener(opener)))
    }

    /// A record with its best click, if it opens a conversion.
    pub fn opener(&mut self, place: Place) -> Option<(&Conversion, &mut Option<StoredClick>)> {
        Some((self.records.get(&place)?, self.openers.get_mut(&place)?))
    }

    /// A record that is not settled.
    pub fn record(&self, place: Place) -> Option<&Conversion> {
        self.records.get(&place)
    }

    /// Brings the chains up to date in which records are new, or of which settled openers are. Costs what changes, not what
    /// there is: a chain is followed until it meets what it was before.
    pub fn chain(&mut self, touched: BTreeSet<Place>, mut turn: impl FnMut(&mut Conversions, Turn)) {
        for place in touched {
            if self.openers.contains_key(&place) {
                continue;
            }
            match self.opener_before(place) {
                // What is new repeats a conversion, or is the settled opener of it.
                Some(time) if place.1.0 <= time.plus(self.repeat_within) => {
                    if !self.records.contains_key(&place) {
                        self.follow(place, &mut turn);
                    }
                }
                _ => {
                    self.open_at(place, &mut turn);
                    self.follow(place, &mut turn);
                }
            }
        }
    }

    /// The time of the last opener before a place.
    fn opener_before(&self, place: Place) -> Option<EventTime> {
        let (id, _) = place;
        let first = (id, (EventTime::MIN, 0, 0));
        let open = self.openers.range(first..place).next_back().map(|((_, order), _)| order.0);
        open.or_else(|| self.settled.get(&id).copied())
    }

    /// Brings what comes after an opener up to date.
    fn follow(&mut self, opener: Place, turn: &mut impl FnMut(&mut Conversions, Turn)) {
        let (id, _) = opener;
        let mut from = opener;
        loop {
            let reach = (id, end_of(from.1.0.plus(self.repeat_within)));
            while let Some((&repeat, _)) = self.openers.range((Excluded(from), Included(reach))).next() {
                self.close_at(repeat, turn);
            }
            let last = (id, end_of(EventTime::MAX));
            match self.records.range((Excluded(reach), Included(last))).next() {
                Some((&next, _)) if !self.openers.contains_key(&next) => {
                    self.open_at(next, turn);
                    from = next;
                }
                // From here on it is as it was.
                _ => return,
            }
        }
    }

    fn open_at(&mut self, place: Place, turn: &mut impl FnMut(&mut Conversions, Turn)) {
        let Some(conversion) = self.records.get(&place) else { return };
        for (waiting, key) in self.waiting.iter_mut().zip(conversion.keys) {
            key.into_iter().for_each(|key| waiting.insert(key, place));
        }
        self.openers.insert(place, None);
        turn(self, Turn::Opens(place));
    }

    fn close_at(&mut self, place: Place, turn: &mut impl FnMut(&mut Conversions, Turn)) {
        let best = self.remove_opener(place);
        turn(self, Turn::Repeats(place, best));
    }

    /// Its best click, if it was one.
    fn remove_opener(&mut self, place: Place) -> Option<StoredClick> {
        let best = self.openers.remove(&place)?;
        let keys = self.records.get(&place).map(|conversion| conversion.keys).unwrap_or_default();
        for (waiting, key) in self.waiting.iter_mut().zip(keys) {
            key.into_iter().for_each(|key| waiting.remove(key, place));
        }
        best
    }

    /// Takes the records from before `time`; every other record of such a time is late.
    pub fn settle(&mut self, time: EventTime, mut settled: impl FnMut(Settled)) {
        while let Some(&(order, id)) = self.due.first()
            && order.0 < time
        {
            self.due.pop_first();
            let place = (id, order);
            let opens = self.openers.contains_key(&place);
            self.remove_opener(place);
            let Some(conversion) = self.records.remove(&place) else { continue };
            if opens {
                let opener = Opener { route: super::route(conversion.product_id), id, time: order.0 };
                self.settle_opener(&opener);
                settled(Settled::Opener(opener));
            } else {
                settled(Settled::Repeat);
            }
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
    }

    /// The time of the identity's last settled opener, this one included.
    fn settle_opener(&mut self, opener: &Opener) -> EventTime {
        self.expiring.insert((opener.time, opener.id));
        let last = self.settled.entry(opener.id).or_insert(opener.time);
        *last = opener.time.max(*last);
        *last
    }
}

/// Conversions by a key and their time.
#[derive(Default)]
pub struct Waiting {
    conversions: BTreeSet<(MatchKey, Order, IdHash)>,
    /// How many there are of each key: for most clicks there is none, and this is how that is found quickest.
    counts: HashMap<MatchKey, u32>,
}

impl Waiting {
    fn insert(&mut self, key: MatchKey, (id, order): Place) {
        if self.conversions.insert((key, order, id)) {
            *self.counts.entry(key).or_default() += 1;
        }
    }

    fn remove(&mut self, key: MatchKey, (id, order): Place) {
        if self.conversions.remove(&(key, order, id))
            && let Some(count) = self.counts.get_mut(&key)
        {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&key);
            }
        }
    }

    /// Whether there is one with this key.
    pub fn has(&self, key: MatchKey) -> bool {
        self.counts.contains_key(&key)
    }

    /// The conversions from one time to another, both included, in order.
    pub fn between(&self, key: MatchKey, from: EventTime, to: EventTime) -> impl Iterator<Item = Place> {
        const LEAST: IdHash = IdHash::MIN;
        const GREATEST: IdHash = IdHash::MAX;
        let range = (key, (from, 0, 0), LEAST)..=(key, end_of(to), GREATEST);
        self.conversions.range(range).map(|(_, order, id)| (*id, *order))
    }

    fn bytes(&self) -> usize {
        self.conversions.len() * size_of::<(MatchKey, Order, IdHash)>() * 3 / 2
            + table_bytes::<(MatchKey, u32)>(self.counts.capacity())
    }
}
