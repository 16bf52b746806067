//! Where training starts: random decoder rows of one norm, the encoder equal to them, and the decoder's bias at the
//! geometric median of the data (Gao et al. 2024) or at 0.

use crate::compute::CoderOps;
use crate::compute::coder_ops::CoderDims;
use crate::runtime::rng::Rng;
use crate::sae::constraint;
use crate::sae::params::{self, Params};
use crate::sae::settings::{CoderSettings, SelectionSettings};

/// Iterations of Weiszfeld's algorithm, at most.
const MEDIAN_STEPS: usize = 100;
/// It ends when the median moves by less than this share of the rows' mean distance from it.
const MEDIAN_TOLERANCE: f64 = 1e-7;

/// Parameters to start from: decoder rows uniform on a sphere, drawn from `rng` row by row; encoder rows equal to them, or
/// drawn after them where they are of another width; `b_enc` 0; `b_dec` as given, `[out]`; thresholds as set; the rest 0.
pub fn start<B: CoderOps>(backend: &B, settings: &CoderSettings, rng: &mut Rng, b_dec: B::Tensor) -> Params<B> {
    let CoderDims { d, f, out, .. } = settings.dims;
    let w_dec = directions(backend, rng, (f, out), settings.start.norm);
    let w_enc = if settings.start.tied { w_dec.clone() } else { directions(backend, rng, (f, d), settings.start.norm) };
    let mut params = params::zeros(backend, settings.dims, settings.selection.extra_params());
    params.w_enc = backend.upload(&w_enc);
    params.w_dec = backend.upload(&w_dec);
    params.b_dec = b_dec;
    if settings.target.later_layers {
        constraint::restore(backend, settings, &mut params);
    }
    if let SelectionSettings::JumpRelu(own) = &settings.selection {
        backend.write_f64(params.extra_mut("threshold"), 0, &vec![own.start; f]);
    }
    params
}

/// Rows uniform on a sphere of radius `norm`.
fn directions<B: CoderOps>(backend: &B, rng: &mut Rng, (f, d): (usize, usize), norm: f64) -> Vec<f32> {
    let mut rows: Vec<f32> = (0..f * d).map(|_| rng.normal() as f32).collect();
    let mut unit = backend.upload(&rows);
    backend.normalize_rows(&mut unit, f, d);
    backend.read(&unit, 0, &mut rows);
    if norm != 1.0 {
        rows.iter_mut().for_each(|w| *w *= norm as f32);
    }
    rows
}

/// The point with the least sum of distances to the rows of `x` `[n, d]`, by Weiszfeld's algorithm from their mean:
/// `m = sum_b x_b / |x_b - m| / sum_b 1 / |x_b - m|`. Returns `[d]`.
pub fn geometric_median<B: CoderOps>(backend: &B, x: &B::Tensor, n: usize, d: usize) -> B::Tensor {
    let mut median = backend.zeros(d);
    if n == 0 {
        return median;
    }
    backend.column_sums(x, 1.0 / n as f64, &mut median, n, d);
    let mut distances = backend.zeros(n);
    let mut distance = vec![0f32; n];
    for _ in 0..MEDIAN_STEPS {
        backend.row_distances(x, &median, &mut distances, n, d);
        backend.read(&distances, 0, &mut distance);
        let mean_distance = distance.iter().map(|&r| f64::from(r)).sum::<f64>() / n as f64;
        // a row at the median itself would have infinite weight
        let floor = (mean_distance * 1e-8).max(f64::MIN_POSITIVE) as f32;
        let weight: Vec<f32> = distance.iter().map(|&r| 1.0 / (r + floor)).collect();
        let total: f64 = weight.iter().map(|&w| f64::from(w)).sum();
        if !total.is_finite() {
            break; // all rows are one point
        }
        let mut next = backend.zeros(d);
        backend.add_weighted_rows(&backend.upload(&weight), x, 1.0 / total, &mut next, n, d);
        let moved = distance_between(backend, &median, &next, d);
        median = next;
        if moved <= MEDIAN_TOLERANCE * mean_distance {
            break;
        }
    }
    median
}

fn distance_between<B: CoderOps>(backend: &B, a: &B::Tensor, b: &B::Tensor, d: usize) -> f64 {
    let mut out = backend.zeros(1);
    backend.row_distances(a, b, &mut out, 1, d);
    let mut distance = [0f64];
    backend.read_f64(&out, 0, &mut distance);
    distance[0]
}
