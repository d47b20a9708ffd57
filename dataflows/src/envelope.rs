//! What a record has beside its value.

use crate::judgement::Stamp;

/// Where in its partition a record stands, and what it carries beside its value.
#[derive(Clone, Copy, Debug)]
pub struct Envelope<'a> {
    /// Its offset.
    pub offset: u64,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its own timestamp.
    pub stamp: Stamp,
}

impl Envelope<'_> {
    /// Of a record that has nothing but a value.
    pub fn at(offset: u64) -> Envelope<'static> {
        Envelope { offset, key: None, stamp: Stamp::None }
    }
}
