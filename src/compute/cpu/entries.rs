//! What is done to each entry of a code: penalties, sums by latent, scaling.

use std::ops::Range;

use rayon::prelude::*;

use crate::compute::coder_ops::{ByLatent, Code, NO_LATENT, PenaltyGradients, PenaltyShape, Rule};
use crate::compute::cpu::Cpu;

/// Rows of a task.
const ROWS: usize = 32;
/// Latents of a task.
const LATENTS: usize = 64;
/// Slopes that would be infinite at 0 are taken here.
const FLOOR: f64 = 1e-6;

/// See [`crate::compute::CoderOps::take_rows`].
pub(super) fn take_rows(cpu: &Cpu, x: &[f32], subset: &[u32], out: &mut [f32], d: usize) {
    let rows = out[..subset.len() * d].par_chunks_mut(d).with_min_len(ROWS).zip(subset);
    cpu.run(|| rows.for_each(|(to, &i)| to.copy_from_slice(&x[i as usize * d..][..d])));
}

/// See [`crate::compute::CoderOps::rename`].
pub(super) fn rename(cpu: &Cpu, code: &mut Code<Cpu>, subset: &[u32]) {
    let places = code.places();
    let used = code.latents[..places].par_iter_mut().with_min_len(4096).filter(|latent| **latent != NO_LATENT);
    cpu.run(|| used.for_each(|latent| *latent = subset[*latent as usize]));
}

/// See [`crate::compute::CoderOps::affine_entries`].
pub(super) fn affine(cpu: &Cpu, from: &Code<Cpu>, gain: &[f32], offset: &[f32], to: &mut Code<Cpu>) {
    (to.rows, to.k) = (from.rows, from.k);
    let (k, places) = (from.k, from.places());
    if k == 0 {
        return;
    }
    to.latents.resize(to.latents.len().max(places), NO_LATENT);
    to.values.resize(to.values.len().max(places), 0.0);
    let out = to.latents[..places].par_chunks_mut(k).zip(to.values[..places].par_chunks_mut(k));
    let rows = out.zip(from.latents[..places].par_chunks(k).zip(from.values[..places].par_chunks(k)));
    cpu.run(|| {
        rows.for_each(|((to_latents, to_values), (latents, values))| {
            to_latents.fill(NO_LATENT);
            to_values.fill(0.0);
            let mut at = 0;
            for (&latent, &value) in latents.iter().zip(values).take_while(|(latent, _)| **latent != NO_LATENT) {
                let value = gain[latent as usize].mul_add(value, offset[latent as usize]);
                if value > 0.0 {
                    (to_latents[at], to_values[at]) = (latent, value);
                    at += 1;
                }
            }
        });
    });
}

/// See [`crate::compute::CoderOps::select_entries`].
pub(super) fn choose(cpu: &Cpu, u: &Code<Cpu>, rule: Rule<'_, Cpu>, to: &mut Code<Cpu>) {
    let value = |latent: usize, u: f32| match &rule {
        Rule::Above(threshold) => (u > threshold[latent] && u > 0.0).then_some(u),
        Rule::Near { threshold, half_width } => {
            let value = if u > threshold[latent] { u } else { 0.0 };
            ((u - threshold[latent]).abs() < *half_width as f32).then_some(value)
        }
        // its entries are not enough to choose from
        _ => None,
    };
    let (k, places) = (u.k, u.places());
    (to.rows, to.k) = (u.rows, 0);
    if k == 0 {
        return;
    }
    let rows = u.latents[..places].par_chunks(k).zip(u.values[..places].par_chunks(k)).with_min_len(ROWS);
    let count = |(latents, values): (&[u32], &[f32])| {
        let used = latents.iter().zip(values).take_while(|(latent, _)| **latent != NO_LATENT);
        used.filter(|(latent, u)| value(**latent as usize, **u).is_some()).count()
    };
    to.k = cpu.run(|| rows.clone().map(count).max().unwrap_or(0));
    let (width, out) = (to.k, to.places());
    if width == 0 {
        return;
    }
    to.latents.resize(to.latents.len().max(out), NO_LATENT);
    to.values.resize(to.values.len().max(out), 0.0);
    let out = to.latents[..out].par_chunks_mut(width).zip(to.values[..out].par_chunks_mut(width));
    cpu.run(|| {
        rows.zip(out).for_each(|((latents, values), (to_latents, to_values))| {
            to_latents.fill(NO_LATENT);
            to_values.fill(0.0);
            let mut at = 0;
            for (&latent, &u) in latents.iter().zip(values).take_while(|(latent, _)| **latent != NO_LATENT) {
                if let Some(value) = value(latent as usize, u) {
                    (to_latents[at], to_values[at]) = (latent, value);
                    at += 1;
                }
            }
        });
    });
}

/// See [`crate::compute::CoderOps::scale_entries`].
pub(super) fn scale(cpu: &Cpu, code: &Code<Cpu>, gain: &[f32], t: &mut [f32]) {
    let places = code.places();
    let entries = t[..places].par_iter_mut().zip(&code.latents[..places]).with_min_len(4096);
    cpu.run(|| {
        entries.filter(|(_, latent)| **latent != NO_LATENT).for_each(|(t, &latent)| *t *= gain[latent as usize]);
    });
}

/// See [`crate::compute::CoderOps::least_entry`].
pub(super) fn least(cpu: &Cpu, code: &Code<Cpu>, weight: Option<&[f32]>) -> f64 {
    let places = code.places();
    let entries = code.latents[..places].par_iter().zip(&code.values[..places]).with_min_len(4096);
    let values = entries
        .filter(|(latent, _)| **latent != NO_LATENT)
        .map(|(&latent, &value)| value * weight.map_or(1.0, |w| w[latent as usize]));
    f64::from(cpu.run(|| values.reduce(|| f32::INFINITY, f32::min)))
}

/// See [`crate::compute::CoderOps::penalize`]. Slopes are taken in f64, a row's sum is of its entries in order.
pub(super) fn penalize(
    cpu: &Cpu,
    code: &Code<Cpu>,
    weight: Option<&[f32]>,
    shape: PenaltyShape,
    factor: f64,
    out: PenaltyGradients<'_, Cpu>,
) -> f64 {
    let (k, places) = (code.k, code.places());
    if k == 0 {
        return 0.0;
    }
    let mut nowhere = Vec::new();
    let (to_weights, has_weights) = match out.weights {
        Some(weights) => (weights, true),
        None => (&mut nowhere, false),
    };
    to_weights.resize(to_weights.len().max(places), 0.0);
    let code_rows = code.latents[..places].par_chunks(ROWS * k).zip(code.values[..places].par_chunks(ROWS * k));
    let out_rows = out.values[..places].par_chunks_mut(ROWS * k).zip(to_weights[..places].par_chunks_mut(ROWS * k));
    let blocks = code_rows.zip(out_rows).map(|((latents, values), (to_values, to_weights))| {
        let rows = latents.chunks_exact(k).zip(values.chunks_exact(k));
        let outs = to_values.chunks_exact_mut(k).zip(to_weights.chunks_exact_mut(k));
        let mut total = 0.0;
        for ((latents, values), (to_values, to_weights)) in rows.zip(outs) {
            let n = latents.iter().take_while(|latent| **latent != NO_LATENT).count();
            let weight = |at: usize| weight.map_or(1.0, |w| f64::from(w[latents[at] as usize]));
            let scaled = |at: usize| f64::from(values[at]) * weight(at);
            let (sum, outer) = row_sum(shape, (0..n).map(scaled));
            total += sum;
            for at in 0..n {
                let slope = factor * outer * slope(shape, scaled(at));
                to_values[at] += (slope * weight(at)) as f32;
                if has_weights {
                    to_weights[at] = (slope * f64::from(values[at])) as f32;
                }
            }
        }
        total
    });
    let blocks: Vec<f64> = cpu.run(|| blocks.collect());
    blocks.iter().sum()
}

/// A row's penalty, and what multiplies every slope in it.
fn row_sum(shape: PenaltyShape, row: impl Iterator<Item = f64>) -> (f64, f64) {
    match shape {
        PenaltyShape::Linear => (row.sum(), 1.0),
        PenaltyShape::Tanh { scale } => (row.map(|v| (scale * v).tanh()).sum(), 1.0),
        PenaltyShape::Power { p } => (row.map(|v| v.powf(p)).sum(), 1.0),
        PenaltyShape::RowNorm { p } => {
            let sum: f64 = row.map(|v| v.powf(p)).sum();
            (sum.powf(1.0 / p), if sum > 0.0 { sum.powf(1.0 / p - 1.0) } else { 0.0 })
        }
    }
}

fn slope(shape: PenaltyShape, v: f64) -> f64 {
    match shape {
        PenaltyShape::Linear => 1.0,
        PenaltyShape::Tanh { scale } => scale * (1.0 - (scale * v).tanh().powi(2)),
        PenaltyShape::Power { p } => p * v.max(FLOOR).powf(p - 1.0),
        PenaltyShape::RowNorm { p } => v.max(FLOOR).powf(p - 1.0),
    }
}

/// See [`crate::compute::CoderOps::norm_distance`].
pub(super) fn norm_distance(cpu: &Cpu, code: &Code<Cpu>, norm: &[f32], factor: f64, values: &mut [f32]) -> f64 {
    let (k, places) = (code.k, code.places());
    let square = |x: f32| f64::from(x) * f64::from(x);
    if k == 0 {
        return norm.iter().map(|&norm| square(norm)).sum();
    }
    let rows = code.values[..places].par_chunks(k).zip(values[..places].par_chunks_mut(k)).zip(norm);
    let distances = rows.with_min_len(ROWS).map(|((row, out), &norm)| {
        let length = row.iter().map(|&v| square(v)).sum::<f64>().sqrt();
        let off = length - f64::from(norm);
        let slope = if length > 0.0 { 2.0 * factor * off / length } else { 0.0 };
        out.iter_mut().zip(row).for_each(|(out, &v)| *out += (slope * f64::from(v)) as f32);
        off * off
    });
    let distances: Vec<f64> = cpu.run(|| distances.collect());
    distances.iter().sum()
}

/// See [`crate::compute::CoderOps::rank_range`].
pub(super) fn rank_range(cpu: &Cpu, code: &Code<Cpu>, ranks: Range<usize>, to: &mut Code<Cpu>) {
    let (k, places) = (code.k, code.places());
    (to.rows, to.k) = (code.rows, ranks.end.min(k).saturating_sub(ranks.start));
    let (width, out) = (to.k, to.places());
    if width == 0 {
        return;
    }
    to.latents.resize(to.latents.len().max(out), NO_LATENT);
    to.values.resize(to.values.len().max(out), 0.0);
    let from = code.latents[..places].par_chunks(k).zip(code.values[..places].par_chunks(k));
    let to = to.latents[..out].par_chunks_mut(width).zip(to.values[..out].par_chunks_mut(width));
    cpu.run(|| {
        from.zip(to).with_min_len(ROWS).for_each(|((latents, values), (to_latents, to_values))| {
            to_latents.fill(NO_LATENT);
            to_values.fill(0.0);
            let used = latents.iter().take_while(|latent| **latent != NO_LATENT).count();
            let mut ranked: Vec<usize> = (0..used).collect();
            ranked.sort_unstable_by(|&a, &b| values[b].total_cmp(&values[a]).then(a.cmp(&b)));
            let kept = &mut ranked[ranks.start.min(used)..ranks.end.min(used)];
            kept.sort_unstable();
            for (at, &place) in kept.iter().enumerate() {
                (to_latents[at], to_values[at]) = (latents[place], values[place]);
            }
        });
    });
}

/// See [`crate::compute::CoderOps::entry_minima`].
pub(super) fn minima(cpu: &Cpu, by_latent: &ByLatent<Cpu>, a: &[f32], out: &mut [f32]) {
    cpu.run(|| {
        out.par_iter_mut().with_min_len(LATENTS).enumerate().for_each(|(i, out)| {
            let places = by_latent.starts[i] as usize..by_latent.starts[i + 1] as usize;
            *out = by_latent.places[places].iter().map(|&place| a[place as usize]).fold(f32::INFINITY, f32::min);
        });
    });
}

/// See [`crate::compute::CoderOps::entry_sums`].
pub(super) fn sums(cpu: &Cpu, by_latent: &ByLatent<Cpu>, a: &[f32], b: Option<&[f32]>, out: &mut [f32]) {
    cpu.run(|| {
        out.par_iter_mut().with_min_len(LATENTS).enumerate().for_each(|(i, out)| {
            let places = by_latent.starts[i] as usize..by_latent.starts[i + 1] as usize;
            let product = |&place: &u32| {
                let at = place as usize;
                f64::from(a[at]) * b.map_or(1.0, |b| f64::from(b[at]))
            };
            *out = by_latent.places[places].iter().map(product).sum::<f64>() as f32;
        });
    });
}
