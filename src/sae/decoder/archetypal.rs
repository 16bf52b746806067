//! Decoder rows near the convex hull of data points (archetypal SAE, Fel et al. 2025): `D = (W C + R) e^m`.
//!
//! `C` `[points, out]` are rows of the data, which do not change; rows of `W` (`mixture`) are not negative and add up to 1;
//! rows of `R` (`relaxation`) are no longer than `delta`; `m` (`log_scale`) is a number. With `G` the gradient with respect to
//! `D`: `dL/dW = e^m G C^T`, `dL/dR = e^m G`, `dL/dm = sum G * D`. Both bounds are restored after each update.

use crate::compute::CoderOps;
use crate::compute::coder_ops::CoderDims;
use crate::sae::decoder::DecoderMap;
use crate::sae::params::{Gradients, Params};
use crate::sae::selection::host;
use crate::sae::settings::ArchetypalSettings;

/// Added to the sums by which rows of the mixture are divided.
const EPSILON: f64 = 1e-8;

/// See the module.
pub(super) struct Archetypal {
    pub(super) dims: CoderDims,
    pub(super) settings: ArchetypalSettings,
}

impl ArchetypalSettings {
    /// Names and shapes of the parameters.
    pub(crate) fn params(&self, dims: CoderDims) -> Vec<(&'static str, Vec<usize>)> {
        let mut params = vec![("mixture", vec![dims.f, self.points])];
        if self.delta > 0.0 {
            params.push(("relaxation", vec![dims.f, dims.out]));
        }
        if self.multiplier {
            params.push(("log_scale", vec![1]));
        }
        params
    }

    fn scale<B: CoderOps>(&self, backend: &B, params: &Params<B>) -> f64 {
        if self.multiplier { host(backend, params.extra("log_scale"), 1)[0].exp() } else { 1.0 }
    }

    /// After an update: the mixture's rows add up to 1, the relaxation's are no longer than `delta`.
    pub(crate) fn restore<B: CoderOps>(&self, backend: &B, dims: CoderDims, params: &mut Params<B>) {
        let (f, points) = (dims.f, self.points);
        let mixture = params.extra_mut("mixture");
        backend.at_least(mixture, 0.0, f * points);
        let (mut sums, ones) = (backend.zeros(f), backend.upload(&vec![1.0; points]));
        let one = CoderDims { d: points, f: 1, out: points, groups: 1 };
        backend.pre_activations(mixture, &ones, &backend.zeros(1), &mut sums, f, one);
        let inverse: Vec<f64> = host(backend, &sums, f).into_iter().map(|sum| 1.0 / (sum + EPSILON)).collect();
        backend.write_f64(&mut sums, 0, &inverse);
        backend.scale_rows(&sums, mixture, f, points);
        if self.delta > 0.0 {
            let relaxation = params.extra_mut("relaxation");
            backend.row_norms(relaxation, &mut sums, f, dims.out);
            let shorter = host(backend, &sums, f).into_iter().map(|norm| (self.delta / norm.max(EPSILON)).min(1.0));
            backend.write_f64(&mut sums, 0, &shorter.collect::<Vec<_>>());
            backend.scale_rows(&sums, relaxation, f, dims.out);
        }
    }
}

impl<B: CoderOps> DecoderMap<B> for Archetypal {
    fn forward(&self, backend: &B, points: &B::Tensor, params: &Params<B>, w_dec: &mut B::Tensor) {
        let CoderDims { f, out, .. } = self.dims;
        let n = self.settings.points;
        let values = host(backend, points, n * out);
        let turned: Vec<f64> =
            (0..out).flat_map(|p| (0..n).map(move |j| (p, j))).map(|(p, j)| values[j * out + p]).collect();
        let mut columns = backend.zeros(n * out);
        backend.write_f64(&mut columns, 0, &turned);
        let mixed = CoderDims { d: n, f: out, out: n, groups: 1 };
        backend.pre_activations(params.extra("mixture"), &columns, &backend.zeros(out), w_dec, f, mixed);
        if self.settings.delta > 0.0 {
            backend.combine(1.0, params.extra("relaxation"), 1.0, w_dec, f * out);
        }
        scale(backend, self.settings.scale(backend, params), w_dec, f, out);
    }

    fn backward(
        &self,
        backend: &B,
        points: &B::Tensor,
        params: &Params<B>,
        (w_dec, g): (&B::Tensor, &mut B::Tensor),
        gradients: &mut Gradients<B>,
    ) {
        let CoderDims { f, out, .. } = self.dims;
        let n = self.settings.points;
        if self.settings.multiplier {
            let mut dots = backend.zeros(f);
            backend.row_dots(g, w_dec, &mut dots, f, out);
            let sum: f64 = host(backend, &dots, f).iter().sum();
            backend.write_f64(gradients.extra_mut("log_scale"), 0, &[sum]);
        }
        scale(backend, self.settings.scale(backend, params), g, f, out);
        let dims = CoderDims { d: out, f: n, out, groups: 1 };
        backend.pre_activations(g, points, &backend.zeros(n), gradients.extra_mut("mixture"), f, dims);
        if self.settings.delta > 0.0 {
            backend.combine(1.0, g, 0.0, gradients.extra_mut("relaxation"), f * out);
        }
    }
}

/// `x *= by`, `[n, d]`.
fn scale<B: CoderOps>(backend: &B, by: f64, x: &mut B::Tensor, n: usize, d: usize) {
    if by != 1.0 {
        let mut each = backend.zeros(n);
        backend.write_f64(&mut each, 0, &vec![by; n]);
        backend.scale_rows(&each, x, n, d);
    }
}
