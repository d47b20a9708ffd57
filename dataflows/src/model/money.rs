//! Exact amounts of money.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Mul, Sub, SubAssign};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An amount in minor units (1/100 of the currency). It never passes through a float, and sums stop at the
/// greatest amount that fits 64 bits instead of wrapping around.
///
/// As text it has exactly two decimals: `12.50`. Parsing takes a decimal number whose value has at most two
/// decimals, however it is written (`3`, `3.1`, `3.14`, `314e-2`, `3.1400`, `0E-8`); more decimals are an
/// error rather than rounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Money(pub i64);

/// Why a text is no amount of money.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MoneyError {
    /// The text is not a decimal number.
    #[error("not a decimal number; want one such as 12.50")]
    NotANumber,
    /// The amount is below zero.
    #[error("negative")]
    Negative,
    /// The amount is not a whole number of cents.
    #[error("more than two decimals")]
    TooManyDecimals,
    /// The amount does not fit its DECIMAL type.
    #[error("too large")]
    TooLarge,
}

impl Money {
    /// Nothing owed.
    pub const ZERO: Money = Money(0);
    /// The greatest DECIMAL(10,2).
    pub const MAX_PRICE: Money = Money(9_999_999_999);
    /// The greatest DECIMAL(15,2).
    pub const MAX_REVENUE: Money = Money(999_999_999_999_999);

    /// Parses a non-negative amount of at most `max`: digits, then if need be a point and digits, then an
    /// exponent. `-0` is 0.
    ///
    /// # Errors
    /// Says what is wrong with the text; see [`MoneyError`].
    #[inline]
    pub fn parse(text: &[u8], max: Money) -> Result<Money, MoneyError> {
        if let Some(minor) = Self::parse_plain(text) {
            return Self::bounded(minor, max);
        }
        match text {
            [b'-', rest @ ..] => match Self::parse_any(rest) {
                Ok(0) => Ok(Money::ZERO),
                Err(MoneyError::NotANumber) => Err(MoneyError::NotANumber),
                _ => Err(MoneyError::Negative),
            },
            _ => Self::parse_any(text).and_then(|minor| Self::bounded(minor, max)),
        }
    }

    /// The hot forms: at most 18 digits, the third decimal and those after it all 0. None leaves the text to
    /// [`Money::parse_any`].
    #[inline]
    fn parse_plain(text: &[u8]) -> Option<u64> {
        const MOST_DIGITS: usize = 18;
        let (mut minor, mut digits, mut decimals) = (0u64, 0, None);
        for &byte in text {
            match (byte, &mut decimals) {
                (b'0', Some(2)) => {}
                (b'0'..=b'9', decimals) if digits < MOST_DIGITS && *decimals != Some(2) => {
                    digits += 1;
                    minor = minor * 10 + u64::from(byte - b'0');
                    *decimals = decimals.map(|count| count + 1);
                }
                (b'.', None) if digits > 0 => decimals = Some(0),
                _ => return None,
            }
        }
        match decimals {
            None if digits > 0 => minor.checked_mul(100),
            Some(1) => minor.checked_mul(10),
            Some(2) => Some(minor),
            _ => None,
        }
    }

    /// Any form, without a sign: the amount in minor units.
    fn parse_any(text: &[u8]) -> Result<u64, MoneyError> {
        let (mantissa, exponent) = match text.iter().position(|byte| matches!(byte, b'e' | b'E')) {
            Some(at) => (&text[..at], exponent(&text[at + 1..]).ok_or(MoneyError::NotANumber)?),
            None => (text, 0),
        };
        let (whole, fraction) = match mantissa.iter().position(|byte| *byte == b'.') {
            Some(at) if at + 1 == mantissa.len() => return Err(MoneyError::NotANumber),
            Some(at) => (&mantissa[..at], &mantissa[at + 1..]),
            None => (mantissa, &[][..]),
        };
        let digits = whole.iter().chain(fraction);
        if whole.is_empty() || !digits.clone().all(u8::is_ascii_digit) {
            return Err(MoneyError::NotANumber);
        }
        // Zeros at the end change the exponent only, and those at the start nothing.
        let zeros = digits.clone().rev().take_while(|digit| **digit == b'0').count();
        let significant =
            digits.take(whole.len() + fraction.len() - zeros).skip_while(|digit| **digit == b'0');
        let count = significant.clone().count();
        if count == 0 {
            return Ok(0);
        }
        // The amount is the significant digits times this power of ten, in minor units. Lengths are those of
        // a record.
        let power = 2 + exponent + zeros as i64 - fraction.len() as i64;
        let power = u32::try_from(power.min(i64::from(u32::MAX))).map_err(|_| MoneyError::TooManyDecimals)?;
        const FITTING_DIGITS: usize = 19;
        let minor = (count <= FITTING_DIGITS)
            .then(|| significant.fold(0, |minor, d| minor * 10 + u64::from(d - b'0')));
        minor.and_then(|minor| minor.checked_mul(10u64.checked_pow(power)?)).ok_or(MoneyError::TooLarge)
    }

    #[inline]
    fn bounded(minor: u64, max: Money) -> Result<Money, MoneyError> {
        let minor = i64::try_from(minor).ok().filter(|minor| *minor <= max.0);
        minor.map(Money).ok_or(MoneyError::TooLarge)
    }

    /// The amount in major units, for ratios and scores only.
    #[inline]
    pub fn to_f64(self) -> f64 {
        self.0 as f64 / 100.0
    }
}

/// The exponent of a number, digits with or without a sign; one beyond all lengths of texts stands for all
/// that are.
fn exponent(text: &[u8]) -> Option<i64> {
    const LIMIT: i64 = 1 << 40;
    let (is_negative, digits) = match text {
        [sign @ (b'+' | b'-'), digits @ ..] => (*sign == b'-', digits),
        digits => (false, digits),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let exponent = digits.iter().fold(0, |value, digit| LIMIT.min(value * 10 + i64::from(digit - b'0')));
    Some(if is_negative { -exponent } else { exponent })
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let minor = self.0.unsigned_abs();
        write!(f, "{sign}{}.{:02}", minor / 100, minor % 100)
    }
}

impl FromStr for Money {
    type Err = MoneyError;
    fn from_str(text: &str) -> Result<Self, MoneyError> {
        Money::parse(text.as_bytes(), Money(i64::MAX))
    }
}

impl Add for Money {
    type Output = Money;
    fn add(self, other: Money) -> Money {
        Money(self.0.saturating_add(other.0))
    }
}

impl AddAssign for Money {
    fn add_assign(&mut self, other: Money) {
        self.0 = self.0.saturating_add(other.0);
    }
}

impl Sub for Money {
    type Output = Money;
    fn sub(self, other: Money) -> Money {
        Money(self.0.saturating_sub(other.0))
    }
}

impl SubAssign for Money {
    fn sub_assign(&mut self, other: Money) {
        self.0 = self.0.saturating_sub(other.0);
    }
}

impl Mul<i64> for Money {
    type Output = Money;
    fn mul(self, times: i64) -> Money {
        Money(self.0.saturating_mul(times))
    }
}

impl Sum for Money {
    fn sum<I: Iterator<Item = Money>>(amounts: I) -> Money {
        amounts.fold(Money::ZERO, Add::add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<i64, MoneyError> {
        Money::parse(text.as_bytes(), Money::MAX_PRICE).map(|money| money.0)
    }

    #[test]
    fn reads_every_form_of_whole_cents_exactly() {
        for (text, minor) in [
            ("0", 0),
            ("12", 1200),
            ("12.5", 1250),
            ("12.50", 1250),
            ("12.500", 1250),
            ("12.50000000000000000000000000", 1250),
            ("0.29", 29),
            ("007.5", 750),
            ("99999999.99", 9_999_999_999),
            ("99999999.990", 9_999_999_999),
            ("1e2", 10_000),
            ("1E+2", 10_000),
            ("125e-1", 1250),
            ("1.25e2", 12_500),
            ("12500e-3", 1250),
            ("1200000000000000000000000e-23", 1200),
            ("0000000000000000000000.10", 10),
            ("0.00000000000000000001e20", 100),
            ("1e00000000000000000000000000002", 10_000),
            ("0E-8", 0),
            ("0.000", 0),
            ("0e99999999999999999999999", 0),
            ("-0", 0),
            ("-0.00", 0),
            ("-0E-8", 0),
        ] {
            assert_eq!(parse(text), Ok(minor), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_not_whole_cents_or_negative_or_too_large_or_no_number() {
        let refused = |expected: MoneyError, texts: &[&str]| {
            for text in texts {
                assert_eq!(parse(text), Err(expected), "{text}");
            }
        };
        let fine =
            ["0.001", "1.105", "1e-3", "0.0000000000000000000000001", "1e-99999999999999999999", "12.5e-2"];
        refused(MoneyError::TooManyDecimals, &fine);
        refused(MoneyError::Negative, &["-1.00", "-0.001", "-1e99", "-99999999999999999999", "-1e-9"]);
        let large =
            ["100000000.00", "100000000", "1e8", "1e300", "99999999999999999999", "1e99999999999999999999"];
        refused(MoneyError::TooLarge, &large);
        refused(MoneyError::TooLarge, &["123456789012345678901234567890.12", "999999999999999999"]);
        let none = [
            "", ".", "1.", ".5", "1.2.3", "abc", "1,5", "1 000", " 1", "1 ", "-", "--1", "1e", "1e+", "1e1.5",
        ];
        refused(MoneyError::NotANumber, &none);
        refused(
            MoneyError::NotANumber,
            &["NaN", "inf", "+1", "1.e2", "-x", "0x1", "1_0", "$1", "12.50 EUR", "1e2e3"],
        );
    }

    #[test]
    fn prints_two_decimals() {
        assert_eq!(Money(5).to_string(), "0.05");
        assert_eq!(Money(-1250).to_string(), "-12.50");
    }
}
