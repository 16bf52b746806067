//! What a coder reconstructs: its input, or something else.
//!
//! | target | reads | reconstructs |
//! |---|---|---|
//! | autoencoder | a row | the row |
//! | crosscoder | the rows of several sites, side by side | the same |
//! | transcoder | a row | the row of another site; with a skip connection, less a linear map of what it reads |
//! | cross-layer transcoder | the rows of several layers | those of another site of the same layers |
//! | boosting | a row | what a frozen coder leaves of it |
//!
//! Several sites side by side make a crosscoder out of any coder: `sum_l x^l W_enc^l` is one product over the
//! concatenation. What a latent's decoder row weighs is then the sum of its parts' norms (Lindsey et al. 2024), in penalties
//! and in rankings.

use crate::compute::coder_ops::CoderDims;
use crate::sae::settings::{CoderSettings, TargetSettings};

impl CoderSettings {
    /// A coder of several sites with these widths, which read and reconstruct one row: `b_dec` is not subtracted.
    #[must_use]
    pub fn of_parts(self, parts: Vec<usize>) -> Self {
        let target = TargetSettings { parts, ..self.target };
        Self { target, subtract_bias: false, ..self }
    }

    /// A coder that reads rows of `d` values and reconstructs others: `b_dec` is not subtracted, and encoder rows start
    /// apart from the decoder's.
    #[must_use]
    pub fn reading(mut self, d: usize) -> Self {
        self.dims = CoderDims { d, ..self.dims };
        self.target.is_input = false;
        self.subtract_bias = false;
        self.start.tied = false;
        self
    }

    /// A transcoder that adds the input linearly to what latents say; see [`crate::sae::skip`].
    #[must_use]
    pub fn with_skip(mut self) -> Self {
        self.target.skip = true;
        self
    }

    /// A coder of several layers: each has as many latents, which read rows of `d` values of their layer and speak to it and
    /// all later ones. There are as many parts of the target as layers, of one width (Ameisen et al. 2025).
    #[must_use]
    pub fn across_layers(self, d: usize, layers: usize) -> Self {
        let mut settings = self.reading(d);
        settings.dims.f *= layers;
        settings.dims.groups = layers;
        settings.target.later_layers = true;
        settings.prefixes.iter_mut().for_each(|prefix| prefix.width = settings.dims.f);
        settings
    }

    /// A coder that reconstructs what another leaves of the row that both read: without `b_dec`, so that it says nothing
    /// where none of its latents is active (Koriagin et al. 2025).
    #[must_use]
    pub fn boosting(mut self) -> Self {
        self.target.is_input = false;
        self.target.bias = false;
        self.subtract_bias = false;
        self.start.median = false;
        self
    }
}
