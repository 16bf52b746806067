//! The `aux:` section of coders that keep the largest pre-activations: AuxK, as different implementations have it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::sae::coders::Faults;
use crate::sae::settings::{AuxDivisor, AuxSettings};

/// The keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(inline)]
pub struct AuxConfig {
    /// Whose form of the loss.
    pub form: AuxForm,
    /// Weight of the loss; 0: off. Default: 1/32, with `form: saelens` 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0))]
    pub coefficient: Option<f64>,
    /// Dead latents used a row, at most; default: half the input width, with `form: bussmann` 512.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub k: Option<u32>,
    /// Whether only positive pre-activations take part; default: yes, with `form: saelens` no. A latent whose
    /// pre-activation is never positive is revived only without this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relu: Option<bool>,
}

/// Forms of the loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AuxForm {
    /// The squared error per square of the residual around its mean (Gao et al. 2024; dictionary_learning).
    #[default]
    Gao,
    /// The squared error per row, of pre-activations of any sign; smaller while few latents are dead (SAELens).
    Saelens,
    /// The squared error per row; smaller while few latents are dead (sparsify).
    Sparsify,
    /// The squared error per row; the residual is no constant, so that the loss trains the living latents too (BatchTopK's
    /// own code).
    Bussmann,
}

impl AuxConfig {
    /// What does not fit a coder of this width.
    pub(super) fn faults(&self, width: u32, faults: &mut Faults) {
        if let Some(k) = self.k {
            faults.check(k >= 1 && k <= width, "aux.k", k, format!("must be between 1 and `coder.width` ({width})"));
        }
        faults.not_negative("aux.coefficient", self.coefficient.unwrap_or(0.0));
    }

    /// The branch for inputs of width `d`, unless it is off.
    pub(super) fn settings(&self, d: usize, width: u32) -> Option<AuxSettings> {
        let half = (d / 2).max(1);
        let default_k = if self.form == AuxForm::Bussmann { 512 } else { half };
        let k = self.k.map_or(default_k, |k| k as usize).min(width as usize);
        let coefficient = self.coefficient.unwrap_or(if self.form == AuxForm::Saelens { 1.0 } else { 1.0 / 32.0 });
        let gao = AuxSettings::gao(k, coefficient);
        let (relu, full_at) = (self.relu.unwrap_or(self.form != AuxForm::Saelens), Some(half as f64));
        let settings = match self.form {
            AuxForm::Gao => AuxSettings { relu, ..gao },
            AuxForm::Saelens | AuxForm::Sparsify => AuxSettings { relu, per: AuxDivisor::Rows, full_at, ..gao },
            AuxForm::Bussmann => AuxSettings { relu, per: AuxDivisor::Rows, detached: false, ..gao },
        };
        (coefficient > 0.0).then_some(settings)
    }
}

pub(super) fn is_default(aux: &AuxConfig) -> bool {
    *aux == AuxConfig::default()
}
