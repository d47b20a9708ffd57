//! The fields of one JSON record, and what each type of field takes.

use std::fmt;

use adtide_dataflows::model::{AdId, EventTime, Money};
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Why a record can't be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bad(pub String);

impl Bad {
    /// A required field is not there.
    pub fn missing(name: &str) -> Bad {
        Bad(format!("{name} is missing"))
    }

    fn ill_typed(name: &str) -> Bad {
        Bad(format!("{name} is ill-typed"))
    }
}

/// The known fields of a record. The values stay JSON text until somebody asks, so that numbers keep their
/// digits and nothing of an unknown field matters.
pub struct Fields<'a> {
    known: &'static [&'static str],
    values: Vec<Option<&'a str>>,
}

/// A field's value; other types are no field of ours.
enum Value<'a> {
    Text(String),
    Number(&'a str),
}

impl<'a> Fields<'a> {
    /// Reads a line; of a repeated field the last one stands.
    pub fn read(line: &'a [u8], known: &'static [&'static str]) -> Result<Self, Bad> {
        let line = std::str::from_utf8(line).map_err(|_| Bad("not UTF-8".into()))?;
        let mut json = serde_json::Deserializer::from_str(line);
        let values = json.deserialize_map(KnownFields(known)).map_err(|error| Bad(error.to_string()))?;
        json.end().map_err(|error| Bad(error.to_string()))?;
        if deepest(line) > MAX_DEPTH {
            return Err(Bad("nested too deeply".into()));
        }
        Ok(Fields { known, values })
    }

    fn value(&self, name: &str) -> Result<Option<Value<'a>>, Bad> {
        let Some(json) = self.known.iter().position(|known| *known == name).and_then(|at| self.values[at]) else {
            return Ok(None);
        };
        match json.as_bytes().first() {
            Some(b'n') => Ok(None),
            Some(b'"') => match serde_json::from_str(json) {
                Ok(text) => Ok(Some(Value::Text(text))),
                Err(_) => Err(Bad::ill_typed(name)),
            },
            Some(b'-' | b'0'..=b'9') => Ok(Some(Value::Number(json))),
            _ => Err(Bad::ill_typed(name)),
        }
    }

    /// A field that must be there.
    pub fn required<T>(&self, name: &str, read: impl Fn(&Self, &str) -> Result<Option<T>, Bad>) -> Result<T, Bad> {
        read(self, name)?.ok_or_else(|| Bad::missing(name))
    }

    /// A string.
    pub fn text(&self, name: &str) -> Result<Option<String>, Bad> {
        match self.value(name)? {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(Value::Number(_)) => Err(Bad::ill_typed(name)),
        }
    }

    /// A textual id: a string, or an integer taken as its digits.
    pub fn id_text(&self, name: &str) -> Result<Option<String>, Bad> {
        match self.value(name)? {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(Value::Number(number)) if is_integer(number) => Ok(Some(number.to_string())),
            Some(Value::Number(_)) => Err(Bad::ill_typed(name)),
        }
    }

    /// A BIGINT: an integer, or a string that is one.
    pub fn bigint(&self, name: &str) -> Result<Option<i64>, Bad> {
        match self.value(name)? {
            None => Ok(None),
            Some(Value::Text(text)) => bigint(&text).map(Some).ok_or_else(|| Bad::ill_typed(name)),
            Some(Value::Number(number)) => bigint(number).map(Some).ok_or_else(|| Bad::ill_typed(name)),
        }
    }

    /// The id of an ad: any string, or a BIGINT number.
    pub fn ad_id(&self, name: &str) -> Result<Option<AdId>, Bad> {
        match self.value(name)? {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(AdId::from_text(&text))),
            Some(Value::Number(number)) => match bigint(number) {
                Some(number) => Ok(Some(AdId::Number(number))),
                None => Err(Bad::ill_typed(name)),
            },
        }
    }

    /// An event time: a text form, or epoch milliseconds as an integer.
    pub fn time(&self, name: &str, latest: EventTime) -> Result<Option<EventTime>, Bad> {
        let time = match self.value(name)? {
            None => return Ok(None),
            Some(Value::Text(text)) => EventTime::parse(&text),
            Some(Value::Number(number)) => {
                EventTime::from_epoch_ms(bigint(number).ok_or_else(|| Bad::ill_typed(name))?)
            }
        };
        match time {
            Ok(time) if time > latest => Err(Bad(format!("{name} {time} lies too far ahead"))),
            Ok(time) => Ok(Some(time)),
            Err(error) => Err(Bad(format!("{name} is {error}"))),
        }
    }

    /// An amount of money, as a number or a string.
    pub fn money(&self, name: &str, max: Money) -> Result<Option<Money>, Bad> {
        let parsed = match self.value(name)? {
            None => return Ok(None),
            Some(Value::Text(text)) => Money::parse(text.as_bytes(), max),
            Some(Value::Number(number)) => Money::parse(number.as_bytes(), max),
        };
        parsed.map(Some).map_err(|error| Bad(format!("{name} is {error}")))
    }

    /// A rate: a finite number from 0 up, as a number or a string.
    pub fn rate(&self, name: &str) -> Result<Option<f64>, Bad> {
        let parsed = match self.value(name)? {
            None => return Ok(None),
            Some(Value::Text(text)) => text.parse::<f64>(),
            Some(Value::Number(number)) => number.parse::<f64>(),
        };
        match parsed {
            Ok(rate) if rate.is_finite() && rate >= 0.0 => Ok(Some(rate)),
            _ => Err(Bad::ill_typed(name)),
        }
    }
}

/// An optional minus and digits.
fn is_integer(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// A BIGINT as text.
pub fn bigint(text: &str) -> Option<i64> {
    if is_integer(text) { text.parse().ok() } else { None }
}

/// Reads an object into the values of the known fields, in their order.
struct KnownFields(&'static [&'static str]);

impl<'de> Visitor<'de> for KnownFields {
    type Value = Vec<Option<&'de str>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut values = vec![None; self.0.len()];
        while let Some(key) = map.next_key::<String>()? {
            match self.0.iter().position(|known| *known == key) {
                Some(at) => values[at] = Some(map.next_value::<&RawValue>()?.get()),
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(values)
    }
}

/// Objects and arrays within each other that a record may have, itself included.
const MAX_DEPTH: i32 = 127;

/// How deep the brackets of a valid JSON text go.
fn deepest(json: &str) -> i32 {
    let mut outside_of_text = json.replace("\\\\", "").replace("\\\"", "");
    outside_of_text = outside_of_text.split('"').step_by(2).collect();
    let mut level = 0;
    let levels = outside_of_text.chars().map(|bracket| {
        level += match bracket {
            '{' | '[' => 1,
            '}' | ']' => -1,
            _ => 0,
        };
        level
    });
    levels.max().unwrap_or(0)
}
