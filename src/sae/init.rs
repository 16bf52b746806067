//! Where training starts: random decoder rows of one norm, the encoder equal to them, and the decoder's bias at the
//! geometric median of the data (Gao et al. 2024) or at 0.

use crate::compute::CoderOps;
use crate::compute::coder_ops::{CoderDims, PairShape};
use crate::runtime::rng::Rng;
use crate::sae::coder::Coder;
use crate::sae::constraint;
use crate::sae::decoder::scaled;
use crate::sae::params::{self, Params};
use crate::sae::selection::{self, experts, host};
use crate::sae::settings::{CoderSettings, DecoderMapSettings, SelectionSettings};

/// Iterations of Weiszfeld's algorithm, at most.
const MEDIAN_STEPS: usize = 100;
/// It ends when the median moves by less than this share of the rows' mean distance from it.
const MEDIAN_TOLERANCE: f64 = 1e-7;

/// Parameters to start from: decoder rows uniform on a sphere, drawn from `rng` row by row; encoder rows equal to them, or
/// drawn after them where they are of another width; `b_enc` 0; `b_dec` as given, `[out]`; thresholds as set; the rest 0.
/// What a coder does not have stays empty.
pub fn start<B: CoderOps>(backend: &B, settings: &CoderSettings, rng: &mut Rng, b_dec: B::Tensor) -> Params<B> {
    let CoderDims { d, f, out, .. } = settings.dims;
    let w_dec = directions(backend, rng, (f, out), settings.start.norm);
    let w_enc = if settings.start.tied { w_dec.clone() } else { directions(backend, rng, (f, d), settings.start.norm) };
    let mut params = params::zeros(backend, settings);
    if settings.has_encoder_rows() {
        params.w_enc = backend.upload(&w_enc);
    }
    if backend.len(&params.w_dec) > 0 {
        params.w_dec = backend.upload(&w_dec);
    }
    match &settings.selection {
        SelectionSettings::Pairs { shape, .. } => pairs(backend, rng, settings.dims, *shape, &mut params),
        SelectionSettings::Experts(own) => {
            *params.extra_mut(experts::PARAMS[0]) = backend.upload(&directions(backend, rng, (own.experts, d), 1.0));
            backend.combine(1.0, &b_dec, 0.0, params.extra_mut(experts::PARAMS[1]), d);
        }
        _ => {}
    }
    if settings.decoder_map == DecoderMapSettings::Scaled {
        backend.write_f64(params.extra_mut(scaled::PARAM), 0, &vec![1.0; f]);
    }
    if let DecoderMapSettings::Archetypal(own) = &settings.decoder_map {
        let mut mixture = vec![0.0; f * own.points];
        (0..f).for_each(|i| mixture[i * own.points + i % own.points] = 1.0);
        *params.extra_mut("mixture") = backend.upload(&mixture);
    }
    params.b_dec = b_dec;
    if settings.target.later_layers {
        constraint::restore(backend, settings, &mut params);
    }
    if let SelectionSettings::JumpRelu(own) = &settings.selection {
        backend.write_f64(params.extra_mut("threshold"), 0, &vec![own.start; f]);
    }
    params
}

/// Parts with normal directions of norm `sqrt(d / 2f)`, about; decoder rows are the sums of their two parts', of norm 1.
fn pairs<B: CoderOps>(backend: &B, rng: &mut Rng, dims: CoderDims, shape: PairShape, params: &mut Params<B>) {
    let CoderDims { d, f, .. } = dims;
    let size = (1.0 / (2.0 * f as f64)).sqrt();
    let parts: Vec<f32> = (0..shape.parts() * d).map(|_| (size * rng.normal()) as f32).collect();
    *params.extra_mut(selection::pairs::PARAMS[0]) = backend.upload(&parts);
    if dims.out == d {
        let row = |part: usize| &parts[part * d..][..d];
        let sum = |(p, q)| row(p).iter().zip(row(q)).map(|(a, b)| a + b);
        params.w_dec = backend.upload(&(0..f).flat_map(|i| sum(shape.of(i))).collect::<Vec<f32>>());
        backend.normalize_rows(&mut params.w_dec, f, d);
    }
}

/// Rows of data for a decoder that is made of them, `[points, out]`, less `b_dec`. Encoder rows become `x / |x|^2`, so that a
/// latent starts with the value 1 on the row that it is.
pub fn set_points<B: CoderOps>(backend: &B, coder: &mut Coder<B>, rows: &[f32]) {
    let CoderDims { d, f, out, .. } = coder.settings().dims;
    let mut points = backend.upload(rows);
    let n = rows.len() / out;
    let mut centered = backend.zeros(n * out);
    backend.center(&points, 1.0, &coder.params.b_dec, &mut centered, n, out);
    std::mem::swap(&mut points, &mut centered);
    if d == out && coder.settings().start.tied {
        let values = host(backend, &points, n * out);
        let encoder_row = |i: usize| {
            let row = &values[i % n * out..][..out];
            let inverse = 1.0 / row.iter().map(|x| x * x).sum::<f64>().max(1e-12);
            row.iter().map(move |x| x * inverse)
        };
        backend.write_f64(&mut coder.params.w_enc, 0, &(0..f).flat_map(encoder_row).collect::<Vec<_>>());
    }
    coder.points = points;
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
