//! The maths of sparse coders: no I/O, no async, no clock.
//!
//! A coder is a composition of blocks that know nothing of each other, so that a variant is another choice of blocks,
//! written as data ([`settings::CoderSettings`]):
//!
//! | block | where | choices |
//! |---|---|---|
//! | selection: pre-activations to code, and back | [`selection`] | row top-k, batch top-k, each latent's top-k of a batch, by the row's norm, one of each range, positive, thresholds, gate |
//! | reconstructions | [`loss::reconstruction`] | from all latents; nested prefixes, of latents or of ranks |
//! | decoder map: parameters to decoder, and back | [`decoder`] | identity, rows normalised, tied to the encoder (with a factor or not), mixtures of data points |
//! | penalties on the code | [`loss::penalty`], [`loss::anneal`] | L1, p-norms, tanh; by decoder norm or not |
//! | branches with a code of their own | [`loss::branch`] | dead latents reconstruct the residual; more latents the input |
//! | constraint on parameters | [`constraint`] | unit decoder rows, thresholds not negative |
//! | start | [`init`], [`kmeans`] | norms of decoder rows, geometric median, centroids of the data |
//! | latents that stopped firing | [`dead`], [`resample`] | tokens since each latent fired; new starts from badly reconstructed rows |
//! | biases outside the gradient | [`bias_control`] | by how often latents fire |
//! | what is remembered besides parameters | [`state`] | inference threshold, annealing |
//! | update | [`optim`] | clipping, schedule, Adam, schedule-free signs, Muon, averages |
//! | rows scaled each by itself | [`rows`] | to one norm, to mean 0 and deviation 1 |
//! | rows that are not trained on | [`infer`], [`codes`] | the code without what only a batch has |
//! | exchange with other tools | [`export`], [`formats`], [`continued`] | folders of SAELens, sparsify, dictionary_learning |
//!
//! [`coders`] has one file for each coder that people train: its YAML keys and its composition. [`coder`] puts the blocks
//! together.
//!
//! Everything is written over [`crate::compute::CoderOps`]: the same code trains in f32 on a device and is checked
//! against finite differences in f64. Gradients are derived by hand and are sparse. Losses are of the *scaled* input
//! `y = scale * x`; a batch has `n` rows of `d` values, a coder `f` latents.

pub mod bias_control;
pub mod coder;
pub mod coders;
pub mod codes;
pub mod config;
pub mod constraint;
pub mod continued;
pub mod dead;
pub mod decoder;
pub mod directions;
pub mod export;
pub mod formats;
pub mod infer;
pub mod init;
pub mod kmeans;
pub mod loss;
mod on_gpu;
pub mod optim;
pub mod params;
pub mod resample;
pub mod rows;
pub mod scales;
pub mod selection;
pub mod settings;
pub mod skip;
pub mod state;
pub mod target;

pub use coder::{Batch, BatchReport, Coder};
pub use params::{Gradients, Params};
pub use settings::CoderSettings;
