//! harvestd: harvest a language model's activations.
//!
//! One binary shards a text corpus, runs a language model's forward pass, captures activations at
//! named sites, stores them as Parquet shards exactly once, and trains sparse autoencoders online.
//!
//! # The data path, in the order the data flows
//!
//! ```text
//! corpus -> documents -> tokens -> packed sequences -> forward pass with taps -> ActivationBatch -+-> shard -> store -> commit
//!                                                                                                 +-> buffer -> trainer -> checkpoint
//! ```
//!
//! | folder | owns | does not know |
//! |---|---|---|
//! | [`error`], [`units`], [`accounting`] | errors and their seven kinds, human units, counts of dropped data | anything above |
//! | [`runtime`], [`telemetry`] | seeds, queues, shutdown; metrics and logs | models, corpora |
//! | [`compute`] | the op vocabulary; f64 reference and CPU implementations | what is computed |
//! | [`corpus`] | listings, work units, readers: bytes to documents | tokens |
//! | [`tokens`] | tokeniser, packing: documents to token batches | models |
//! | [`hooks`] | names of sites, selection, taps | architectures |
//! | [`model`] | architectures, weights: token batches to hidden states | where activations go |
//! | [`activation`] | the central value: kept rows of every captured site | files, networks |
//! | [`dataset`] | the storage format: bytes at rest | networks, async |
//! | [`store`] | bytes to and from object storage | what the bytes mean |
//! | [`hub`] | models from a hub into the cache shared with Python | what the files mean |
//! | [`catalog`], [`sink`] | dataset decisions applied to a store | models |
//! | [`replay`] | stored shards back to batches, in the order of the run or shuffled | networks |
//! | [`shuffle`], [`import`], [`export`] | datasets made from datasets, from others' files; rows in others' formats | networks |
//! | [`sae`] | the maths of sparse coders | where rows come from, I/O |
//! | [`evaluation`] | how good a coder is: metrics as plain maths | I/O, models |
//! | [`features`] | what its latents stand for: contexts, tokens, neighbours | I/O, models |
//! | [`trainer`] | the online loop: mixing buffer, step, checkpoint | I/O |
//! | [`report`] | evaluations as JSON and as a page | where they come from |
//! | [`config`] | YAML to a resolved pipeline, all problems at once | running things |
//! | [`pipeline`] | stages, queues, lifecycle | HTTP, command line |
//! | [`admin`], [`daemon`], [`cli`] | HTTP endpoints; many pipelines in one process; commands | - |
//!
//! Who may import whom is a table in `tests/architecture.rs` and is tested there.
#![deny(unsafe_op_in_unsafe_fn, clippy::undocumented_unsafe_blocks)]
#![warn(missing_docs, unreachable_pub)]
// what `clippy.toml` bans, and ways to stop that are not an error: outside tests
#![cfg_attr(not(test), warn(clippy::disallowed_methods, clippy::unwrap_used, clippy::panic))]
#![warn(clippy::await_holding_lock, clippy::todo, clippy::unimplemented, clippy::dbg_macro)]

pub mod accounting;
pub mod activation;
pub mod admin;
pub mod catalog;
pub mod cli;
pub mod compute;
pub mod config;
pub mod corpus;
pub mod daemon;
pub mod dataset;
pub mod error;
pub mod evaluation;
pub mod export;
pub mod features;
pub mod hooks;
pub mod hub;
pub mod import;
pub mod model;
pub mod pipeline;
pub mod replay;
pub mod report;
pub mod roofline;
pub mod runtime;
pub mod sae;
pub mod shuffle;
pub mod sink;
pub mod store;
pub mod telemetry;
pub mod testing;
pub mod tokens;
pub mod trainer;
pub mod units;
