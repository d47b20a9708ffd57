//! The fields of one JSON record, and what each type of field takes.

use std::fmt;

use adtide_dataflows::model::{AdId, EventTime, Money};
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::bad::Bad;
use super::forms;

/// By what records are read, beside their bytes.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// A greater event time is too far ahead.
    pub latest: EventTime,
    /// The texts that stand for an unknown id, in lower case.
    pub unknown: &'a [String],
}

/// The known fields of a record. The values stay JSON text until somebody asks, so that numbers keep their
/// digits and nothing of an unknown field matters, nor of one that its event does not use.
pub struct Fields<'a> {
    rules: Rules<'a>,
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
    pub fn read(line: &'a [u8], rules: &Rules<'a>, known: &'static [&'static str]) -> Result<Self, Bad> {
        if line.first() == Some(&0) && line.len() > 4 {
            return Err(Bad::new("looks_like_schema_registry", "begins with a magic byte and a schema id"));
        }
        let line = std::str::from_utf8(line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line));
        let line = line.map_err(|_| Bad::new("not_utf8", "not UTF-8"))?;
        let not_json = |error: serde_json::Error| Bad::new("not_json", error.to_string());
        let mut json = serde_json::Deserializer::from_str(line);
        let values = json.deserialize_map(KnownFields(known)).map_err(not_json)?;
        json.end().map_err(not_json)?;
        if deepest(line) > MAX_DEPTH {
            return Err(Bad::new("not_json", "nested too deeply"));
        }
        Ok(Fields { rules: *rules, known, values })
    }

    /// The first field that every record of a topic must have. Without it, the record may be an envelope.
    pub fn first<T>(
        &self,
        name: &str,
        read: impl Fn(&Self, &str) -> Result<Option<T>, Bad>,
    ) -> Result<T, Bad> {
        let is_object = |name: &str| self.json(name).is_some_and(|json| json.starts_with('{'));
        read(self, name)?.ok_or_else(|| match ENVELOPES.iter().any(|name| is_object(name)) {
            true => Bad::new("looks_like_envelope", format!("{name} is missing, but there is a payload")),
            false => Bad::missing(name),
        })
    }

    fn json(&self, name: &str) -> Option<&'a str> {
        let all = self.known.iter().chain(&ENVELOPES).zip(&self.values);
        all.into_iter().find(|(known, _)| **known == name).and_then(|(_, json)| *json)
    }

    fn value(&self, name: &str) -> Result<Option<Value<'a>>, Bad> {
        let Some(json) = self.json(name) else { return Ok(None) };
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
    pub fn required<T>(
        &self,
        name: &str,
        read: impl Fn(&Self, &str) -> Result<Option<T>, Bad>,
    ) -> Result<T, Bad> {
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
        let id = match self.value(name)? {
            None => return Ok(None),
            Some(Value::Text(text)) => text,
            Some(Value::Number(number)) if forms::is_integer(number) => number.to_string(),
            Some(Value::Number(_)) => return Err(Bad::ill_typed(name)),
        };
        Ok(Some(id).filter(|id| !forms::is_unknown(id, self.rules.unknown)))
    }

    /// A BIGINT: an integer, also as `101.0`, or a string that is an integer.
    pub fn bigint(&self, name: &str) -> Result<Option<i64>, Bad> {
        let id = match self.value(name)? {
            None => return Ok(None),
            Some(Value::Text(text)) if forms::is_unknown(&text, self.rules.unknown) => return Ok(None),
            Some(Value::Text(text)) => forms::bigint(&text),
            Some(Value::Number(number)) => forms::bigint_of_number(number),
        };
        let id = id.ok_or_else(|| Bad::ill_typed(name))?;
        Ok(Some(id).filter(|id| !forms::is_unknown_number(*id, self.rules.unknown)))
    }

    /// The id of an ad: any string, or a BIGINT number.
    pub fn ad_id(&self, name: &str) -> Result<Option<AdId>, Bad> {
        match self.value(name)? {
            Some(Value::Text(text)) if forms::is_unknown(&text, self.rules.unknown) => Ok(None),
            Some(Value::Text(text)) => Ok(Some(forms::ad_id(&text))),
            _ => Ok(self.bigint(name)?.map(AdId::Number)),
        }
    }

    /// An event time: a text form, or epoch milliseconds as an integer.
    pub fn time(&self, name: &str) -> Result<Option<EventTime>, Bad> {
        match self.value(name)? {
            None => Ok(None),
            Some(Value::Text(text)) => forms::time_of_text(&text).map(Some),
            Some(Value::Number(number)) => forms::time_of_number(number).map(Some),
        }
    }

    /// The event, if it is not too far ahead.
    pub fn believed<E>(&self, time: EventTime, event: E) -> Result<E, Bad> {
        if time <= self.rules.latest {
            return Ok(event);
        }
        Err(Bad::new("time_in_future", format!("the time {time} lies too far ahead")))
    }

    /// An amount of money, as a number or a string.
    pub fn money(&self, name: &str, max: Money) -> Result<Option<Money>, Bad> {
        match self.value(name)? {
            None => Ok(None),
            Some(Value::Text(text)) => forms::money(&text, max).map(Some),
            Some(Value::Number(number)) => forms::money(number, max).map(Some),
        }
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

/// What some editors and exports put before the first character of a text.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The objects in which envelopes have their record.
const ENVELOPES: [&str; 2] = ["payload", "after"];

/// Reads an object into the values of the known fields, in their order, and of those that may be envelopes.
struct KnownFields(&'static [&'static str]);

impl<'de> Visitor<'de> for KnownFields {
    type Value = Vec<Option<&'de str>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut values = vec![None; self.0.len() + ENVELOPES.len()];
        while let Some(key) = map.next_key::<String>()? {
            match self.0.iter().chain(&ENVELOPES).position(|known| *known == key) {
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
