//! Bytes at rest: the storage format of activations. No network, no async; `docs/dataset-format.md` is its contract.
//!
//! ```text
//! dataset.json                          DatasetHeader   written first, once
//! shards/<unit>-<part>[-<attempt>].parquet  ShardEncoder  one row a kept token
//! commits/<unit>-<part>.json            Commit          put if absent, after the shard is durable
//! manifests/<generation>.json           Manifest        put if absent: what commits said, by the thousand
//! manifests/<generation>-<sum>.parquet  segment         one row a commit that a manifest covers
//! columns/<name>/                       a column group: a dataset of more sites with the same rows
//! ```
//!
//! A shard exists if and only if its commit exists. The rows of a unit are cut into parts at sequence borders by a rule
//! that looks at nothing but the rows ([`encoder::fits`]), and a part's bytes depend on its rows alone: whoever computes a
//! unit, in whichever batches, writes the same objects. What to do next is a pure function of the commits
//! ([`commit::unit_progress`]).

pub mod columns;
pub mod commit;
pub mod config;
pub mod decoder;
pub mod encoder;
pub mod header;
mod id_pages;
pub mod manifest;
mod page_buffers;
pub mod paths;
pub mod places;
pub mod sample;
pub mod schema;
pub mod segment;
mod site_pages;
pub mod stats;
pub mod values;

pub use page_buffers::PageBuffers;

#[cfg(test)]
mod tests;
