//! How much of the activation a reconstruction holds.

use serde::{Deserialize, Serialize};

/// Sums for [`ReconstructionMetrics`]. Adding two accumulators gives that of both samples.
#[derive(Clone, Debug, PartialEq)]
pub struct ReconstructionSums {
    width: usize,
    rows: u64,
    x: Vec<f64>,
    e: Vec<f64>,
    xx: f64,
    yy: f64,
    xy: f64,
    ee: f64,
    cosine: f64,
    length: f64,
    relative: f64,
    /// The sample's mean, known beforehand, and the sum of `|e|^2 / |x - mean|^2`.
    about: Option<(Vec<f64>, f64)>,
}

/// Metrics of reconstructions over a sample of rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ReconstructionMetrics {
    /// Rows.
    pub rows: u64,
    /// Fraction of variance unexplained: `sum |x - y|^2 / sum |x - mean x|^2`, the mean taken over the sample for each
    /// dimension. (SAELens since 6.45.1, sparsify.)
    pub fvu: f64,
    /// `1 - fvu`. A constant error counts against it.
    pub explained_variance: f64,
    /// `1 - sum_j Var(e_j) / sum_j Var(x_j)`: a constant error does not count. (dictionary_learning
    /// `frac_variance_explained`.)
    pub explained_variance_centred: f64,
    /// `mean (1 - |e|^2 / |x - mean x|^2)`, a mean of ratios that rows near the mean decide. (SAELens
    /// `explained_variance_legacy`.) Absent where the mean was not known beforehand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub explained_variance_by_row: Option<f64>,
    /// `1 - sum |e|^2 / sum_bj (x_bj - m)^2`, `m` the mean of all values of all rows. (overcomplete `r2_score`.)
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub r2_scalar_mean: Option<f64>,
    /// `mean |x - y|^2`, summed over dimensions.
    pub mse: f64,
    /// `mean |e|^2 / |x|^2`, without centring; rows of zeros count as 0. (OpenAI `normalized_mean_squared_error`.)
    pub nmse: f64,
    /// `mean <x, y> / (|x| |y|)`; rows with a zero vector count as 0.
    pub cosine: f64,
    /// `mean |y| / |x|`: below 1 if reconstructions are too short; rows of zeros count as 0. (SAELens `l2_ratio`.)
    pub l2_ratio: f64,
    /// `mean |y|^2 / mean <x, y>`: 1 without bias, below 1 if reconstructions are too short. (SAELens, Gemma Scope.)
    pub relative_bias: f64,
}

impl ReconstructionSums {
    /// Nothing yet, for rows of `width` values.
    pub fn new(width: usize) -> Self {
        let zeros = vec![0.0; width];
        Self {
            width,
            rows: 0,
            x: zeros.clone(),
            e: zeros,
            xx: 0.0,
            yy: 0.0,
            xy: 0.0,
            ee: 0.0,
            cosine: 0.0,
            length: 0.0,
            relative: 0.0,
            about: None,
        }
    }

    /// As [`ReconstructionSums::new`], where the sample's mean is known: `[width]`.
    pub fn about(mean: Vec<f64>) -> Self {
        Self { about: Some((mean.clone(), 0.0)), ..Self::new(mean.len()) }
    }

    /// Add rows `x` and their reconstructions `y`, both `[n, width]`.
    pub fn add(&mut self, x: &[f32], y: &[f32]) {
        assert!(x.len() == y.len() && x.len().is_multiple_of(self.width), "rows and reconstructions do not match");
        for (x, y) in x.chunks_exact(self.width).zip(y.chunks_exact(self.width)) {
            self.add_row(x, y);
        }
    }

    fn add_row(&mut self, x: &[f32], y: &[f32]) {
        let (mut xx, mut yy, mut xy, mut ee) = (0f64, 0f64, 0f64, 0f64);
        for (((&x, &y), sum), errors) in x.iter().zip(y).zip(&mut self.x).zip(&mut self.e) {
            let (x, y) = (f64::from(x), f64::from(y));
            *sum += x;
            *errors += x - y;
            xx += x * x;
            yy += y * y;
            xy += x * y;
            ee += (x - y) * (x - y);
        }
        self.rows += 1;
        self.xx += xx;
        self.yy += yy;
        self.xy += xy;
        self.ee += ee;
        if xx > 0.0 {
            self.length += (yy / xx).sqrt();
            self.relative += ee / xx;
        }
        if xx > 0.0 && yy > 0.0 {
            self.cosine += xy / (xx * yy).sqrt();
        }
        if let Some((mean, sum)) = &mut self.about {
            let off: f64 = x.iter().zip(mean).map(|(&x, mean)| (f64::from(x) - *mean).powi(2)).sum();
            *sum += ee / off;
        }
    }

    /// Add another sample of the same shape.
    pub fn merge(&mut self, other: &Self) {
        assert!(self.width == other.width, "samples of different shapes");
        self.rows += other.rows;
        self.xx += other.xx;
        self.yy += other.yy;
        self.xy += other.xy;
        self.ee += other.ee;
        self.cosine += other.cosine;
        self.length += other.length;
        self.relative += other.relative;
        self.x.iter_mut().zip(&other.x).for_each(|(a, b)| *a += b);
        self.e.iter_mut().zip(&other.e).for_each(|(a, b)| *a += b);
        self.about = match (self.about.take(), &other.about) {
            (Some((mean, a)), Some((_, b))) => Some((mean, a + b)),
            _ => None,
        };
    }

    /// `sum_j Var(x_j)` over the sample: the mean squared distance from the mean.
    pub fn variance(&self) -> f64 {
        spread(self.xx, &self.x, self.rows as f64) / self.rows as f64
    }

    /// The metrics; `None` without rows.
    pub fn finish(&self) -> Option<ReconstructionMetrics> {
        if self.rows == 0 {
            return None;
        }
        let n = self.rows as f64;
        let about_mean = spread(self.xx, &self.x, n);
        let fvu = self.ee / about_mean;
        let about_scalar = self.xx - self.x.iter().sum::<f64>().powi(2) / (n * self.width as f64);
        Some(ReconstructionMetrics {
            rows: self.rows,
            fvu,
            explained_variance: 1.0 - fvu,
            explained_variance_centred: 1.0 - spread(self.ee, &self.e, n) / about_mean,
            explained_variance_by_row: self.about.as_ref().map(|(_, sum)| 1.0 - sum / n),
            r2_scalar_mean: Some(1.0 - self.ee / about_scalar),
            mse: self.ee / n,
            nmse: self.relative / n,
            cosine: self.cosine / n,
            l2_ratio: self.length / n,
            relative_bias: self.yy / self.xy,
        })
    }
}

/// `sum |v - mean v|^2`, from `sum |v|^2` and the sums of each dimension.
fn spread(squares: f64, sums: &[f64], n: f64) -> f64 {
    squares - sums.iter().map(|sum| sum * sum).sum::<f64>() / n
}
