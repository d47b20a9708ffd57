//! Texts that producers send where they know no id.

use serde::{Deserialize, Serialize};

/// The texts that mean an unknown id, whatever their case; the empty text always does. A BIGINT in the list
/// stands for that number too.
///
/// An ASCII text is compared by its ASCII letters, another one by its lower case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<String>", into = "Vec<String>")]
pub struct UnknownIds {
    /// In lower case, sorted.
    texts: Vec<String>,
    /// Those of them that are numbers, sorted.
    numbers: Vec<i64>,
    /// Bit n: one of them has n bytes; bit 63: or more.
    lengths: u64,
    /// Bit n: one of them begins with the byte n, in either case.
    first_bytes: [u64; 4],
}

impl UnknownIds {
    /// The list, in lower case and sorted.
    pub fn texts(&self) -> &[String] {
        &self.texts
    }

    /// Whether a text is an unknown id. The length and the first byte rule out most ids.
    #[inline]
    pub fn has_text(&self, id: &str) -> bool {
        let Some(first) = id.as_bytes().first() else { return true };
        let lengths = self.lengths >> id.len().min(63);
        let first_bytes = self.first_bytes[usize::from(first >> 6)] >> (first & 63);
        lengths & first_bytes & 1 == 1 && self.find(id)
    }

    /// Whether a number is an unknown id.
    #[inline]
    pub fn has_number(&self, id: i64) -> bool {
        !self.numbers.is_empty() && self.numbers.binary_search(&id).is_ok()
    }

    #[inline(never)]
    fn find(&self, id: &str) -> bool {
        if id.is_ascii() {
            let lower = id.bytes().map(|byte| byte.to_ascii_lowercase());
            return self.texts.binary_search_by(|text| text.bytes().cmp(lower.clone())).is_ok();
        }
        let lower = id.to_lowercase();
        !lower.is_ascii() && self.texts.binary_search(&lower).is_ok()
    }
}

impl From<Vec<String>> for UnknownIds {
    fn from(texts: Vec<String>) -> UnknownIds {
        let mut texts: Vec<_> =
            texts.iter().map(|text| text.to_lowercase()).filter(|text| !text.is_empty()).collect();
        texts.sort_unstable();
        texts.dedup();
        let mut numbers: Vec<i64> = texts.iter().filter_map(|text| text.parse().ok()).collect();
        numbers.sort_unstable();
        let (mut lengths, mut first_bytes) = (0, [0; 4]);
        for text in &texts {
            if !text.is_ascii() {
                // In another case it may have another length.
                (lengths, first_bytes) = (u64::MAX, [u64::MAX; 4]);
                break;
            }
            lengths |= 1 << text.len().min(63);
            let first = text.as_bytes()[0];
            for byte in [first, first.to_ascii_uppercase()] {
                first_bytes[usize::from(byte >> 6)] |= 1 << (byte & 63);
            }
        }
        UnknownIds { texts, numbers, lengths, first_bytes }
    }
}

impl From<UnknownIds> for Vec<String> {
    fn from(ids: UnknownIds) -> Vec<String> {
        ids.texts
    }
}

/// The all-zero UUID, `null`, `undefined`, `unknown`, `none` and `n/a`.
impl Default for UnknownIds {
    fn default() -> UnknownIds {
        let texts = ["00000000-0000-0000-0000-000000000000", "null", "undefined", "unknown", "none", "n/a"];
        UnknownIds::from(texts.map(str::to_owned).to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(texts: &[&str]) -> UnknownIds {
        UnknownIds::from(texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn the_default_ones_are_known_in_any_case() {
        let ids = UnknownIds::default();
        for id in ["", "null", "NULL", "Null", "undefined", "Unknown", "NONE", "n/a", "N/A"] {
            assert!(ids.has_text(id), "{id}");
        }
        assert!(ids.has_text("00000000-0000-0000-0000-000000000000"));
        for id in [
            "0",
            " ",
            "nul",
            "nulls",
            "NaN",
            "-",
            "n.a",
            "none ",
            "00000000-0000-0000-0000-000000000001",
            "ünknown",
        ] {
            assert!(!ids.has_text(id), "{id}");
        }
        assert!(!ids.has_number(0));
    }

    #[test]
    fn a_list_of_ones_own_takes_their_place_but_for_the_empty_text() {
        let ids = of(&["0", "-1", "TEST", "", "test"]);
        assert_eq!(ids.texts(), ["-1", "0", "test"]);
        assert!(["", "0", "-1", "Test"].iter().all(|id| ids.has_text(id)));
        assert!(ids.has_number(0) && ids.has_number(-1) && !ids.has_number(1));
        assert!(!ids.has_text("null"));
        assert!(of(&[]).has_text("") && !of(&[]).has_text("null"));
        let long = "x".repeat(100);
        assert!(of(&[&long]).has_text(&long.to_uppercase()) && !of(&[&long]).has_text(&"x".repeat(99)));
    }

    #[test]
    fn texts_that_are_not_ascii_are_compared_by_their_lower_case() {
        let ids = of(&["НЕТ", "none"]);
        assert!(["нет", "Нет", "НЕТ", "NONE"].iter().all(|id| ids.has_text(id)));
        // The Kelvin sign's lower case is a k.
        assert!(!of(&["НЕТ", "k"]).has_text("\u{212a}") && of(&["k"]).has_text("K"));
    }

    #[test]
    fn it_is_stored_as_a_list() {
        let ids = UnknownIds::default();
        let json = serde_json::to_string(&ids).unwrap();
        assert!(json.starts_with("[\"00000000-"), "{json}");
        assert_eq!(serde_json::from_str::<UnknownIds>(&json).unwrap(), ids);
    }
}
