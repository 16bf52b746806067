//! The language-model head.

use crate::compute::ModelOps;
use crate::compute::backend::LinearDims;
use crate::error::{Error, Result};
use crate::model::blocks::loader::Loader;

/// Logits of rows of the final norm's output.
pub(in crate::model) struct Head<B: ModelOps> {
    /// `[v, d]`; `None` if the head is the token embedding.
    w: Option<B::Matrix>,
    /// `[v]`.
    bias: Option<B::Tensor>,
    softcap: Option<f64>,
    d: usize,
    vocab_size: usize,
    /// `[rows, d]` and `[rows, v]`, made when logits are first wanted.
    buffers: Option<(B::Tensor, B::Tensor)>,
}

impl<B: ModelOps> Head<B> {
    /// A head with its own matrix, or with the token embedding if it is tied.
    pub(in crate::model) fn load(loader: &mut Loader<'_, B>) -> Self {
        let (spec, name) = (loader.spec, format!("{}.weight", loader.names().head));
        let (d, vocab_size) = (spec.d_model, spec.vocab_size);
        let w = (!spec.tied_head || has_own(loader, &name)).then(|| loader.product_matrix(&name, vocab_size, d));
        let bias = spec.head_bias.then(|| loader.vector(&format!("{}.bias", loader.names().head), vocab_size));
        Self { w, bias, softcap: spec.logit_softcap, d, vocab_size, buffers: None }
    }

    /// Rows at a time: enough to read the matrix seldom, few enough to stay within 64 MiB.
    fn rows_at_once(&self) -> usize {
        ((16 << 20) / self.vocab_size).clamp(1, 256)
    }

    /// `logits = softcap(hidden w^T + bias)`: `hidden` `[n, d]`, `logits` `[n, v]`.
    pub(in crate::model) fn apply(
        &mut self,
        backend: &B,
        embedding: &B::Matrix,
        hidden: &[f32],
        logits: &mut Vec<f32>,
    ) -> Result<()> {
        self.rows(backend, (embedding, self.bias.is_some()), hidden, logits)?;
        if let Some(cap) = self.softcap {
            logits.iter_mut().for_each(|l| *l = (cap * (f64::from(*l) / cap).tanh()) as f32);
        }
        Ok(())
    }

    /// `out = hidden w^T`: what of the logits is linear.
    pub(in crate::model) fn product(
        &mut self,
        backend: &B,
        embedding: &B::Matrix,
        hidden: &[f32],
        out: &mut Vec<f32>,
    ) -> Result<()> {
        self.rows(backend, (embedding, false), hidden, out)
    }

    fn rows(
        &mut self,
        backend: &B,
        (embedding, biased): (&B::Matrix, bool),
        hidden: &[f32],
        logits: &mut Vec<f32>,
    ) -> Result<()> {
        if !hidden.len().is_multiple_of(self.d) {
            return Err(Error::internal(format!("{} values are not rows of {}", hidden.len(), self.d)));
        }
        let bias = self.bias.as_ref().filter(|_| biased);
        let (d, v, rows) = (self.d, self.vocab_size, self.rows_at_once());
        let (x, y) = self.buffers.get_or_insert_with(|| (backend.zeros(rows * d), backend.zeros(rows * v)));
        logits.resize(hidden.len() / d * v, 0.0);
        for (hidden, logits) in hidden.chunks(rows * d).zip(logits.chunks_mut(rows * v)) {
            backend.write(x, 0, hidden);
            let dims = LinearDims { n: hidden.len() / d, n_in: d, n_out: v };
            backend.linear(x, self.w.as_ref().unwrap_or(embedding), bias, y, dims);
            backend.read(y, 0, logits);
        }
        Ok(())
    }
}

/// Whether the files of a model that calls its head tied have one that differs from the embedding: transformers then takes it.
fn has_own<B: ModelOps>(loader: &mut Loader<'_, B>, name: &str) -> bool {
    if !loader.weights.contains(name) {
        return false;
    }
    let shape = [loader.spec.vocab_size, loader.spec.d_model];
    let embedding = format!("{}.weight", loader.names().embed);
    loader.weights.tensor(name, &shape) != loader.weights.tensor(&embedding, &shape)
}
