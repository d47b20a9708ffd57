//! Columns of numbers, texts and hashes as bytes, small before they are compressed.

use std::hash::Hash;
use std::sync::Arc;

use adtide_dataflows::HashMap;
use adtide_dataflows::model::{IdHash, Text};
use anyhow::{Context, ensure};

/// Puts columns one behind the other. What goes in must be taken out again with the same calls in the same order.
#[derive(Default)]
pub struct Encoder {
    bytes: Vec<u8>,
}

impl Encoder {
    /// The bytes so far.
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }

    fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.bytes.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.bytes.push(number as u8);
    }

    /// Numbers of any size; small ones are short.
    pub fn numbers(&mut self, numbers: impl IntoIterator<Item = u64>) {
        numbers.into_iter().for_each(|number| self.number(number));
    }

    /// Numbers that are near the one before: differences, small in either direction.
    pub fn near(&mut self, numbers: impl IntoIterator<Item = i64>) {
        let mut before = 0i64;
        for number in numbers {
            let difference = number.wrapping_sub(before);
            self.number(((difference << 1) ^ (difference >> 63)) as u64);
            before = number;
        }
    }

    /// Truth values, eight a byte.
    pub fn flags(&mut self, flags: impl IntoIterator<Item = bool>) {
        let mut flags = flags.into_iter();
        while let Some(first) = flags.next() {
            let rest = flags.by_ref().take(7).enumerate();
            let byte = rest.fold(u8::from(first), |byte, (at, flag)| byte | u8::from(flag) << (at + 1));
            self.bytes.push(byte);
        }
    }

    /// Hashes, as they are: nothing makes them smaller.
    pub fn hashes(&mut self, hashes: impl IntoIterator<Item = IdHash>) {
        hashes.into_iter().for_each(|hash| self.bytes.extend_from_slice(&hash.to_bytes()));
    }

    /// Texts: each different one once, and for each row which it is.
    pub fn texts<'a>(&mut self, texts: impl IntoIterator<Item = &'a str>) {
        let (different, places) = dictionary(texts);
        self.number(different.len() as u64);
        self.numbers(different.iter().map(|text| text.len() as u64));
        different.iter().for_each(|text| self.bytes.extend_from_slice(text.as_bytes()));
        self.numbers(places);
    }

    /// Numbers of which there are few different ones, in no order, as texts are.
    pub fn repeated(&mut self, numbers: impl IntoIterator<Item = u32>) {
        let (different, places) = dictionary(numbers);
        self.number(different.len() as u64);
        self.numbers(different.into_iter().map(u64::from));
        self.numbers(places);
    }
}

/// The different values in the order of their first, and for each value which of them it is.
fn dictionary<T: Copy + Eq + Hash>(values: impl IntoIterator<Item = T>) -> (Vec<T>, Vec<u64>) {
    let (mut known, mut different) = (HashMap::default(), Vec::new());
    let places = values.into_iter().map(|value| {
        *known.entry(value).or_insert_with(|| {
            different.push(value);
            different.len() as u64 - 1
        })
    });
    let places = places.collect();
    (different, places)
}

/// Takes columns out again. No bytes make it panic or allocate more than a small multiple of their number.
pub struct Decoder<'a> {
    bytes: &'a [u8],
}

impl<'a> Decoder<'a> {
    /// Of an encoder's bytes.
    pub fn new(bytes: &'a [u8]) -> Decoder<'a> {
        Decoder { bytes }
    }

    /// Whether everything was taken.
    pub fn finish(self) -> anyhow::Result<()> {
        ensure!(self.bytes.is_empty(), "{} bytes too many", self.bytes.len());
        Ok(())
    }

    fn take(&mut self, count: usize) -> anyhow::Result<&'a [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(count).context("it ends too early")?;
        self.bytes = rest;
        Ok(taken)
    }

    fn number(&mut self) -> anyhow::Result<u64> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        anyhow::bail!("a number does not end")
    }

    /// As [`Encoder::numbers`].
    pub fn numbers(&mut self, count: usize) -> anyhow::Result<Vec<u64>> {
        ensure!(count <= self.bytes.len(), "it ends too early");
        (0..count).map(|_| self.number()).collect()
    }

    /// As [`Encoder::near`].
    pub fn near(&mut self, count: usize) -> anyhow::Result<Vec<i64>> {
        let mut before = 0i64;
        let differences = self.numbers(count)?.into_iter();
        Ok(differences
            .map(|coded| {
                let difference = (coded >> 1) as i64 ^ -((coded & 1) as i64);
                before = before.wrapping_add(difference);
                before
            })
            .collect())
    }

    /// As [`Encoder::flags`].
    pub fn flags(&mut self, count: usize) -> anyhow::Result<Vec<bool>> {
        let bytes = self.take(count.div_ceil(8))?;
        Ok((0..count).map(|at| bytes[at / 8] >> (at % 8) & 1 == 1).collect())
    }

    /// As [`Encoder::hashes`].
    pub fn hashes(&mut self, count: usize) -> anyhow::Result<Vec<IdHash>> {
        let bytes = self.take(count.checked_mul(IdHash::SIZE).context("it ends too early")?)?;
        let (chunks, _) = bytes.as_chunks::<{ IdHash::SIZE }>();
        Ok(chunks.iter().map(|chunk| IdHash::from_bytes(*chunk)).collect())
    }

    /// As [`Encoder::texts`].
    pub fn texts(&mut self, count: usize) -> anyhow::Result<Vec<Text>> {
        let different = usize::try_from(self.number()?)?;
        let lengths = self.numbers(different)?;
        let mut texts = Vec::new();
        for length in lengths {
            let bytes = self.take(usize::try_from(length)?)?;
            texts.push(Arc::from(std::str::from_utf8(bytes).context("a text is not UTF-8")?));
        }
        self.places(count, &texts)
    }

    /// As [`Encoder::repeated`].
    pub fn repeated(&mut self, count: usize) -> anyhow::Result<Vec<u32>> {
        let different = usize::try_from(self.number()?)?;
        let numbers = self.numbers(different)?.into_iter().map(|number| Ok(u32::try_from(number)?));
        let numbers = numbers.collect::<anyhow::Result<Vec<_>>>()?;
        self.places(count, &numbers)
    }

    fn places<T: Clone>(&mut self, count: usize, values: &[T]) -> anyhow::Result<Vec<T>> {
        let value = |place: u64| usize::try_from(place).ok().and_then(|place| values.get(place)).cloned();
        self.numbers(count)?.into_iter().map(|place| value(place).context("a row has no value")).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn columns_come_back(
            numbers: Vec<u64>, near: Vec<i64>, flags: Vec<bool>, texts: Vec<String>, repeated: Vec<u32>, ids: Vec<String>,
        ) {
            let hashes: Vec<_> = ids.iter().map(|id| IdHash::of(id)).collect();
            let mut encoder = Encoder::default();
            encoder.numbers(numbers.iter().copied());
            encoder.near(near.iter().copied());
            encoder.flags(flags.iter().copied());
            encoder.texts(texts.iter().map(String::as_str));
            encoder.repeated(repeated.iter().copied());
            encoder.hashes(hashes.iter().copied());
            let bytes = encoder.finish();
            let mut decoder = Decoder::new(&bytes);
            prop_assert_eq!(decoder.numbers(numbers.len()).unwrap(), numbers);
            prop_assert_eq!(decoder.near(near.len()).unwrap(), near);
            prop_assert_eq!(decoder.flags(flags.len()).unwrap(), flags);
            let back = decoder.texts(texts.len()).unwrap();
            prop_assert_eq!(back.iter().map(|text| &**text).collect::<Vec<_>>(), texts);
            prop_assert_eq!(decoder.repeated(repeated.len()).unwrap(), repeated);
            prop_assert_eq!(decoder.hashes(hashes.len()).unwrap(), hashes);
            decoder.finish().unwrap();
        }

        #[test]
        fn any_bytes_are_taken_or_refused(bytes: Vec<u8>, count in 0usize..1000) {
            let _ = Decoder::new(&bytes).numbers(count);
            let _ = Decoder::new(&bytes).near(count);
            let _ = Decoder::new(&bytes).flags(count);
            let _ = Decoder::new(&bytes).hashes(count);
            let _ = Decoder::new(&bytes).texts(count);
            let _ = Decoder::new(&bytes).repeated(count);
        }
    }
}
