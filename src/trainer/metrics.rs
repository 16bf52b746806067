//! How good a coder is: streaming metrics with their definitions.
//!
//! Sums are kept in f64 over all rows and divided once; ratios of single batches are never averaged. Everything is in
//! raw space: `x` a row of activations, `y` its reconstruction. Adding two accumulators gives that of both samples.

use serde::{Deserialize, Serialize};

/// Sums for [`ReconstructionMetrics`].
#[derive(Clone, Debug, PartialEq)]
pub struct ReconstructionSums {
    width: usize,
    rows: u64,
    x: Vec<f64>,
    xx: f64,
    yy: f64,
    xy: f64,
    ee: f64,
    cosine: f64,
    l0: u64,
    fired: Vec<u64>,
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
    /// `mean |x - y|^2`, summed over dimensions.
    pub mse: f64,
    /// `mean <x, y> / (|x| |y|)`; rows with a zero vector count as 0.
    pub cosine: f64,
    /// Mean number of latents with a positive value.
    pub l0: f64,
    /// Share of latents that fired on no row of the sample.
    pub dead_fraction: f64,
    /// `mean |y|^2 / mean <x, y>`: 1 without bias, below 1 if reconstructions are too short. (SAELens, Gemma Scope.)
    pub relative_bias: f64,
}

impl ReconstructionSums {
    /// Nothing yet, for rows of `width` values and a coder of `f` latents.
    pub fn new(width: usize, f: usize) -> Self {
        let (x, fired) = (vec![0.0; width], vec![0; f]);
        Self { width, rows: 0, x, xx: 0.0, yy: 0.0, xy: 0.0, ee: 0.0, cosine: 0.0, l0: 0, fired }
    }

    /// Add rows `x` and their reconstructions `y`, both `[n, width]`, with the number of latents that fired on each
    /// `[n]`.
    pub fn add(&mut self, x: &[f32], y: &[f32], l0: &[u32]) {
        assert!(x.len() == y.len() && x.len() == l0.len() * self.width, "rows and reconstructions do not match");
        for ((x, y), &l0) in x.chunks_exact(self.width).zip(y.chunks_exact(self.width)).zip(l0) {
            let (mut xx, mut yy, mut xy, mut ee) = (0f64, 0f64, 0f64, 0f64);
            for ((&x, &y), sum) in x.iter().zip(y).zip(&mut self.x) {
                let (x, y) = (f64::from(x), f64::from(y));
                *sum += x;
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
            self.l0 += u64::from(l0);
            if xx > 0.0 && yy > 0.0 {
                self.cosine += xy / (xx * yy).sqrt();
            }
        }
    }

    /// Times that each latent fired on the rows so far, `[f]`: to be counted up by
    /// [`crate::trainer::Trainer::reconstruct`].
    pub fn fired_mut(&mut self) -> &mut [u64] {
        &mut self.fired
    }

    /// As [`ReconstructionSums::fired_mut`].
    pub fn fired(&self) -> &[u64] {
        &self.fired
    }

    /// Add another sample of the same shape.
    pub fn merge(&mut self, other: &Self) {
        assert!(self.width == other.width && self.fired.len() == other.fired.len(), "samples of different shapes");
        self.rows += other.rows;
        self.xx += other.xx;
        self.yy += other.yy;
        self.xy += other.xy;
        self.ee += other.ee;
        self.cosine += other.cosine;
        self.l0 += other.l0;
        self.x.iter_mut().zip(&other.x).for_each(|(a, b)| *a += b);
        self.fired.iter_mut().zip(&other.fired).for_each(|(a, b)| *a += b);
    }

    /// The metrics; `None` without rows.
    pub fn finish(&self) -> Option<ReconstructionMetrics> {
        if self.rows == 0 {
            return None;
        }
        let n = self.rows as f64;
        let about_mean = self.xx - self.x.iter().map(|sum| sum * sum).sum::<f64>() / n;
        let fvu = self.ee / about_mean;
        let dead = self.fired.iter().filter(|&&n| n == 0).count();
        Some(ReconstructionMetrics {
            rows: self.rows,
            fvu,
            explained_variance: 1.0 - fvu,
            mse: self.ee / n,
            cosine: self.cosine / n,
            l0: self.l0 as f64 / n,
            dead_fraction: dead as f64 / self.fired.len().max(1) as f64,
            relative_bias: self.yy / self.xy,
        })
    }
}

/// What the language model loses at one token when reconstructions take the place of activations.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenLosses {
    /// Cross-entropy of the next token, untouched model, in nats.
    pub clean: f64,
    /// With reconstructions in place of the site's activations.
    pub spliced: f64,
    /// With zeros in their place.
    pub zero_ablated: f64,
    /// `KL(clean || spliced)` of the next token's distribution, in nats.
    pub kl: f64,
}

/// Sums for [`LanguageModelMetrics`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LanguageModelSums {
    tokens: u64,
    clean: f64,
    spliced: f64,
    zero_ablated: f64,
    kl: f64,
}

/// What the language model loses over a sample of tokens; means are over tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LanguageModelMetrics {
    /// Tokens.
    pub tokens: u64,
    /// Mean cross-entropy of the untouched model.
    pub ce_clean: f64,
    /// Mean cross-entropy with reconstructions.
    pub ce_spliced: f64,
    /// Mean cross-entropy with zeros.
    pub ce_zero_ablated: f64,
    /// `(ce_zero_ablated - ce_spliced) / (ce_zero_ablated - ce_clean)`: 1 is no loss, 0 is as bad as zeros. (SAELens
    /// `ce_loss_score`, dictionary_learning `frac_recovered`.) Near 1 even for mediocre coders: read it next to
    /// `ce_spliced - ce_clean`.
    pub ce_recovered: f64,
    /// Mean `KL(clean || spliced)`.
    pub kl: f64,
}

impl LanguageModelSums {
    /// Add a token.
    pub fn add(&mut self, token: &TokenLosses) {
        self.tokens += 1;
        self.clean += token.clean;
        self.spliced += token.spliced;
        self.zero_ablated += token.zero_ablated;
        self.kl += token.kl;
    }

    /// Add another sample.
    pub fn merge(&mut self, other: &Self) {
        self.tokens += other.tokens;
        self.clean += other.clean;
        self.spliced += other.spliced;
        self.zero_ablated += other.zero_ablated;
        self.kl += other.kl;
    }

    /// The metrics; `None` without tokens.
    pub fn finish(&self) -> Option<LanguageModelMetrics> {
        let n = self.tokens as f64;
        (self.tokens > 0).then(|| LanguageModelMetrics {
            tokens: self.tokens,
            ce_clean: self.clean / n,
            ce_spliced: self.spliced / n,
            ce_zero_ablated: self.zero_ablated / n,
            ce_recovered: (self.zero_ablated - self.spliced) / (self.zero_ablated - self.clean),
            kl: self.kl / n,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_perfect_reconstruction_and_the_mean_are_the_two_ends() {
        let x = [1.0, 2.0, 3.0, 6.0, 5.0, 1.0];
        let mut perfect = ReconstructionSums::new(2, 4);
        perfect.fired_mut()[1] = 3;
        perfect.add(&x, &x, &[1, 1, 1]);
        let m = perfect.finish().unwrap();
        assert_eq!((m.fvu, m.mse, m.l0, m.dead_fraction), (0.0, 0.0, 1.0, 0.75));
        assert!((m.cosine - 1.0).abs() < 1e-12 && (m.relative_bias - 1.0).abs() < 1e-12);
        let mut mean = ReconstructionSums::new(2, 4);
        mean.add(&x, &[3.0, 3.0, 3.0, 3.0, 3.0, 3.0], &[0, 0, 0]);
        assert!((mean.finish().unwrap().fvu - 1.0).abs() < 1e-12);
        assert_eq!(ReconstructionSums::new(2, 4).finish(), None);
    }

    #[test]
    fn merging_is_adding() {
        let x: Vec<f32> = (0..40).map(|i| (i * i % 17) as f32).collect();
        let y: Vec<f32> = x.iter().map(|x| x * 0.75 + 0.5).collect();
        let l0: Vec<u32> = (0..20).collect();
        let mut whole = ReconstructionSums::new(2, 3);
        whole.add(&x, &y, &l0);
        let (mut a, mut b) = (ReconstructionSums::new(2, 3), ReconstructionSums::new(2, 3));
        a.add(&x[..14], &y[..14], &l0[..7]);
        b.add(&x[14..], &y[14..], &l0[7..]);
        a.merge(&b);
        let (a, whole) = (a.finish().unwrap(), whole.finish().unwrap());
        assert!((a.fvu - whole.fvu).abs() < 1e-12 && (a.cosine - whole.cosine).abs() < 1e-12);
        assert_eq!((a.rows, a.l0), (whole.rows, whole.l0));
    }

    #[test]
    fn loss_recovered_is_between_clean_and_ablated() {
        let mut sums = LanguageModelSums::default();
        sums.add(&TokenLosses { clean: 2.0, spliced: 2.5, zero_ablated: 12.0, kl: 0.25 });
        sums.add(&TokenLosses { clean: 4.0, spliced: 4.5, zero_ablated: 14.0, kl: 0.75 });
        let m = sums.finish().unwrap();
        assert_eq!((m.ce_clean, m.ce_spliced, m.kl), (3.0, 3.5, 0.5));
        assert!((m.ce_recovered - 0.95).abs() < 1e-12);
    }
}
