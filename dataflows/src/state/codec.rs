//! Columns of numbers, texts and hashes as bytes, small before they are compressed.
//!
//! One description of a row writes and reads it: [`Codec::column`] goes over a field of all rows, and a
//! [`Column`] says how the values of a type are one.

use std::hash::Hash;
use std::sync::Arc;

use crate::hash::HashMap;
use crate::model::{AdId, EventTime, IdHash, Money, Score, Text};

/// Why columns can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// Bytes are missing.
    #[error("it ends too early")]
    TooShort,
    /// There are more bytes than rows.
    #[error("{0} bytes too many")]
    TooLong(usize),
    /// A number is larger than its type.
    #[error("a number is too large")]
    TooLarge,
    /// A text has other bytes.
    #[error("a text is not UTF-8")]
    NotUtf8,
    /// A row refers to a value that there is not.
    #[error("a row has no value")]
    NoValue,
    /// It holds what an earlier version wrote, and this one has no use for.
    #[error("it is of an earlier version, whose rows can't be used any more")]
    Outdated,
}

/// Writes columns, or reads them into rows.
pub enum Codec<'a> {
    /// Writes.
    Encode(Encoder),
    /// Reads.
    Decode(Decoder<'a>),
}

impl Codec<'_> {
    /// A column of the fields that `of` picks: written, or read into them.
    ///
    /// # Errors
    /// The bytes hold no such column.
    pub fn column<R, C: Column>(
        &mut self,
        rows: &mut [R],
        of: impl for<'r> Fn(&'r mut R) -> &'r mut C,
    ) -> Result<(), CodecError> {
        C::code(self, rows.iter_mut().map(of).collect())
    }

    /// What was written; of what was read, nothing, if all of it was.
    ///
    /// # Errors
    /// Bytes are left that were not read.
    pub fn finish(self) -> Result<Vec<u8>, CodecError> {
        match self {
            Codec::Encode(encoder) => Ok(encoder.finish()),
            Codec::Decode(decoder) => decoder.finish().map(|()| Vec::new()),
        }
    }

    /// A column of one value, which had another meaning in earlier versions.
    ///
    /// # Errors
    /// The bytes hold anything else.
    pub fn constant<C: Column + Clone + Default + PartialEq>(
        &mut self,
        rows: usize,
        value: &C,
    ) -> Result<(), CodecError> {
        let mut values = match self {
            Codec::Encode(_) => vec![value.clone(); rows],
            Codec::Decode(_) => vec![C::default(); rows],
        };
        C::code(self, values.iter_mut().collect())?;
        if values.iter().all(|found| found == value) { Ok(()) } else { Err(CodecError::Outdated) }
    }
}

/// What can stand in a column.
pub trait Column: Sized {
    /// Writes the values, or reads as many.
    ///
    /// # Errors
    /// The bytes hold no such column.
    fn code(codec: &mut Codec<'_>, values: Vec<&mut Self>) -> Result<(), CodecError>;
}

/// Types that an [`Encoder`] writes as they are.
macro_rules! plain_columns {
    ($($type:ty: $method:ident),* $(,)?) => {
        $(impl Column for $type {
            fn code(codec: &mut Codec<'_>, values: Vec<&mut Self>) -> Result<(), CodecError> {
                match codec {
                    Codec::Encode(to) => to.$method(values.iter().map(|value| &**value)),
                    Codec::Decode(from) => {
                        let read = from.$method(values.len())?;
                        values.into_iter().zip(read).for_each(|(value, read)| *value = read);
                    }
                }
                Ok(())
            }
        })*
    };
}

plain_columns! { i64: near, u32: repeated, bool: flags, IdHash: hashes, Text: texts }

/// Types that are written as another one.
macro_rules! columns_as {
    ($($type:ty as $other:ty: $to:expr, $from:expr);* $(;)?) => {
        $(impl Column for $type {
            fn code(codec: &mut Codec<'_>, values: Vec<&mut Self>) -> Result<(), CodecError> {
                let (to, from): (fn(&$type) -> $other, fn($other) -> $type) = ($to, $from);
                let mut others: Vec<$other> = values.iter().map(|value| to(value)).collect();
                <$other>::code(codec, others.iter_mut().collect())?;
                values.into_iter().zip(others).for_each(|(value, other)| *value = from(other));
                Ok(())
            }
        })*
    };
}

columns_as! {
    EventTime as i64: |time| time.0, EventTime;
    Money as i64: |amount| amount.0, Money;
    Score as i64: |score| score.0.to_bits() as i64, |bits| Score(f64::from_bits(bits as u64));
    u64 as i64: |number| *number as i64, |number| number as u64;
}

impl<A: Column, B: Column> Column for (A, B) {
    fn code(codec: &mut Codec<'_>, values: Vec<&mut Self>) -> Result<(), CodecError> {
        let (one, other) = values.into_iter().map(|(one, other)| (one, other)).unzip();
        A::code(codec, one)?;
        B::code(codec, other)
    }
}

impl<T: Column, const N: usize> Column for [T; N] {
    fn code(codec: &mut Codec<'_>, mut values: Vec<&mut Self>) -> Result<(), CodecError> {
        (0..N).try_for_each(|at| T::code(codec, values.iter_mut().map(|value| &mut value[at]).collect()))
    }
}

/// Which of the values there are, and these.
impl<T: Column + Default> Column for Option<T> {
    fn code(codec: &mut Codec<'_>, values: Vec<&mut Self>) -> Result<(), CodecError> {
        let mut there: Vec<bool> = values.iter().map(|value| value.is_some()).collect();
        bool::code(codec, there.iter_mut().collect())?;
        let present = values.into_iter().zip(there).filter_map(|(value, is_there)| match is_there {
            true => Some(value.get_or_insert_default()),
            false => None,
        });
        T::code(codec, present.collect())
    }
}

/// Which of the ids are numbers, the numbers, and the texts.
impl Column for AdId {
    fn code(codec: &mut Codec<'_>, values: Vec<&mut Self>) -> Result<(), CodecError> {
        let mut are_numbers: Vec<bool> = values.iter().map(|id| matches!(id, AdId::Number(_))).collect();
        let (mut numbers, mut texts): (Vec<i64>, Vec<Text>) = (Vec::new(), Vec::new());
        bool::code(codec, are_numbers.iter_mut().collect())?;
        match codec {
            Codec::Encode(_) => values.iter().for_each(|id| match id {
                AdId::Number(number) => numbers.push(*number),
                AdId::Text(text) => texts.push(Text::from(&**text)),
            }),
            Codec::Decode(_) => {
                numbers.resize(are_numbers.iter().filter(|is_number| **is_number).count(), 0);
                texts.resize_with(are_numbers.len() - numbers.len(), Text::default);
            }
        }
        i64::code(codec, numbers.iter_mut().collect())?;
        Text::code(codec, texts.iter_mut().collect())?;
        let (mut numbers, mut texts) = (numbers.into_iter(), texts.into_iter());
        for (id, is_number) in values.into_iter().zip(are_numbers) {
            let read = match is_number {
                true => numbers.next().map(AdId::Number),
                false => texts.next().map(|text| AdId::Text((&*text).into())),
            };
            *id = read.ok_or(CodecError::NoValue)?;
        }
        Ok(())
    }
}

/// Puts columns one behind the other. What goes in must be taken out again with the same calls in the same
/// order.
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
    fn numbers(&mut self, numbers: impl IntoIterator<Item = u64>) {
        numbers.into_iter().for_each(|number| self.number(number));
    }

    /// Numbers that are near the one before: differences, small in either direction.
    pub fn near<'a>(&mut self, numbers: impl IntoIterator<Item = &'a i64>) {
        let mut before = 0i64;
        for &number in numbers {
            let difference = number.wrapping_sub(before);
            self.number(((difference << 1) ^ (difference >> 63)) as u64);
            before = number;
        }
    }

    /// Truth values, eight a byte.
    pub fn flags<'a>(&mut self, flags: impl IntoIterator<Item = &'a bool>) {
        let mut flags = flags.into_iter().copied();
        while let Some(first) = flags.next() {
            let rest = flags.by_ref().take(7).enumerate();
            let byte = rest.fold(u8::from(first), |byte, (at, flag)| byte | u8::from(flag) << (at + 1));
            self.bytes.push(byte);
        }
    }

    /// Hashes, as they are: nothing makes them smaller.
    pub fn hashes<'a>(&mut self, hashes: impl IntoIterator<Item = &'a IdHash>) {
        hashes.into_iter().for_each(|hash| self.bytes.extend_from_slice(&hash.to_bytes()));
    }

    /// Texts: each different one once, and for each row which it is.
    pub fn texts<'a>(&mut self, texts: impl IntoIterator<Item = &'a Text>) {
        let (different, places) = dictionary(texts.into_iter().map(|text| &**text));
        self.number(different.len() as u64);
        self.numbers(different.iter().map(|text| text.len() as u64));
        different.iter().for_each(|text| self.bytes.extend_from_slice(text.as_bytes()));
        self.numbers(places);
    }

    /// Numbers of which there are few different ones, in no order, as texts are.
    pub fn repeated<'a>(&mut self, numbers: impl IntoIterator<Item = &'a u32>) {
        let (different, places) = dictionary(numbers.into_iter().copied());
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

    /// How many bytes are left.
    pub fn left(&self) -> usize {
        self.bytes.len()
    }

    /// Whether everything was taken.
    pub fn finish(self) -> Result<(), CodecError> {
        if self.bytes.is_empty() { Ok(()) } else { Err(CodecError::TooLong(self.bytes.len())) }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], CodecError> {
        let (taken, rest) = self.bytes.split_at_checked(count).ok_or(CodecError::TooShort)?;
        self.bytes = rest;
        Ok(taken)
    }

    fn number(&mut self) -> Result<u64, CodecError> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(CodecError::TooLarge)
    }

    fn length(&mut self) -> Result<usize, CodecError> {
        usize::try_from(self.number()?).map_err(|_| CodecError::TooLarge)
    }

    /// As [`Encoder::numbers`].
    fn numbers(&mut self, count: usize) -> Result<Vec<u64>, CodecError> {
        if count > self.bytes.len() {
            return Err(CodecError::TooShort);
        }
        (0..count).map(|_| self.number()).collect()
    }

    /// As [`Encoder::near`].
    pub fn near(&mut self, count: usize) -> Result<Vec<i64>, CodecError> {
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
    pub fn flags(&mut self, count: usize) -> Result<Vec<bool>, CodecError> {
        let bytes = self.take(count.div_ceil(8))?;
        Ok((0..count).map(|at| bytes[at / 8] >> (at % 8) & 1 == 1).collect())
    }

    /// As [`Encoder::hashes`].
    pub fn hashes(&mut self, count: usize) -> Result<Vec<IdHash>, CodecError> {
        let bytes = self.take(count.checked_mul(IdHash::SIZE).ok_or(CodecError::TooShort)?)?;
        let (chunks, _) = bytes.as_chunks::<{ IdHash::SIZE }>();
        Ok(chunks.iter().map(|chunk| IdHash::from_bytes(*chunk)).collect())
    }

    /// As [`Encoder::texts`].
    pub fn texts(&mut self, count: usize) -> Result<Vec<Text>, CodecError> {
        let different = self.length()?;
        let lengths = self.numbers(different)?;
        let mut texts = Vec::new();
        for length in lengths {
            let bytes = self.take(usize::try_from(length).map_err(|_| CodecError::TooLarge)?)?;
            texts.push(Arc::from(std::str::from_utf8(bytes).map_err(|_| CodecError::NotUtf8)?));
        }
        self.places(count, &texts)
    }

    /// As [`Encoder::repeated`].
    pub fn repeated(&mut self, count: usize) -> Result<Vec<u32>, CodecError> {
        let different = self.length()?;
        let numbers = self
            .numbers(different)?
            .into_iter()
            .map(|number| u32::try_from(number).map_err(|_| CodecError::TooLarge));
        let numbers = numbers.collect::<Result<Vec<_>, CodecError>>()?;
        self.places(count, &numbers)
    }

    fn places<T: Clone>(&mut self, count: usize, values: &[T]) -> Result<Vec<T>, CodecError> {
        let value = |place: u64| usize::try_from(place).ok().and_then(|place| values.get(place)).cloned();
        self.numbers(count)?.into_iter().map(|place| value(place).ok_or(CodecError::NoValue)).collect()
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
            let texts: Vec<Text> = texts.into_iter().map(Text::from).collect();
            let mut encoder = Encoder::default();
            encoder.numbers(numbers.iter().copied());
            encoder.near(&near);
            encoder.flags(&flags);
            encoder.texts(&texts);
            encoder.repeated(&repeated);
            encoder.hashes(&hashes);
            let bytes = encoder.finish();
            let mut decoder = Decoder::new(&bytes);
            prop_assert_eq!(decoder.numbers(numbers.len()).unwrap(), numbers);
            prop_assert_eq!(decoder.near(near.len()).unwrap(), near);
            prop_assert_eq!(decoder.flags(flags.len()).unwrap(), flags);
            prop_assert_eq!(decoder.texts(texts.len()).unwrap(), texts);
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
