//! Which coders are trained on a GPU: those whose every operation has a kernel, and whose steps were found to be the CPU's.

use crate::compute::coder_ops::{CoderDims, PenaltyShape};
use crate::sae::settings::{
    CoderSettings, DecoderMapSettings, DecoderNorm, NestedBy, PenaltySettings, SelectionSettings,
};

impl CoderSettings {
    /// Why it is not trained on a GPU, if it is not: operations that have no kernels yet.
    pub fn not_on_gpu(&self) -> Option<&'static str> {
        let CoderDims { d, out, groups, .. } = self.dims;
        let other = |is: bool, why| is.then_some(why);
        let selection = match &self.selection {
            SelectionSettings::TopK { .. } | SelectionSettings::BatchTopK { .. } => None,
            SelectionSettings::JumpRelu(_) | SelectionSettings::Positive => {
                Some("its steps have not been compared with the CPU's yet")
            }
            _ => Some("its selection"),
        };
        let is_linear = |penalty: &PenaltySettings| penalty.shape == PenaltyShape::Linear;
        let holds = self.aux.is_some_and(|aux| aux.holds_pre_activations(self.decoder));
        selection
            .or(other(groups > 1 || self.target.parts.len() > 1, "several layers or sites at once"))
            .or(other(!self.target.is_input || self.target.skip, "a target that is not its input"))
            .or(other(self.decoder_map != DecoderMapSettings::Identity, "a decoder that is made from something else"))
            .or(other(self.decoder == DecoderNorm::Ranked, "ranking by decoder norms"))
            .or(other(self.nested_by == NestedBy::Rank || self.prefixes.len() > 1, "nested reconstructions"))
            .or(other(!self.penalties.iter().all(is_linear) || self.anneal.is_some(), "a penalty that is not linear"))
            .or(other(self.multi.is_some() || self.ghost || holds, "its auxiliary loss"))
            .or(other(self.resample_every.is_some(), "resampling"))
            .or(other(self.bias_control.is_some(), "biases that follow how often latents fire"))
            .or(other(d % 8 != 0 || out % 8 != 0, "a width that is no multiple of 8"))
    }
}
