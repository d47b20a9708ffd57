//! Live clicks, found by device or session as of a time.
//!
//! A click is kept once, in a chunk of its time bucket, and is linked into two lists, one for its device and one for
//! its session, best first. A list's head is in a hash table that holds nothing but the link. Expiry drops whole
//! buckets: as lists are ordered by time, what follows a dropped click is dropped too, so a link into a dropped
//! chunk is the list's end and need not be cut.
//!
//! Clicks come nearly in order of time, so a place in a list is found near its head. A list in which one was not (a
//! session id that many visitors share, read from partitions that are far apart) becomes an ordered set.

use std::collections::{BTreeMap, BTreeSet};

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use rustc_hash::FxHashMap;

use super::{MatchKey, RoutedClick, StoredClick};
use crate::hash::table_bytes;
use crate::model::{AdId, EventTime, IdHash};

/// Clicks a chunk.
const CHUNK: usize = 1 << 16;

/// A list that takes more steps than this to find a place in becomes an ordered set.
const LONG_WALK: usize = 16;

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
    /// What is in no list: the clicks of keys that come far out of order, by time.
    ordered: [FxHashMap<IdHash, BTreeSet<(EventTime, Link)>>; 2],
    bucket_ms: i64,
    lookback: i64,
    allowed_lateness: i64,
    len: usize,
}

impl ClickStore {
    /// An empty store. Clicks stay at most a sixty-fourth of the lookback longer than they must.
    pub fn new(lookback: i64, allowed_lateness: i64) -> ClickStore {
        ClickStore {
            chunks: Vec::new(),
            saved: Vec::new(),
            free: Vec::new(),
            buckets: BTreeMap::new(),
            heads: [HashTable::new(), HashTable::new()],
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
        let ordered: usize = self.ordered.iter().flat_map(FxHashMap::values).map(BTreeSet::len).sum();
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
        let chunk = self.open_chunk(slot.click_time.0.div_euclid(self.bucket_ms));
        let link = Link::new(chunk, self.chunks[chunk].len());
        let (keys, time) = (slot.keys, slot.click_time);
        push(&mut self.chunks[chunk], slot);
        self.len += 1;
        for (side, place) in places.into_iter().enumerate() {
            match place {
                Place::Nowhere => {}
                Place::Ordered => {
                    self.ordered[side].entry(keys[side]).or_default().insert((time, link));
                }
                Place::InList { before: Some(before), .. } => {
                    self.chunks[before.chunk()][before.place()].next[side] = link;
                }
                Place::InList { before: None, .. } => self.set_head(side, keys[side], link),
            }
        }
    }

    /// The best click at or before `time`, within the lookback, of any of the keys.
    pub fn best(&self, keys: &[Option<MatchKey>; 2], time: EventTime) -> Option<StoredClick> {
        let best = |side: usize| self.best_of(side, keys[side]?.0, time);
        let slot = [best(0), best(1)].into_iter().flatten().max_by(|one, other| one.rank().cmp(&other.rank()))?;
        Some(slot.click())
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

    fn open_chunk(&mut self, bucket: i64) -> usize {
        let chunks = self.buckets.entry(bucket).or_default();
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
        chunk
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

    fn best_of(&self, side: usize, key: IdHash, time: EventTime) -> Option<&Slot> {
        let slot = match self.ordered[side].get(&key) {
            Some(ordered) => self.last_until(ordered, time)?,
            None => {
                let mut slot = self.slot(*self.find_head(side, key)?)?;
                while slot.click_time > time {
                    slot = self.next(side, slot)?.1;
                }
                slot
            }
        };
        (time.0 - slot.click_time.0 <= self.lookback).then_some(slot)
    }

    /// Of the latest clicks at or before a time, the best.
    fn last_until(&self, ordered: &BTreeSet<(EventTime, Link)>, time: EventTime) -> Option<&Slot> {
        let (latest, _) = *ordered.range(..=(time, Link::END)).next_back()?;
        let at_once = ordered.range((latest, Link(0))..=(latest, Link::END));
        at_once.filter_map(|(_, link)| self.slot(*link)).max_by(|one, other| one.rank().cmp(&other.rank()))
    }

    /// Where a new click goes. Among equal ranks it goes last, so that whatever ranks no higher than a click comes
    /// after it in its list.
    fn place(&mut self, side: usize, slot: &Slot) -> Place {
        if !slot.has_key[side] {
            return Place::Nowhere;
        }
        if self.ordered[side].contains_key(&slot.keys[side]) {
            return Place::Ordered;
        }
        let mut before = None;
        let mut after = self.head(side, slot);
        for _ in 0..LONG_WALK {
            match after {
                Some((link, other)) if other.rank() >= slot.rank() => {
                    before = Some(link);
                    after = self.next(side, other);
                }
                _ => return Place::InList { before, next: after.map_or(Link::END, |(link, _)| link) },
            }
        }
        self.order(side, slot);
        Place::Ordered
    }

    /// Moves the list of a click's key to an ordered set.
    fn order(&mut self, side: usize, slot: &Slot) {
        let mut clicks = BTreeSet::new();
        let mut at = self.head(side, slot);
        while let Some((link, other)) = at {
            clicks.insert((other.click_time, link));
            at = self.next(side, other);
        }
        let key = slot.keys[side];
        let chunks = &self.chunks;
        let is_key = |head: &Link| chunks[head.chunk()][head.place()].keys[side] == key;
        if let Ok(head) = self.heads[side].find_entry(key.low(), is_key) {
            head.remove();
        }
        self.ordered[side].insert(key, clicks);
    }

    fn head(&self, side: usize, slot: &Slot) -> Option<(Link, &Slot)> {
        let link = *self.find_head(side, slot.keys[side])?;
        Some((link, self.slot(link)?))
    }

    fn find_head(&self, side: usize, key: IdHash) -> Option<&Link> {
        self.heads[side].find(key.low(), |head| self.slot(*head).is_some_and(|slot| slot.keys[side] == key))
    }

    fn set_head(&mut self, side: usize, key: IdHash, link: Link) {
        let chunks = &self.chunks;
        let key_of = |link: &Link| chunks[link.chunk()][link.place()].keys[side];
        match self.heads[side].entry(key.low(), |head| key_of(head) == key, |head| key_of(head).low()) {
            Entry::Occupied(mut head) => *head.get_mut() = link,
            Entry::Vacant(free) => {
                free.insert(link);
            }
        }
    }

    /// Takes the clicks of a chunk that head their lists out of the tables: all that follows them is older, and so
    /// goes with them or has gone before. Also takes its clicks out of the ordered sets.
    fn unlink(&mut self, chunk: usize) {
        for (place, slot) in self.chunks[chunk].iter().enumerate() {
            let link = Link::new(chunk, place);
            for side in (0..2).filter(|side| slot.has_key[*side]) {
                if let Ok(head) = self.heads[side].find_entry(slot.keys[side].low(), |head| *head == link) {
                    head.remove();
                } else if let Some(clicks) = self.ordered[side].get_mut(&slot.keys[side]) {
                    clicks.remove(&(slot.click_time, link));
                    if clicks.is_empty() {
                        self.ordered[side].remove(&slot.keys[side]);
                    }
                }
            }
        }
    }
}

/// Where a click goes on one side.
enum Place {
    /// It has no such id.
    Nowhere,
    /// After one click of the list (None: at its head), before another.
    InList { before: Option<Link>, next: Link },
    /// Into the ordered set of its key.
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
