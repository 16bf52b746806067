//! Stored activations in other tools' formats, written to any store.
//!
//! Coders are exported where they are made ([`crate::sae::export`]); this is for rows. A format is one file, which reads a
//! dataset through [`crate::replay`] in the order in which it lies, and says how many rows it could not place.

mod saelens_cache;

pub use saelens_cache::{CacheOptions, Exported, write};
