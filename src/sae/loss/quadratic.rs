//! All products of a row's values from latents that are products (bilinear autoencoders, as in the code of `bae`).
//!
//! With `|x| = 1`, `f_i = <l_i, x> <r_i, x>` and `X^ = sum_i f_i l_i r_i^T`:
//!
//! ```text
//! |x x^T - X^|^2 = f^T K f - 2 |f|^2 + 1      K = (L L^T) * (R R^T), by elements
//! L = mean over rows + density mean_i h_i      h_i = (|f_i|_1 / |f_i|_2 - 1) / (sqrt(n) - 1)
//! ```
//!
//! `|f_i|` are norms over the rows of the batch: `h_i` is 0 where a latent is active on one row alone, 1 where it is as large on
//! all (Hoyer 2004). The matrix `x x^T` is never held. A step costs `n f^2 + f^2 d`, and memory for four matrices `[f, f]`.

use crate::compute::CoderOps;
use crate::compute::coder_ops::CoderDims;
use crate::sae::coder::{Batch, BatchReport};
use crate::sae::params::{Gradients, Params};
use crate::sae::selection::host;
use crate::sae::selection::products::Values;
use crate::sae::settings::{ProductSettings, warmup};

/// Buffers of a step.
pub struct Quadratic<B: CoderOps> {
    settings: ProductSettings,
    dims: CoderDims,
    /// `[n, d]` rows of norm 1.
    x: B::Tensor,
    values: Values<B>,
    /// `[n, f]`.
    g: B::Tensor,
    /// `[f, f]`: `L L^T`, `R R^T`, and products of these with others.
    left: B::Tensor,
    right: B::Tensor,
    kernel: B::Tensor,
    moments: B::Tensor,
    zeros: B::Tensor,
}

impl<B: CoderOps> Quadratic<B> {
    /// For batches of up to `rows` rows.
    pub fn new(backend: &B, dims: CoderDims, settings: ProductSettings, rows: usize) -> Self {
        let square = || backend.zeros(dims.f * dims.f);
        Self {
            settings,
            dims,
            x: backend.zeros(rows * dims.d),
            values: Values::new(backend, dims.f, rows),
            g: backend.zeros(rows * dims.f),
            left: square(),
            right: square(),
            kernel: square(),
            moments: square(),
            zeros: backend.zeros(dims.f.max(dims.d)),
        }
    }

    /// Loss and gradients of a batch.
    pub fn step(
        &mut self,
        backend: &B,
        params: &Params<B>,
        batch: &Batch<'_, B>,
        gradients: &mut Gradients<B>,
    ) -> BatchReport {
        let (CoderDims { d, f, .. }, n) = (self.dims, batch.n);
        backend.center(batch.x, batch.scale, &self.zeros, &mut self.x, n, d);
        backend.normalize_rows(&mut self.x, n, d);
        self.values.set(backend, params, &self.x, n, self.dims);
        let reconstruction_loss = self.reconstruct(backend, params, n);
        let weight = self.settings.density * warmup(batch.step, self.settings.warmup_steps);
        // d/df of the reconstruction; `g` holds f K
        backend.combine(-4.0 / n as f64, &self.values.values, 2.0 / n as f64, &mut self.g, n * f);
        let density = self.density(backend, weight, n);
        self.gradients(backend, params, n, gradients);
        let mut second = backend.zeros(d * d);
        backend.products(&self.x, &self.x, &mut second, n, d, d);
        let spread = 1.0 - backend.sum_squares(&second, d * d) / (n * n) as f64;
        BatchReport {
            reconstruction_loss,
            sparsity_loss: weight * density,
            auxiliary_loss: 0.0,
            fvu: if spread > 0.0 { reconstruction_loss / spread } else { 0.0 },
            rows: n,
            l0: f as f64,
            fired: (0..=f).map(|i| (i * n) as u32).collect(),
            least: f64::INFINITY,
            least_of_each: Vec::new(),
            largest_of_each: Vec::new(),
            input_squares: n as f64,
            annealed: [0.0; 2],
        }
    }

    /// The mean of `|x x^T - X^|^2`; `g` becomes `f K`.
    fn reconstruct(&mut self, backend: &B, params: &Params<B>, n: usize) -> f64 {
        let CoderDims { d, f, .. } = self.dims;
        let of_rows = CoderDims { d, f, out: d, groups: 1 };
        backend.pre_activations(&params.w_enc, &params.w_enc, &self.zeros, &mut self.left, f, of_rows);
        backend.pre_activations(&params.w_dec, &params.w_dec, &self.zeros, &mut self.right, f, of_rows);
        backend.combine(1.0, &self.left, 0.0, &mut self.kernel, f * f);
        backend.multiply(&self.right, &mut self.kernel, f * f);
        let of_values = CoderDims { d: f, f, out: f, groups: 1 };
        let values = &self.values.values;
        backend.pre_activations(values, &self.kernel, &self.zeros, &mut self.g, n, of_values);
        let mut dots = backend.zeros(n);
        backend.row_dots(values, &self.g, &mut dots, n, f);
        let quadratic: f64 = host(backend, &dots, n).iter().sum();
        (quadratic - 2.0 * backend.sum_squares(values, n * f)) / n as f64 + 1.0
    }

    /// `mean_i h_i`; `weight` times its gradient is added to `g`.
    fn density(&mut self, backend: &B, weight: f64, n: usize) -> f64 {
        let f = self.dims.f;
        let values = &self.values.values;
        let mut scratch = backend.zeros(n * f);
        let mut sums = backend.zeros(f);
        let mut columns = |t: &B::Tensor| {
            backend.column_sums(t, 1.0, &mut sums, n, f);
            host(backend, &sums, f)
        };
        let all = columns(values);
        backend.combine(1.0, values, 0.0, &mut scratch, n * f);
        backend.at_least(&mut scratch, 0.0, n * f);
        // |f| = 2 max(f, 0) - f
        let sizes: Vec<f64> = columns(&scratch).iter().zip(&all).map(|(positive, sum)| 2.0 * positive - sum).collect();
        backend.combine(1.0, values, 0.0, &mut scratch, n * f);
        backend.multiply(values, &mut scratch, n * f);
        let norms: Vec<f64> = columns(&scratch).iter().map(|square| square.sqrt()).collect();
        let most = (n as f64).sqrt() - 1.0;
        if most <= 0.0 {
            return 0.0;
        }
        let (mut signs, mut factors, mut density) = (vec![0.0; f], vec![0.0; f], 0.0);
        for i in (0..f).filter(|&i| norms[i] > 0.0) {
            density += (sizes[i] / norms[i] - 1.0) / most / f as f64;
            let slope = weight / (f as f64 * most);
            signs[i] = slope / norms[i];
            factors[i] = -slope * sizes[i] / norms[i].powi(3);
        }
        let up = |values: &[f64]| {
            let mut t = backend.zeros(f);
            backend.write_f64(&mut t, 0, values);
            t
        };
        backend.add_by_column(values, &up(&signs), &up(&factors), &mut self.g, n, f);
        density
    }

    /// From `g` those of `L` and `R`: through `f`, and through `K`.
    fn gradients(&mut self, backend: &B, params: &Params<B>, n: usize, gradients: &mut Gradients<B>) {
        let CoderDims { d, f, .. } = self.dims;
        let Values { left, right, values, .. } = &mut self.values;
        backend.products(values, values, &mut self.moments, n, f, f);
        // what a side's gradient goes by is the other side's value
        backend.multiply(&self.g, right, n * f);
        backend.multiply(&self.g, left, n * f);
        let mut through_kernel = backend.zeros(f * d);
        let sides = [
            (&*right, &self.right, &params.w_enc, &mut gradients.w_enc),
            (&*left, &self.left, &params.w_dec, &mut gradients.w_dec),
        ];
        for (g, gram, own, out) in sides {
            backend.products(g, &self.x, out, n, f, d);
            backend.combine(1.0, &self.moments, 0.0, &mut self.kernel, f * f);
            backend.multiply(gram, &mut self.kernel, f * f);
            backend.products(&self.kernel, own, &mut through_kernel, f, f, d);
            backend.combine(2.0 / n as f64, &through_kernel, 1.0, out, f * d);
        }
    }
}
