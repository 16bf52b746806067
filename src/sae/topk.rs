//! The TopK coder with AuxK (Gao et al. 2024).
//!
//! With `y` the scaled input and `c = y - b_dec`:
//!
//! ```text
//! u = c W_enc^T + b_enc          f = the k largest of u in each row, if positive          y^ = f W_dec + b_dec
//! L = 1/n sum_b |y_b - y^_b|^2 + alpha sum_b |r_b - r^_b|^2 / sum_b |r_b - mean r|^2
//! ```
//!
//! In the second term (only while latents are dead) `r = y - y^` is taken as a constant, and `r^ = a W_dec` with `a` the
//! `aux_k` largest positive pre-activations among the dead latents. The bias is subtracted from the input and added to the
//! output, so `r = c - f W_dec`, and its gradient is `sum_b dL/dy^_b - sum_i dL/db_enc[i] W_enc[i]`.

use crate::compute::CoderOps;
use crate::compute::coder_ops::{Code, CoderDims, LatentGradients, Subset};
use crate::error::{Error, Result};
use crate::sae::branch::{Branch, BranchInput};
use crate::sae::config::CoderConfig;
use crate::sae::params::{self, Gradients, Params};

/// Rows that [`TopkCoder::reconstruct`] takes at once.
const RECONSTRUCT_ROWS: usize = 1024;

/// What a TopK coder is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TopkSettings {
    /// Shape.
    pub dims: CoderDims,
    /// Latents kept a row.
    pub k: usize,
    /// Dead latents used a row by the auxiliary loss.
    pub aux_k: usize,
    /// Weight of the auxiliary loss; 0: off.
    pub aux_coefficient: f64,
    /// A latent that fired for none of this many rows is dead.
    pub dead_after: u64,
}

impl TopkSettings {
    /// From the configuration, for inputs of width `d`.
    pub fn from_config(config: &CoderConfig, d: usize) -> Result<Self> {
        let CoderConfig::Topk { width, k, aux_coefficient, aux_k, dead_after_tokens } = config;
        let f = *width as usize;
        if d == 0 || f == 0 {
            return Err(Error::config(format!(
                "a coder of input width {d} and `coder.width` {f}: both must be positive"
            )));
        }
        if *k == 0 || *k > *width {
            return Err(Error::config(format!("`coder.k` is {k}: it must be between 1 and `coder.width` ({width})")));
        }
        if !(*aux_coefficient >= 0.0 && aux_coefficient.is_finite()) {
            return Err(Error::config(format!("`coder.aux_coefficient` is {aux_coefficient}: it must be 0 or more")));
        }
        let aux_k = aux_k.map_or((d / 2).max(1), |k| k as usize).min(f);
        Ok(Self {
            dims: CoderDims { d, f },
            k: *k as usize,
            aux_k,
            aux_coefficient: if aux_k == 0 { 0.0 } else { *aux_coefficient },
            dead_after: dead_after_tokens.0,
        })
    }
}

/// A batch to train on.
pub struct Batch<'a, B: CoderOps> {
    /// `[n, d]` raw rows.
    pub x: &'a B::Tensor,
    /// Rows.
    pub n: usize,
    /// `y = scale * x`.
    pub scale: f64,
    /// Dead latents, ascending.
    pub dead: &'a [u32],
}

/// What a batch gave.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchReport {
    /// `1/n sum |y - y^|^2`.
    pub reconstruction_loss: f64,
    /// Weighted auxiliary loss; 0 while no latent is dead.
    pub auxiliary_loss: f64,
    /// `sum |y - y^|^2 / sum |y - mean y|^2` over the batch.
    pub fvu: f64,
    /// Latents that fired, a row.
    pub l0: f64,
    /// `[f + 1]` where each latent's firings start among all: latent `i` fired `fired[i + 1] - fired[i]` times.
    pub fired: Vec<u32>,
}

/// Parameters, and the buffers of a training step.
pub struct TopkCoder<B: CoderOps> {
    settings: TopkSettings,
    /// The parameters.
    pub params: Params<B>,
    /// Their gradients after [`TopkCoder::loss_and_gradients`].
    pub gradients: Gradients<B>,
    centered: B::Tensor,
    main: Branch<B>,
    aux: Option<Branch<B>>,
    aux_latents: B::Index,
}

impl<B: CoderOps> TopkCoder<B> {
    /// A coder for batches of up to `rows` rows.
    pub fn new(backend: &B, settings: TopkSettings, params: Params<B>, rows: usize) -> Self {
        let dims = settings.dims;
        let aux = (settings.aux_coefficient > 0.0).then(|| Branch::new(backend, dims, rows, settings.aux_k));
        Self {
            settings,
            params,
            gradients: params::zeros(backend, dims),
            centered: backend.zeros(rows * dims.d),
            main: Branch::new(backend, dims, rows, settings.k),
            aux,
            aux_latents: backend.index(dims.f),
        }
    }

    /// What it is.
    pub fn settings(&self) -> &TopkSettings {
        &self.settings
    }

    /// The code of the last batch.
    pub fn code(&self) -> &Code<B> {
        self.main.code()
    }

    /// Loss of a batch, and [`TopkCoder::gradients`].
    pub fn loss_and_gradients(&mut self, backend: &B, batch: &Batch<'_, B>) -> BatchReport {
        let TopkSettings { dims, aux_coefficient, .. } = self.settings;
        let n = batch.n;
        backend.center(batch.x, batch.scale, &self.params.b_dec, &mut self.centered, n, dims.d);
        let input = BranchInput { c: &self.centered, target: &self.centered, n };
        self.main.forward(backend, &self.params, dims, input, None);
        let left = backend.square_sums(self.main.residual(), n, dims.d);
        let spread = backend.square_sums(&self.centered, n, dims.d);
        self.main.backward(backend, &self.params, dims, -2.0 / n as f64);

        let with_aux = self.aux.is_some() && !batch.dead.is_empty() && left.about_mean > 0.0;
        let auxiliary_loss =
            if with_aux { self.auxiliary(backend, batch, aux_coefficient / left.about_mean) } else { 0.0 };
        self.sum_gradients(backend, n, with_aux);

        let fired = self.main.starts(backend, dims.f);
        BatchReport {
            reconstruction_loss: left.about_zero / n as f64,
            auxiliary_loss,
            // rows that are all alike have no variance to explain
            fvu: if spread.about_mean > 0.0 { left.about_zero / spread.about_mean } else { 0.0 },
            l0: f64::from(fired[dims.f]) / n as f64,
            fired,
        }
    }

    /// The auxiliary branch: loss `weight * sum_b |r_b - r^_b|^2`.
    fn auxiliary(&mut self, backend: &B, batch: &Batch<'_, B>, weight: f64) -> f64 {
        let TopkSettings { dims, aux_k, .. } = self.settings;
        let Some(aux) = &mut self.aux else { return 0.0 };
        backend.write_index(&mut self.aux_latents, batch.dead);
        let among = Subset { latents: &self.aux_latents, len: batch.dead.len() };
        let input = BranchInput { c: &self.centered, target: self.main.residual(), n: batch.n };
        aux.set_k(aux_k.min(batch.dead.len()));
        aux.forward(backend, &self.params, dims, input, Some(among));
        aux.backward(backend, &self.params, dims, -2.0 * weight);
        weight * backend.sum_squares(aux.residual(), batch.n * dims.d)
    }

    fn sum_gradients(&mut self, backend: &B, n: usize, with_aux: bool) {
        let CoderDims { d, f } = self.settings.dims;
        let Gradients::<B> { w_enc, b_enc, w_dec, b_dec } = &mut self.gradients;
        let out = LatentGradients { w_enc, b_enc, w_dec };
        match self.aux.as_ref().filter(|_| with_aux) {
            Some(aux) => {
                let terms = [self.main.term(), aux.term()];
                backend.latent_gradients(&terms, &self.centered, self.settings.dims, out);
            }
            None => backend.latent_gradients(&[self.main.term()], &self.centered, self.settings.dims, out),
        }
        backend.column_sums(self.main.residual(), -2.0 / n as f64, b_dec, n, d);
        backend.add_weighted_rows(b_enc, &self.params.w_enc, -1.0, b_dec, f, d);
    }

    /// Reconstructions of raw rows, in raw space: `out` `[n, d]` and `l0` `[n]` (latents that fired) are overwritten;
    /// `fired` `[f]` is counted up.
    pub fn reconstruct(
        &self,
        backend: &B,
        scale: f64,
        rows: &[f32],
        out: &mut Vec<f32>,
        l0: &mut Vec<u32>,
        fired: &mut [u64],
    ) {
        let TopkSettings { dims, k, .. } = self.settings;
        let d = dims.d;
        assert!(rows.len().is_multiple_of(d) && fired.len() == dims.f, "reconstruct: rows of width {d}");
        out.clear();
        out.resize(rows.len(), 0.0);
        l0.clear();
        let most = RECONSTRUCT_ROWS.min(rows.len() / d);
        let (mut x, mut c) = (backend.zeros(most * d), backend.zeros(most * d));
        let mut code = Code::new(backend, most, k);
        let mut latents = vec![0; most * k];
        for (rows, out) in rows.chunks(RECONSTRUCT_ROWS * d).zip(out.chunks_mut(RECONSTRUCT_ROWS * d)) {
            code.rows = rows.len() / d;
            backend.write(&mut x, 0, rows);
            backend.center(&x, scale, &self.params.b_dec, &mut c, code.rows, d);
            backend.encode_topk(&c, &self.params.w_enc, &self.params.b_enc, dims, None, &mut code);
            backend.decode(&code, &self.params.w_dec, &self.params.b_dec, &mut x, d);
            backend.read(&x, 0, out);
            out.iter_mut().for_each(|y| *y = (f64::from(*y) / scale) as f32);
            let latents = &mut latents[..code.rows * k];
            backend.read_index(&code.latents, latents);
            for row in latents.chunks_exact(k) {
                let active = row.iter().take_while(|&&i| i != crate::compute::coder_ops::NO_LATENT);
                l0.push(active.map(|&i| fired[i as usize] += 1).count() as u32);
            }
        }
    }
}

#[cfg(test)]
mod tests;
