//! How texts of records are stored in databases. Every text goes through here before it does.
//!
//! PostgreSQL holds no U+0000, and some thousand bytes fit no index. SQLite and Redis hold any text, as a
//! value and as a key.

use std::borrow::Cow;

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

/// A text by which a row is found. One that PostgreSQL can't hold or index is cut and cleaned, and ends with
/// a hash of what it was, so that different texts stay different.
pub fn stored_text(text: &str) -> Cow<'_, str> {
    /// Bytes; an entry of an index may have some 2700.
    const LONGEST: usize = 2000;
    if text.len() <= LONGEST && !text.contains('\0') {
        return Cow::Borrowed(text);
    }
    let head =
        text.chars().take(LONGEST / 8).map(|c| if c == '\0' { char::REPLACEMENT_CHARACTER } else { c });
    let hash = HEXLOWER.encode(&Sha256::digest(text));
    Cow::Owned(format!("{}…{hash}", head.collect::<String>()))
}

/// Stands before what replaces a character: a code point that is no character.
const MARK: char = '\u{FFFF}';

/// A text of no index that is read back as it was: U+0000 becomes a mark and a digit, and so does the mark
/// itself.
pub fn held_text(text: &str) -> Cow<'_, str> {
    if !text.contains(['\0', MARK]) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.replace(MARK, &format!("{MARK}1")).replace('\0', &format!("{MARK}0")))
}

/// The reverse of [`held_text`].
pub fn read_text(held: String) -> String {
    if !held.contains(MARK) {
        return held;
    }
    held.replace(&format!("{MARK}0"), "\0").replace(&format!("{MARK}1"), &MARK.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_back_is_what_it_was() {
        for text in ["", "top", "t\0p", "\u{FFFF}", "\u{FFFF}0", "\u{FFFF}1\0\u{FFFF}", "\0\0"] {
            let held = held_text(text);
            assert!(!held.contains('\0'));
            assert_eq!(read_text(held.into_owned()), text);
        }
        assert!(matches!(held_text("top"), Cow::Borrowed("top")));
    }

    #[test]
    fn different_texts_stay_different() {
        let texts = ["a\0b", "a\u{FFFD}b", "ab", &"x".repeat(2001), &"x".repeat(2002), &"x".repeat(2000)];
        let stored: std::collections::BTreeSet<_> = texts.iter().map(|text| stored_text(text)).collect();
        assert_eq!(stored.len(), texts.len());
        assert!(stored.iter().all(|text| text.len() <= 2000 && !text.contains('\0')));
    }
}
