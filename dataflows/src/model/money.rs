//! Exact amounts of money.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Mul, Sub, SubAssign};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An amount in minor units (1/100 of the currency). It never passes through a float, and sums stop at the greatest
/// amount that fits 64 bits instead of wrapping around.
///
/// As text it has exactly two decimals: `12.50`. Parsing takes what JSON calls a number, up to two
/// decimals (`3`, `3.1`, `3.14`, `314e-2`); more decimals are an error rather than rounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Money(pub i64);

/// Why a text is no amount of money.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MoneyError {
    /// The text is not a decimal number.
    #[error("not a decimal number")]
    NotANumber,
    /// The text has a minus sign.
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

    /// Parses a non-negative amount of at most `max`.
    ///
    /// # Errors
    /// Says what is wrong with the text; see [`MoneyError`].
    #[inline]
    pub fn parse(text: &[u8], max: Money) -> Result<Money, MoneyError> {
        let mut minor: u64 = 0;
        let mut digits = 0usize;
        let mut decimals: Option<usize> = None;
        for (at, &byte) in text.iter().enumerate() {
            match byte {
                b'0'..=b'9' => {
                    digits += 1;
                    // Eighteen digits fit; longer ones go the slow way.
                    if digits > 18 {
                        return Self::parse_scientific(text, max);
                    }
                    minor = minor * 10 + u64::from(byte - b'0');
                    if let Some(count) = &mut decimals {
                        *count += 1;
                    }
                }
                b'.' if decimals.is_none() && digits > 0 => decimals = Some(0),
                b'-' if at == 0 => return Err(Self::negative(&text[1..])),
                b'e' | b'E' if digits > 0 && decimals != Some(0) => {
                    return Self::parse_scientific(text, max);
                }
                _ => return Err(MoneyError::NotANumber),
            }
        }
        if digits == 0 || decimals == Some(0) {
            return Err(MoneyError::NotANumber);
        }
        let scale = match decimals {
            None => 100,
            Some(1) => 10,
            Some(2) => 1,
            Some(_) => return Err(MoneyError::TooManyDecimals),
        };
        Self::bounded(minor.checked_mul(scale), max)
    }

    fn negative(rest: &[u8]) -> MoneyError {
        match Self::parse(rest, Money(i64::MAX)) {
            Err(MoneyError::NotANumber) => MoneyError::NotANumber,
            _ => MoneyError::Negative,
        }
    }

    fn bounded(minor: Option<u64>, max: Money) -> Result<Money, MoneyError> {
        minor
            .and_then(|minor| i64::try_from(minor).ok())
            .filter(|minor| *minor <= max.0)
            .map(Money)
            .ok_or(MoneyError::TooLarge)
    }

    /// The rare forms: an exponent, or more digits than fit a word.
    fn parse_scientific(text: &[u8], max: Money) -> Result<Money, MoneyError> {
        let text = std::str::from_utf8(text).map_err(|_| MoneyError::NotANumber)?;
        let (mantissa, exponent) = match text.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().map_err(|_| MoneyError::NotANumber)?),
            None => (text, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits: String = [whole, fraction].concat();
        if whole.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(MoneyError::NotANumber);
        }
        let decimals = i64::try_from(fraction.len()).unwrap_or(i64::MAX) - i64::from(exponent);
        if decimals > 2 {
            return Err(MoneyError::TooManyDecimals);
        }
        let digits = digits.trim_start_matches('0');
        if digits.is_empty() {
            return Ok(Money::ZERO);
        }
        let power = u32::try_from(2 - decimals).map_err(|_| MoneyError::TooLarge)?;
        let minor = digits.parse::<u64>().ok();
        Self::bounded(minor.and_then(|minor| minor.checked_mul(10u64.checked_pow(power)?)), max)
    }

    /// The amount in major units, for ratios and scores only.
    #[inline]
    pub fn to_f64(self) -> f64 {
        self.0 as f64 / 100.0
    }
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
    fn reads_up_to_two_decimals_exactly() {
        assert_eq!(parse("0"), Ok(0));
        assert_eq!(parse("12"), Ok(1200));
        assert_eq!(parse("12.5"), Ok(1250));
        assert_eq!(parse("0.29"), Ok(29));
        assert_eq!(parse("99999999.99"), Ok(9_999_999_999));
        assert_eq!(parse("125e-1"), Ok(1250));
        assert_eq!(parse("1.25e2"), Ok(12_500));
        assert_eq!(parse("0000000000000000000000.10"), Ok(10));
    }

    #[test]
    fn refuses_what_is_not_whole_cents_or_negative_or_too_large() {
        assert_eq!(parse("0.001"), Err(MoneyError::TooManyDecimals));
        assert_eq!(parse("1.100"), Err(MoneyError::TooManyDecimals));
        assert_eq!(parse("1e-3"), Err(MoneyError::TooManyDecimals));
        assert_eq!(parse("-1.00"), Err(MoneyError::Negative));
        assert_eq!(parse("100000000.00"), Err(MoneyError::TooLarge));
        assert_eq!(parse("1e300"), Err(MoneyError::TooLarge));
        for bad in ["", ".", "1.", ".5", "1.2.3", "abc", "1,5", "-", "1e", "NaN", "+1", "1.e2"] {
            assert_eq!(parse(bad), Err(MoneyError::NotANumber), "{bad}");
        }
    }

    #[test]
    fn prints_two_decimals() {
        assert_eq!(Money(5).to_string(), "0.05");
        assert_eq!(Money(-1250).to_string(), "-12.50");
    }
}
