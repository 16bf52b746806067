//! `type: archetypal` (Fel et al. 2025): decoder rows near the convex hull of rows of the data; TopK or BatchTopK, AuxK.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::compute::coder_ops::CoderDims;
use crate::sae::coders::{AuxConfig, Common, Fault, Faults, aux, default_dead_after, default_threshold_rate};
use crate::sae::settings::{ArchetypalSettings, CoderSettings, DecoderMapSettings, DecoderNorm, SelectionSettings};
use crate::units::Count;

/// The keys.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub struct ArchetypalConfig {
    /// Latents.
    #[schemars(range(min = 1))]
    pub width: u32,
    /// Latents kept a row.
    #[schemars(range(min = 1.0))]
    pub k: f64,
    /// Which latents are kept.
    #[serde(default)]
    pub selection: ArchetypalSelection,
    /// How many points of the data decoder rows are mixtures of. They stay as they are, and are the same for the same seed.
    #[schemars(range(min = 1))]
    pub points: u32,
    /// What these points are.
    #[serde(default)]
    pub points_from: PointsFrom,
    /// How far a decoder row may be from their hull, in units of normalised rows; 0: it is in it.
    #[serde(default = "default_delta")]
    #[schemars(range(min = 0.0))]
    pub delta: f64,
    /// Whether all decoder rows have a factor in common, which is trained.
    #[serde(default = "default_multiplier")]
    pub multiplier: bool,
    /// Weight of a new batch in the moving average of the least value kept (`selection: batch_topk`).
    #[serde(default = "default_threshold_rate")]
    #[schemars(extend("exclusiveMinimum" = 0), range(max = 1.0))]
    pub threshold_rate: f64,
    /// Dead latents reconstruct the residual (AuxK).
    #[serde(default, skip_serializing_if = "aux::is_default")]
    pub aux: AuxConfig,
    /// A latent that fired for none of this many tokens is dead.
    #[serde(default = "default_dead_after")]
    pub dead_after_tokens: Count,
}

/// Which latents are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ArchetypalSelection {
    /// The k largest of each row.
    #[default]
    Topk,
    /// The k largest a row of each batch as a whole.
    BatchTopk,
}

/// What the points are that decoder rows are mixtures of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PointsFrom {
    /// Centroids of k-means over the first full buffer: ten iterations over at most 32 rows a point.
    #[default]
    Kmeans,
    /// Rows drawn from the first full buffer.
    Rows,
}

fn default_delta() -> f64 {
    1.0
}

fn default_multiplier() -> bool {
    true
}

impl ArchetypalConfig {
    pub(in crate::sae) fn common(&self) -> Common {
        Common { width: self.width, k: Some(self.k) }
    }

    pub(in crate::sae) fn faults(&self) -> Vec<Fault> {
        let mut faults = Faults::default();
        faults.kept(self.width, self.k);
        self.aux.faults(self.width, &mut faults);
        faults.not_negative("delta", self.delta);
        faults.check(self.points >= 1, "points", self.points, "must be at least 1");
        let rate = self.threshold_rate;
        faults.check(rate > 0.0 && rate <= 1.0, "threshold_rate", rate, "must be above 0 and at most 1");
        let whole = self.selection == ArchetypalSelection::BatchTopk || self.k.fract() == 0.0;
        faults.check(whole, "k", self.k, "must be a whole number unless `selection: batch_topk`");
        faults.0
    }

    pub(in crate::sae) fn settings(&self, d: usize) -> CoderSettings {
        let dims = CoderDims::square(d, self.width as usize);
        let selection = match self.selection {
            ArchetypalSelection::Topk => SelectionSettings::TopK { k: self.k as usize },
            ArchetypalSelection::BatchTopk => {
                SelectionSettings::BatchTopK { k: self.k, threshold_rate: self.threshold_rate }
            }
        };
        let own = ArchetypalSettings {
            points: self.points as usize,
            centroids: self.points_from == PointsFrom::Kmeans,
            delta: self.delta,
            multiplier: self.multiplier,
        };
        CoderSettings {
            decoder: DecoderNorm::Free,
            decoder_map: DecoderMapSettings::Archetypal(own),
            aux: self.aux.settings(d, self.width),
            ..CoderSettings::plain(dims, selection, self.dead_after_tokens.0)
        }
    }
}
