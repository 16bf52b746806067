//! The maths of sparse coders: no I/O, no async, no clock.
//!
//! A coder is a composition of parts that know nothing of each other, so that a variant is another choice of parts:
//!
//! | part | file | what TopK uses |
//! |---|---|---|
//! | parameters and their start | [`params`], [`init`] | unit decoder rows, encoder = decoder, geometric median |
//! | code and its gradient | [`topk`] | the k largest positive pre-activations of a row |
//! | branches: reconstructions that share the pre-activations | [`branch`] | the input; for dead latents, the residual |
//! | constraint on parameters | [`constraint`] | decoder rows of norm 1 |
//! | latents that stopped firing | [`dead`] | tokens since each latent fired |
//! | update | [`optim`] | clipping, schedule, Adam |
//! | exchange with other tools | [`export`] | SAELens folders |
//!
//! Everything is written over [`crate::compute::CoderOps`]: the same code trains in f32 on a device and is checked
//! against finite differences in f64. Gradients are derived by hand. Losses are of the *scaled* input `y = scale * x`;
//! a batch has `n` rows of `d` values, a coder `f` latents.

pub mod branch;
pub mod config;
pub mod constraint;
pub mod dead;
pub mod export;
pub mod init;
pub mod optim;
pub mod params;
pub mod topk;

pub use params::{Gradients, Params};
pub use topk::{TopkCoder, TopkSettings};
