//! How pre-activations become a code, and what each way needs to know.

use crate::compute::coder_ops::PairShape;
use crate::sae::selection::{experts, pairs};

/// How pre-activations `u = c W_enc^T + b_enc` become a code: [`crate::sae::selection`].
#[derive(Clone, Debug, PartialEq)]
pub enum SelectionSettings {
    /// The `k` largest of a row.
    TopK {
        /// Latents kept a row.
        k: usize,
    },
    /// The `k` largest of a row, whatever their sign.
    SignedTopK {
        /// Latents kept a row.
        k: usize,
        /// Latents kept a row at inference.
        inference_k: usize,
    },
    /// The `k n` largest of `n` rows.
    BatchTopK {
        /// Latents kept a row, on average.
        k: f64,
        /// Weight of a new batch in the moving average of the least value kept.
        threshold_rate: f64,
    },
    /// The largest of a row, as many as make the code as long as what it reconstructs: [`crate::sae::selection::top_afa`].
    TopAfa {
        /// Weight of the squared difference of the norms.
        coefficient: f64,
        /// As in `BatchTopK`.
        threshold_rate: f64,
    },
    /// The largest of each of `groups` ranges of as many latents.
    GroupMax {
        /// Ranges; they divide the latents.
        groups: usize,
    },
    /// The rows of a batch on which each latent is largest.
    FeatureChoice(FeatureChoiceSettings),
    /// Those that matching pursuit chooses one after the other: [`crate::sae::selection::pursuit`].
    Pursuit {
        /// Steps.
        k: usize,
    },
    /// The `k` largest of a row, each of a pair of parts: [`crate::sae::selection::pairs`].
    Pairs {
        /// How latents are made of parts.
        shape: PairShape,
        /// Latents kept a row.
        k: usize,
    },
    /// The `k` largest among those of an expert: [`crate::sae::selection::experts`].
    Experts(ExpertSettings),
    /// Products of two numbers, all of them: [`crate::sae::selection::products`].
    Products(ProductSettings),
    /// All that are positive.
    Positive,
    /// Those above a threshold that is trained.
    JumpRelu(JumpReluSettings),
    /// Those that a gate opens for; values have their own scale and bias.
    Gated {
        /// Whether the gate's own reconstruction trains the decoder too.
        trains_decoder: bool,
    },
}

/// See [`crate::sae::selection::feature_choice`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FeatureChoiceSettings {
    /// Latents kept a row, on average.
    pub k: f64,
    /// How the places of a batch are shared out.
    pub budget: Budget,
    /// Weight of a new batch in the moving averages.
    pub rate: f64,
    /// Steps between new orders of the latents.
    pub rank_every: u64,
}

/// How many rows of a batch each latent keeps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Budget {
    /// As many each.
    Uniform,
    /// In proportion to `(rank + q)^-exponent`.
    Zipf {
        /// Exponent.
        exponent: f64,
        /// `q` is such that the first latent keeps this share of the rows; 0 where it keeps less.
        top: f64,
    },
}

/// See [`crate::sae::loss::quadratic`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ProductSettings {
    /// Weight of the mean density of latents.
    pub density: f64,
    /// Steps over which it rises from 0.
    pub warmup_steps: u64,
}

/// See [`crate::sae::selection::experts`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ExpertSettings {
    /// Latents kept a row.
    pub k: usize,
    /// Groups of latents.
    pub experts: usize,
    /// Weight of the loss that spreads rows over experts.
    pub balance: f64,
    /// Whether a row's code counts as much as the router gave its expert; as it is otherwise.
    pub weighted: bool,
}

/// See [`crate::sae::decoder`]: rows near the convex hull of data points.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ArchetypalSettings {
    /// Data points.
    pub points: usize,
    /// Whether they are centroids of k-means; as they are drawn otherwise.
    pub centroids: bool,
    /// How far from their hull a row may be, in units of the scaled input; 0: not at all.
    pub delta: f64,
    /// Whether all rows have a factor in common, which is trained.
    pub multiplier: bool,
}

/// See [`crate::sae::selection::jumprelu`].
#[derive(Clone, Debug, PartialEq)]
pub struct JumpReluSettings {
    /// Threshold to start from.
    pub start: f64,
    /// Width of the window around a threshold whose entries move it.
    pub bandwidth: f64,
    /// The penalty on the number of active latents.
    pub sparsity: L0Penalty,
    /// Its weight.
    pub coefficient: f64,
    /// Steps over which the weight rises from 0.
    pub warmup_steps: u64,
    /// Weight of `sum relu(threshold - u) |w_dec|` over dead latents; 0: off.
    pub pre_act_coefficient: f64,
    /// Whether that sum is over all latents instead.
    pub pre_act_all: bool,
    /// Whether the window's gradient reaches pre-activations too.
    pub encoder_gradient: bool,
}

/// A penalty on how many latents are active, whose gradient reaches thresholds only.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum L0Penalty {
    /// None: the sparsity comes from penalties on values.
    Off,
    /// `mean l0`.
    Mean,
    /// `(mean l0 / target - 1)^2`.
    Target(f64),
    /// `sum_i p_i (1 + p_i / scale)`, with `p_i` the share of rows on which latent `i` is active.
    Frequency(f64),
}

impl SelectionSettings {
    /// Names and shapes of the parameters that it has besides `w_enc`, `b_enc`, `w_dec` and `b_dec`.
    pub(super) fn extra_params(&self, d: usize, f: usize) -> Vec<(&'static str, Vec<usize>)> {
        match self {
            Self::TopK { .. } | Self::SignedTopK { .. } | Self::BatchTopK { .. } | Self::Positive => Vec::new(),
            Self::Products(_)
            | Self::Pursuit { .. }
            | Self::TopAfa { .. }
            | Self::GroupMax { .. }
            | Self::FeatureChoice(_) => Vec::new(),
            Self::Pairs { shape, .. } => {
                let [w, b] = pairs::PARAMS;
                vec![(w, vec![shape.parts(), d]), (b, vec![shape.parts()])]
            }
            Self::Experts(own) => {
                let [w, b] = experts::PARAMS;
                vec![(w, vec![own.experts, d]), (b, vec![d])]
            }
            Self::JumpRelu(_) => vec![("threshold", vec![f])],
            Self::Gated { .. } => vec![("r_mag", vec![f]), ("b_mag", vec![f])],
        }
    }

    /// Latents a row that its buffers are made for at first; all of them, in the worst case, where it is 0.
    pub fn expected_k(&self) -> usize {
        match self {
            Self::TopK { k } | Self::SignedTopK { k, .. } | Self::Pursuit { k } | Self::Pairs { k, .. } => *k,
            Self::Experts(own) => own.k,
            Self::BatchTopK { k, .. } => 4 * k.ceil() as usize,
            Self::GroupMax { groups } => *groups,
            Self::Products(_) | Self::TopAfa { .. } | Self::FeatureChoice(_) | Self::Positive => 0,
            Self::JumpRelu(_) | Self::Gated { .. } => 0,
        }
    }
}
