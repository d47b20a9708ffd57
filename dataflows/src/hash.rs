//! Routing hashes: the same on every worker and process.

use std::hash::Hasher;

use rustc_hash::FxHasher;

/// Mixes numbers into 64 bits, all of which are fit to choose a worker by.
#[inline]
pub fn mix(numbers: &[i64]) -> u64 {
    let mut hasher = FxHasher::default();
    for number in numbers {
        hasher.write_i64(*number);
    }
    hasher.finish()
}

/// Mixes a text into 64 bits.
#[inline]
pub fn text(text: &str) -> u64 {
    let mut hasher = FxHasher::default();
    hasher.write(text.as_bytes());
    hasher.finish()
}

/// The memory of a hash table with room for `capacity` entries: it keeps a control byte beside every bucket and fills
/// seven eighths of them at most.
pub(crate) fn table_bytes<T>(capacity: usize) -> usize {
    capacity * 8 / 7 * (size_of::<T>() + 1)
}
