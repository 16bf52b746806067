//! What a language model loses that reads reconstructions in place of activations.

use serde::{Deserialize, Serialize};

/// What the language model loses at one token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenLosses {
    /// Cross-entropy of the next token, untouched model, in nats.
    pub clean: f64,
    /// With reconstructions in place of the site's activations.
    pub spliced: f64,
    /// With zeros in their place.
    pub zero_ablated: f64,
    /// With the mean activation in their place, where it is known.
    pub mean_ablated: Option<f64>,
    /// `KL(clean || spliced)` of the next token's distribution, in nats.
    pub kl: f64,
    /// `KL(clean || zero ablated)`.
    pub kl_zero_ablated: f64,
}

/// Sums for [`LanguageModelMetrics`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LanguageModelSums {
    tokens: u64,
    clean: f64,
    spliced: f64,
    zero_ablated: f64,
    mean_ablated: f64,
    means: u64,
    kl: f64,
    kl_zero_ablated: f64,
}

/// What the language model loses over a sample of tokens; means are over tokens, in nats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LanguageModelMetrics {
    /// Tokens.
    pub tokens: u64,
    /// Mean cross-entropy of the untouched model.
    pub ce_clean: f64,
    /// Mean cross-entropy with reconstructions.
    pub ce_spliced: f64,
    /// `ce_spliced - ce_clean`.
    pub ce_increase: f64,
    /// Mean cross-entropy with zeros.
    pub ce_zero_ablated: f64,
    /// Mean cross-entropy with the mean activation of the sample, where it was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ce_mean_ablated: Option<f64>,
    /// `(ce_zero_ablated - ce_spliced) / (ce_zero_ablated - ce_clean)`: 1 is no loss, 0 is as bad as zeros. (SAELens
    /// `ce_loss_score`, dictionary_learning `frac_recovered`.) Near 1 even for mediocre coders: read it next to
    /// `ce_increase`.
    pub ce_recovered: f64,
    /// The same against the mean activation, which is the stricter of the two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ce_recovered_mean: Option<f64>,
    /// Mean `KL(clean || spliced)`.
    pub kl: f64,
    /// `(KL(clean || zeros) - KL(clean || spliced)) / KL(clean || zeros)`. (SAELens `kl_div_score`.)
    pub kl_recovered: f64,
}

impl LanguageModelSums {
    /// Add a token.
    pub fn add(&mut self, token: &TokenLosses) {
        self.tokens += 1;
        self.clean += token.clean;
        self.spliced += token.spliced;
        self.zero_ablated += token.zero_ablated;
        self.kl += token.kl;
        self.kl_zero_ablated += token.kl_zero_ablated;
        if let Some(mean_ablated) = token.mean_ablated {
            self.mean_ablated += mean_ablated;
            self.means += 1;
        }
    }

    /// The metrics; `None` without tokens.
    pub fn finish(&self) -> Option<LanguageModelMetrics> {
        let n = self.tokens as f64;
        let recovered = |ablated: f64| (ablated - self.spliced) / (ablated - self.clean);
        let with_mean = (self.means == self.tokens).then_some(self.mean_ablated);
        (self.tokens > 0).then(|| LanguageModelMetrics {
            tokens: self.tokens,
            ce_clean: self.clean / n,
            ce_spliced: self.spliced / n,
            ce_increase: (self.spliced - self.clean) / n,
            ce_zero_ablated: self.zero_ablated / n,
            ce_mean_ablated: with_mean.map(|sum| sum / n),
            ce_recovered: recovered(self.zero_ablated),
            ce_recovered_mean: with_mean.map(recovered),
            kl: self.kl / n,
            kl_recovered: (self.kl_zero_ablated - self.kl) / self.kl_zero_ablated,
        })
    }
}
