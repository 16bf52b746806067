//! What tests and benchmarks need inside the program: made-up activations and datasets, a store that fails, and places to
//! end a process at.
//!
//! The program itself calls only [`failpoint`], which is nothing in a build without the feature. Everything else is for
//! tests and benchmarks: seeded or scripted, it neither reads the time nor draws at random.

mod activations;
pub mod datasets;
mod failpoints;
mod faulty_store;

pub use activations::SyntheticUnit;
pub use failpoints::{FAILPOINTS, failpoint};
pub use faulty_store::{Fails, FaultyStore};
