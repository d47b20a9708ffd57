//! Why records can't be read.

use std::fmt;

/// Why a record can't be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bad {
    /// By what name it is counted.
    pub reason: &'static str,
    why: String,
}

impl Bad {
    /// A reason and a few words.
    pub fn new(reason: &'static str, why: impl Into<String>) -> Bad {
        Bad { reason, why: why.into() }
    }

    /// A required field is not there.
    pub fn missing(name: &str) -> Bad {
        Bad::new("missing_field", format!("{name} is missing"))
    }

    /// The event type is none of the topic's.
    pub fn unknown_type(event_type: &str) -> Bad {
        Bad::new("unknown_event_type", format!("event_type {event_type:.40?} is unknown"))
    }

    /// A field has another type.
    pub fn ill_typed(name: &str) -> Bad {
        Bad::new("ill_typed_field", format!("{name} is ill-typed"))
    }
}

impl fmt::Display for Bad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, self.why)
    }
}
