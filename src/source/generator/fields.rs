//! The fields of a record as JSON, and what a record may be odd in.

use adtide_dataflows::model::EventTime;

use super::audience::{device_number, session_number, user_number};
use super::dice::Dice;

/// In what way a good record is unlike most others.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Quirk {
    None,
    /// The time as RFC 3339.
    Rfc3339,
    /// The time as epoch milliseconds.
    EpochMs,
    /// Ids as numeric strings.
    TextIds,
    /// Amounts as strings.
    TextAmounts,
    /// A field that may be missing is null, or not there at all.
    NoCampaign,
    NoDevice,
    NoSession,
}

impl Quirk {
    /// For `ad-events`, which may lack an id.
    #[inline]
    pub(super) fn draw(dice: &mut Dice) -> Quirk {
        match dice.below(2_000) {
            0 => Quirk::Rfc3339,
            1 => Quirk::EpochMs,
            2 | 3 => Quirk::TextIds,
            4 | 5 => Quirk::TextAmounts,
            6..12 => Quirk::NoCampaign,
            12..24 => Quirk::NoDevice,
            24..34 => Quirk::NoSession,
            _ => Quirk::None,
        }
    }

    /// For the other topics: nothing but the format.
    pub(super) fn draw_format(dice: &mut Dice) -> Quirk {
        match dice.below(400) {
            0 => Quirk::Rfc3339,
            1 => Quirk::EpochMs,
            2 | 3 => Quirk::TextIds,
            4 | 5 => Quirk::TextAmounts,
            _ => Quirk::None,
        }
    }
}

/// Most ads have a number; those of some campaigns have a text.
#[inline]
pub(super) fn ad_id(line: &mut Vec<u8>, campaign: i64, ad: u8, quirk: Quirk) {
    let textual = campaign % 16 == 3;
    let quoted = textual || quirk == Quirk::TextIds;
    line.extend_from_slice(b",\"ad_id\":");
    if quoted {
        line.push(b'"');
    }
    if textual {
        line.extend_from_slice(b"cr-");
    }
    number(line, campaign * 10 + i64::from(ad));
    if quoted {
        line.push(b'"');
    }
}

pub(super) fn id(line: &mut Vec<u8>, field: &str, value: i64, quirk: Quirk) {
    key(line, field);
    if quirk == Quirk::TextIds {
        line.push(b'"');
        number(line, value);
        line.push(b'"');
    } else {
        number(line, value);
    }
}

#[inline]
pub(super) fn device(line: &mut Vec<u8>, device: Option<u32>, time: EventTime) {
    if let Some(device) = device {
        line.extend_from_slice(b",\"device_id\":\"d-");
        hex(line, device_number(device));
        line.push(b'"');
    } else {
        unknown(line, "device_id", time);
    }
}

#[inline]
pub(super) fn session(line: &mut Vec<u8>, session: Option<u64>, time: EventTime) {
    if let Some(session) = session {
        let number = session_number(session);
        line.extend_from_slice(b",\"session_id\":\"s-");
        hex(line, (number >> 32) as u32);
        hex(line, number as u32);
        line.push(b'"');
    } else {
        unknown(line, "session_id", time);
    }
}

/// An id that is not known: left out, null, or a text that stands for none. Which of them comes from the
/// record itself.
pub(super) fn unknown(line: &mut Vec<u8>, field: &str, time: EventTime) {
    let value: &[u8] = match time.0 % 8 {
        1 | 5 => b"null",
        3 => b"\"\"",
        7 => b"\"00000000-0000-0000-0000-000000000000\"",
        _ => return,
    };
    key(line, field);
    line.extend_from_slice(value);
}

#[inline]
pub(super) fn user(line: &mut Vec<u8>, device: u32) {
    line.extend_from_slice(b",\"user_id\":\"u-");
    number(line, i64::from(user_number(device)));
    line.push(b'"');
}

#[inline]
pub(super) fn amount(line: &mut Vec<u8>, field: &str, minor: i64, quirk: Quirk) {
    key(line, field);
    let quoted = quirk == Quirk::TextAmounts;
    if quoted {
        line.push(b'"');
    }
    number(line, minor / 100);
    line.extend_from_slice(&[b'.', digit(minor / 10), digit(minor)]);
    if quoted {
        line.push(b'"');
    }
}

#[inline]
pub(super) fn time(line: &mut Vec<u8>, time: EventTime, quirk: Quirk) {
    if quirk == Quirk::EpochMs {
        return number(line, time.0);
    }
    line.push(b'"');
    let start = line.len();
    time.write_to(line);
    if quirk == Quirk::Rfc3339 {
        line[start + 10] = b'T';
        line.push(b'Z');
    }
    line.push(b'"');
}

pub(super) fn text(line: &mut Vec<u8>, field: &str, value: &str) {
    key(line, field);
    line.push(b'"');
    line.extend_from_slice(value.as_bytes());
    line.push(b'"');
}

#[inline]
pub(super) fn key(line: &mut Vec<u8>, field: &str) {
    line.extend_from_slice(b",\"");
    line.extend_from_slice(field.as_bytes());
    line.extend_from_slice(b"\":");
}

#[inline]
pub(super) fn number(line: &mut Vec<u8>, value: i64) {
    line.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

#[inline]
pub(super) fn hex(line: &mut Vec<u8>, value: u32) {
    let mut digits = [0; 8];
    data_encoding::HEXLOWER.encode_mut(&value.to_be_bytes(), &mut digits);
    line.extend_from_slice(&digits);
}

/// The last decimal digit.
#[inline]
pub(super) fn digit(value: i64) -> u8 {
    b'0' + (value % 10) as u8
}
