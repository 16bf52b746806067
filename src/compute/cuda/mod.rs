//! NVIDIA GPUs: what is there, and the kernels that compute on them.
//!
//! Nothing of CUDA is needed to build or to start this crate. Every library is opened at run time, each symbol is looked
//! up before it is called, and what is missing becomes an [`Unavailable`] that says what to do.
//!
//! - [`probe`] asks the driver for its version and its devices;
//! - [`libraries`] finds the toolkit's libraries in the places where they are installed;
//! - [`nvrtc`] compiles kernels at run time, [`cache`] keeps the results;
//! - [`device`] is a device in use: one thread owns it, with its context, stream, memory and modules, and others send it what it
//!   is to do; [`product`] are matrix products by cuBLASLt, [`fault`] is what can go wrong;
//! - [`backend`] is the vocabulary of operations on such a device;
//! - [`kernels`] are the kernels: their source, and for each its arguments and the shape of its launch.
//!
//! None of it has run on a GPU yet: it is proved in an emulator (`docs/gpu.md`).

mod api;
pub mod backend;
pub mod cache;
mod context;
pub mod device;
pub mod fault;
pub mod kernels;
pub mod libraries;
pub mod nvrtc;
pub mod probe;
pub mod product;

pub use backend::Cuda;
pub use device::Device;
pub use fault::Fault;
pub use libraries::Libraries;
pub use probe::{Gpu, Probe, Unavailable};

/// The oldest compute capability that the kernels are compiled for: bfloat16 products on tensor cores, asynchronous copies.
pub const LEAST_CAPABILITY: (i32, i32) = (8, 0);

/// The oldest driver that loads them: CUDA 12.4.
pub const LEAST_DRIVER: i32 = 12040;
