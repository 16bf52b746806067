//! What a coder is: one choice for each block.
//!
//! Every coder of [`crate::sae::coders`] is a value of [`CoderSettings`]; nothing else knows their names.

mod selection;

use crate::compute::coder_ops::{CoderDims, PenaltyShape};
use crate::sae::bias_control::BiasControlSettings;
use crate::sae::decoder::scaled;
use crate::sae::skip::W_SKIP;

pub use selection::{
    ArchetypalSettings, Budget, ExpertSettings, FeatureChoiceSettings, JumpReluSettings, L0Penalty, ProductSettings,
    SelectionSettings,
};

/// A coder, composed.
#[derive(Clone, Debug, PartialEq)]
pub struct CoderSettings {
    /// Shape.
    pub dims: CoderDims,
    /// What is reconstructed.
    pub target: TargetSettings,
    /// How pre-activations become a code.
    pub selection: SelectionSettings,
    /// Norms of decoder rows.
    pub decoder: DecoderNorm,
    /// How the decoder is made from the parameters.
    pub decoder_map: DecoderMapSettings,
    /// Whether `b_dec` is subtracted from the encoder's input.
    pub subtract_bias: bool,
    /// Reconstructions from nested parts of the code, widths ascending, the last one all: `[(f, 1)]` is a plain coder.
    pub prefixes: Vec<Prefix>,
    /// What the widths of `prefixes` count.
    pub nested_by: NestedBy,
    /// Penalties on the code.
    pub penalties: Vec<PenaltySettings>,
    /// How the exponent of the first penalty falls, which is a power.
    pub anneal: Option<AnnealSettings>,
    /// Another reconstruction, from more latents of a row than the code has (multi-TopK).
    pub multi: Option<MultiSettings>,
    /// Dead latents that reconstruct the residual.
    pub aux: Option<AuxSettings>,
    /// Whether dead latents reconstruct the residual by their exponentials ([`crate::sae::loss::ghost`]).
    pub ghost: bool,
    /// A latent that fired for none of this many rows is dead.
    pub dead_after: u64,
    /// Steps between new starts of dead latents ([`crate::sae::resample`]).
    pub resample_every: Option<u64>,
    /// Biases of the encoder that follow how often latents fire; they are trained otherwise.
    pub bias_control: Option<BiasControlSettings>,
    /// A budget of kept latents that shrinks to `k`.
    pub k_anneal: Option<KAnneal>,
    /// Where training starts.
    pub start: StartSettings,
}

/// What a coder reconstructs, `[out]` values a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetSettings {
    /// Widths of the parts it is made of, one for each site. The norm of a latent's decoder row is the sum of its parts'.
    pub parts: Vec<usize>,
    /// Whether it is what the encoder reads.
    pub is_input: bool,
    /// Whether `b_dec` is trained; it stays as it starts otherwise.
    pub bias: bool,
    /// Whether it is of several layers, as many as there are groups of latents, to which latents of earlier layers do not
    /// speak: those of group `g` have zeros for layers before `g`.
    pub later_layers: bool,
    /// Whether the input is added linearly: [`crate::sae::skip`].
    pub skip: bool,
}

/// Norms of decoder rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecoderNorm {
    /// 1, held by projection and renormalisation.
    Unit,
    /// Whatever the loss makes them.
    Free,
    /// As [`DecoderNorm::Free`]; latents are ranked by `u |w_dec|`, and report that as their value.
    Ranked,
}

/// What nested reconstructions are from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NestedBy {
    /// The first latents.
    Latent,
    /// The largest values of each row.
    Rank,
}

/// How a step's decoder, `[f, out]`, is made from the parameters: [`crate::sae::decoder`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum DecoderMapSettings {
    /// It is `w_dec`.
    Identity,
    /// The rows of `w_dec`, each divided by its norm.
    Normalized,
    /// `w_enc`: there is no `w_dec`.
    Tied,
    /// The rows of `w_enc`, which have norm 1, each times a factor that is trained: there is no `w_dec`.
    Scaled,
    /// Mixtures of data points: there is no `w_dec`.
    Archetypal(ArchetypalSettings),
}

/// One of the reconstructions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prefix {
    /// From so many latents.
    pub width: usize,
    /// Weight of its loss; that of the last one is positive.
    pub weight: f64,
}

/// `coefficient / n` times the sum of a function of the code's values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PenaltySettings {
    /// The function.
    pub shape: PenaltyShape,
    /// Its weight.
    pub coefficient: f64,
    /// Whether values are multiplied by the norms of their decoder rows first.
    pub by_norm: bool,
    /// Steps over which the weight rises from 0.
    pub warmup_steps: u64,
}

/// See [`crate::sae::loss::anneal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnnealSettings {
    /// Steps after which the exponent falls first.
    pub start_step: u64,
    /// Steps after which it has fallen for the last time; above `start_step`.
    pub end_step: u64,
    /// Values that it takes; at least 2.
    pub exponents: u32,
    /// Batches over which penalties are compared.
    pub window: usize,
}

/// Another reconstruction of the input, from a TopK code of its own.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MultiSettings {
    /// Latents used a row.
    pub k: usize,
    /// Weight of the loss.
    pub coefficient: f64,
}

/// Dead latents reconstruct the residual: [`crate::sae::loss::aux`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AuxSettings {
    /// Latents used a row, at most.
    pub k: usize,
    /// Weight of the loss.
    pub coefficient: f64,
    /// Whether only positive pre-activations take part.
    pub relu: bool,
    /// What the squared error is divided by.
    pub per: AuxDivisor,
    /// The loss is multiplied by the number of dead latents over this, where there are fewer.
    pub full_at: Option<f64>,
    /// Whether the residual is a constant; otherwise the loss trains the main code too.
    pub detached: bool,
    /// With [`SelectionSettings::FeatureChoice`]: latents that fire less often than this share of their budget take part
    /// instead of dead ones.
    pub rare_below: Option<f64>,
}

/// See [`AuxSettings::per`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuxDivisor {
    /// The residual's squares around its mean.
    Residual,
    /// The number of rows.
    Rows,
}

impl AuxSettings {
    /// As in Gao et al. 2024.
    pub fn gao(k: usize, coefficient: f64) -> Self {
        let per = AuxDivisor::Residual;
        Self { k, coefficient, relu: true, per, full_at: None, detached: true, rare_below: None }
    }

    /// Whether the pre-activations of dead latents are held: where they are ranked by more than their size.
    pub(crate) fn holds_pre_activations(&self, decoder: DecoderNorm) -> bool {
        !self.relu || decoder == DecoderNorm::Ranked
    }
}

/// A budget that shrinks linearly from `from` to `k` over `steps` steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KAnneal {
    /// Latents a row to start with.
    pub from: f64,
    /// Steps.
    pub steps: u64,
}

impl KAnneal {
    /// The budget at step `step` (from 0) on the way to `k`.
    pub fn at(&self, step: u64, k: f64) -> f64 {
        let done = warmup(step, self.steps);
        self.from * (1.0 - done) + k * done
    }
}

/// Where training starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StartSettings {
    /// Norm of the decoder's rows, and of the encoder's.
    pub norm: f64,
    /// Whether encoder rows are equal to the decoder's; random otherwise.
    pub tied: bool,
    /// Whether `b_dec` starts at the geometric median of the data; at 0 otherwise.
    pub median: bool,
}

impl CoderSettings {
    /// As [`SelectionSettings::expected_k`], while a budget shrinks.
    pub fn expected_k(&self) -> usize {
        let first = self.k_anneal.map_or(0, |anneal| anneal.from.ceil() as usize);
        self.selection.expected_k().max(first)
    }

    /// A coder with this selection and nothing else: unit decoder rows, the bias subtracted, one reconstruction.
    pub fn plain(dims: CoderDims, selection: SelectionSettings, dead_after: u64) -> Self {
        Self {
            dims,
            target: TargetSettings {
                parts: vec![dims.out],
                is_input: true,
                bias: true,
                later_layers: false,
                skip: false,
            },
            selection,
            decoder: DecoderNorm::Unit,
            decoder_map: DecoderMapSettings::Identity,
            subtract_bias: true,
            prefixes: vec![Prefix { width: dims.f, weight: 1.0 }],
            nested_by: NestedBy::Latent,
            penalties: Vec::new(),
            anneal: None,
            multi: None,
            aux: None,
            ghost: false,
            dead_after,
            resample_every: None,
            bias_control: None,
            k_anneal: None,
            start: StartSettings { norm: 1.0, median: true, tied: true },
        }
    }

    /// Names and shapes of all parameters: `w_enc`, `b_enc`, `w_dec`, `b_dec`, then those that blocks have besides. One of
    /// the four that the coder does not have is empty.
    pub fn params(&self) -> Vec<(&'static str, Vec<usize>)> {
        let CoderDims { d, f, out, .. } = self.dims;
        let (w_enc, b_enc) = if matches!(self.selection, SelectionSettings::Products(_)) {
            (vec![f, d], vec![0])
        } else if self.has_encoder_rows() {
            (vec![f, d], vec![f])
        } else {
            (vec![0], vec![0])
        };
        let (w_dec, own) = match &self.decoder_map {
            DecoderMapSettings::Identity | DecoderMapSettings::Normalized => (vec![f, out], Vec::new()),
            DecoderMapSettings::Tied => (vec![0], Vec::new()),
            DecoderMapSettings::Scaled => (vec![0], vec![(scaled::PARAM, vec![f])]),
            DecoderMapSettings::Archetypal(own) => (vec![0], own.params(self.dims)),
        };
        let mut params = vec![("w_enc", w_enc), ("b_enc", b_enc), ("w_dec", w_dec), ("b_dec", vec![out])];
        params.extend(self.selection.extra_params(d, f));
        params.extend(own);
        if self.target.skip {
            params.push((W_SKIP, vec![out, d]));
        }
        params
    }

    /// Whether rows can be reconstructed from its code.
    pub fn reconstructs_rows(&self) -> bool {
        !matches!(self.selection, SelectionSettings::Products(_))
    }

    /// Whether each latent has a row of `w_enc`.
    pub fn has_encoder_rows(&self) -> bool {
        !matches!(self.selection, SelectionSettings::Pursuit { .. } | SelectionSettings::Pairs { .. })
    }

    /// Points of the data that the decoder is made of, if any.
    pub fn points(&self) -> usize {
        self.archetypal().map_or(0, |own| own.points)
    }

    /// The decoder's settings, if it is made of points of the data.
    pub fn archetypal(&self) -> Option<&ArchetypalSettings> {
        if let DecoderMapSettings::Archetypal(own) = &self.decoder_map { Some(own) } else { None }
    }

    /// The names of [`CoderSettings::params`] after the fourth.
    pub fn extra_params(&self) -> Vec<&'static str> {
        self.params().into_iter().skip(4).map(|(name, _)| name).collect()
    }

    /// Why no format of others has a form of it, if none has: its checkpoint is the coder.
    pub fn not_exported(&self) -> Option<&'static str> {
        if self.target.is_input && self.target.parts.len() > 1 {
            return Some("it reads several sites with one code");
        }
        match self.selection {
            SelectionSettings::SignedTopK { .. } => {
                Some("values that are kept may be negative, and are ranked with their signs")
            }
            SelectionSettings::Pursuit { .. } => Some("latents are chosen one after the other, each from what is left"),
            SelectionSettings::Pairs { .. } => Some("pre-activations are roots of products, not affine in the input"),
            SelectionSettings::Products(_) => Some("its latents are products, from which no row is reconstructed"),
            SelectionSettings::Experts(_) => Some("a router chooses for each row which latents there are"),
            _ => None,
        }
    }

    /// Why SAELens has no architecture for it, if it has none.
    pub fn not_in_saelens(&self) -> Option<&'static str> {
        let transcoder = || match self.selection {
            _ if self.target.is_input => None,
            _ if self.dims.groups > 1 => Some("it has no transcoders across layers"),
            SelectionSettings::TopK { .. } | SelectionSettings::GroupMax { .. } | SelectionSettings::Gated { .. } => {
                Some("its transcoders keep what is positive or above a threshold")
            }
            _ => None,
        };
        self.not_exported().or_else(transcoder)
    }

    /// Whether the norms of decoder rows are needed in a step.
    pub(crate) fn needs_norms(&self) -> bool {
        let pre_act = matches!(&self.selection, SelectionSettings::JumpRelu(s) if s.pre_act_coefficient > 0.0);
        let afa = matches!(self.selection, SelectionSettings::TopAfa { .. });
        pre_act || afa || self.decoder == DecoderNorm::Ranked || self.penalties.iter().any(|p| p.by_norm)
    }

    /// Numbers in the buffers of a step of `n` rows, at worst, parameters and gradients apart.
    pub fn step_numbers(&self, n: u64) -> u64 {
        let (d, f, out) = (self.dims.d as u64, self.dims.f as u64, self.dims.out as u64);
        let ranks = if self.nested_by == NestedBy::Rank { 4 * self.expected_k() as u64 } else { 0 };
        let multi = self.multi.map_or(0, |multi| out + 4 * multi.k as u64);
        let aux = self.aux.map_or(0, |aux| {
            let held = if aux.holds_pre_activations(self.decoder) { f } else { 0 };
            out + 4 * aux.k as u64 + held
        });
        // all latents may be dead
        let ghost = if self.ghost { out + 5 * f } else { 0 };
        let code = match &self.selection {
            SelectionSettings::TopK { .. } if self.decoder != DecoderNorm::Ranked => 4 * self.expected_k() as u64,
            SelectionSettings::TopK { .. }
            | SelectionSettings::SignedTopK { .. }
            | SelectionSettings::BatchTopK { .. }
            | SelectionSettings::GroupMax { .. } => f + 4 * self.expected_k() as u64,
            // a row may be the largest for every latent; and before training half of all entries are active
            SelectionSettings::FeatureChoice(_) | SelectionSettings::TopAfa { .. } | SelectionSettings::Positive => {
                f + 5 * f
            }
            SelectionSettings::Pursuit { k } => 2 * out + 8 * *k as u64,
            SelectionSettings::Pairs { shape, k } => f + 2 * shape.parts() as u64 + 4 * *k as u64,
            SelectionSettings::Experts(own) => d + 6 * own.k as u64 + 4 * own.experts as u64,
            SelectionSettings::JumpRelu(_) => f + 6 * f,
            SelectionSettings::Gated { .. } => f + 8 * f,
            SelectionSettings::Products(_) => 7 * f,
        };
        let kernels = if self.reconstructs_rows() { 0 } else { 4 * f * f + f * d + d * d };
        // the decoder that is made, and its gradient
        let decoder = if self.decoder_map == DecoderMapSettings::Identity { 0 } else { 2 * f * out };
        let pursuit = if matches!(self.selection, SelectionSettings::Pursuit { .. }) { 3 * f * d } else { 0 };
        let decoder = decoder + pursuit + 2 * self.points() as u64 * out;
        // what it adds to each row, and its gradient
        let (skip, decoder) = if self.target.skip { (out, decoder + d * out) } else { (0, decoder) };
        n * (skip
            + 2 * d * self.dims.groups as u64
            + out * (1 + self.prefixes.len() as u64)
            + code
            + ranks
            + multi
            + aux
            + ghost)
            + decoder
            + kernels
    }
}

/// What rises linearly from 0 to 1 over `steps`, at step `step` (from 0).
pub(crate) fn warmup(step: u64, steps: u64) -> f64 {
    if step < steps { step as f64 / steps as f64 } else { 1.0 }
}
