//! Selections: how pre-activations become a code, and how gradients come back through it. One file each.
//!
//! No gradient flows through a choice of latents; where a method estimates one (JumpReLU), its file says how.

pub mod batch_topk;
pub mod experts;
pub mod feature_choice;
pub mod gated;
pub mod group_max;
pub mod jumprelu;
pub mod pairs;
pub mod positive;
pub mod products;
pub mod pursuit;
pub mod signed_topk;
pub mod top_afa;
pub mod topk;

use crate::compute::CoderOps;
use crate::compute::coder_ops::{ByLatent, Code, CoderDims, GradientTerm, Subset};
use crate::sae::loss::{Penalties, Reconstruction};
use crate::sae::params::{Gradients, Params};
use crate::sae::settings::{CoderSettings, DecoderNorm, SelectionSettings};
use crate::sae::state::CoderState;

/// What a step works on.
pub struct Input<'a, B: CoderOps> {
    /// The device.
    pub backend: &'a B,
    /// Parameters.
    pub params: &'a Params<B>,
    /// Shape.
    pub dims: CoderDims,
    /// `[groups, n, d]` the encoder's input.
    pub c: &'a B::Tensor,
    /// `[n, out]` what is to be reconstructed, less `b_dec`.
    pub target: &'a B::Tensor,
    /// Rows.
    pub n: usize,
    /// Widths of the parts of the target.
    pub parts: &'a [usize],
    /// `[f]` norms of decoder rows, summed over the parts, where the settings need them.
    pub norms: &'a B::Tensor,
    /// Dead latents, ascending.
    pub dead: &'a [u32],
    /// Steps before this one.
    pub step: u64,
    /// What is remembered.
    pub state: &'a CoderState,
}

/// The backward pass of one batch, from the code to the pre-activations.
pub struct Pass<'a, B: CoderOps> {
    /// The code.
    pub code: &'a Code<B>,
    /// Its entries by latent.
    pub by_latent: &'a ByLatent<B>,
    /// `[f + 1]` where each latent's entries start.
    pub fired: &'a [u32],
    /// At the code's places: in, the reconstruction's gradient with respect to values; out, with respect to
    /// pre-activations.
    pub g_code: &'a mut B::Tensor,
    /// The reconstructions.
    pub reconstruction: &'a mut Reconstruction<B>,
    /// Penalties on values.
    pub penalties: &'a mut Penalties<B>,
    /// Gradients; a selection sets those of its own parameters.
    pub gradients: &'a mut Gradients<B>,
}

/// Losses that a selection adds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SelectionLosses {
    /// For sparsity.
    pub sparsity: f64,
    /// Reconstructions and revivals of its own.
    pub auxiliary: f64,
}

/// A selection and the buffers of a step.
pub trait Selection<B: CoderOps>: Send + Sync {
    /// The code of `input`, while training.
    fn encode(&mut self, input: &Input<'_, B>, code: &mut Code<B>);

    /// See [`Pass`]. Without more to it: the penalties on the code.
    fn backward(&mut self, input: &Input<'_, B>, pass: &mut Pass<'_, B>) -> SelectionLosses {
        let sparsity = pass.penalties.apply(input, pass.code, pass.by_latent, pass.g_code);
        SelectionLosses { sparsity, auxiliary: 0.0 }
    }

    /// The `code.k` largest among some latents, of the batch that was encoded last: for the auxiliary branch.
    fn encode_among(&self, input: &Input<'_, B>, among: &Subset<'_, B>, code: &mut Code<B>) {
        let Input { backend, params, dims, c, n, .. } = *input;
        code.rows = n;
        let among = Subset { latents: among.latents, len: among.len };
        backend.encode_topk(c, &params.w_enc, &params.b_enc, dims, Some(among), code);
    }

    /// Where latents have no rows of `w_enc`: from the terms of a batch, the gradients of what the encoder has instead, and
    /// that of `b_dec` through the input, if it is subtracted from it.
    fn encoder_gradients(
        &self,
        _input: &Input<'_, B>,
        _terms: &[GradientTerm<'_, B>],
        _subtract_bias: bool,
        _gradients: &mut Gradients<B>,
    ) {
    }

    /// What reaches encoder (and decoder) besides the code's own entries, after [`Selection::backward`].
    fn terms<'a>(&'a self, _input: &Input<'a, B>) -> Vec<GradientTerm<'a, B>> {
        Vec::new()
    }

    /// What the penalties are on, where that is not the code.
    fn penalized(&self) -> Option<&Code<B>> {
        None
    }

    /// The last word on gradients, after those of all terms were summed.
    fn finish(&mut self, _input: &Input<'_, B>, _gradients: &mut Gradients<B>) {}
}

/// The selection of `settings`, for batches of up to `rows` rows.
pub fn build<B: CoderOps>(backend: &B, settings: &CoderSettings, rows: usize) -> Box<dyn Selection<B>> {
    let (dims, ranked) = (settings.dims, settings.decoder == DecoderNorm::Ranked);
    let anneal = settings.k_anneal;
    match &settings.selection {
        SelectionSettings::TopK { k } => Box::new(topk::TopK::new((*k, anneal), ranked)),
        SelectionSettings::SignedTopK { k, .. } => Box::new(signed_topk::SignedTopK::new(*k, anneal)),
        SelectionSettings::BatchTopK { k, .. } => Box::new(batch_topk::BatchTopK::new((*k, anneal), ranked)),
        SelectionSettings::TopAfa { coefficient, .. } => {
            Box::new(top_afa::TopAfa::new(backend, dims, rows, *coefficient))
        }
        SelectionSettings::GroupMax { groups } => Box::new(group_max::GroupMax::new(backend, dims, rows, *groups)),
        SelectionSettings::FeatureChoice(own) => {
            Box::new(feature_choice::FeatureChoice::new(backend, dims, rows, *own))
        }
        SelectionSettings::Pursuit { k } => Box::new(pursuit::Pursuit::new(backend, dims, rows, *k)),
        SelectionSettings::Pairs { shape, k } => Box::new(pairs::Pairs::new(backend, rows, *shape, *k, anneal)),
        SelectionSettings::Experts(own) => Box::new(experts::Experts::new(backend, rows, *own, settings.subtract_bias)),
        SelectionSettings::Products(_) => Box::new(products::Products),
        SelectionSettings::Positive => Box::new(positive::Positive::new(backend, dims, rows)),
        SelectionSettings::JumpRelu(own) => Box::new(jumprelu::JumpRelu::new(backend, dims, rows, own.clone())),
        SelectionSettings::Gated { trains_decoder } => {
            Box::new(gated::Gated::new(backend, dims, rows, *trains_decoder))
        }
    }
}

/// The same latents, and a gradient for each entry: a list besides the code.
pub(super) struct Entries<B: CoderOps> {
    pub(super) code: Code<B>,
    pub(super) by_latent: ByLatent<B>,
    pub(super) g: B::Tensor,
}

impl<B: CoderOps> Entries<B> {
    pub(super) fn new(backend: &B, f: usize) -> Self {
        Self { code: Code::new(backend, 0, 0), by_latent: ByLatent::new(backend, 0, 0, f), g: backend.zeros(0) }
    }

    /// After the code was set: group it, and make room for the gradient.
    pub(super) fn group(&mut self, backend: &B, f: usize) {
        backend.group_by_latent(&self.code, f, &mut self.by_latent);
        make_room(backend, &mut self.g, self.code.places());
    }

    /// `[f]` entries of each latent.
    pub(super) fn counts(&self, backend: &B, f: usize) -> Vec<f64> {
        let mut starts = vec![0; f + 1];
        backend.read_index(&self.by_latent.starts, &mut starts);
        starts.windows(2).map(|ends| f64::from(ends[1] - ends[0])).collect()
    }

    /// `[f]` the sums of `a` (at the places), or of `a b`.
    pub(super) fn sums(&self, backend: &B, f: usize, b: Option<&B::Tensor>) -> Vec<f64> {
        latent_sums(backend, &self.by_latent, &self.g, b, f)
    }
}

/// See [`CoderOps::entry_sums`], on the host.
pub(crate) fn latent_sums<B: CoderOps>(
    backend: &B,
    by_latent: &ByLatent<B>,
    a: &B::Tensor,
    b: Option<&B::Tensor>,
    f: usize,
) -> Vec<f64> {
    let mut sums = backend.zeros(f);
    backend.entry_sums(by_latent, a, b, f, &mut sums);
    host(backend, &sums, f)
}

/// The first `len` numbers of `t`.
pub(crate) fn host<B: CoderOps>(backend: &B, t: &B::Tensor, len: usize) -> Vec<f64> {
    let mut values = vec![0.0; len];
    backend.read_f64(t, 0, &mut values);
    values
}

/// At least `len` numbers, zeros if it was too short.
pub(crate) fn make_room<B: CoderOps>(backend: &B, t: &mut B::Tensor, len: usize) {
    if backend.len(t) < len {
        *t = backend.zeros(len);
    }
}
