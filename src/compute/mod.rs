//! Arithmetic: a vocabulary of operations and its implementations.
//!
//! [`backend::Backend`] is memory and matrix products; [`model_ops::ModelOps`] is what a transformer's forward pass
//! needs; [`coder_ops::CoderOps`] is what training a sparse coder needs. [`reference`] implements all three naively in
//! f64 and is the definition of correct; [`cpu`] is fast; [`cuda`] is for GPUs. Models and coders are written once over the vocabulary and
//! never ask which device they are on.
//!
//! Buffers are plain, contiguous and row-major; every method states shapes, with these letters: `n` rows, `d` residual
//! or input width, `f` latents, `h` heads, `k` key/value heads (or, for coders, latents kept a row), `e` head width,
//! `m` MLP width, `v` vocabulary, `t` context length.

pub mod backend;
pub mod coder_ops;
pub mod cpu;
pub mod cuda;
pub mod device;
pub mod model_ops;
pub mod projection;
pub mod reference;

pub use backend::Backend;
pub use coder_ops::CoderOps;
pub use model_ops::ModelOps;
