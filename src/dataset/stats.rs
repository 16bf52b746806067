//! Statistics of the stored values of one site: what a reader needs to scale and centre, mergeable over shards.
//!
//! Rows with a NaN or an infinity are counted and left out of everything else. Sums run in f64 over blocks of rows
//! of a page, in order, and row groups merge by Chan's rule, so the same rows give the same bits whatever batches they came
//! in.

use serde::{Deserialize, Serialize};

use crate::compute::cpu::stored::{BLOCK_ROWS, BlockSums, Format, widen};

/// Statistics of a site's rows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SiteStatistics {
    /// Rows whose values are all finite.
    pub count: u64,
    /// Rows with a NaN or an infinity; not part of anything below.
    pub non_finite: u64,
    /// `[width]` mean row; empty without rows.
    pub mean: Vec<f64>,
    /// Mean of the rows' Euclidean norms.
    pub mean_norm: f64,
    /// Sum of the squares of all values.
    pub sum_squares: f64,
    /// Largest norm.
    pub max_norm: f64,
}

impl SiteStatistics {
    /// Statistics of the rows of both.
    pub fn merge(&mut self, other: &Self) {
        self.non_finite += other.non_finite;
        if other.count == 0 {
            return;
        }
        if self.count == 0 {
            *self = Self { non_finite: self.non_finite, ..other.clone() };
            return;
        }
        self.count += other.count;
        let share = other.count as f64 / self.count as f64;
        for (a, b) in self.mean.iter_mut().zip(&other.mean) {
            *a += (b - *a) * share;
        }
        self.mean_norm += (other.mean_norm - self.mean_norm) * share;
        self.sum_squares += other.sum_squares;
        self.max_norm = self.max_norm.max(other.max_norm);
    }

    /// Mean squared distance of a row to the mean row: the sum of the values' variances.
    pub fn variance(&self) -> f64 {
        if self.count == 0 {
            return 0.0;
        }
        let mean_squared: f64 = self.mean.iter().map(|m| m * m).sum();
        (self.sum_squares / self.count as f64 - mean_squared).max(0.0)
    }

    /// The first field in which two differ by more than `tolerance` (relative to the scale of the values), if any. Mean rows
    /// are compared where both have one.
    pub fn difference(&self, other: &Self, tolerance: f64) -> Option<&'static str> {
        let close = |a: f64, b: f64, scale: f64| (a - b).abs() <= tolerance * scale.abs().max(f64::MIN_POSITIVE);
        let scale = self.max_norm.max(other.max_norm);
        if self.count != other.count {
            return Some("count");
        }
        if self.non_finite != other.non_finite {
            return Some("non_finite");
        }
        // manifests leave the mean rows out
        let both = !self.mean.is_empty() && !other.mean.is_empty();
        let pairs = || self.mean.iter().zip(&other.mean);
        if both && (self.mean.len() != other.mean.len() || pairs().any(|(&a, &b)| !close(a, b, scale))) {
            return Some("mean");
        }
        if !close(self.mean_norm, other.mean_norm, scale) {
            return Some("mean_norm");
        }
        if !close(self.sum_squares, other.sum_squares, self.sum_squares.max(other.sum_squares)) {
            return Some("sum_squares");
        }
        (!close(self.max_norm, other.max_norm, scale)).then_some("max_norm")
    }
}

/// Running sums over the rows of one row group.
#[derive(Clone, Debug)]
pub struct RowSums {
    width: usize,
    count: u64,
    non_finite: u64,
    sum: Vec<f64>,
    sum_norms: f64,
    sum_squares: f64,
    max_norm: f64,
    block: BlockSums,
}

impl RowSums {
    /// No rows of `width` values yet.
    pub fn new(width: usize) -> Self {
        let (sum, block) = (vec![0.0; width], BlockSums::new(width));
        Self { width, count: 0, non_finite: 0, sum, sum_norms: 0.0, sum_squares: 0.0, max_norm: 0.0, block }
    }

    /// Add rows: `[n, width]`, row-major.
    pub fn add(&mut self, rows: &[f32]) {
        for block in rows.chunks(self.width * BLOCK_ROWS) {
            self.block.sum(block);
            let n = block.len() / self.width;
            if !self.take_block(n) {
                for row in block.chunks_exact(self.width) {
                    self.block.sum(row);
                    self.take_block(1);
                }
            }
        }
    }

    /// Write `rows` (`[n, width]`, at most [`BLOCK_ROWS`]) to `out` in `format`, and add them as they are stored.
    pub fn store(&mut self, rows: &[f32], format: Format, out: &mut [u8]) {
        self.block.store(rows, format, out);
        if !self.take_block(rows.len() / self.width) {
            let mut stored = vec![0.0; self.width];
            for row in out.chunks_exact(self.width * format.bytes()) {
                widen(row, format, &mut stored);
                self.block.sum(&stored);
                self.take_block(1);
            }
        }
    }

    /// Take the `n` rows of the block in; not if some but not all are finite: then nothing is taken, and the rows must
    /// come one by one.
    fn take_block(&mut self, n: usize) -> bool {
        let squares = &self.block.squares[..n];
        // f32 squares cannot overflow f64: not finite means that a value is not
        let non_finite = squares.iter().filter(|squares| !squares.is_finite()).count();
        if non_finite == n {
            self.non_finite += n as u64;
            return true;
        }
        if non_finite > 0 {
            return false;
        }
        for (sum, of_block) in self.sum.iter_mut().zip(&self.block.columns) {
            *sum += of_block;
        }
        for &squared in squares {
            let norm = squared.sqrt();
            self.sum_norms += norm;
            self.sum_squares += squared;
            self.max_norm = self.max_norm.max(norm);
        }
        self.count += n as u64;
        true
    }

    /// The statistics of the rows added since the last call.
    pub fn take(&mut self) -> SiteStatistics {
        let taken = std::mem::replace(self, Self::new(self.width));
        if taken.count == 0 {
            return SiteStatistics { non_finite: taken.non_finite, ..SiteStatistics::default() };
        }
        let n = taken.count as f64;
        SiteStatistics {
            count: taken.count,
            non_finite: taken.non_finite,
            mean: taken.sum.iter().map(|s| s / n).collect(),
            mean_norm: taken.sum_norms / n,
            sum_squares: taken.sum_squares,
            max_norm: taken.max_norm,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(rows: &[f32], width: usize) -> SiteStatistics {
        let mut sums = RowSums::new(width);
        sums.add(rows);
        sums.take()
    }

    #[test]
    fn known_values() {
        let s = of(&[3.0, 4.0, 0.0, 0.0, f32::NAN, 1.0, 1.0, f32::INFINITY], 2);
        assert_eq!((s.count, s.non_finite), (2, 2));
        assert_eq!(s.mean, [1.5, 2.0]);
        assert_eq!((s.mean_norm, s.sum_squares, s.max_norm), (2.5, 25.0, 5.0));
        assert_eq!(s.variance(), 12.5 - 6.25);
    }

    #[test]
    fn nothing_merges_into_nothing() {
        let mut s = SiteStatistics::default();
        s.merge(&of(&[], 2));
        assert_eq!(s, SiteStatistics::default());
        s.merge(&of(&[f32::NAN, 0.0], 2));
        s.merge(&of(&[1.0, 0.0], 2));
        assert_eq!((s.count, s.non_finite, s.mean), (1, 1, vec![1.0, 0.0]));
    }

    #[test]
    fn differences_are_named() {
        let (a, mut b) = (of(&[3.0, 4.0], 2), of(&[3.0, 4.0], 2));
        assert_eq!(a.difference(&b, 1e-9), None);
        b.mean[1] += 1e-3;
        assert_eq!(a.difference(&b, 1e-9), Some("mean"));
        b.count = 2;
        assert_eq!(a.difference(&b, 1e-9), Some("count"));
    }

    proptest! {
        /// Statistics of the whole = merged statistics of any parts, in any grouping.
        #[test]
        fn merging_is_associative(
            rows in prop::collection::vec(prop_oneof![9 => -1e4f32..1e4, 1 => Just(f32::NAN)], 0..120),
            cut_a in 0usize..40, cut_b in 0usize..40,
        ) {
            let rows = &rows[..rows.len() / 3 * 3];
            let n = rows.len() / 3;
            let (a, b) = (cut_a.min(n), cut_b.min(n));
            let (a, b) = (a.min(b) * 3, a.max(b) * 3);
            let (x, y, z) = (of(&rows[..a], 3), of(&rows[a..b], 3), of(&rows[b..], 3));
            let mut left = x.clone();
            left.merge(&y);
            left.merge(&z);
            let mut right = y;
            right.merge(&z);
            let mut first = x;
            first.merge(&right);
            let whole = of(rows, 3);
            prop_assert_eq!(left.difference(&first, 1e-12), None);
            prop_assert_eq!(left.difference(&whole, 1e-12), None);
        }
    }
}
