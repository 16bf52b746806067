//! k-means by Lloyd's iterations, over rows that are asked for again in each: what an archetypal decoder is made of.

use std::ops::Range;

use crate::compute::CoderOps;
use crate::compute::coder_ops::CoderDims;

/// Rows compared with all centroids at a time.
const CHUNK: usize = 1024;

/// Moves `centroids` `[k, d]`, to start with rows of the data, for `steps` iterations or until no row changes its centroid:
/// each becomes the mean of the rows that are nearest to it (of equally near ones the first has the row). `rows(range)` gives
/// rows of the `n` there are, `[range.len(), d]`. A centroid without rows goes to the row that is farthest from its own.
/// Returns the mean squared distance of the rows from their centroids before each iteration.
pub fn refine<B: CoderOps>(
    backend: &B,
    centroids: &mut [f32],
    d: usize,
    n: usize,
    steps: usize,
    rows: impl Fn(Range<usize>) -> Vec<f32>,
) -> Vec<f64> {
    let k = centroids.len() / d;
    let mut nearest = vec![u32::MAX; n];
    let mut distances = Vec::new();
    let dims = CoderDims::square(d, k);
    let mut u = backend.zeros(CHUNK.min(n) * k);
    for _ in 0..steps {
        // |x - c|^2 = |x|^2 - 2 (x c - |c|^2 / 2): the nearest has the largest of what is in brackets
        let halves: Vec<f32> = centroids.chunks_exact(d).map(|c| (-0.5 * square(c)) as f32).collect();
        let (rows_of, bias) = (backend.upload(centroids), backend.upload(&halves));
        let (mut sums, mut counts) = (vec![0f64; k * d], vec![0usize; k]);
        let mut far = Farthest::new(k);
        let (mut moved, mut sum) = (false, 0.0);
        for start in (0..n).step_by(CHUNK) {
            let end = (start + CHUNK).min(n);
            let x = rows(start..end);
            backend.pre_activations(&backend.upload(&x), &rows_of, &bias, &mut u, end - start, dims);
            let mut near = vec![0f32; (end - start) * k];
            backend.read(&u, 0, &mut near);
            for ((row, near), own) in x.chunks_exact(d).zip(near.chunks_exact(k)).zip(&mut nearest[start..end]) {
                let best = (1..k).fold(0, |best, i| if near[i] > near[best] { i } else { best });
                moved |= std::mem::replace(own, best as u32) != best as u32;
                counts[best] += 1;
                sums[best * d..][..d].iter_mut().zip(row).for_each(|(s, &v)| *s += f64::from(v));
                let distance = (square(row) - 2.0 * f64::from(near[best])).max(0.0);
                far.offer(distance, row);
                sum += distance;
            }
        }
        distances.push(sum / n.max(1) as f64);
        if !moved {
            break;
        }
        for (i, c) in centroids.chunks_exact_mut(d).enumerate() {
            if counts[i] > 0 {
                let mean = sums[i * d..][..d].iter().map(|s| (s / counts[i] as f64) as f32);
                c.iter_mut().zip(mean).for_each(|(c, m)| *c = m);
            } else if let Some(row) = far.take() {
                c.copy_from_slice(&row);
            }
        }
    }
    distances
}

/// The rows farthest from their centroids, at most `k`.
struct Farthest {
    k: usize,
    kept: Vec<(f64, Vec<f32>)>,
}

impl Farthest {
    /// Centroids without rows are few: so many are kept for them.
    const KEPT: usize = 64;

    fn new(k: usize) -> Self {
        Self { k: k.min(Self::KEPT), kept: Vec::new() }
    }

    fn offer(&mut self, distance: f64, row: &[f32]) {
        let at = self.kept.partition_point(|(kept, _)| *kept >= distance);
        if distance > 0.0 && at < self.k {
            self.kept.insert(at, (distance, row.to_vec()));
            self.kept.truncate(self.k);
        }
    }

    fn take(&mut self) -> Option<Vec<f32>> {
        if self.kept.is_empty() { None } else { Some(self.kept.remove(0).1) }
    }
}

fn square(row: &[f32]) -> f64 {
    row.iter().map(|&v| f64::from(v) * f64::from(v)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::cpu::Cpu;
    use crate::runtime::rng::Seed;

    /// 2,100 rows around three points, 700 each.
    fn groups() -> Vec<f32> {
        let mut rng = Seed(3).stream("groups");
        let row = |i: usize| {
            let at = [[0.0, 0.0, 8.0], [0.0, 8.0, 0.0], [8.0, 0.0, 0.0]][i % 3];
            at.map(|v: f64| (v + 0.3 * rng.normal()) as f32)
        };
        (0..2100).flat_map(row).collect()
    }

    #[test]
    fn finds_the_means_of_groups() {
        let rows = groups();
        // all three start in one group
        let mut centroids: Vec<f32> = [0, 3, 6].iter().flat_map(|&i| rows[i * 3..][..3].to_vec()).collect();
        let part = |range: Range<usize>| rows[range.start * 3..range.end * 3].to_vec();
        let distances = refine(&Cpu::new(2).unwrap(), &mut centroids, 3, 2100, 50, part);
        assert!(distances.windows(2).all(|d| d[1] <= d[0] * (1.0 + 1e-5)), "{distances:?}");
        assert!(distances.len() < 50, "it ends by itself");
        let lone: Vec<f32> = [0, 1, 2].iter().flat_map(|&i| rows[i * 3..][..3].to_vec()).collect();
        let mut centroids = lone.clone();
        let distances = refine(&Cpu::new(1).unwrap(), &mut centroids, 3, 2100, 50, part);
        assert!(distances.last().unwrap() < &0.3, "three dimensions of deviation 0.3: 0.27, not {distances:?}");
        for (i, centroid) in centroids.chunks(3).enumerate() {
            let mean = (0..3).map(|p| rows.chunks(3).skip(i).step_by(3).map(|r| r[p]).sum::<f32>() / 700.0);
            assert!(centroid.iter().zip(mean).all(|(c, m)| (c - m).abs() < 1e-4), "{centroid:?}");
        }
    }

    #[test]
    fn a_centroid_without_rows_goes_to_the_farthest_row() {
        let rows = [0f32, 0.1, 0.2, 50.0];
        let mut centroids = vec![0f32, 1000.0];
        refine(&Cpu::new(1).unwrap(), &mut centroids, 1, 4, 10, |range| rows[range].to_vec());
        assert!((centroids[0] - 0.1).abs() < 1e-6 && (centroids[1] - 50.0).abs() < 1e-6, "{centroids:?}");
    }

    #[test]
    fn rows_that_are_all_one_point_stay_finite() {
        let mut centroids = vec![2f32; 6];
        let distances = refine(&Cpu::new(1).unwrap(), &mut centroids, 2, 5, 10, |range| vec![2.0; range.len() * 2]);
        assert!(centroids.iter().all(|&v| v == 2.0) && distances.iter().all(|&d| d == 0.0));
    }
}
