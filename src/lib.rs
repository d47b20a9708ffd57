//! adtide: the stream processor for advertising platforms.
