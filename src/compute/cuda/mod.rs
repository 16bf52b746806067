//! NVIDIA GPUs: what is there, and the kernels that will compute on them.
//!
//! Nothing of CUDA is needed to build or to start this crate. Every library is opened at run time, each symbol is looked
//! up before it is called, and what is missing becomes an [`Unavailable`] that says what to do.
//!
//! - [`probe`] asks the driver for its version and its devices;
//! - [`libraries`] finds the toolkit's libraries in the places where they are installed;
//! - [`nvrtc`] compiles kernels at run time, [`cache`] keeps the results;
//! - [`kernels`] are the kernels: their source, and for each its arguments and the shape of its launch.
//!
//! No backend is made of these yet: pipelines compute on the CPU ([`COMPUTES`]).

pub mod cache;
pub mod kernels;
pub mod libraries;
pub mod nvrtc;
pub mod probe;

pub use libraries::Libraries;
pub use probe::{Gpu, Probe, Unavailable};

/// Whether pipelines can compute on a GPU in this build.
pub const COMPUTES: bool = false;

/// The oldest compute capability that the kernels are compiled for: bfloat16 products on tensor cores, asynchronous copies.
pub const LEAST_CAPABILITY: (i32, i32) = (8, 0);

/// The oldest driver that loads them: CUDA 12.4.
pub const LEAST_DRIVER: i32 = 12040;
