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
    /// None of the forms.
    #[error(
        "not a time: want yyyy-MM-dd, T or a space, HH:mm:ss, and if need be a fraction and a zone (Z, +09:00, +0900, +09); \
         or milliseconds since 1970 as an integer"
    )]
    Format,
    /// A text of the right form, but for a day, a time of day or a zone that there is not.
    #[error("there is no such date, time of day or zone")]
    Calendar,
    /// Outside 1970-01-01 ..= 9999-12-31.
    #[error("time out of range 1970-01-01 ..= 9999-12-31")]
    Range,
    /// A number that would be before 2000.
    #[error("the number {0} would be {time}: is it in seconds? Want milliseconds since 1970", time = EventTime(*.0))]
    Seconds(i64),
    /// A number that would be after 9999.
    #[error(
        "the number would be after 9999-12-31: is it in micro- or nanoseconds? Want milliseconds since 1970"
    )]
    Microseconds,
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

    /// The text form without its milliseconds: `yyyy-MM-dd HH:mm:ss`.
    pub fn to_seconds(self) -> String {
        let mut text = self.to_string();
        text.truncate("yyyy-MM-dd HH:mm:ss".len());
        text
    }

    /// Parses `yyyy-MM-dd`, then `T`, `t` or a space, `HH:mm:ss`, and if need be a fraction and a zone: `Z`,
    /// `z`, or an offset of at most 18 hours as `+09:00`, `+0900` or `+09`. Without a zone it is UTC. Digits
    /// past the millisecond are cut, after the range is judged.
    ///
    /// # Errors
    /// [`TimeError::Format`] for any other text, [`TimeError::Calendar`] for a 30th of February,
    /// [`TimeError::Range`] outside 1970-01-01 ..= 9999-12-31.
    #[inline]
    pub fn parse(text: &str) -> Result<EventTime, TimeError> {
        let (head, rest) = text.as_bytes().split_at_checked(19).ok_or(TimeError::Format)?;
        let head: &[u8; 19] = head.try_into().map_err(|_| TimeError::Format)?;
        if (head[4], head[7], head[13], head[16]) != (b'-', b'-', b':', b':')
            || !matches!(head[10], b' ' | b'T' | b't')
        {
            return Err(TimeError::Format);
        }
        let two = |at: usize| digits2(head[at], head[at + 1]).ok_or(TimeError::Format);
        let year = two(0)? * 100 + two(2)?;
        let (month, day) = (two(5)?, two(8)?);
        let (hour, minute, second) = (two(11)?, two(14)?, two(17)?);
        let (ms, zone) = milliseconds(rest)?;
        let offset = zone_seconds(zone)?;
        let is_date = (1..=12).contains(&month) && day >= 1 && day <= days_in_month(year, month);
        if !is_date || hour > 23 || minute > 59 || second > 59 {
            return Err(TimeError::Calendar);
        }
        let seconds =
            days_from_civil(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset;
        if !(0..=EventTime::LAST.0 / 1000).contains(&seconds) {
            return Err(TimeError::Range);
        }
        Ok(EventTime(seconds * 1000 + ms))
    }

    /// Takes epoch milliseconds, from 2000 on: a smaller number is most likely one of seconds, and taken as
    /// it is it would put days into one window.
    ///
    /// # Errors
    /// [`TimeError::Range`] before 1970, [`TimeError::Seconds`] before 2000, [`TimeError::Microseconds`]
    /// after 9999.
    #[inline]
    pub fn from_epoch_ms(ms: i64) -> Result<EventTime, TimeError> {
        const YEAR_2000: i64 = 946_684_800_000;
        match ms {
            ..0 => Err(TimeError::Range),
            0..YEAR_2000 => Err(TimeError::Seconds(ms)),
            _ if ms > EventTime::LAST.0 => Err(TimeError::Microseconds),
            _ => Ok(EventTime(ms)),
        }
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
        for (separator, value) in [
            (b'-', month),
            (b'-', day),
            (b' ', ms / 3_600_000),
            (b':', ms / 60_000 % 60),
            (b':', ms / 1000 % 60),
        ] {
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

/// The milliseconds of `.fraction` (any number of digits, but one at least), 0 without a fraction; and what
/// follows it.
#[inline]
fn milliseconds(rest: &[u8]) -> Result<(i64, &[u8]), TimeError> {
    let Some((b'.', after)) = rest.split_first() else {
        return Ok((0, rest));
    };
    let end = after.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(after.len());
    let (digits, rest) = after.split_at(end);
    if digits.is_empty() {
        return Err(TimeError::Format);
    }
    let digit = |at: usize| digits.get(at).map_or(0, |digit| i64::from(digit - b'0'));
    Ok((digit(0) * 100 + digit(1) * 10 + digit(2), rest))
}

/// How many seconds a zone's clocks are ahead of UTC.
#[inline]
fn zone_seconds(zone: &[u8]) -> Result<i64, TimeError> {
    const MOST_MINUTES: i64 = 18 * 60;
    let (sign, hours, minutes) = match *zone {
        [] | [b'Z' | b'z'] => return Ok(0),
        [sign @ (b'+' | b'-'), h, hh] => (sign, digits2(h, hh), Some(0)),
        [sign @ (b'+' | b'-'), h, hh, m, mm] | [sign @ (b'+' | b'-'), h, hh, b':', m, mm] => {
            (sign, digits2(h, hh), digits2(m, mm))
        }
        _ => return Err(TimeError::Format),
    };
    let (hours, minutes) = hours.zip(minutes).ok_or(TimeError::Format)?;
    if minutes > 59 || hours * 60 + minutes > MOST_MINUTES {
        return Err(TimeError::Calendar);
    }
    let seconds = hours * 3600 + minutes * 60;
    Ok(if sign == b'-' { -seconds } else { seconds })
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
    fn reads_every_text_form() {
        const MS: i64 = 1_709_209_845_000;
        for (text, expected) in [
            ("2024-02-29 12:30:45", MS),
            ("2024-02-29T12:30:45", MS),
            ("2024-02-29t12:30:45", MS),
            ("2024-02-29 12:30:45.1", MS + 100),
            ("2024-02-29T12:30:45.12", MS + 120),
            ("2024-02-29 12:30:45.123456789", MS + 123),
            ("2024-02-29 12:30:45.1239999999999999999999999", MS + 123),
            ("2024-02-29T12:30:45Z", MS),
            ("2024-02-29t12:30:45z", MS),
            ("2024-02-29 12:30:45.123Z", MS + 123),
            ("2024-02-29T14:30:45+02:00", MS),
            ("2024-02-29T14:30:45+0200", MS),
            ("2024-02-29 14:30:45.5+02", MS + 500),
            ("2024-02-29T03:00:45-09:30", MS),
            ("2024-02-29T03:00:45-0930", MS),
            ("2024-03-01T06:30:45+18:00", MS),
            ("2024-02-28T18:30:45-18", MS),
            ("2024-02-29T12:30:45-00:00", MS),
            ("1970-01-01 00:00:00", 0),
            ("1970-01-01T05:00:00+05:00", 0),
            ("1969-12-31T23:00:00-01:00", 0),
            ("9999-12-31T23:59:59.9999999999Z", EventTime::LAST.0),
        ] {
            assert_eq!(ms(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn refuses_every_other_text() {
        for text in [
            "",
            "now",
            "2024-01-01",
            "20240101T000000Z",
            "2024-01-01 00:00",
            "2024-01-01T00:00Z",
            "2024-01-01  00:00:00",
            "2024-01-01_00:00:00",
            "2024-1-1 00:00:00",
            "24-01-01 00:00:00",
            "12024-01-01 00:00:00",
            "-2024-01-01 00:00:00",
            " 2024-01-01 00:00:00",
            "2024-01-01 00:00:00 ",
            "2024-01-01 00:00:00.",
            "2024-01-01 00:00:00.Z",
            "2024-01-01 00:00:00,5",
            "2024-01-01 00:00:00 Z",
            "2024-01-01 00:00:00 +09:00",
            "2024-01-01T00:00:00ZZ",
            "2024-01-01T00:00:00UTC",
            "2024-01-01T00:00:00[UTC]",
            "2024-01-01T00:00:00Z[UTC]",
            "2024-01-01T00:00:00+",
            "2024-01-01T00:00:00+9",
            "2024-01-01T00:00:00+900",
            "2024-01-01T00:00:00+09:0",
            "2024-01-01T00:00:00+09:00:00",
            "2024-01-01T00:00:00+0x:00",
            "2024-01-01T00:00:00+09:00Z",
            "1709209845123",
            "2024-01-01T00:00:0\u{661}",
        ] {
            assert_eq!(ms(text), Err(TimeError::Format), "{text}");
        }
        for text in [
            "2024-02-30 00:00:00",
            "2023-02-29 00:00:00",
            "2024-00-01 00:00:00",
            "2024-13-01 00:00:00",
            "2024-01-00 00:00:00",
            "2024-01-01 24:00:00",
            "2024-01-01 00:60:00",
            "2024-01-01T00:00:60Z",
            "2024-01-01T00:00:00+18:01",
            "2024-01-01T00:00:00+24:00",
            "2024-01-01T00:00:00-19",
            "2024-01-01T00:00:00+09:60",
        ] {
            assert_eq!(ms(text), Err(TimeError::Calendar), "{text}");
        }
        for text in [
            "0000-01-01 00:00:00",
            "1600-02-29 00:00:00",
            "1969-12-31T23:59:59Z",
            "1969-12-31 23:59:59.999",
            "1969-12-31T23:59:59.9999999Z",
            "1970-01-01T00:59:59.9999999+01:00",
            "9999-12-31T23:59:59.999-00:01",
        ] {
            assert_eq!(ms(text), Err(TimeError::Range), "{text}");
        }
    }

    #[test]
    fn numbers_are_milliseconds_from_2000_on() {
        let time = |ms| EventTime::from_epoch_ms(ms);
        for ms in [946_684_800_000, 1_709_209_845_123, EventTime::LAST.0] {
            assert_eq!(time(ms), Ok(EventTime(ms)));
        }
        for ms in [0, 1500, 1_709_209_845, 946_684_799_999] {
            assert_eq!(time(ms), Err(TimeError::Seconds(ms)));
        }
        for ms in [i64::MIN, -1_709_209_845_123, -1] {
            assert_eq!(time(ms), Err(TimeError::Range));
        }
        for ms in [EventTime::LAST.0 + 1, 1_709_209_845_123_456, i64::MAX] {
            assert_eq!(time(ms), Err(TimeError::Microseconds));
        }
        assert_eq!(
            TimeError::Seconds(1_709_209_845).to_string(),
            "the number 1709209845 would be 1970-01-20 18:46:49.845: is it in seconds? Want milliseconds since 1970"
        );
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
