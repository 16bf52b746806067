//! Representational similarity analysis: whether two sets of rows lie alike, by which of their rows are near to which
//! others. (Kriegeskorte et al. 2008; of decoder rows: Lan et al., 2410.06981.)

use rayon::prelude::*;

use crate::evaluation::algebra::add_products;

/// Ranks of the distances between every two rows of a set, less their mean, and row by row below the diagonal:
/// `[n (n - 1) / 2]`.
pub(super) struct Ranks {
    n: usize,
    centred: Vec<f64>,
}

/// RSA of `x` `[n, p]` and `y` `[n, q]`: Spearman's correlation of the distances between every two rows of `x` with those
/// of `y`. A distance is one less Pearson's correlation of the two rows, each about its own mean; 1 for a row without
/// variance. 0 where all distances of a side are the same.
pub fn rsa(x: &[f64], p: usize, y: &[f64], q: usize) -> f64 {
    let order: Vec<usize> = (0..x.len() / p).collect();
    Ranks::of(x, p).correlation(&Ranks::of(y, q), &order)
}

impl Ranks {
    /// Of rows `x` `[n, width]`.
    pub(super) fn of(x: &[f64], width: usize) -> Self {
        let n = x.len() / width;
        let mut columns = vec![0.0; x.len()];
        for (i, row) in x.chunks_exact(width).enumerate() {
            let mean = row.iter().sum::<f64>() / width as f64;
            let norm = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>().sqrt();
            let scale = if norm > 0.0 { norm.recip() } else { 0.0 };
            row.iter().enumerate().for_each(|(j, x)| columns[j * n + i] = (x - mean) * scale);
        }
        let mut similar = vec![0.0; n * n];
        add_products(&columns, n, &columns, n, &mut similar);
        let distances = (0..n).flat_map(|i| similar[i * n..][..i].iter().map(|similar| 1.0 - similar));
        let mut ranks = ranks(&distances.collect::<Vec<f64>>());
        let mean = (ranks.len() as f64 + 1.0) / 2.0;
        ranks.iter_mut().for_each(|rank| *rank -= mean);
        Self { n, centred: ranks }
    }

    fn at(&self, i: usize, j: usize) -> f64 {
        let (low, high) = (i.min(j), i.max(j));
        self.centred[high * (high - 1) / 2 + low]
    }

    /// Pearson's correlation of these ranks with those of `other`, whose row `order[i]` stands for row `i` of this.
    pub(super) fn correlation(&self, other: &Self, order: &[usize]) -> f64 {
        let row = |i: usize| (0..i).map(|j| self.at(i, j) * other.at(order[i], order[j])).sum::<f64>();
        // summed in the order of rows, whatever the threads
        let rows: Vec<f64> = (0..self.n).into_par_iter().map(row).collect();
        let squares = |ranks: &Self| ranks.centred.iter().map(|rank| rank * rank).sum::<f64>();
        let scale = (squares(self) * squares(other)).sqrt();
        if scale > 0.0 { rows.iter().sum::<f64>() / scale } else { 0.0 }
    }
}

/// The rank of each value, from 1; values that are equal have the mean of theirs.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<u32> = (0..values.len() as u32).collect();
    order.par_sort_unstable_by(|&a, &b| values[a as usize].total_cmp(&values[b as usize]));
    let mut ranks = vec![0.0; values.len()];
    let mut before = 0;
    for same in order.chunk_by(|&a, &b| values[a as usize] == values[b as usize]) {
        let rank = before as f64 + (same.len() as f64 + 1.0) / 2.0;
        same.iter().for_each(|&i| ranks[i as usize] = rank);
        before += same.len();
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::rng::Seed;

    #[test]
    fn equal_values_share_their_ranks() {
        assert_eq!(ranks(&[3.0, 1.0, 3.0, -2.0, 3.0]), [4.0, 2.0, 4.0, 1.0, 4.0]);
        assert!(ranks(&[]).is_empty());
    }

    #[test]
    fn scale_and_shift_of_rows_do_not_matter_and_their_order_does() {
        let (n, d) = (30, 9);
        let mut rng = Seed(3).stream("rsa");
        let x: Vec<f64> = (0..n * d).map(|_| rng.normal()).collect();
        let changed: Vec<f64> =
            x.iter().enumerate().map(|(i, x)| x * (1.0 + (i / d) as f64) + (i / d) as f64).collect();
        assert!((rsa(&x, d, &changed, d) - 1.0).abs() < 1e-6);
        let backwards: Vec<f64> = x.chunks(d).rev().flatten().copied().collect();
        assert!(rsa(&x, d, &backwards, d).abs() < 0.3);
        let order: Vec<usize> = (0..n).rev().collect();
        assert!((Ranks::of(&x, d).correlation(&Ranks::of(&backwards, d), &order) - 1.0).abs() < 1e-12);
        assert_eq!(rsa(&vec![2.0; n * d], d, &x, d), 0.0, "rows without variance are alike to none");
    }
}
