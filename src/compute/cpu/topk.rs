//! The encoder and its selection in one pass: tiles of pre-activations that stay in cache, and per row a short list of
//! the best so far, cut to the k-th largest whenever it is full.

use std::cell::RefCell;

use rayon::prelude::*;

use crate::compute::coder_ops::{CoderDims, NO_LATENT};
use crate::compute::cpu::Cpu;
use crate::compute::cpu::simd::{max, vectorized};

/// Rows of a tile: many, because a tile's weights are packed once for all of them.
const TILE_ROWS: usize = 256;
/// Latents of a tile.
const TILE_LATENTS: usize = 1024;
/// Values looked at together: most groups hold none above the threshold.
const GROUP: usize = 32;

/// Where [`encode_topk`] writes: `[rows, k]` each.
pub(super) struct CodeOut<'a> {
    pub(super) latents: &'a mut [u32],
    pub(super) values: &'a mut [f32],
    pub(super) k: usize,
}

/// See [`crate::compute::CoderOps::encode_topk`]. `among` are the latents to choose from, if not all.
pub(super) fn encode_topk(
    cpu: &Cpu,
    c: &[f32],
    (w, b): (&[f32], &[f32]),
    dims: CoderDims,
    among: Option<&[u32]>,
    out: CodeOut<'_>,
) {
    let CoderDims { d, f, .. } = dims;
    let CodeOut { latents, values, k } = out;
    if k == 0 || latents.is_empty() {
        return;
    }
    assert!(c.len() >= latents.len() / k * d && w.len() >= f * d && b.len() >= f, "encode_topk: buffers too short");
    cpu.run(|| match among {
        None => encode(c, &w[..f * d], &b[..f], d, latents, values, k),
        Some(subset) => {
            // a dense copy of the rows that are looked at: the same arithmetic, only smaller
            let mut rows = vec![0.0; subset.len() * d];
            rows.par_chunks_mut(d).zip(subset).for_each(|(to, &i)| to.copy_from_slice(&w[i as usize * d..][..d]));
            let biases: Vec<f32> = subset.iter().map(|&i| b[i as usize]).collect();
            encode(c, &rows, &biases, d, latents, values, k);
            latents
                .par_iter_mut()
                .with_min_len(4096)
                .filter(|at| **at != NO_LATENT)
                .for_each(|at| *at = subset[*at as usize]);
        }
    });
}

/// See [`crate::compute::CoderOps::encode_topk_grouped`]: the rows of a group side by side, encoded with its latents.
pub(super) fn encode_topk_grouped(
    cpu: &Cpu,
    c: &[f32],
    (w, b): (&[f32], &[f32]),
    dims: CoderDims,
    (group, groups): (&[u32], usize),
    out: CodeOut<'_>,
) {
    let CoderDims { d, f, .. } = dims;
    let CodeOut { latents, values, k } = out;
    let size = f / groups;
    if k == 0 {
        return;
    }
    assert!(c.len() >= group.len() * d && w.len() >= f * d && b.len() >= f, "encode_topk_grouped: buffers too short");
    for g in 0..groups {
        let rows: Vec<usize> = (0..group.len()).filter(|&row| group[row] as usize == g).collect();
        if rows.is_empty() {
            continue;
        }
        let mut own = vec![0.0; rows.len() * d];
        own.chunks_exact_mut(d).zip(&rows).for_each(|(to, &row)| to.copy_from_slice(&c[row * d..][..d]));
        let (mut own_latents, mut own_values) = (vec![0; rows.len() * k], vec![0.0; rows.len() * k]);
        let (w, b) = (&w[g * size * d..][..size * d], &b[g * size..][..size]);
        cpu.run(|| encode(&own, w, b, d, &mut own_latents, &mut own_values, k));
        let first = (g * size) as u32;
        own_latents.iter_mut().filter(|at| **at != NO_LATENT).for_each(|at| *at += first);
        for (i, &row) in rows.iter().enumerate() {
            latents[row * k..][..k].copy_from_slice(&own_latents[i * k..][..k]);
            values[row * k..][..k].copy_from_slice(&own_values[i * k..][..k]);
        }
    }
}

/// What a thread needs for one tile; kept from step to step.
#[derive(Default)]
struct Scratch {
    tile: Vec<f32>,
    best: Vec<Best>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

fn encode(c: &[f32], w: &[f32], b: &[f32], d: usize, latents: &mut [u32], values: &mut [f32], k: usize) {
    let blocks = latents.par_chunks_mut(TILE_ROWS * k).zip(values.par_chunks_mut(TILE_ROWS * k)).enumerate();
    blocks.for_each(|(block, (latents, values))| {
        let c = &c[block * TILE_ROWS * d..][..latents.len() / k * d];
        SCRATCH.with_borrow_mut(|scratch| encode_block(scratch, c, (w, b), d, (latents, values), k));
    });
}

fn encode_block(
    Scratch { tile, best }: &mut Scratch,
    c: &[f32],
    (w, b): (&[f32], &[f32]),
    d: usize,
    (latents, values): (&mut [u32], &mut [f32]),
    k: usize,
) {
    let rows = latents.len() / k;
    tile.resize(TILE_ROWS * TILE_LATENTS, 0.0);
    best.resize_with(TILE_ROWS, Best::default);
    let best = &mut best[..rows];
    best.iter_mut().for_each(|best| best.reset(k));
    for first in (0..b.len()).step_by(TILE_LATENTS) {
        let n = TILE_LATENTS.min(b.len() - first);
        let tile = &mut tile[..rows * n];
        products(c, &w[first * d..][..n * d], tile, rows, n, d);
        for (best, row) in best.iter_mut().zip(tile.chunks_exact(n)) {
            best.scan(row, &b[first..][..n], first as u32);
        }
    }
    for ((best, latents), values) in best.iter_mut().zip(latents.chunks_exact_mut(k)).zip(values.chunks_exact_mut(k)) {
        best.write(latents, values);
    }
}

/// `tile[b, i] = sum_p c[b, p] * w[i, p]`, on this thread: the result does not depend on how many there are.
fn products(c: &[f32], w: &[f32], tile: &mut [f32], rows: usize, n: usize, d: usize) {
    assert!(c.len() == rows * d && w.len() == n * d && tile.len() == rows * n);
    // SAFETY: the assert gives the extents that these strides address; tile is not aliased (&mut).
    unsafe {
        gemm::gemm(
            n,
            rows,
            d,
            tile.as_mut_ptr(),
            n as isize,
            1,
            false,
            w.as_ptr(),
            1,
            d as isize,
            c.as_ptr(),
            d as isize,
            1,
            0.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// The largest positive values of a row so far.
///
/// An entry is one integer, the value's bits above the inverted latent: greater is better, and of equal values the lower
/// latent is.
#[derive(Default)]
struct Best {
    k: usize,
    /// Only values above this can be among the k largest.
    threshold: f32,
    entries: Vec<u64>,
    len: usize,
}

impl Best {
    fn reset(&mut self, k: usize) {
        self.k = k;
        self.threshold = 0.0;
        self.len = 0;
        self.entries.resize(k + k.max(96) + GROUP + 1, 0);
    }

    /// Take in `row + bias`, the values of latents from `first` on.
    fn scan(&mut self, row: &[f32], bias: &[f32], first: u32) {
        vectorized(
            #[inline(always)]
            || {
                let ((rows, row_tail), (biases, bias_tail)) = (row.as_chunks::<GROUP>(), bias.as_chunks::<GROUP>());
                let mut latent = first;
                for (u, b) in rows.iter().zip(biases) {
                    let mut sums = [0f32; GROUP];
                    for ((sum, &u), &b) in sums.iter_mut().zip(u).zip(b) {
                        *sum = u + b;
                    }
                    if max(&sums) > self.threshold {
                        self.take(&sums, latent);
                    }
                    latent += GROUP as u32;
                }
                let mut sums = [0f32; GROUP];
                for ((sum, &u), &b) in sums.iter_mut().zip(row_tail).zip(bias_tail) {
                    *sum = u + b;
                }
                self.take(&sums[..row_tail.len()], latent);
            },
        );
    }

    #[inline(always)]
    fn take(&mut self, sums: &[f32], first: u32) {
        let (threshold, mut len) = (self.threshold, self.len);
        let entries = &mut self.entries[len..][..sums.len() + 1];
        let start = len;
        for (i, &sum) in sums.iter().enumerate() {
            // written always, counted only when above: no branch to mispredict
            entries[len - start] = u64::from(sum.to_bits()) << 32 | u64::from(!(first + i as u32));
            len += usize::from(sum > threshold);
        }
        self.len = len;
        if self.len + GROUP >= self.entries.len() {
            self.cut();
        }
    }

    /// Keep the k best.
    fn cut(&mut self) {
        if self.len > self.k {
            let (_, worst, _) = self.entries[..self.len].select_nth_unstable_by(self.k - 1, |a, b| b.cmp(a));
            self.threshold = f32::from_bits((*worst >> 32) as u32);
            self.len = self.k;
        }
    }

    /// The k best in order of their latents, and nothing after them.
    fn write(&mut self, latents: &mut [u32], values: &mut [f32]) {
        self.cut();
        let found = &mut self.entries[..self.len];
        found.sort_unstable_by_key(|&entry| !(entry as u32));
        latents.fill(NO_LATENT);
        values.fill(0.0);
        for ((latent, value), &entry) in latents.iter_mut().zip(values).zip(&*found) {
            *latent = !(entry as u32);
            *value = f32::from_bits((entry >> 32) as u32);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_list_keeps_what_a_sort_keeps(
            row in prop::collection::vec(prop_oneof![(-3i32..9).prop_map(|i| i as f32 * 0.5), -1f32..4.0], 1..700),
            k in 1usize..40,
        ) {
            let bias: Vec<f32> = (0..row.len()).map(|i| (i % 3) as f32 * 0.5 - 0.5).collect();
            let mut expected: Vec<(f32, u32)> =
                row.iter().zip(&bias).enumerate().map(|(i, (u, b))| (u + b, i as u32)).filter(|e| e.0 > 0.0).collect();
            expected.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            expected.truncate(k);
            expected.sort_by_key(|e| e.1);
            let mut best = Best::default();
            best.reset(k);
            let half = row.len() / 2;
            best.scan(&row[..half], &bias[..half], 0);
            best.scan(&row[half..], &bias[half..], half as u32);
            let (mut latents, mut values) = (vec![0; k], vec![0.0; k]);
            best.write(&mut latents, &mut values);
            let found: Vec<(f32, u32)> =
                values.into_iter().zip(latents).take_while(|e| e.1 != NO_LATENT).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
