//! How good a coder is: metrics as plain maths over rows, without I/O.
//!
//! Sums are kept in f64 over all rows and divided once; ratios of single batches are never averaged. Everything is in
//! raw space: `x` a row of activations, `y` its reconstruction, `e = x - y`, `c` its code. `docs/evaluation.md` has every
//! definition with its source and units; one family a file:
//!
//! | file | what it says |
//! |---|---|
//! | [`reconstruction`] | how much of the activation is there |
//! | [`language_model`] | what the model loses that reads reconstructions |
//! | [`sparsity`] | how many latents fire, how often each |
//! | [`description`] | bits a row's code takes |
//! | [`dark_matter`] | how much of the error is linear in the input |
//! | [`geometry`] | directions of one dictionary |
//! | [`matching`] | directions of two dictionaries |
//! | [`universality`] | codes of two coders on the same rows |
//! | [`rsa`] | distances between directions of two coders |
//!
//! [`algebra`] has what of linear algebra these need, [`sample`] the rows whose codes are kept for what no running sum can
//! say.

pub mod algebra;
pub mod dark_matter;
pub mod description;
pub mod geometry;
pub mod language_model;
pub mod matching;
pub mod reconstruction;
pub mod rsa;
pub mod sample;
pub mod sparsity;
pub mod universality;

use serde::{Deserialize, Serialize};

use crate::evaluation::language_model::LanguageModelMetrics;
use crate::evaluation::reconstruction::ReconstructionMetrics;
use crate::evaluation::sparsity::SparsityMetrics;

/// Metrics of one coder on held-out text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Reconstruction metrics.
    #[serde(flatten)]
    pub reconstruction: ReconstructionMetrics,
    /// How sparse its codes are.
    #[serde(flatten)]
    pub sparsity: SparsityMetrics,
    /// Metrics in the host model; absent where changing the site changes nothing downstream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language_model: Option<LanguageModelMetrics>,
    /// Mean of the sites' FVU, where a coder reconstructs several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fvu_of_sites: Option<f64>,
    /// Reconstruction metrics of each site, where a coder reconstructs several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sites: Vec<SiteEvaluation>,
}

/// How well one of several sites is reconstructed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SiteEvaluation {
    /// The site.
    pub site: String,
    /// Its metrics.
    #[serde(flatten)]
    pub reconstruction: ReconstructionMetrics,
}

#[cfg(test)]
mod tests;
