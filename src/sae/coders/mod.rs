//! The coders that people train, one file each: the keys of its `coder:` section, what must go together, and its
//! composition from the blocks of [`crate::sae::settings`]. `docs/coders.md` has formulas and sources.
//!
//! A new coder is a file here and an arm in [`crate::sae::config::CoderConfig`]; if its blocks exist, nothing else.

pub mod archetypal;
pub mod aux;
pub mod batch_topk;
pub mod bilinear;
pub mod feature_choice;
pub mod gated;
pub mod gba;
pub mod group_max;
pub mod jumprelu;
pub mod k_sparse;
pub mod kron;
pub mod matching_pursuit;
pub mod matryoshka;
pub mod nested_topk;
pub mod p_anneal;
pub mod standard;
pub mod switch;
pub mod top_afa;
pub mod topk;

pub use archetypal::ArchetypalConfig;
pub use aux::{AuxConfig, AuxForm};
pub use batch_topk::BatchTopkConfig;
pub use bilinear::BilinearConfig;
pub use feature_choice::FeatureChoiceConfig;
pub use gated::GatedConfig;
pub use gba::GbaConfig;
pub use group_max::GroupMaxConfig;
pub use jumprelu::JumpreluConfig;
pub use k_sparse::KSparseConfig;
pub use kron::KronConfig;
pub use matching_pursuit::MatchingPursuitConfig;
pub use matryoshka::MatryoshkaConfig;
pub use nested_topk::NestedTopkConfig;
pub use p_anneal::PAnnealConfig;
pub use standard::StandardConfig;
pub use switch::SwitchConfig;
pub use top_afa::TopAfaConfig;
pub use topk::TopkConfig;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::sae::settings::{DecoderMapSettings, DecoderNorm, KAnneal};
use crate::units::Count;

/// What every coder has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Common {
    /// Latents.
    pub width: u32,
    /// Latents a row that it aims at, where it says so.
    pub k: Option<f64>,
}

/// A value that does not go with another, or is out of range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The key below `coder`.
    pub key: &'static str,
    /// Its value.
    pub value: String,
    /// What it must be: `must ...`.
    pub rule: String,
}

/// Faults, gathered.
#[derive(Default)]
struct Faults(Vec<Fault>);

impl Faults {
    /// `key` has `value`, which must be what `rule` says unless `holds`.
    fn check(&mut self, holds: bool, key: &'static str, value: impl ToString, rule: impl Into<String>) {
        if !holds {
            self.0.push(Fault { key, value: value.to_string(), rule: rule.into() });
        }
    }

    /// A number that must be 0 or more.
    fn not_negative(&mut self, key: &'static str, value: f64) {
        self.check(value >= 0.0 && value.is_finite(), key, value, "must be 0 or more");
    }

    /// A number that must be above 0.
    fn positive(&mut self, key: &'static str, value: f64) {
        self.check(value > 0.0 && value.is_finite(), key, value, "must be above 0");
    }

    /// A number of latents that falls.
    fn annealed(&mut self, width: u32, k: f64, start: Option<u32>, steps: Option<u64>) {
        if let Some(start) = start {
            let rule = format!("must be above `coder.k` ({k}) and at most `coder.width` ({width})");
            self.check(f64::from(start) > k && start <= width, "k_start", start, rule);
            self.check(steps.is_some_and(|steps| steps > 0), "k_start", start, "needs `k_anneal_steps`");
        } else if let Some(steps) = steps {
            self.check(false, "k_anneal_steps", steps, "needs `k_start`");
        }
    }

    /// Latents kept a row.
    fn kept(&mut self, width: u32, k: f64) {
        let rule = format!("must be between 1 and `coder.width` ({width})");
        self.check(k >= 1.0 && k <= f64::from(width), "k", k, rule);
    }
}

/// Norms of decoder rows, in a coder that keeps the largest pre-activations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RankedDecoder {
    /// 1, held by projection and renormalisation.
    #[default]
    Unit,
    /// Free; latents are ranked by pre-activation times norm (SAELens: `rescale_acts_by_decoder_norm`).
    Ranked,
    /// Free; the decoder that is used has rows divided by their norms.
    Normalized,
    /// Free; latents are ranked by pre-activation alone (sparsify's transcoders).
    Free,
}

impl RankedDecoder {
    fn is_unit(&self) -> bool {
        *self == Self::Unit
    }

    fn norm(self) -> DecoderNorm {
        match self {
            Self::Unit => DecoderNorm::Unit,
            Self::Ranked => DecoderNorm::Ranked,
            Self::Normalized | Self::Free => DecoderNorm::Free,
        }
    }

    fn map(self) -> DecoderMapSettings {
        if self == Self::Normalized { DecoderMapSettings::Normalized } else { DecoderMapSettings::Identity }
    }
}

/// The number of latents kept, while it falls.
fn k_anneal(start: Option<u32>, steps: Option<u64>) -> Option<KAnneal> {
    Some(KAnneal { from: f64::from(start?), steps: steps? })
}

fn default_dead_after() -> Count {
    Count(10_000_000)
}

fn default_threshold_rate() -> f64 {
    0.01
}

fn default_warmup_steps() -> u64 {
    1000
}
