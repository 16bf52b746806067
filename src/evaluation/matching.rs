//! Do two dictionaries hold the same directions? Nearest directions both ways, and the best pairs one to one.

use serde::{Deserialize, Serialize};

use crate::compute::Backend;
use crate::evaluation::geometry::{Dictionary, cosines, unit_rows};

/// Pairs are exact where `smaller^2 * larger` numbers of latents are at most this: 2048 latents each.
const EXACT_MAX: u64 = 1 << 33;
/// Candidates of each latent where they are not.
const CANDIDATES: usize = 32;
/// Cosine above which a pair is one feature. (Paulo and Belrose, 2501.16615.)
pub const SHARED: f64 = 0.7;

/// What two dictionaries share.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Matching {
    /// Mean over the first's latents of the largest cosine with one of the second; several may have the same.
    pub mmcs_first_to_second: f64,
    /// The same from the second's latents.
    pub mmcs_second_to_first: f64,
    /// Mean cosine of decoder rows that are paired one to one, as many as the smaller dictionary has.
    pub paired_cosine: f64,
    /// Pairs.
    pub pairs: u64,
    /// Whether the pairs are those of the largest sum of cosines (Hungarian); else they are taken in the order of their
    /// cosine from each latent's 32 nearest, and some latents of the smaller dictionary may stay alone.
    pub exact: bool,
    /// Share of the smaller dictionary's latents whose pair has a cosine above 0.7 in decoder and encoder both; absent where
    /// the latents of one have no encoder rows of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared: Option<f64>,
    /// The same by the decoder alone.
    pub shared_decoder: f64,
}

/// Compare the directions of two dictionaries of one space. `None` if their widths differ or one is empty.
pub fn compare<B: Backend>(backend: &B, first: &Dictionary, second: &Dictionary) -> Option<Matching> {
    let encoders = first.has_encoder() && second.has_encoder();
    let differ = first.decoder_width != second.decoder_width;
    if differ || encoders && first.encoder_width != second.encoder_width || first.is_empty() || second.is_empty() {
        return None;
    }
    let turned = first.len() > second.len();
    let (few, many) = if turned { (second, first) } else { (first, second) };
    let (n, m) = (few.len(), many.len());
    let width = few.decoder_width;
    let (a, b) = (unit_rows(&few.decoder, width), unit_rows(&many.decoder, width));
    let exact = (n as u64).saturating_pow(2).saturating_mul(m as u64) <= EXACT_MAX;
    let (mut nearest, mut nearest_back) = (vec![f32::NEG_INFINITY; n], vec![f32::NEG_INFINITY; m]);
    let (mut whole, mut candidates) = (Vec::new(), Vec::new());
    cosines(backend, &a, &b, width, |first_row, block| {
        for (row, cosines) in block.chunks_exact(m).enumerate() {
            for (&cosine, back) in cosines.iter().zip(&mut nearest_back) {
                nearest[first_row + row] = nearest[first_row + row].max(cosine);
                *back = back.max(cosine);
            }
            if !exact {
                candidates.extend(largest(cosines).into_iter().map(|j| (cosines[j], first_row + row, j)));
            }
        }
        if exact {
            whole.extend_from_slice(block);
        }
    });
    let pairs = if exact { assign(&whole, n, m) } else { greedy(candidates, n, m) };
    let mean = |values: &[f32]| values.iter().map(|&x| f64::from(x)).sum::<f64>() / values.len() as f64;
    let (from_few, from_many) = (mean(&nearest), mean(&nearest_back));
    let (first_mmcs, second_mmcs) = if turned { (from_many, from_few) } else { (from_few, from_many) };
    let product = |x: &[f32], y: &[f32], width: usize, (i, j): (usize, usize)| -> f64 {
        let rows = x[i * width..][..width].iter().zip(&y[j * width..][..width]);
        rows.map(|(&x, &y)| f64::from(x) * f64::from(y)).sum()
    };
    let of_decoder: Vec<f64> = pairs.iter().map(|&pair| product(&a, &b, width, pair)).collect();
    let shared = encoders.then(|| {
        let width = few.encoder_width;
        let (a, b) = (unit_rows(&few.encoder, width), unit_rows(&many.encoder, width));
        let both = pairs.iter().zip(&of_decoder).filter(|(_, decoder)| **decoder > SHARED);
        both.filter(|(pair, _)| product(&a, &b, width, **pair) > SHARED).count() as f64 / n as f64
    });
    Some(Matching {
        mmcs_first_to_second: first_mmcs,
        mmcs_second_to_first: second_mmcs,
        paired_cosine: of_decoder.iter().sum::<f64>() / pairs.len().max(1) as f64,
        pairs: pairs.len() as u64,
        exact,
        shared,
        shared_decoder: of_decoder.iter().filter(|&&cosine| cosine > SHARED).count() as f64 / n as f64,
    })
}

/// Places of the [`CANDIDATES`] largest values.
fn largest(values: &[f32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    if values.len() > CANDIDATES {
        order.select_nth_unstable_by(CANDIDATES, |&i, &j| values[j].total_cmp(&values[i]).then(i.cmp(&j)));
        order.truncate(CANDIDATES);
    }
    order
}

/// Pairs `(row, column)` in the order of their cosine, each row and column once.
pub(super) fn greedy(mut candidates: Vec<(f32, usize, usize)>, n: usize, m: usize) -> Vec<(usize, usize)> {
    candidates.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    let (mut row_taken, mut column_taken) = (vec![false; n], vec![false; m]);
    let mut pairs = Vec::with_capacity(n);
    for (_, i, j) in candidates {
        if !row_taken[i] && !column_taken[j] {
            (row_taken[i], column_taken[j]) = (true, true);
            pairs.push((i, j));
        }
    }
    pairs.sort_unstable();
    pairs
}

/// The pairs of the largest sum of `gain` `[n, m]`, `n <= m`, one for each row: the Hungarian algorithm by shortest
/// augmenting paths, `O(n^2 m)`.
pub fn assign(gain: &[f32], n: usize, m: usize) -> Vec<(usize, usize)> {
    assert!(n <= m && gain.len() == n * m, "shape of an assignment");
    // column 0 and row 0 stand for nothing
    let (mut of_row, mut of_column) = (vec![0f64; n + 1], vec![0f64; m + 1]);
    let (mut row_at, mut before) = (vec![0usize; m + 1], vec![0usize; m + 1]);
    let (mut least, mut done) = (vec![0f64; m + 1], vec![false; m + 1]);
    for row in 1..=n {
        row_at[0] = row;
        let mut column = 0;
        least.fill(f64::INFINITY);
        done.fill(false);
        loop {
            done[column] = true;
            let i = row_at[column];
            let gains = &gain[(i - 1) * m..][..m];
            let (mut step, mut next) = (f64::INFINITY, 0);
            for j in 1..=m {
                if done[j] {
                    continue;
                }
                let cost = -f64::from(gains[j - 1]) - of_row[i] - of_column[j];
                if cost < least[j] {
                    (least[j], before[j]) = (cost, column);
                }
                if least[j] < step || next == 0 {
                    (step, next) = (least[j], j);
                }
            }
            for j in 0..=m {
                if done[j] {
                    of_row[row_at[j]] += step;
                    of_column[j] -= step;
                } else {
                    least[j] -= step;
                }
            }
            column = next;
            if row_at[column] == 0 {
                break;
            }
        }
        while column != 0 {
            row_at[column] = row_at[before[column]];
            column = before[column];
        }
    }
    let mut pairs: Vec<_> = (1..=m).filter(|&j| row_at[j] != 0).map(|j| (row_at[j] - 1, j - 1)).collect();
    pairs.sort_unstable();
    pairs
}
