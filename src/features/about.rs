//! What was looked at: written beside the features.

use serde::{Deserialize, Serialize};

use crate::features::Features;

/// Version of the files.
pub const FORMAT: u32 = 1;

/// A coder, and the text that it was watched on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct About {
    /// [`FORMAT`].
    pub format: u32,
    /// The version that wrote it.
    pub harvestd: String,
    /// The pipeline.
    pub pipeline: String,
    /// The language model: a hub name or a path.
    pub model: String,
    /// The coder's name.
    pub coder: String,
    /// The checkpoint or folder.
    pub from: String,
    /// The sites that it reads.
    pub reads: String,
    /// The sites that it reconstructs.
    pub writes: String,
    /// Those of them through whose part of a decoder row a latent promotes tokens; none if it promotes none.
    #[serde(default)]
    pub promotes_through: String,
    /// Latents.
    pub latents: usize,
    /// `held-out`, or `trained-on`: which documents.
    pub documents: String,
    /// Whether special tokens have codes too.
    pub special_tokens: bool,
    /// Tokens that were read.
    pub tokens: u64,
    /// Those of them that had a code.
    pub rows: u64,
    /// Latents that fired on none of them.
    pub silent: usize,
    /// Rows on which pairs of latents were counted.
    pub rows_paired: u64,
    /// Tokens of a context before its peak, and after it, at most.
    pub context: (usize, usize),
    /// Slices of the sampled contexts.
    pub strata: usize,
}

impl About {
    /// With the numbers of what was found.
    #[must_use]
    pub fn of(self, features: &Features) -> Self {
        let settings = features.collector.settings();
        Self {
            format: FORMAT,
            harvestd: env!("CARGO_PKG_VERSION").to_owned(),
            latents: features.len(),
            tokens: features.collector.tokens(),
            rows: features.collector.rows(),
            silent: features.each().filter(|feature| feature.sizes.n() == 0).count(),
            rows_paired: features.coactivation.rows_counted,
            context: (settings.before, settings.after),
            strata: settings.strata,
            ..self
        }
    }
}
