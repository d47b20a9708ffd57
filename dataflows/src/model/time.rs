//! Event time, and the epochs that carry progress.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The timestamp of the dataflow: milliseconds, one tick for each batch of input. It carries progress
/// and says nothing about when an event happened; that is [`EventTime`].
pub type Epoch = u64;

/// The size of the tumbling windows of statements 2 and 4: five minutes, in milliseconds.
pub const WINDOW_MS: i64 = 5 * 60 * 1000;

/// When an event happened: milliseconds since 1970-01-01T00:00:00Z. Data, not progress.
///
/// As text: `yyyy-MM-dd HH:mm:ss.SSS`, UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EventTime(pub i64);

/// Why a text or number is no event time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TimeError {
    /// None of the three formats.
    #[error("not a time: want 'yyyy-MM-dd HH:mm:ss[.fraction]', RFC 3339, or epoch milliseconds")]
    Format,
    /// Outside 1970-01-01 ..= 9999-12-31.
    #[error("time out of range 1970-01-01 ..= 9999-12-31")]
    Range,
}

impl EventTime {
    /// Before every event.
    pub const MIN: EventTime = EventTime(i64::MIN);
    /// After every event: the watermark of an input that has ended.
    pub const MAX: EventTime = EventTime(i64::MAX);
    /// 9999-12-31 23:59:59.999, the last time that has a text form.
    pub const LAST: EventTime = EventTime(253_402_300_799_999);

    /// The start of the tumbling window that holds this time.
    #[inline]
    pub fn window_start(self) -> EventTime {
        EventTime(self.0 - self.0.rem_euclid(WINDOW_MS))
    }

    /// Later by `ms`, without overflow at either end.
    #[inline]
    pub fn plus(self, ms: i64) -> EventTime {
        EventTime(self.0.saturating_add(ms))
    }

    /// Parses `yyyy-MM-dd HH:mm:ss[.fraction]` (UTC) or RFC 3339. Digits past the millisecond are cut.
    ///
    /// # Errors
    /// [`TimeError::Format`] for any other text, [`TimeError::Range`] for years that can't be.
    #[inline]
    pub fn parse(text: &str) -> Result<EventTime, TimeError> {
        match Self::parse_sql(text.as_bytes()) {
            Some(time) if time.0 >= 0 => Ok(time),
            Some(_) => Err(TimeError::Range),
            None => Self::parse_rfc3339(text),
        }
    }

    /// Takes epoch milliseconds.
    ///
    /// # Errors
    /// [`TimeError::Range`] outside 1970-01-01 ..= 9999-12-31.
    #[inline]
    pub fn from_epoch_ms(ms: i64) -> Result<EventTime, TimeError> {
        let time = EventTime(ms);
        if ms >= 0 && time <= EventTime::LAST { Ok(time) } else { Err(TimeError::Range) }
    }

    /// The hot format, by position. None hands over to the full parser.
    #[inline]
    fn parse_sql(text: &[u8]) -> Option<EventTime> {
        let (head, fraction) = text.split_at_checked(19)?;
        let head: &[u8; 19] = head.try_into().ok()?;
        if (head[4], head[7], head[10], head[13], head[16]) != (b'-', b'-', b' ', b':', b':') {
            return None;
        }
        let two = |at: usize| digits2(head[at], head[at + 1]);
        let year = two(0)? * 100 + two(2)?;
        let (month, day) = (two(5)?, two(8)?);
        let (hour, minute, second) = (two(11)?, two(14)?, two(17)?);
        if hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        if !(1..=12).contains(&month) || day < 1 || day > days_in_month(year, month) {
            return None;
        }
        let seconds = days_from_civil(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
        Some(EventTime(seconds * 1000 + milliseconds(fraction)?))
    }

    #[cold]
    fn parse_rfc3339(text: &str) -> Result<EventTime, TimeError> {
        let bytes = text.as_bytes();
        // jiff reads more of ISO 8601 than RFC 3339 allows: hold it to the date's and zone's form.
        let zoned = bytes.ends_with(b"Z")
            || bytes.ends_with(b"z")
            || (bytes.len() > 6 && matches!(bytes[bytes.len() - 6], b'+' | b'-') && bytes[bytes.len() - 3] == b':');
        if bytes.len() < 20 || !zoned || !matches!(bytes[10], b'T' | b't' | b' ') || text.contains('[') {
            return Err(TimeError::Format);
        }
        let time: jiff::Timestamp = text.parse().map_err(|_| TimeError::Format)?;
        Self::from_epoch_ms(time.as_millisecond())
    }

    /// Appends the text form, `yyyy-MM-dd HH:mm:ss.SSS`, to `out`.
    pub fn write_to(self, out: &mut Vec<u8>) {
        let clamped = self.0.clamp(0, EventTime::LAST.0);
        let (days, ms) = (clamped / 86_400_000, clamped % 86_400_000);
        let (year, month, day) = civil_from_days(days);
        let mut digits = |value: i64, width: u32| {
            for place in (0..width).rev() {
                out.push(b'0' + (value / 10i64.pow(place) % 10) as u8);
            }
            width
        };
        digits(year, 4);
        for (separator, value) in
            [(b'-', month), (b'-', day), (b' ', ms / 3_600_000), (b':', ms / 60_000 % 60), (b':', ms / 1000 % 60)]
        {
            out.push(separator);
            out.push(b'0' + (value / 10) as u8);
            out.push(b'0' + (value % 10) as u8);
        }
        out.push(b'.');
        out.push(b'0' + (ms % 1000 / 100) as u8);
        out.push(b'0' + (ms % 100 / 10) as u8);
        out.push(b'0' + (ms % 10) as u8);
    }
}

impl fmt::Display for EventTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            EventTime::MIN => return f.write_str("-inf"),
            EventTime::MAX => return f.write_str("end"),
            _ => {}
        }
        let mut text = Vec::with_capacity(23);
        self.write_to(&mut text);
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

#[inline]
fn digits2(tens: u8, ones: u8) -> Option<i64> {
    let (tens, ones) = (tens.wrapping_sub(b'0'), ones.wrapping_sub(b'0'));
    (tens < 10 && ones < 10).then(|| i64::from(tens) * 10 + i64::from(ones))
}

/// The milliseconds of `.fraction` (one to nine digits), 0 for no fraction.
#[inline]
fn milliseconds(fraction: &[u8]) -> Option<i64> {
    let Some((dot, digits)) = fraction.split_first() else {
        return Some(0);
    };
    if *dot != b'.' || digits.is_empty() || digits.len() > 9 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digit = |at: usize| digits.get(at).map_or(0, |digit| i64::from(digit - b'0'));
    Some(digit(0) * 100 + digit(1) * 10 + digit(2))
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

/// Days since 1970-01-01 of a date in the Gregorian calendar, counting years from March so that the
/// leap day is a year's last (Hinnant, "chrono-Compatible Low-Level Date Algorithms").
#[inline]
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year / 400, year % 400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// The inverse of [`days_from_civil`], from 1970 on.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month, day_of_year - (153 * shifted + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(text: &str) -> Result<i64, TimeError> {
        EventTime::parse(text).map(|time| time.0)
    }

    #[test]
    fn reads_the_two_text_formats() {
        assert_eq!(ms("1970-01-01 00:00:00"), Ok(0));
        assert_eq!(ms("2024-02-29 12:30:45.1"), Ok(1_709_209_845_100));
        assert_eq!(ms("2024-02-29 12:30:45.123456789"), Ok(1_709_209_845_123));
        assert_eq!(ms("2024-02-29T12:30:45.123Z"), Ok(1_709_209_845_123));
        assert_eq!(ms("2024-02-29T14:30:45+02:00"), Ok(1_709_209_845_000));
    }

    #[test]
    fn refuses_what_is_no_time() {
        for bad in [
            "",
            "now",
            "2024-02-30 00:00:00",
            "2023-02-29 00:00:00",
            "2024-13-01 00:00:00",
            "2024-01-01 24:00:00",
            "2024-01-01",
            "2024-01-01 00:00",
            "2024-01-01 00:00:00.",
            "2024-01-01 00:00:00.1234567890",
            "2024-01-01T00:00:00",
            "1709209845123",
            "2024-01-01 00:00:00 ",
            "2024-01-01T00:00:00Z[UTC]",
        ] {
            assert_eq!(ms(bad), Err(TimeError::Format), "{bad}");
        }
        for early in ["1969-12-31T23:59:59Z", "1969-12-31 23:59:59.999", "0000-01-01 00:00:00", "1600-02-29 00:00:00"] {
            assert_eq!(ms(early), Err(TimeError::Range), "{early}");
        }
        assert_eq!(EventTime::from_epoch_ms(-1), Err(TimeError::Range));
    }

    #[test]
    fn every_day_of_four_centuries_survives_the_round_trip() {
        for day in 0..146_097 {
            let time = EventTime(day * 86_400_000 + 86_399_999);
            assert_eq!(EventTime::parse(&time.to_string()), Ok(time));
        }
        assert_eq!(EventTime::LAST.to_string(), "9999-12-31 23:59:59.999");
    }

    #[test]
    fn windows_are_aligned_to_the_epoch() {
        assert_eq!(EventTime(299_999).window_start(), EventTime(0));
        assert_eq!(EventTime(300_000).window_start(), EventTime(300_000));
    }
}
