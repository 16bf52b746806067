//! Token batches to hidden states: architectures, weights, and their sites.
pub mod config;
