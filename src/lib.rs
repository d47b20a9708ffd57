//! adtide: the stream processor for advertising platforms.

pub mod verify;
