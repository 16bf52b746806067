//! What tests and benchmarks need inside the program: made-up activations, and places to end a process at.
//!
//! The program itself calls only [`failpoint`], which is nothing in a build without the feature. Everything else is for
//! tests and benchmarks, and may use whatever it likes.

mod activations;
mod failpoints;

pub use activations::SyntheticUnit;
pub use failpoints::failpoint;
