//! What tests and benchmarks need inside the program: made-up activations, and places to end a process at.

mod activations;
mod failpoints;

pub use activations::SyntheticUnit;
pub use failpoints::failpoint;
