//! Bytes at rest: the storage format. No network, no async.
pub mod config;
