//! Bad records.

use memchr::memmem;

use super::dice::Dice;

const EVENT_TYPE: &[u8] = b"\"event_type\":\"";
const TIME: &[u8] = b"\"timestamp_field\":";
const AMOUNTS: [&[u8]; 4] =
    [b"\"actual_price\":", b"\"revenue_amount\":", b"\"bid_price\":", b"\"product_price\":"];

/// Makes a good record one that can't be read, in one of the ways that occur.
pub(super) fn spoil(line: &mut Vec<u8>, dice: &mut Dice) {
    let spoiled = match dice.below(9) {
        0 => not_json(line),
        1 => garbage(line, dice),
        2 => missing_field(line),
        3 => unknown_type(line),
        // An impression's price is not used, so it may be anything.
        4 if is_impression(line) => time(line, b"1767600000"),
        5 if is_impression(line) => envelope(line),
        4 => negative(line),
        5 => third_decimal(line),
        6 => time(line, b"\"2026-02-30 25:61:00.000\""),
        // One wrong clock.
        7 => time(line, b"\"2099-01-01 00:00:00.000\""),
        _ => false,
    };
    // Also where a record has nothing to spoil in that way: a cut suits all.
    if !spoiled {
        truncate(line, dice);
    }
}

fn not_json(line: &mut Vec<u8>) -> bool {
    line.splice(.., *b"WARN  upstream connect error, reset reason: overflow");
    true
}

/// Any bytes but those that end a line. The first can't begin a UTF-8 text, let alone JSON.
fn garbage(line: &mut Vec<u8>, dice: &mut Dice) -> bool {
    line.clear();
    line.push(0xff);
    for _ in 0..dice.within(8..64) {
        let byte = dice.bits() as u8;
        line.push(if matches!(byte, b'\n' | b'\r') { 0 } else { byte });
    }
    true
}

fn missing_field(line: &mut Vec<u8>) -> bool {
    replace_at(line, TIME, b"\"timestamp\":")
}

fn unknown_type(line: &mut Vec<u8>) -> bool {
    replace_at(line, EVENT_TYPE, b"\"event_type\":\"LEGACY_")
}

fn is_impression(line: &[u8]) -> bool {
    memmem::find(line, b"\"IMPRESSION\"").is_some()
}

fn envelope(line: &mut Vec<u8>) -> bool {
    line.splice(..0, *b"{\"schema\":null,\"payload\":");
    line.push(b'}');
    true
}

fn negative(line: &mut Vec<u8>) -> bool {
    amount(line).map(|(start, _)| line.insert(start, b'-')).is_some()
}

fn third_decimal(line: &mut Vec<u8>) -> bool {
    amount(line).map(|(_, end)| line.insert(end, b'5')).is_some()
}

fn time(line: &mut Vec<u8>, value: &[u8]) -> bool {
    let Some(start) = memmem::find(line, TIME).map(|at| at + TIME.len()) else {
        return false;
    };
    // No value holds a comma.
    let end = memchr::memchr(b',', &line[start..]).map_or(line.len(), |length| start + length);
    line.splice(start..end, value.iter().copied());
    true
}

fn truncate(line: &mut Vec<u8>, dice: &mut Dice) {
    let length = dice.within(1..line.len() as i64) as usize;
    line.truncate(length);
}

fn replace_at(line: &mut Vec<u8>, old: &[u8], new: &[u8]) -> bool {
    let at = memmem::find(line, old);
    at.map(|at| line.splice(at..at + old.len(), new.iter().copied())).is_some()
}

/// Where the digits of the record's amount are.
fn amount(line: &[u8]) -> Option<(usize, usize)> {
    let start = AMOUNTS.iter().find_map(|field| memmem::find(line, field).map(|at| at + field.len()))?;
    let is_digit = |at: &usize| line[*at].is_ascii_digit() || line[*at] == b'.';
    let start = (start..line.len()).find(is_digit)?;
    let end = (start..line.len()).find(|at| !is_digit(at))?;
    Some((start, end))
}
