//! Live clicks, found by device or session as of a time.
//!
//! A click is kept once, in a chunk of its time bucket, and is linked into two lists, one for its device and one for
//! its session, best first. A list's head is in a hash table that holds nothing but the link. Expiry drops whole
//! buckets: as lists are ordered by time, what follows a dropped click is dropped too, so a link into a dropped
//! chunk is the list's end and need not be cut.
//!
//! Clicks come nearly in order of time, so a place in a list is found near its head. A list in which one was not (a
//! session id that many visitors share, read from partitions that are far apart), or in which a lookup goes far back, becomes an
//! ordered map. Of clicks of one key and time only the best matters, so others need not be in the list.

use std::collections::BTreeMap;
use std::collections::btree_map;
use std::hash::BuildHasher;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::{MatchKey, RoutedClick, StoredClick};
use crate::hash::{HashMap, RandomState, table_bytes};
use crate::model::{AdId, EventTime, IdHash};

/// Clicks a chunk.
const CHUNK: usize = 1 << 16;

/// A list that takes more steps than this to find a place in becomes an ordered map.
const LONG_WALK: usize = 16;

/// When there are more buckets than this, they become twice as wide.
const MOST_BUCKETS: usize = 1024;

/// Where a click is: the number of its chunk and the place in it.
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

/// A click in its chunk, without the padding of [`StoredClick`].
struct Slot {
    /// By device, by session; meaningless where the id is not known.
    keys: [IdHash; 2],
    click_time: EventTime,
    ad_id: Option<AdId>,
    campaign_id: i64,
    advertiser_id: i64,
    /// The next best of the same device, of the same session.
    next: [Link; 2],
    /// What it was routed by.
    route: u32,
    has_key: [bool; 2],
    has_campaign: bool,
}

impl Slot {
    fn new(route: u32, click: StoredClick) -> Slot {
        Slot {
            keys: click.keys.map(|key| key.map_or(IdHash::default(), |key| key.0)),
            click_time: click.click_time,
            ad_id: click.ad_id,
            campaign_id: click.campaign_id.unwrap_or_default(),
            advertiser_id: click.advertiser_id,
            next: [Link::END; 2],
            route,
            has_key: click.keys.map(|key| key.is_some()),
            has_campaign: click.campaign_id.is_some(),
        }
    }

    fn click(&self) -> StoredClick {
        let key = |side: usize| self.has_key[side].then_some(MatchKey(self.keys[side]));
        StoredClick {
            keys: [key(0), key(1)],
            click_time: self.click_time,
            ad_id: self.ad_id.clone(),
            campaign_id: self.campaign_id(),
            advertiser_id: self.advertiser_id,
        }
    }

    fn campaign_id(&self) -> Option<i64> {
        self.has_campaign.then_some(self.campaign_id)
    }

    /// As [`StoredClick::rank`].
    fn rank(&self) -> (EventTime, &Option<AdId>, Option<i64>, i64) {
        (self.click_time, &self.ad_id, self.campaign_id(), self.advertiser_id)
    }
}

/// The live clicks of one worker.
pub struct ClickStore {
    chunks: Vec<Vec<Slot>>,
    /// How many clicks of each chunk a checkpoint has.
    saved: Vec<usize>,
    free: Vec<usize>,
    /// The chunks of each bucket of click times; the last one takes new clicks.
    buckets: BTreeMap<i64, Vec<usize>>,
    heads: [HashTable<Link>; 2],
    hasher: RandomState,
    /// What is in no list: the clicks of keys that come far out of order, of each time the best.
    ordered: [HashMap<IdHash, BTreeMap<EventTime, Link>>; 2],
    bucket_ms: i64,
    lookback: i64,
    allowed_lateness: i64,
    len: usize,
}

impl ClickStore {
    /// An empty store. Clicks stay at most a sixty-fourth of the lookback longer than they must, or a five-hundredth of the
    /// time that all live ones span.
    pub fn new(lookback: i64, allowed_lateness: i64) -> ClickStore {
        ClickStore {
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

    /// The number of clicks.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The memory allocated for them, texts of ad ids not counted.
    pub fn bytes(&self) -> usize {
        let slots: usize = self.chunks.iter().map(Vec::capacity).sum();
        let links: usize = self.heads.iter().map(|heads| table_bytes::<Link>(heads.capacity())).sum();
        let ordered: usize = self.ordered.iter().flat_map(HashMap::values).map(BTreeMap::len).sum();
        slots * size_of::<Slot>() + links + ordered * size_of::<(EventTime, Link)>()
    }

    /// The clicks that were added since [`ClickStore::mark_saved`] and are still there.
    pub fn unsaved(&self) -> impl Iterator<Item = RoutedClick> {
        let chunks = self.chunks.iter().zip(&self.saved);
        chunks.flat_map(|(chunk, saved)| chunk.iter().skip(*saved).map(|slot| (slot.route, slot.click())))
    }

    /// Says that a checkpoint has all clicks that there are.
    pub fn mark_saved(&mut self) {
        for (chunk, saved) in self.chunks.iter().zip(&mut self.saved) {
            *saved = chunk.len();
        }
    }

    /// Adds a click.
    pub fn insert(&mut self, route: u32, click: StoredClick) {
        let mut slot = Slot::new(route, click);
        // Both places are found before the click is stored: a link into a dropped chunk must not meet it.
        let places = [0, 1].map(|side| self.place(side, &slot));
        for (next, place) in slot.next.iter_mut().zip(&places) {
            if let Place::InList { next: found, .. } = place {
                *next = *found;
            }
        }
        let chunk = self.open_chunk(slot.click_time);
        let link = Link::new(chunk, self.chunks[chunk].len());
        let (keys, time) = (slot.keys, slot.click_time);
        push(&mut self.chunks[chunk], slot);
        self.len += 1;
        for (side, place) in places.into_iter().enumerate() {
            match place {
                Place::Nowhere => {}
                Place::Ordered => self.insert_ordered(side, keys[side], time, link),
                Place::InList { before: Some(before), .. } => {
                    self.chunks[before.chunk()][before.place()].next[side] = link;
                }
                Place::InList { before: None, .. } => self.set_head(side, keys[side], link),
            }
        }
    }

    /// The best click at or before `time`, within the lookback, of any of the keys.
    pub fn best(&mut self, keys: &[Option<MatchKey>; 2], time: EventTime) -> Option<StoredClick> {
        let links = [0, 1].map(|side| self.best_of(side, keys[side]?.0, time));
        let slots = links.into_iter().flatten().filter_map(|link| self.slot(link));
        Some(slots.max_by(|one, other| one.rank().cmp(&other.rank()))?.click())
    }

    /// Whether of the clicks of a key at or before `time` none is better than this one, which must be among them.
    pub fn is_best_of(&mut self, side: usize, key: MatchKey, click: &StoredClick, time: EventTime) -> bool {
        let best = self.best_of(side, key.0, time).and_then(|link| self.slot(link));
        best.is_none_or(|best| best.rank() <= click.rank())
    }

    /// Drops the buckets all of whose clicks have expired: the watermark has passed
    /// click_time + lookback + lateness.
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

    /// Makes buckets twice as wide, so that the number of chunks follows the number of clicks, whatever time they span.
    fn widen(&mut self) {
        self.bucket_ms = self.bucket_ms.saturating_mul(2);
        for (bucket, mut chunks) in std::mem::take(&mut self.buckets) {
            self.buckets.entry(bucket.div_euclid(2)).or_default().append(&mut chunks);
        }
    }

    fn slot(&self, link: Link) -> Option<&Slot> {
        self.chunks.get(link.chunk())?.get(link.place())
    }

    /// The click after `slot` in one of its lists. A link into a dropped chunk, whoever uses the chunk now, is the
    /// end: it does not lead to a click of the same key that ranks no higher.
    fn next(&self, side: usize, slot: &Slot) -> Option<(Link, &Slot)> {
        let link = slot.next[side];
        let next = self.slot(link)?;
        let same_list = next.has_key[side] && next.keys[side] == slot.keys[side] && next.rank() <= slot.rank();
        same_list.then_some((link, next))
    }

    /// The best click of a key at or before a time, within the lookback.
    fn best_of(&mut self, side: usize, key: IdHash, time: EventTime) -> Option<Link> {
        let link = match self.walk(side, key, time) {
            Ok(found) => found?,
            Err(TooFar) => *self.ordered[side].get(&key)?.range(..=time).next_back()?.1,
        };
        (time.0 - self.slot(link)?.click_time.0 <= self.lookback).then_some(link)
    }

    /// The first click of a list at or before a time. If it is not near the list's head, the list becomes an ordered map.
    fn walk(&mut self, side: usize, key: IdHash, time: EventTime) -> Result<Option<Link>, TooFar> {
        if self.ordered[side].contains_key(&key) {
            return Err(TooFar);
        }
        let Some(mut link) = self.find_head(side, key).copied() else { return Ok(None) };
        for _ in 0..LONG_WALK {
            let Some(slot) = self.slot(link) else { return Ok(None) };
            if slot.click_time <= time {
                return Ok(Some(link));
            }
            let Some((next, _)) = self.next(side, slot) else { return Ok(None) };
            link = next;
        }
        self.order(side, key);
        Err(TooFar)
    }

    /// Where a new click goes: before all that ranks lower, so that whatever ranks no higher than a click comes after it in its
    /// list.
    fn place(&mut self, side: usize, slot: &Slot) -> Place {
        if !slot.has_key[side] {
            return Place::Nowhere;
        }
        if self.ordered[side].contains_key(&slot.keys[side]) {
            return Place::Ordered;
        }
        let mut before = None;
        let mut after = self.head(side, slot.keys[side]);
        for _ in 0..LONG_WALK {
            match after {
                Some((_, other)) if other.click_time == slot.click_time && other.rank() >= slot.rank() => {
                    return Place::Nowhere;
                }
                Some((link, other)) if other.rank() >= slot.rank() => {
                    before = Some(link);
                    after = self.next(side, other);
                }
                _ => return Place::InList { before, next: after.map_or(Link::END, |(link, _)| link) },
            }
        }
        self.order(side, slot.keys[side]);
        Place::Ordered
    }

    /// Moves the list of a key to an ordered map.
    fn order(&mut self, side: usize, key: IdHash) {
        let mut clicks = BTreeMap::new();
        let mut at = self.head(side, key);
        while let Some((link, other)) = at {
            // Of a time, the first is the best.
            clicks.entry(other.click_time).or_insert(link);
            at = self.next(side, other);
        }
        let (chunks, hash) = (&self.chunks, self.hasher.hash_one(key));
        let is_key = |head: &Link| chunks[head.chunk()][head.place()].keys[side] == key;
        if let Ok(head) = self.heads[side].find_entry(hash, is_key) {
            head.remove();
        }
        self.ordered[side].insert(key, clicks);
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

    fn head(&self, side: usize, key: IdHash) -> Option<(Link, &Slot)> {
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

    /// Takes the clicks of a chunk that head their lists out of the tables: all that follows them is older, and so
    /// goes with them or has gone before. Also takes its clicks out of the ordered maps: all clicks of a time are dropped at once.
    fn unlink(&mut self, chunk: usize) {
        for (place, slot) in self.chunks[chunk].iter().enumerate() {
            let link = Link::new(chunk, place);
            for side in (0..2).filter(|side| slot.has_key[*side]) {
                let hash = self.hasher.hash_one(slot.keys[side]);
                if let Ok(head) = self.heads[side].find_entry(hash, |head| *head == link) {
                    head.remove();
                } else if let Some(clicks) = self.ordered[side].get_mut(&slot.keys[side]) {
                    clicks.remove(&slot.click_time);
                    if clicks.is_empty() {
                        self.ordered[side].remove(&slot.keys[side]);
                    }
                }
            }
        }
    }
}

/// A click is not near the head of its list, but in an ordered map.
struct TooFar;

/// Where a click goes on one side.
enum Place {
    /// It has no such id, or never wins there.
    Nowhere,
    /// After one click of the list (None: at its head), before another.
    InList { before: Option<Link>, next: Link },
    /// Into the ordered map of its key.
    Ordered,
}

/// Pushes a slot. A chunk grows by an eighth, not to its double: most buckets end within their first chunk, and what it
/// has too much would stay as long as its clicks do.
fn push(chunk: &mut Vec<Slot>, slot: Slot) {
    if chunk.len() == chunk.capacity() {
        chunk.reserve_exact((chunk.len() / 8).clamp(16, CHUNK - chunk.len()));
    }
    chunk.push(slot);
}
