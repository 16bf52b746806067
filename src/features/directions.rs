//! What a coder's weights say of its latents: which tokens they promote, and which latents lie near each other.

use crate::compute::Backend;
use crate::error::Result;
use crate::evaluation::geometry::{cosines, norms, unit_rows};

/// Directions whose effects are computed at a time.
const BLOCK: usize = 64;
/// Tokens of [`Effects::lens`].
const LENS: usize = 20;
/// Bins of [`Effects::histogram`].
const BINS: usize = 40;

/// What is known of the latents' weights; a list is empty where that is not known.
#[derive(Clone, Debug, Default)]
pub struct Directions {
    /// Norms of decoder rows.
    pub decoder_norms: Vec<f32>,
    /// Effects on tokens.
    pub effects: Vec<Effects>,
    /// Latents with the nearest decoder rows, nearest first.
    pub near_decoder: Vec<Vec<Near>>,
    /// Latents with the nearest encoder rows, nearest first.
    pub near_encoder: Vec<Vec<Near>>,
}

/// A latent that lies near another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Near {
    /// Which.
    pub latent: u32,
    /// Cosine of the two rows.
    pub cosine: f32,
}

/// What a latent does to the logits, directly.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Effects {
    /// Tokens whose logit grows most, with that, most first.
    pub promoted: Vec<(u32, f32)>,
    /// Tokens whose logit falls most, most first.
    pub suppressed: Vec<(u32, f32)>,
    /// The 20 tokens that it promotes most, however many are named.
    pub lens: Vec<u32>,
    /// Counts of all tokens in equal bins from the smallest to the largest effect.
    pub histogram: Vec<u32>,
}

/// Of each row of `rows` `[f, width]` the `n` others with the largest cosines. Rows of zeros have none and are near none.
pub fn nearest<B: Backend>(backend: &B, rows: &[f32], width: usize, n: usize) -> Vec<Vec<Near>> {
    let lengths = norms(rows, width);
    let unit = unit_rows(rows, width);
    let mut found = Vec::with_capacity(lengths.len());
    cosines(backend, &unit, &unit, width, |first, block| {
        for (row, cosines) in block.chunks_exact(lengths.len()).enumerate() {
            let row = first + row;
            let is_there = |&j: &usize| j != row && lengths[row] > 0.0 && lengths[j] > 0.0;
            let near = largest(cosines, n, is_there).into_iter();
            found.push(near.map(|(latent, cosine)| Near { latent, cosine }).collect());
        }
    });
    found
}

/// The effects of `directions` `[f, width]` on tokens, `n` each way. `logits` gives what rows `[m, width]` add to them,
/// `[m, v]`.
pub fn effects(
    directions: &[f32],
    width: usize,
    n: usize,
    mut logits: impl FnMut(&[f32], &mut Vec<f32>) -> Result<()>,
) -> Result<Vec<Effects>> {
    let (mut found, mut block) = (Vec::with_capacity(directions.len() / width.max(1)), Vec::new());
    for rows in directions.chunks(BLOCK * width.max(1)) {
        logits(rows, &mut block)?;
        let v = block.len() / (rows.len() / width).max(1);
        found.extend(block.chunks_exact(v.max(1)).map(|row| {
            let negated: Vec<f32> = row.iter().map(|x| -x).collect();
            let suppressed = largest(&negated, n, |_| true).into_iter().map(|(token, x)| (token, -x)).collect();
            let mut promoted = largest(row, n.max(LENS), |_| true);
            let lens = promoted.iter().take(LENS).map(|(token, _)| *token).collect();
            promoted.truncate(n);
            Effects { promoted, suppressed, lens, histogram: histogram(row) }
        }));
    }
    Ok(found)
}

impl Effects {
    /// The middles of [`Effects::histogram`]'s bins.
    pub fn middles(&self) -> Vec<f32> {
        let (Some(&(_, to)), Some(&(_, from))) = (self.promoted.first(), self.suppressed.first()) else {
            return Vec::new();
        };
        let step = (to - from) / self.histogram.len().max(1) as f32;
        (0..self.histogram.len()).map(|i| from + step * (i as f32 + 0.5)).collect()
    }
}

fn histogram(values: &[f32]) -> Vec<u32> {
    let (mut from, mut to) = (f32::INFINITY, f32::NEG_INFINITY);
    values.iter().for_each(|&x| (from, to) = (from.min(x), to.max(x)));
    let mut counts = vec![0; BINS];
    let step = (to - from) / BINS as f32;
    values.iter().for_each(|x| counts[(((x - from) / step.max(f32::MIN_POSITIVE)) as usize).min(BINS - 1)] += 1);
    counts
}

/// The `n` largest of `values` at wanted places, largest first; of equal ones the first.
fn largest(values: &[f32], n: usize, wanted: impl Fn(&usize) -> bool) -> Vec<(u32, f32)> {
    let mut found: Vec<(u32, f32)> = Vec::with_capacity(n + 1);
    for (i, &value) in values.iter().enumerate() {
        let weakest = found.last().map_or(f32::NEG_INFINITY, |last| last.1);
        if (found.len() == n && value <= weakest) || value.is_nan() || !wanted(&i) {
            continue;
        }
        let at = found.partition_point(|(_, kept)| *kept >= value);
        found.insert(at, (i as u32, value));
        found.truncate(n);
    }
    found
}
