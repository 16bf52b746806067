//! Selection rules and penalties in f64, by sorting and by their formulas.

use crate::compute::coder_ops::{Code, NO_LATENT, PenaltyShape, Rule};
use crate::compute::reference::Reference;

/// A row's entries: (latent, value), ascending.
type Row = Vec<(u32, f64)>;

/// See [`crate::compute::CoderOps::select`].
pub(super) fn select(u: &[f64], f: usize, rule: &Rule<'_, Reference>, code: &mut Code<Reference>) {
    let n = code.rows;
    let of = |b: usize| u[b * f..][..f].iter().copied().enumerate();
    let each = |keep: &dyn Fn(usize, f64) -> Option<f64>| -> Vec<Row> {
        (0..n).map(|b| of(b).filter_map(|(i, u)| Some((i as u32, keep(i, u)?))).collect()).collect()
    };
    let rows = match rule {
        Rule::Positive => each(&|_, u| (u > 0.0).then_some(u)),
        Rule::Above(threshold) => each(&|i, u| (u > threshold[i] && u > 0.0).then_some(u)),
        Rule::Near { threshold, half_width } => each(&|i, u| {
            let value = if u > threshold[i] { u } else { 0.0 };
            ((u - threshold[i]).abs() < *half_width).then_some(value)
        }),
        Rule::Below { threshold, among } => each(&|i, u| {
            let looked_at = among.latents[..among.len].contains(&(i as u32));
            (looked_at && u < threshold[i]).then_some(threshold[i] - u)
        }),
        Rule::RowLargest { k, score, signed } => (0..n).map(|b| largest(of(b), (*score, *signed), f, *k)).collect(),
        Rule::RowNorm { norm, score } => (0..n)
            .map(|b| {
                let all = largest(of(b), (*score, false), f, f);
                let weighted = |(i, u): &(u32, f64)| u * score.map_or(1.0, |s| s[*i as usize]);
                let mut ranked: Vec<f64> = all.iter().map(weighted).collect();
                ranked.sort_by(|a, b| b.total_cmp(a));
                let norm_of = |k: usize| ranked[..k].iter().map(|x| x * x).sum::<f64>().sqrt();
                let off = |k: usize| (norm_of(k) - norm[b]).abs();
                let most = ranked.len().min((f - 1).max(1));
                let k = (1..=most).fold(1, |best, k| if off(k) < off(best) { k } else { best });
                largest(of(b), (*score, false), f, k)
            })
            .collect(),
        Rule::GroupLargest { groups } => (0..n)
            .map(|b| {
                let width = f / groups;
                let of_group = |group: usize| largest(of(b).skip(group * width).take(width), (None, false), f, 1);
                (0..*groups).flat_map(of_group).collect()
            })
            .collect(),
        Rule::ColumnLargest { counts } => {
            let mut rows = vec![Row::new(); n];
            for i in 0..f {
                let column = (0..n).map(|b| (b, u[b * f + i]));
                for (b, value) in largest(column, (None, false), f, counts[i] as usize) {
                    rows[b as usize].push((i as u32, value));
                }
            }
            rows
        }
        Rule::BatchLargest { count, score } => {
            let mut rows = vec![Row::new(); n];
            for (place, value) in largest(u[..n * f].iter().copied().enumerate(), (*score, false), f, *count) {
                rows[place as usize / f].push((place % f as u32, value));
            }
            rows
        }
    };
    write(rows, code);
}

/// The `count` entries of largest score, in order of their places.
fn largest(
    u: impl Iterator<Item = (usize, f64)>,
    (score, signed): (Option<&Vec<f64>>, bool),
    f: usize,
    count: usize,
) -> Row {
    let scored = u.map(|(place, u)| (u * score.map_or(1.0, |s| s[place % f]) + 0.0, place as u32, u));
    let mut ranked: Vec<(f64, u32, f64)> =
        scored.filter(|entry| (entry.2 > 0.0 && entry.0 > 0.0) || (signed && !entry.0.is_nan())).collect();
    ranked.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    ranked.truncate(count);
    ranked.sort_by_key(|entry| entry.1);
    ranked.into_iter().map(|(_, place, u)| (place, u)).collect()
}

/// Put rows into a code of as many rows.
pub(super) fn write(rows: Vec<Row>, code: &mut Code<Reference>) {
    code.k = rows.iter().map(Vec::len).max().unwrap_or(0);
    let places = code.places();
    code.latents.resize(code.latents.len().max(places), NO_LATENT);
    code.values.resize(code.values.len().max(places), 0.0);
    for place in 0..places {
        let entry = rows[place / code.k].get(place % code.k).copied();
        (code.latents[place], code.values[place]) = entry.unwrap_or((NO_LATENT, 0.0));
    }
}

/// The sum of `shape` over a row's values, and its slope at each.
pub(super) fn slope(shape: PenaltyShape, row: impl Iterator<Item = f64>) -> (f64, Vec<f64>) {
    let row: Vec<f64> = row.collect();
    let sum_of = |f: &dyn Fn(f64) -> f64| row.iter().map(|&v| f(v)).sum::<f64>();
    match shape {
        PenaltyShape::Linear => (sum_of(&|v| v), vec![1.0; row.len()]),
        PenaltyShape::Tanh { scale } => {
            let slopes = row.iter().map(|v| scale * (1.0 - (scale * v).tanh().powi(2)));
            (sum_of(&|v| (scale * v).tanh()), slopes.collect())
        }
        PenaltyShape::Power { p } => {
            (sum_of(&|v| v.powf(p)), row.iter().map(|v| p * v.max(1e-6).powf(p - 1.0)).collect())
        }
        PenaltyShape::RowNorm { p } => {
            let sum = sum_of(&|v| v.powf(p));
            let norm = sum.powf(1.0 / p);
            let outer = if sum > 0.0 { sum.powf(1.0 / p - 1.0) } else { 0.0 };
            (norm, row.iter().map(|v| outer * v.max(1e-6).powf(p - 1.0)).collect())
        }
    }
}
