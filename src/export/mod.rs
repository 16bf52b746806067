//! Stored activations, and what latents stand for, in formats that others read, written to any store.
//!
//! Coders are exported where they are made ([`crate::sae::export`]); this is for rows and for features. A format is one file.
//! Those of rows read a dataset through [`crate::replay`] in the order in which it lies, and say how many rows they could not
//! place.

pub mod delphi;
pub mod features;
pub mod neuronpedia;
mod saelens_cache;

pub use saelens_cache::{CacheOptions, Exported, write};
