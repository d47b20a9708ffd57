//! Records as nobody should send them.

use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

/// Chance, the same in every run.
pub struct Dice(Xoshiro256PlusPlus);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(Xoshiro256PlusPlus::seed_from_u64(seed))
    }

    /// From 0 to below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.0.next_u64() % limit.max(1) as u64) as usize
    }

    pub fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

/// What is put into records: what JSON is made of, and what is at the limits of numbers, texts and nesting.
const PIECES: [&[u8]; 33] = [
    b"\"",
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"null",
    b"true",
    b"-",
    b"e9",
    b".",
    b"0",
    b"\\u00e9",
    b"\\ud800",
    b"\x00",
    b"\xff",
    b"\xc3\xa9",
    b" ",
    b"\t",
    b"9223372036854775808",
    b"\"campaign_id\":5,",
    b"-0",
    b"\xef\xbb\xbf",
    b"\x00\x00\x00\x00\x07",
    b"\"payload\":{},",
    b"\"after\":{\"a\":1},",
    b"\"device_id\":\"NULL\",",
    b"\"order_id\":\"\",",
    b".0",
    b"00",
    b"+0900",
];

/// The record with a few bytes changed, cut out or put in, or what is hardly a record any more. It is one
/// line.
pub fn mutated(record: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut bytes = match dice.below(50) {
        0 => (0..dice.below(300)).map(|_| dice.below(256) as u8).collect(),
        1 => nested(1 + dice.below(2000)),
        2 => record.repeat(2),
        _ => record.to_vec(),
    };
    for _ in 0..1 + dice.below(3) {
        mutate(&mut bytes, dice);
    }
    for byte in &mut bytes {
        if matches!(*byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
    if bytes.is_empty() { b"x".to_vec() } else { bytes }
}

fn mutate(bytes: &mut Vec<u8>, dice: &mut Dice) {
    // The start is where some of the pieces matter.
    let at = if dice.below(8) == 0 { 0 } else { dice.below(bytes.len()) };
    match dice.below(6) {
        0 => bytes.truncate(at),
        1 if at < bytes.len() => bytes[at] = dice.below(256) as u8,
        2 if at < bytes.len() => bytes[at] ^= 1 << dice.below(8),
        3 => {
            let end = (at + 1 + dice.below(12)).min(bytes.len());
            bytes.drain(at..end);
        }
        4 => {
            let end = (at + 1 + dice.below(30)).min(bytes.len());
            let piece = bytes[at..end].to_vec();
            let to = dice.below(bytes.len());
            bytes.splice(to..to, piece);
        }
        _ => {
            let piece = *dice.pick(&PIECES);
            bytes.splice(at..at, piece.iter().copied());
        }
    }
}

fn nested(levels: usize) -> Vec<u8> {
    let (open, close): (&[u8], &[u8]) =
        if levels.is_multiple_of(2) { (b"[", b"]") } else { (b"{\"a\":", b"}") };
    [b"{\"deep\":".to_vec(), open.repeat(levels), b"1".to_vec(), close.repeat(levels), b"}".to_vec()].concat()
}
