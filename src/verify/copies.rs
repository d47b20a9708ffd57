//! The records that `late-events` and `dead-letter` hold copies of, held against the records themselves.

use std::collections::BTreeMap;

use adtide_dataflows::model::{EventTime, Topic};
use adtide_dataflows::oracle::Location;
use data_encoding::HEXLOWER_PERMISSIVE;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::input::{Input, Offsets, TopicRecord};

/// Of a longer record, only the head is kept.
const LONGEST: usize = 1_048_576;

/// The fields of a record of an output topic that repeat a record of an input topic.
#[derive(Deserialize)]
pub struct Copied {
    key: Option<String>,
    key_hex: Option<String>,
    #[serde(default)]
    key_truncated: bool,
    timestamp: Option<i64>,
    value: Option<String>,
    value_hex: Option<String>,
    #[serde(default)]
    value_truncated: bool,
}

/// A text of a copy: not the text, of which there may be too much to hold, but by what it can be compared.
struct Part {
    length: usize,
    digest: [u8; 32],
    /// Whether more may follow in the original.
    is_head: bool,
}

struct Copy {
    /// The output topic.
    topic: &'static str,
    key: Option<Part>,
    timestamp: Option<i64>,
    value: Option<Part>,
    /// What differs; None until the original has been read.
    differs: Option<&'static str>,
}

/// The copies by what they are copies of. To be filled before the input is read, and asked afterwards.
#[derive(Default)]
pub struct Copies(BTreeMap<Location, Vec<Copy>>);

impl Copies {
    /// Takes a copy that `topic` has of a record.
    pub fn add(&mut self, topic: &'static str, of: Location, copied: &Copied) {
        let key = Part::new(copied.key.as_deref(), copied.key_hex.as_deref(), copied.key_truncated);
        let value = Part::new(copied.value.as_deref(), copied.value_hex.as_deref(), copied.value_truncated);
        let copy = Copy { topic, key, timestamp: copied.timestamp, value, differs: None };
        self.0.entry(of).or_default().push(copy);
    }

    /// In what a copy differs from its original.
    pub fn differs(&self, topic: &str, of: Location) -> Option<&'static str> {
        self.0.get(&of)?.iter().filter(|copy| copy.topic == topic).find_map(|copy| copy.differs)
    }

    fn see(&mut self, topic: Topic, record: &TopicRecord<'_>) {
        let location = Location { topic, partition: record.partition, offset: record.offset };
        for copy in self.0.get_mut(&location).into_iter().flatten() {
            let same_key = match (&copy.key, record.key) {
                (Some(part), Some(key)) => part.is_of(key),
                (None, None) => true,
                _ => false,
            };
            copy.differs =
                if !copy.value.as_ref().is_some_and(|part| part.is_of(record.value.unwrap_or_default())) {
                    Some("value")
                } else if !same_key {
                    Some("key")
                } else if copy.timestamp.map(EventTime) != record.stamp.time() {
                    Some("timestamp")
                } else {
                    None
                };
        }
    }
}

impl Part {
    /// None if the field is missing or is not in base 16.
    fn new(text: Option<&str>, hex: Option<&str>, is_head: bool) -> Option<Part> {
        let bytes = match (text, hex) {
            // The last character may have been cut in the middle.
            (Some(text), _) if is_head => text.strip_suffix('\u{FFFD}').unwrap_or(text).as_bytes().to_vec(),
            (Some(text), _) => text.as_bytes().to_vec(),
            (None, hex) => HEXLOWER_PERMISSIVE.decode(hex?.as_bytes()).ok()?,
        };
        Some(Part { length: bytes.len(), digest: Sha256::digest(&bytes).into(), is_head })
    }

    fn is_of(&self, original: &[u8]) -> bool {
        let may_be_head = self.is_head || original.len() > LONGEST;
        let fits = if may_be_head { self.length < original.len() } else { self.length == original.len() };
        fits && self.digest[..] == Sha256::digest(&original[..self.length])[..]
    }
}

/// An input whose records are shown to others in passing.
pub struct Watched<'a> {
    /// The input.
    pub input: &'a mut dyn Input,
    /// Held against the records.
    pub copies: &'a mut Copies,
    /// What campaign-status must have made of `campaign-events`; None where there is no ledger.
    pub owners: Option<&'a mut super::owners::Owners>,
}

impl Input for Watched<'_> {
    fn each_record(
        &mut self,
        topic: Topic,
        until: &Offsets,
        each: &mut dyn FnMut(TopicRecord<'_>),
    ) -> anyhow::Result<()> {
        let Watched { input, copies, owners } = self;
        let mut owners = owners.as_deref_mut().filter(|_| topic == Topic::CampaignEvents);
        let mut further = until.clone();
        for (partition, offset) in owners.iter().flat_map(|owners| &owners.until) {
            let until = further.entry(*partition).or_default();
            *until = (*until).max(*offset);
        }
        input.each_record(topic, &further, &mut |record| {
            copies.see(topic, &record);
            if let Some(owners) = &mut owners {
                owners.see(&record);
            }
            each(record);
        })
    }

    fn notes(&self) -> Vec<String> {
        self.input.notes()
    }
}
