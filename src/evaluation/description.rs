//! Bits that a row's code takes. (Ayonrinde et al., "Interpretability as compression", 2410.11179.)
//!
//! `sum_i H(p_i) + p_i H(q_i)`, in bits a row: `p_i` is how often latent `i` fires, `q_i` the distribution of its values
//! over bins, both measured on the sample. Bins are equally wide, from 0 to the 99.9th percentile of all values; what is above counts in
//! the last. Only coders of the same error are compared by it, so what rounding adds to the error is measured too.

use serde::{Deserialize, Serialize};

use crate::evaluation::geometry::Dictionary;
use crate::evaluation::sample::CodeSample;

/// Numbers of bins that are tried.
const BINS: [usize; 5] = [8, 16, 32, 64, 256];
/// Share of the values that the bins reach.
const REACH: f64 = 0.999;
/// FVU that rounding may add.
const ADDED_FVU_MAX: f64 = 0.01;
/// Rows whose rounded codes are decoded, at most.
const DECODED_ROWS: usize = 2048;

/// The length of codes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Description {
    /// Rows that it was measured on.
    pub rows: u64,
    /// Upper end of the bins.
    pub reach: f64,
    /// Bits a row with the fewest bins that add at most 0.01 to the FVU; absent if none does, or it cannot be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bits: Option<f64>,
    /// By number of bins.
    pub by_bins: Vec<Binned>,
}

/// The length of codes with some number of bins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Binned {
    /// Bins.
    pub bins: usize,
    /// Bits a row.
    pub bits: f64,
    /// `mean |(c - rounded c) W_dec|^2` over the variance of rows; absent where rows are scaled each by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub added_fvu: Option<f64>,
}

/// The description length of a sample of codes. `decoder` and the rows' variance
/// ([`crate::evaluation::reconstruction::ReconstructionSums::variance`]) say what rounding costs. `None` without values.
pub fn describe(sample: &CodeSample, decoder: Option<(&Dictionary, f64)>) -> Option<Description> {
    let mut all: Vec<f32> = sample.codes.values().iter().map(|v| v.abs()).filter(|v| *v > 0.0).collect();
    if all.is_empty() {
        return None;
    }
    let at = ((all.len() - 1) as f64 * REACH).ceil() as usize;
    let reach = f64::from(*all.select_nth_unstable_by(at, f32::total_cmp).1);
    let by_bins: Vec<Binned> = BINS
        .iter()
        .map(|&bins| Binned {
            bins,
            bits: bits(sample, bins, reach),
            added_fvu: decoder.map(|(dictionary, variance)| rounding(sample, dictionary, bins, reach) / variance),
        })
        .collect();
    let cheapest = by_bins.iter().find(|binned| binned.added_fvu.is_some_and(|added| added <= ADDED_FVU_MAX));
    Some(Description { rows: sample.len() as u64, reach, bits: cheapest.map(|binned| binned.bits), by_bins })
}

fn bin(value: f32, bins: usize, reach: f64) -> usize {
    ((f64::from(value.abs()) / reach * bins as f64) as usize).min(bins - 1)
}

/// Bits a row. Memory is that of the sample's entries, whatever the number of latents and bins.
fn bits(sample: &CodeSample, bins: usize, reach: f64) -> f64 {
    let mut entries: Vec<(u32, u16)> = Vec::with_capacity(sample.codes.entries());
    for (latents, values) in sample.codes.rows() {
        let active = latents.iter().zip(values).filter(|(_, value)| **value != 0.0);
        entries.extend(active.map(|(&latent, &value)| (latent, bin(value, bins, reach) as u16)));
    }
    entries.sort_unstable();
    let n = sample.len() as f64;
    let bits = |p: f64| if p > 0.0 { -p * p.log2() } else { 0.0 };
    let of_latent = |entries: &[(u32, u16)]| {
        let fired = entries.len() as f64;
        let p = fired / n;
        let by_bin = entries.chunk_by(|a, b| a.1 == b.1);
        bits(p) + bits(1.0 - p) + p * by_bin.map(|bin| bits(bin.len() as f64 / fired)).sum::<f64>()
    };
    // latents that never fire take no bits
    entries.chunk_by(|a, b| a.0 == b.0).map(of_latent).sum()
}

/// `mean |(c - rounded c) W_dec|^2`.
fn rounding(sample: &CodeSample, dictionary: &Dictionary, bins: usize, reach: f64) -> f64 {
    let (width, rows) = (dictionary.decoder_width, sample.len().min(DECODED_ROWS));
    let mut total = 0.0;
    let mut off = vec![0f64; width];
    for (latents, values) in sample.codes.rows().take(rows) {
        off.fill(0.0);
        for (&latent, &value) in latents.iter().zip(values).filter(|(_, value)| **value != 0.0) {
            let middle = (bin(value, bins, reach) as f64 + 0.5) * reach / bins as f64;
            let lost = f64::from(value) - middle.copysign(f64::from(value));
            let direction = &dictionary.decoder[latent as usize * width..][..width];
            off.iter_mut().zip(direction).for_each(|(off, &w)| *off += lost * f64::from(w));
        }
        total += off.iter().map(|x| x * x).sum::<f64>();
    }
    total / rows as f64
}
