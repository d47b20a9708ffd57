//! The flat scanner: one pass over a record's bytes, nothing allocated.

use super::{BadRecord, Field, Fields, MAX_RECORD_BYTES, Raw, json};

/// Reads records. It remembers the order of the fields in the last one: most producers keep it, and then a
/// field's name is one comparison instead of a search.
#[derive(Debug, Default)]
pub struct Scanner {
    /// At each position of the record, the name that stood there last, with its quotes and colon.
    shape: Vec<(Box<[u8]>, Option<Field>)>,
}

/// The flat scanner does not know this form; the full parser decides.
struct Unknown;

impl Scanner {
    /// Reads a record and calls `then` with its fields.
    ///
    /// # Errors
    /// The record is too large, not UTF-8, or not a JSON object; or what `then` finds.
    #[inline]
    pub fn read<R>(
        &mut self,
        record: &[u8],
        then: impl FnOnce(&Fields<'_>) -> Result<R, BadRecord>,
    ) -> Result<R, BadRecord> {
        let text = text(record)?;
        let mut fields = Fields::default();
        match self.scan(text, &mut fields) {
            Ok(()) => then(&fields),
            Err(Unknown) => json::read(text, then),
        }
    }

    /// As [`Scanner::read`], but by the full parser alone: for tests, which hold the two equal.
    ///
    /// # Errors
    /// Those of [`Scanner::read`].
    #[doc(hidden)]
    pub fn read_full<R>(
        &mut self,
        record: &[u8],
        then: impl FnOnce(&Fields<'_>) -> Result<R, BadRecord>,
    ) -> Result<R, BadRecord> {
        json::read(text(record)?, then)
    }

    fn scan<'a>(&mut self, text: &'a str, fields: &mut Fields<'a>) -> Result<(), Unknown> {
        let bytes = text.as_bytes();
        let mut at = skip_space(bytes, 0);
        if bytes.get(at) != Some(&b'{') {
            return Err(Unknown);
        }
        at = skip_space(bytes, at + 1);
        for position in 0.. {
            let field;
            (field, at) = self.name(bytes, at, position)?;
            let value;
            (value, at) = scan_value(text, skip_space(bytes, at))?;
            if let Some(field) = field {
                fields.set(field, value);
            }
            at = skip_space(bytes, at);
            match bytes.get(at) {
                Some(b',') => at = skip_space(bytes, at + 1),
                Some(b'}') if skip_space(bytes, at + 1) == bytes.len() => return Ok(()),
                _ => break,
            }
        }
        Err(Unknown)
    }

    /// The name that starts at `at`, and where its value starts.
    #[inline]
    fn name(&mut self, bytes: &[u8], at: usize, position: usize) -> Result<(Option<Field>, usize), Unknown> {
        if let Some((name, field)) = self.shape.get(position)
            && bytes[at..].starts_with(name)
        {
            return Ok((*field, at + name.len()));
        }
        self.learn_name(bytes, at, position)
    }

    fn learn_name(
        &mut self,
        bytes: &[u8],
        at: usize,
        position: usize,
    ) -> Result<(Option<Field>, usize), Unknown> {
        const MOST_FIELDS: usize = 64;
        const LONGEST_NAME: usize = 64;
        if bytes.get(at) != Some(&b'"') {
            return Err(Unknown);
        }
        let end = text_end(bytes, at + 1)?;
        let field = Field::of(&bytes[at + 1..end]);
        if bytes.get(end + 1) != Some(&b':') {
            return Err(Unknown);
        }
        let after = end + 2;
        if position < MOST_FIELDS && after - at <= LONGEST_NAME {
            let learned = (Box::from(&bytes[at..after]), field);
            if let Some(known) = self.shape.get_mut(position) {
                *known = learned;
            } else if position == self.shape.len() {
                self.shape.push(learned);
            }
        }
        Ok((field, after))
    }
}

/// The text of a record, without a byte order mark before it.
#[inline]
fn text(record: &[u8]) -> Result<&str, BadRecord> {
    if record.len() > MAX_RECORD_BYTES {
        return Err(BadRecord::TooLarge(record.len() as u64));
    }
    if let [0, a, b, c, d, ..] = *record {
        return Err(BadRecord::SchemaRegistry(u32::from_be_bytes([a, b, c, d])));
    }
    let text = std::str::from_utf8(record).map_err(|error| BadRecord::NotUtf8(error.valid_up_to()))?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}

#[inline]
fn skip_space(bytes: &[u8], mut at: usize) -> usize {
    while matches!(bytes.get(at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
        at += 1;
    }
    at
}

#[inline]
fn scan_value(text: &str, at: usize) -> Result<(Raw<'_>, usize), Unknown> {
    let bytes = text.as_bytes();
    match bytes.get(at) {
        Some(b'"') => {
            let end = text_end(bytes, at + 1)?;
            Ok((Raw::Text(text.get(at + 1..end).ok_or(Unknown)?), end + 1))
        }
        Some(b'-' | b'0'..=b'9') => {
            let end = number_end(bytes, at)?;
            Ok((Raw::Number(text.get(at..end).ok_or(Unknown)?), end))
        }
        Some(b'n') if bytes[at..].starts_with(b"null") => Ok((Raw::Absent, at + 4)),
        Some(b't') if bytes[at..].starts_with(b"true") => Ok((Raw::Other, at + 4)),
        Some(b'f') if bytes[at..].starts_with(b"false") => Ok((Raw::Other, at + 5)),
        _ => Err(Unknown),
    }
}

/// Where the text that starts at `from` has its closing quote. Escapes and control characters are left to the
/// full parser.
#[inline]
fn text_end(bytes: &[u8], from: usize) -> Result<usize, Unknown> {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH: u64 = ONES << 7;
    /// High bit set in the lowest byte of `word` that is zero (and maybe in higher ones).
    #[inline]
    fn zero_bytes(word: u64) -> u64 {
        word.wrapping_sub(ONES) & !word & HIGH
    }
    let mut at = from;
    // Eight bytes at a time: the first one that is a quote, a backslash or a control character.
    while let Some(word) = bytes.get(at..at + 8) {
        let word = u64::from_le_bytes(word.try_into().map_err(|_| Unknown)?);
        let quotes = zero_bytes(word ^ (ONES * b'"' as u64));
        let backslashes = zero_bytes(word ^ (ONES * b'\\' as u64));
        let controls = word.wrapping_sub(ONES * 0x20) & !word & HIGH;
        let stops = quotes | backslashes | controls;
        if stops != 0 {
            at += (stops.trailing_zeros() / 8) as usize;
            return if bytes[at] == b'"' { Ok(at) } else { Err(Unknown) };
        }
        at += 8;
    }
    loop {
        match bytes.get(at) {
            Some(b'"') => return Ok(at),
            Some(b'\\' | 0..=0x1f) | None => return Err(Unknown),
            Some(_) => at += 1,
        }
    }
}

/// Where the number that starts at `at` ends. Exponents and errors are left to the full parser.
#[inline]
fn number_end(bytes: &[u8], at: usize) -> Result<usize, Unknown> {
    let digits_end = |mut at: usize| {
        while matches!(bytes.get(at), Some(b'0'..=b'9')) {
            at += 1;
        }
        at
    };
    let start = at + usize::from(bytes[at] == b'-');
    let mut end = digits_end(start);
    if end == start || (bytes[start] == b'0' && end > start + 1) {
        return Err(Unknown);
    }
    if bytes.get(end) == Some(&b'.') {
        let fraction = end + 1;
        end = digits_end(fraction);
        if end == fraction {
            return Err(Unknown);
        }
    }
    match bytes.get(end) {
        Some(b'e' | b'E' | b'.') => Err(Unknown),
        _ => Ok(end),
    }
}
