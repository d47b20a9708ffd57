//! The full parser, for records that the flat scanner hands over.

use std::fmt;

use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::{BadRecord, Field, Fields, Raw};

/// The deepest nesting that is read: the limit that serde_json sets itself where it builds values.
const MAX_DEPTH: usize = 127;

/// Where envelopes have their record: those of Kafka Connect's JSON converter, and of Debezium.
const ENVELOPES: [&str; 2] = ["payload", "after"];

/// The known fields of a record; texts unescaped, all else as it is written.
struct JsonFields<'a> {
    known: Vec<(Field, JsonValue<'a>)>,
    /// Which of [`ENVELOPES`] are objects.
    envelopes: [bool; 2],
}

enum JsonValue<'a> {
    Text(String),
    Bare(&'a str),
}

/// Reads a JSON object with serde_json, and calls `then` with its fields.
///
/// # Errors
/// [`BadRecord::NotJson`] with serde_json's own words; or what `then` finds.
#[cold]
pub fn read<R>(line: &str, then: impl FnOnce(&Fields<'_>) -> Result<R, BadRecord>) -> Result<R, BadRecord> {
    let fields: JsonFields<'_> =
        serde_json::from_str(line).map_err(|error| BadRecord::NotJson(error.to_string()))?;
    if depth(line) > MAX_DEPTH {
        return Err(BadRecord::NotJson(format!("nested deeper than {MAX_DEPTH} levels")));
    }
    then(&fields.fields()).map_err(|bad| match (bad, fields.envelope()) {
        (BadRecord::Missing(field @ (Field::EventType | Field::ProductId)), Some(name)) => {
            BadRecord::Envelope(field, name)
        }
        (bad, _) => bad,
    })
}

impl JsonFields<'_> {
    /// A view of the fields.
    fn fields(&self) -> Fields<'_> {
        let mut fields = Fields::default();
        for (field, value) in &self.known {
            let raw = match value {
                JsonValue::Text(text) => Raw::Text(text),
                JsonValue::Bare("null") => Raw::Absent,
                JsonValue::Bare(bare)
                    if bare.starts_with(|first: char| first == '-' || first.is_ascii_digit()) =>
                {
                    Raw::Number(bare)
                }
                JsonValue::Bare(_) => Raw::Other,
            };
            fields.set(*field, raw);
        }
        fields
    }

    /// The object in which the fields may be.
    fn envelope(&self) -> Option<&'static str> {
        self.envelopes.iter().position(|is_there| *is_there).map(|at| ENVELOPES[at])
    }
}

impl<'de> Deserialize<'de> for JsonFields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(RecordVisitor)
    }
}

struct RecordVisitor;

impl<'de> Visitor<'de> for RecordVisitor {
    type Value = JsonFields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<JsonFields<'de>, M::Error> {
        let mut fields = JsonFields { known: Vec::new(), envelopes: [false; 2] };
        while let Some(name) = map.next_key::<String>()? {
            if let Some(at) = ENVELOPES.iter().position(|envelope| *envelope == name) {
                fields.envelopes[at] = map.next_value::<&'de RawValue>()?.get().starts_with('{');
                continue;
            }
            let Some(field) = Field::of(name.as_bytes()) else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let bare = map.next_value::<&'de RawValue>()?.get();
            // A text that can't be unescaped (half a surrogate pair) stays as it is and has no type.
            let text = if bare.starts_with('"') { serde_json::from_str(bare).ok() } else { None };
            let value = text.map_or(JsonValue::Bare(bare), JsonValue::Text);
            fields.known.push((field, value));
        }
        Ok(fields)
    }
}

/// The deepest nesting of arrays and objects in a well-formed JSON text.
fn depth(json: &str) -> usize {
    let (mut now, mut deepest, mut in_text, mut escaped) = (0usize, 0, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_text,
            b'"' => in_text = !in_text,
            b'{' | b'[' if !in_text => {
                now += 1;
                deepest = deepest.max(now);
            }
            b'}' | b']' if !in_text => now -= 1,
            _ => {}
        }
    }
    deepest
}
