//! north.
