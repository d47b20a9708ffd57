//! Hashes of what comes in. Whoever sends the input chooses its ids, so no hash that decides about work is
//! one that can be computed outside: many ids of one hash would make a table a list, and load one worker with
//! everything.

use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher};

use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher13;

/// The hasher of tables, with a seed that is drawn anew for each table.
pub type RandomState = foldhash::fast::RandomState;

/// A map by what comes in.
pub type HashMap<K, V> = std::collections::HashMap<K, V, RandomState>;

/// A set of what comes in.
pub type HashSet<K> = std::collections::HashSet<K, RandomState>;

/// The key of the hash by which records are dealt out to workers. It must be the same on all workers of a
/// run.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
pub struct RoutingKey([u64; 2]);

impl RoutingKey {
    /// A key that nobody can foresee. One worker draws it and shares it with the others.
    pub fn random() -> RoutingKey {
        // Each state of the standard library has a key of the operating system's random numbers, or one next
        // to it.
        RoutingKey([0u64, 1].map(|half| std::hash::RandomState::new().hash_one(half)))
    }

    /// 64 bits, all of which are fit to choose a worker by.
    #[inline]
    pub fn hash(self, value: &(impl Hash + ?Sized)) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(self.0[0], self.0[1]);
        value.hash(&mut hasher);
        hasher.finish()
    }
}

impl fmt::Debug for RoutingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RoutingKey")
    }
}

/// The memory of a hash table with room for `capacity` entries: it keeps a control byte beside every bucket
/// and fills seven eighths of them at most.
pub(crate) fn table_bytes<T>(capacity: usize) -> usize {
    capacity * 8 / 7 * (size_of::<T>() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_has_the_key_can_compute_a_route() {
        let (key, other) = (RoutingKey::random(), RoutingKey::random());
        let routes = |key: RoutingKey| (0..100i64).map(|id| key.hash(&id)).collect::<Vec<_>>();
        assert_ne!(routes(key), routes(other));
        let shared: RoutingKey = serde_json::from_str(&serde_json::to_string(&key).unwrap()).unwrap();
        assert_eq!(routes(key), routes(shared));
    }
}
