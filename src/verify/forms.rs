//! How times, money and ids are written. Nothing here is shared with the parser of a run: two roads to one
//! result.

use adtide_dataflows::model::{AdId, EventTime, Money};
use chrono::NaiveDate;

use super::bad::Bad;

/// The first number that is taken for milliseconds since 1970: 2000-01-01.
const FIRST_NUMBER: i128 = 946_684_800_000;

/// A time in one of the forms of text.
pub fn time_of_text(text: &str) -> Result<EventTime, Bad> {
    let form = || Bad::new("ill_typed_field", format!("{text:?} is no time"));
    let (seconds, fraction) = seconds(text).ok_or_else(form)?;
    let digits = format!("{fraction:0<3}");
    let ms = digits.get(..3).and_then(|digits| digits.parse::<i64>().ok()).ok_or_else(form)?;
    in_range(i128::from(seconds) * 1000 + i128::from(ms), 0)
}

/// A time as a number.
pub fn time_of_number(number: &str) -> Result<EventTime, Bad> {
    if !is_integer(number) {
        return Err(Bad::new("ill_typed_field", format!("the time {number} is no integer")));
    }
    // A number that does not fit is out of range as well.
    in_range(number.parse().unwrap_or(i128::MAX), FIRST_NUMBER)
}

fn in_range(ms: i128, first: i128) -> Result<EventTime, Bad> {
    let time = i64::try_from(ms).ok().filter(|_| ms >= first && ms <= i128::from(EventTime::LAST.0));
    time.map(EventTime)
        .ok_or_else(|| Bad::new("time_out_of_range", format!("the time {ms} ms is out of range")))
}

/// The seconds since 1970, and the digits of the fraction.
fn seconds(text: &str) -> Option<(i64, &str)> {
    let part =
        |from: usize, to: usize| text.get(from..to).filter(|part| part.bytes().all(|b| b.is_ascii_digit()));
    let two = |from: usize| part(from, from + 2)?.parse::<u32>().ok();
    let is_at = |at: usize, these: &[u8]| text.as_bytes().get(at).is_some_and(|byte| these.contains(byte));
    if ![(4, &b"-"[..]), (7, b"-"), (10, b"Tt "), (13, b":"), (16, b":")]
        .iter()
        .all(|(at, these)| is_at(*at, these))
    {
        return None;
    }
    let date = NaiveDate::from_ymd_opt(part(0, 4)?.parse().ok()?, two(5)?, two(8)?)?;
    let local = date.and_hms_opt(two(11)?, two(14)?, two(17)?)?;
    let mut rest = text.get(19..)?;
    let mut fraction = "";
    if let Some(after) = rest.strip_prefix('.') {
        rest = after.trim_start_matches(|digit: char| digit.is_ascii_digit());
        fraction = after.strip_suffix(rest).filter(|digits| !digits.is_empty())?;
    }
    Some((local.and_utc().timestamp() - zone(rest)?, fraction))
}

/// How many seconds a zone is ahead of UTC.
fn zone(text: &str) -> Option<i64> {
    if matches!(text, "" | "Z" | "z") {
        return Some(0);
    }
    let (sign, offset) = match text.split_at_checked(1)? {
        ("+", offset) => (1, offset),
        ("-", offset) => (-1, offset),
        _ => return None,
    };
    let (hours, minutes) = match offset.split_once(':') {
        Some(parts) => parts,
        None if offset.len() == 2 => (offset, "00"),
        None => offset.split_at_checked(2)?,
    };
    let number =
        |text: &str| if text.len() == 2 && is_digits(text) { text.parse::<i64>().ok() } else { None };
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    (minutes < 60 && hours * 60 + minutes <= 18 * 60).then_some(sign * (hours * 3600 + minutes * 60))
}

/// An amount of money.
pub fn money(text: &str, max: Money) -> Result<Money, Bad> {
    let bad = |why: &str| Bad::new("bad_money", format!("{text:.40} is {why}"));
    let no_number = || bad("no decimal number");
    let (mantissa, exponent) = match text.find(['e', 'E']) {
        Some(at) => (&text[..at], &text[at + 1..]),
        None => (text, "0"),
    };
    let unsigned = mantissa.strip_prefix('-').unwrap_or(mantissa);
    let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, "0"));
    if !is_digits(whole)
        || !is_digits(fraction)
        || !is_digits(exponent.strip_prefix(['+', '-']).unwrap_or(exponent))
    {
        return Err(no_number());
    }
    let mut digits = [whole, fraction].concat();
    let mut decimals = fraction.len() as i128;
    if digits.bytes().all(|digit| digit == b'0') {
        return Ok(Money::ZERO);
    }
    if mantissa.starts_with('-') {
        return Err(Bad::new("negative_money", format!("{text:.40} is negative")));
    }
    let limit = if exponent.starts_with('-') { i64::MIN } else { i64::MAX };
    decimals -= i128::from(exponent.parse::<i64>().unwrap_or(limit));
    while digits.ends_with('0') {
        digits.pop();
        decimals -= 1;
    }
    let zeros = usize::try_from(2 - decimals).map_err(|_| bad("finer than a cent"))?;
    let digits = digits.trim_start_matches('0');
    let minor = if digits.len().saturating_add(zeros) > 30 {
        None
    } else {
        format!("{digits}{:0<zeros$}", "").parse().ok()
    };
    let minor = minor.filter(|minor| *minor <= max.0);
    minor.map(Money).ok_or_else(|| bad("too much"))
}

/// An optional minus and digits.
pub fn is_integer(text: &str) -> bool {
    is_digits(text.strip_prefix('-').unwrap_or(text))
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// A BIGINT as text.
pub fn bigint(text: &str) -> Option<i64> {
    if is_integer(text) { text.parse().ok() } else { None }
}

/// A BIGINT as a number: also one such as `101.0`.
pub fn bigint_of_number(number: &str) -> Option<i64> {
    bigint(match number.trim_end_matches('0').strip_suffix('.') {
        Some(whole) => whole,
        None => number,
    })
}

/// The id of an ad that a text is: a number if it is what a number is written as.
pub fn ad_id(text: &str) -> AdId {
    match text.parse::<i64>() {
        Ok(number) if number.to_string() == text => AdId::Number(number),
        _ => AdId::Text(text.into()),
    }
}

/// Whether a text is an unknown id.
pub fn is_unknown(id: &str, unknown: &[String]) -> bool {
    let is_it = |text: &String| *text == id.to_lowercase() && text.is_ascii() == id.is_ascii();
    id.is_empty() || unknown.iter().any(is_it)
}

/// Whether a number is an unknown id.
pub fn is_unknown_number(id: i64, unknown: &[String]) -> bool {
    unknown.iter().any(|text| text.parse() == Ok(id))
}
