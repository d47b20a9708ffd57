//! From the bytes of a record to an event, or to the reason why it can't be read.
//!
//! [`Scanner`] reads flat JSON objects without building anything. Whatever it does not know (escapes, nested
//! values, unusual numbers) goes to serde_json; both fill the same [`Fields`], so the event that comes out
//! does not depend on which of them ran.

mod event;
mod fields;
mod json;
mod scan;

pub use event::{ad_event, campaign_event, conversion_event, product_meta, product_metrics};
pub use fields::{Field, Fields, Raw};
pub use scan::Scanner;

use crate::model::{MoneyError, TimeError};

/// The longest record that is read, in bytes.
pub const MAX_RECORD_BYTES: usize = 1 << 20;

/// Why a record can't be read. `Display` is the full sentence; [`BadRecord::reason`] the name it is counted
/// by.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRecord {
    /// Longer than [`MAX_RECORD_BYTES`].
    #[error("the record has {0} bytes; at most {MAX_RECORD_BYTES} are read")]
    TooLarge(u64),
    /// Not UTF-8.
    #[error("not UTF-8 at byte {0}")]
    NotUtf8(usize),
    /// Not JSON, or not a JSON object.
    #[error("not a JSON object: {0}")]
    NotJson(String),
    /// Begins as Confluent's serializers write Avro, Protobuf or JSON Schema: a byte 0 and the id of a
    /// schema.
    #[error(
        "begins with a byte 0 and the schema id {0}, as the serializers of a schema registry write; want plain JSON without \
         that prefix"
    )]
    SchemaRegistry(u32),
    /// A required field is missing, null, or an unknown id.
    #[error("field {0} is missing")]
    Missing(Field),
    /// The first required field is missing, but there is an object of that name in which an envelope has its
    /// record.
    #[error(
        "field {0} is missing: the record looks like an envelope whose fields are in {1:?}; want them unwrapped"
    )]
    Envelope(Field, &'static str),
    /// A field has a value of the wrong type.
    #[error("field {0} has the wrong type; want {1}")]
    IllTyped(Field, &'static str),
    /// The event type is not one of the topic's.
    #[error("unknown event_type {0:?}")]
    UnknownEventType(String),
    /// No event time, or one that can't be.
    #[error("timestamp_field: {0}")]
    Time(TimeError),
    /// Later than the record's own timestamp by more than `max_future_skew`.
    #[error("timestamp_field {0} lies further in the future than max_future_skew allows")]
    FutureTime(crate::model::EventTime),
    /// The record's own timestamp is ahead of the reader's clock by more than `max_future_skew`.
    #[error("the record's timestamp {0} lies further ahead of the clock than max_future_skew allows")]
    FutureTimestamp(crate::model::EventTime),
    /// No amount of money.
    #[error("field {0}: {1}")]
    Money(Field, MoneyError),
}

impl BadRecord {
    /// The name by which dead letters are counted.
    pub fn reason(&self) -> &'static str {
        match self {
            BadRecord::TooLarge(_) => "too_large",
            BadRecord::NotUtf8(_) => "not_utf8",
            BadRecord::NotJson(_) => "not_json",
            BadRecord::SchemaRegistry(_) => "looks_like_schema_registry",
            BadRecord::Missing(_) => "missing_field",
            BadRecord::Envelope(..) => "looks_like_envelope",
            BadRecord::IllTyped(..) => "ill_typed_field",
            BadRecord::UnknownEventType(_) => "unknown_event_type",
            BadRecord::Time(TimeError::Format | TimeError::Calendar) => "ill_typed_field",
            BadRecord::Time(_) => "time_out_of_range",
            BadRecord::FutureTime(_) | BadRecord::FutureTimestamp(_) => "time_in_future",
            BadRecord::Money(_, MoneyError::Negative) => "negative_money",
            BadRecord::Money(..) => "bad_money",
        }
    }
}
