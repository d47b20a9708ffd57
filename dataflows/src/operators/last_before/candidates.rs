//! Live candidates, found by any of their keys as of a time.
//!
//! A candidate is kept once, in a chunk of its time bucket, and is linked into a list for each of its keys,
//! best first. A list's head is in a hash table that holds nothing but the link. Expiry drops whole buckets:
//! as lists are ordered by time, what follows a dropped candidate is dropped too, so a link into a dropped
//! chunk is the list's end and need not be cut.
//!
//! Candidates come nearly in order of time, so a place in a list is found near its head. A list in which one
//! was not (a session id that many visitors share, read from partitions that are far apart), or in which a
//! lookup goes far back, becomes an ordered map. Of candidates of one key and time only the best matters, so
//! others need not be in the list.

use std::collections::BTreeMap;
use std::collections::btree_map;
use std::hash::BuildHasher;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::Keys;
use crate::hash::{HashMap, RandomState, table_bytes};
use crate::model::{EventTime, IdHash};

/// Candidates a chunk.
const CHUNK: usize = 1 << 16;

/// A list that takes more steps than this to find a place in becomes an ordered map.
const LONG_WALK: usize = 16;

/// When there are more buckets than this, they become twice as wide.
const MOST_BUCKETS: usize = 1024;

/// Where a candidate is: the number of its chunk and the place in it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Link(u32);

impl Link {
    const END: Link = Link(u32::MAX);

    fn new(chunk: usize, place: usize) -> Link {
        Link((chunk * CHUNK + place) as u32)
    }

    fn chunk(self) -> usize {
        self.0 as usize / CHUNK
    }

    fn place(self) -> usize {
        self.0 as usize % CHUNK
    }
}

/// A candidate in its chunk.
struct Slot<V> {
    /// Meaningless where there is none.
    keys: [IdHash; 2],
    time: EventTime,
    /// The next best of the same keys.
    next: [Link; 2],
    has_key: [bool; 2],
    value: V,
}

impl<V: Ord> Slot<V> {
    fn new(keys: Keys, time: EventTime, value: V) -> Slot<V> {
        Slot {
            keys: keys.map(Option::unwrap_or_default),
            time,
            next: [Link::END; 2],
            has_key: keys.map(|key| key.is_some()),
            value,
        }
    }

    fn keys(&self) -> Keys {
        [0, 1].map(|side| self.has_key[side].then_some(self.keys[side]))
    }

    /// What candidates are compared by; the greatest is the best.
    fn rank(&self) -> (EventTime, &V) {
        (self.time, &self.value)
    }
}

/// The live candidates of one worker.
pub struct Candidates<V> {
    chunks: Vec<Vec<Slot<V>>>,
    /// How many of each chunk a checkpoint has.
    saved: Vec<usize>,
    free: Vec<usize>,
    /// The chunks of each bucket of times; the last one takes what is new.
    buckets: BTreeMap<i64, Vec<usize>>,
    heads: [HashTable<Link>; 2],
    hasher: RandomState,
    /// What is in no list: the candidates of keys that come far out of order, of each time the best.
    ordered: [HashMap<IdHash, BTreeMap<EventTime, Link>>; 2],
    bucket_ms: i64,
    lookback: i64,
    allowed_lateness: i64,
    len: usize,
}

impl<V: Ord> Candidates<V> {
    /// An empty store. Candidates stay at most a sixty-fourth of the lookback longer than they must, or a
    /// five-hundredth of the time that all live ones span.
    pub fn new(lookback: i64, allowed_lateness: i64) -> Candidates<V> {
        Candidates {
            chunks: Vec::new(),
            saved: Vec::new(),
            free: Vec::new(),
            buckets: BTreeMap::new(),
            heads: [HashTable::new(), HashTable::new()],
            hasher: RandomState::default(),
            ordered: Default::default(),
            bucket_ms: (lookback / 64).max(1000),
            lookback,
            allowed_lateness,
            len: 0,
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The memory allocated for them, without what values have on the heap.
    pub fn bytes(&self) -> usize {
        let slots: usize = self.chunks.iter().map(Vec::capacity).sum();
        let links: usize = self.heads.iter().map(|heads| table_bytes::<Link>(heads.capacity())).sum();
        let ordered: usize = self.ordered.iter().flat_map(HashMap::values).map(BTreeMap::len).sum();
        slots * size_of::<Slot<V>>() + links + ordered * size_of::<(EventTime, Link)>()
    }

    /// What was added since [`Candidates::mark_saved`] and is still there.
    pub fn unsaved(&self) -> impl Iterator<Item = (Keys, EventTime, &V)> {
        let chunks = self.chunks.iter().zip(&self.saved);
        let slots = chunks.flat_map(|(chunk, saved)| chunk.iter().skip(*saved));
        slots.map(|slot| (slot.keys(), slot.time, &slot.value))
    }

    /// Says that a checkpoint has all that there is.
    pub fn mark_saved(&mut self) {
        for (chunk, saved) in self.chunks.iter().zip(&mut self.saved) {
            *saved = chunk.len();
        }
    }

    /// Adds a candidate.
    pub fn insert(&mut self, keys: Keys, time: EventTime, value: V) {
        let mut slot = Slot::new(keys, time, value);
        // Both places are found before it is stored: a link into a dropped chunk must not meet it.
        let places = [0, 1].map(|side| self.place(side, &slot));
        for (next, place) in slot.next.iter_mut().zip(&places) {
            if let Insertion::InList { next: found, .. } = place {
                *next = *found;
            }
        }
        let chunk = self.open_chunk(time);
        let link = Link::new(chunk, self.chunks[chunk].len());
        let keys = slot.keys;
        push(&mut self.chunks[chunk], slot);
        self.len += 1;
        for (side, place) in places.into_iter().enumerate() {
            match place {
                Insertion::Nowhere => {}
                Insertion::Ordered => self.insert_ordered(side, keys[side], time, link),
                Insertion::InList { before: Some(before), .. } => {
                    self.chunks[before.chunk()][before.place()].next[side] = link;
                }
                Insertion::InList { before: None, .. } => self.set_head(side, keys[side], link),
            }
        }
    }

    /// The best candidate at or before `time`, within the lookback, that has any of the keys.
    pub fn best(&mut self, keys: &Keys, time: EventTime) -> Option<(EventTime, &V)> {
        let links = [0, 1].map(|side| self.best_of(side, keys[side]?, time));
        let slots = links.into_iter().flatten().filter_map(|link| self.slot(link));
        slots.map(Slot::rank).max()
    }

    /// Whether of the candidates of a key at or before `time` none is better than this one, which must be
    /// among them.
    pub fn is_best_of(
        &mut self,
        side: usize,
        key: IdHash,
        candidate: (EventTime, &V),
        time: EventTime,
    ) -> bool {
        let best = self.best_of(side, key, time).and_then(|link| self.slot(link));
        best.is_none_or(|best| best.rank() <= candidate)
    }

    /// Drops the buckets all of whose candidates have expired: the watermark has passed their time, the
    /// lookback and the lateness.
    pub fn expire(&mut self, watermark: EventTime) {
        let horizon = self.lookback.saturating_add(self.allowed_lateness);
        while let Some(bucket) = self.buckets.first_entry()
            && EventTime((bucket.key() + 1) * self.bucket_ms - 1).plus(horizon) < watermark
        {
            for chunk in bucket.remove() {
                self.unlink(chunk);
                self.len -= self.chunks[chunk].len();
                self.chunks[chunk] = Vec::new();
                self.saved[chunk] = 0;
                self.free.push(chunk);
            }
        }
    }

    fn open_chunk(&mut self, time: EventTime) -> usize {
        let chunks = self.buckets.entry(time.0.div_euclid(self.bucket_ms)).or_default();
        if let Some(&last) = chunks.last()
            && self.chunks[last].len() < CHUNK
        {
            return last;
        }
        let chunk = self.free.pop().unwrap_or_else(|| {
            self.chunks.push(Vec::new());
            self.saved.push(0);
            self.chunks.len() - 1
        });
        chunks.push(chunk);
        if self.buckets.len() > MOST_BUCKETS {
            self.widen();
        }
        chunk
    }

    /// Makes buckets twice as wide, so that the number of chunks follows that of candidates, whatever time
    /// they span.
    fn widen(&mut self) {
        self.bucket_ms = self.bucket_ms.saturating_mul(2);
        for (bucket, mut chunks) in std::mem::take(&mut self.buckets) {
            self.buckets.entry(bucket.div_euclid(2)).or_default().append(&mut chunks);
        }
    }

    fn slot(&self, link: Link) -> Option<&Slot<V>> {
        self.chunks.get(link.chunk())?.get(link.place())
    }

    /// What comes after `slot` in one of its lists. A link into a dropped chunk, whoever uses the chunk now,
    /// is the end: it does not lead to a candidate of the same key that ranks no higher.
    fn next(&self, side: usize, slot: &Slot<V>) -> Option<(Link, &Slot<V>)> {
        let link = slot.next[side];
        let next = self.slot(link)?;
        let same_list =
            next.has_key[side] && next.keys[side] == slot.keys[side] && next.rank() <= slot.rank();
        same_list.then_some((link, next))
    }

    /// The best candidate of a key at or before a time, within the lookback.
    fn best_of(&mut self, side: usize, key: IdHash, time: EventTime) -> Option<Link> {
        let link = match self.walk(side, key, time) {
            Ok(found) => found?,
            Err(TooFar) => *self.ordered[side].get(&key)?.range(..=time).next_back()?.1,
        };
        (time.0 - self.slot(link)?.time.0 <= self.lookback).then_some(link)
    }

    /// The first candidate of a list at or before a time. If it is not near the list's head, the list becomes
    /// an ordered map.
    fn walk(&mut self, side: usize, key: IdHash, time: EventTime) -> Result<Option<Link>, TooFar> {
        if self.ordered[side].contains_key(&key) {
            return Err(TooFar);
        }
        let Some(mut link) = self.find_head(side, key).copied() else { return Ok(None) };
        for _ in 0..LONG_WALK {
            let Some(slot) = self.slot(link) else { return Ok(None) };
            if slot.time <= time {
                return Ok(Some(link));
            }
            let Some((next, _)) = self.next(side, slot) else { return Ok(None) };
            link = next;
        }
        self.order(side, key);
        Err(TooFar)
    }

    /// Where a new candidate goes: before all that ranks lower, so that whatever ranks no higher comes after
    /// it in its list.
    fn place(&mut self, side: usize, slot: &Slot<V>) -> Insertion {
        if !slot.has_key[side] {
            return Insertion::Nowhere;
        }
        if self.ordered[side].contains_key(&slot.keys[side]) {
            return Insertion::Ordered;
        }
        let mut before = None;
        let mut after = self.head(side, slot.keys[side]);
        for _ in 0..LONG_WALK {
            match after {
                Some((_, other)) if other.time == slot.time && other.rank() >= slot.rank() => {
                    return Insertion::Nowhere;
                }
                Some((link, other)) if other.rank() >= slot.rank() => {
                    before = Some(link);
                    after = self.next(side, other);
                }
                _ => return Insertion::InList { before, next: after.map_or(Link::END, |(link, _)| link) },
            }
        }
        self.order(side, slot.keys[side]);
        Insertion::Ordered
    }

    /// Moves the list of a key to an ordered map.
    fn order(&mut self, side: usize, key: IdHash) {
        let mut candidates = BTreeMap::new();
        let mut at = self.head(side, key);
        while let Some((link, other)) = at {
            // Of a time, the first is the best.
            candidates.entry(other.time).or_insert(link);
            at = self.next(side, other);
        }
        let (chunks, hash) = (&self.chunks, self.hasher.hash_one(key));
        let is_key = |head: &Link| chunks[head.chunk()][head.place()].keys[side] == key;
        if let Ok(head) = self.heads[side].find_entry(hash, is_key) {
            head.remove();
        }
        self.ordered[side].insert(key, candidates);
    }

    fn insert_ordered(&mut self, side: usize, key: IdHash, time: EventTime, link: Link) {
        let chunks = &self.chunks;
        let rank = |link: &Link| chunks[link.chunk()][link.place()].rank();
        match self.ordered[side].entry(key).or_default().entry(time) {
            btree_map::Entry::Occupied(mut best) if rank(best.get()) < rank(&link) => _ = best.insert(link),
            btree_map::Entry::Occupied(_) => {}
            btree_map::Entry::Vacant(free) => _ = free.insert(link),
        }
    }

    fn head(&self, side: usize, key: IdHash) -> Option<(Link, &Slot<V>)> {
        let link = *self.find_head(side, key)?;
        Some((link, self.slot(link)?))
    }

    fn find_head(&self, side: usize, key: IdHash) -> Option<&Link> {
        let is_key = |head: &Link| self.slot(*head).is_some_and(|slot| slot.keys[side] == key);
        self.heads[side].find(self.hasher.hash_one(key), is_key)
    }

    fn set_head(&mut self, side: usize, key: IdHash, link: Link) {
        let (chunks, hasher) = (&self.chunks, &self.hasher);
        let key_of = |link: &Link| chunks[link.chunk()][link.place()].keys[side];
        match self.heads[side].entry(
            hasher.hash_one(key),
            |head| key_of(head) == key,
            |head| hasher.hash_one(key_of(head)),
        ) {
            Entry::Occupied(mut head) => *head.get_mut() = link,
            Entry::Vacant(free) => {
                free.insert(link);
            }
        }
    }

    /// Takes those of a chunk that head their lists out of the tables: all that follows them is older, and so
    /// goes with them or has gone before. Also takes the chunk out of the ordered maps: all candidates of a
    /// time are dropped at once.
    fn unlink(&mut self, chunk: usize) {
        for (place, slot) in self.chunks[chunk].iter().enumerate() {
            let link = Link::new(chunk, place);
            for side in (0..2).filter(|side| slot.has_key[*side]) {
                let hash = self.hasher.hash_one(slot.keys[side]);
                if let Ok(head) = self.heads[side].find_entry(hash, |head| *head == link) {
                    head.remove();
                } else if let Some(candidates) = self.ordered[side].get_mut(&slot.keys[side]) {
                    candidates.remove(&slot.time);
                    if candidates.is_empty() {
                        self.ordered[side].remove(&slot.keys[side]);
                    }
                }
            }
        }
    }
}

/// What is looked for is not near the head of its list, but in an ordered map.
struct TooFar;

/// Where a candidate goes on one side.
enum Insertion {
    /// It has no such key, or never wins there.
    Nowhere,
    /// After one of the list (None: at its head), before another.
    InList { before: Option<Link>, next: Link },
    /// Into the ordered map of its key.
    Ordered,
}

/// Pushes a slot. A chunk grows by an eighth, not to its double: most buckets end within their first chunk,
/// and what it has too much would stay as long as its candidates do.
fn push<V>(chunk: &mut Vec<Slot<V>>, slot: Slot<V>) {
    if chunk.len() == chunk.capacity() {
        chunk.reserve_exact((chunk.len() / 8).clamp(16, CHUNK - chunk.len()));
    }
    chunk.push(slot);
}
