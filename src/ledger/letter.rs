//! A record that a worker leaves out.

use adtide_dataflows::model::EventTime;
use adtide_dataflows::record::BadRecord;
use serde_json::json;

use super::feed::{Partition, Record};
use crate::json::{cut, object, original};

/// Why a record is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfit {
    /// The name by which such records are counted.
    pub reason: &'static str,
    /// What is wrong with this one.
    pub detail: String,
}

impl From<BadRecord> for Unfit {
    fn from(bad: BadRecord) -> Unfit {
        Unfit { reason: bad.reason(), detail: bad.to_string() }
    }
}

/// A record that is left out.
#[derive(Clone, Debug)]
pub struct Letter {
    /// Where it was read.
    pub partition: Partition,
    /// Its offset there.
    pub offset: u64,
    /// Why it is left out.
    pub unfit: Unfit,
    /// Its key, where it has one.
    pub key: Option<Vec<u8>>,
    /// Its own timestamp, where it has one.
    pub timestamp: Option<EventTime>,
    /// Its bytes; none of one that is too large to be read.
    pub value: Vec<u8>,
}

impl Letter {
    /// Of a record as it was read.
    pub fn new(record: &Record<'_>, unfit: Unfit) -> Letter {
        let value = record.value.as_ref().and_then(|value| value.as_ref().ok());
        Letter {
            partition: record.partition.clone(),
            offset: record.offset,
            unfit,
            key: record.key.map(<[u8]>::to_vec),
            timestamp: record.timestamp,
            value: value.map(|value| value.to_vec()).unwrap_or_default(),
        }
    }
}

/// A record of `dead-letter` that a ledger worker has left out, with at most `longest` bytes of it. `worker`
/// says that it is one.
pub fn left_out(worker: &str, topic: &str, letter: &Letter, longest: usize) -> String {
    let mut fields = vec![
        ("worker", json!(worker)),
        ("topic", json!(topic)),
        ("partition", json!(letter.partition.number)),
        ("offset", json!(letter.offset)),
        ("reason", json!(letter.unfit.reason)),
        ("detail", json!(cut(&letter.unfit.detail, longest))),
    ];
    fields.extend(original(letter.key.as_deref(), letter.timestamp, &letter.value, longest));
    object(fields)
}
