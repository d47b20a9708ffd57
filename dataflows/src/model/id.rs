//! Identifiers.
//!
//! Campaigns, advertisers and products are BIGINTs of the platform's database: plain `i64`. An ad's id may be
//! a number or a text. Devices, sessions, users and orders are texts; where only equality matters they travel
//! as a fixed-width [`IdHash`], made once when the record is parsed.

use std::fmt;
use std::hash::Hasher;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use siphasher::sip128::{Hasher128, SipHasher13};

/// A short text that many rows share: placements, categories, ids that a result shows.
pub type Text = Arc<str>;

/// The id of an ad. Numbers come before texts; numbers compare as numbers, texts byte by byte.
///
/// A text that is a canonical BIGINT (`"17"`) is the same id as the number 17.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum AdId {
    /// A BIGINT.
    Number(i64),
    /// Any other text.
    Text(Box<str>),
}

/// The number 0.
impl Default for AdId {
    fn default() -> AdId {
        AdId::Number(0)
    }
}

impl AdId {
    /// The id that a text stands for.
    pub fn from_text(text: &str) -> AdId {
        match text.parse::<i64>() {
            // Only the canonical form: `007` and `+7` are other ids than `7`.
            Ok(number)
                if !text.starts_with('+')
                    && (text == "0" || !text.trim_start_matches('-').starts_with('0')) =>
            {
                AdId::Number(number)
            }
            _ => AdId::Text(text.into()),
        }
    }
}

impl fmt::Display for AdId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AdId::Number(number) => number.fmt(f),
            AdId::Text(text) => f.write_str(text),
        }
    }
}

/// 96 bits that stand for a text id. The same text gives the same hash on every machine and in every
/// version, so hashes may be stored and exchanged.
///
/// At 100 million live ids the chance that any two share a hash is below 1e-12. Four bytes more would make it
/// smaller still, and every click that waits for a conversion, in memory and in checkpoints, larger by eight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct IdHash([u32; 3]);

impl IdHash {
    /// Its size in bytes.
    pub const SIZE: usize = 12;
    /// The least.
    pub const MIN: IdHash = IdHash([0; 3]);
    /// The greatest.
    pub const MAX: IdHash = IdHash([u32::MAX; 3]);

    /// Hashes a text (the first 96 bits of SipHash-1-3-128, fixed key).
    pub fn of(text: &str) -> IdHash {
        Self::of_parts(&[text.as_bytes()])
    }

    /// Hashes several fields; each carries its length, so that fields can't run into each other.
    pub fn of_parts(parts: &[&[u8]]) -> IdHash {
        let mut hasher = SipHasher13::new_with_keys(0x6164_7469_6465_2d69, 0x642d_6861_7368_2d31);
        for part in parts {
            hasher.write_u64(part.len() as u64);
            hasher.write(part);
        }
        let hash = hasher.finish128();
        IdHash([hash.h1 as u32, (hash.h1 >> 32) as u32, hash.h2 as u32])
    }

    /// Its bytes, to be stored.
    pub fn to_bytes(self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        for (to, word) in bytes.chunks_exact_mut(4).zip(self.0) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// From its bytes.
    pub fn from_bytes(bytes: [u8; Self::SIZE]) -> IdHash {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        IdHash([word(0), word(4), word(8)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numeric_texts_are_numbers() {
        assert_eq!(AdId::from_text("17"), AdId::Number(17));
        assert_eq!(AdId::from_text("-17"), AdId::Number(-17));
        for text in ["017", "+17", "a17", "", "-0", "-017", "99999999999999999999"] {
            assert_eq!(AdId::from_text(text), AdId::Text(text.into()));
        }
    }

    #[test]
    fn numbers_come_before_texts_and_compare_as_numbers() {
        assert!(AdId::from_text("9") < AdId::from_text("10"));
        assert!(AdId::from_text("10") < AdId::from_text("a"));
    }

    #[test]
    fn hashes_are_stable_and_fields_stay_apart() {
        assert_ne!(IdHash::of_parts(&[b"a", b"bc"]), IdHash::of_parts(&[b"ab", b"c"]));
        let hash = IdHash::of("device-1");
        assert_eq!(hash, IdHash::of_parts(&[b"device-1"]));
        assert_eq!(hash, IdHash::from_bytes(hash.to_bytes()));
        // Stored ones must be found again by every later version.
        assert_eq!(hash.to_bytes(), [65, 223, 46, 22, 64, 186, 223, 237, 6, 99, 236, 43]);
    }
}
