//! How much of a coder's error is linear in what it reads. (Engels et al., "Decomposing the dark matter of sparse
//! autoencoders", 2410.14670.)
//!
//! Every other row is fitted by least squares with an intercept, the rows between judge the fit. Only moments are kept, so
//! memory is that of a few `[width, width]` matrices whatever the number of rows.

use serde::{Deserialize, Serialize};

use crate::evaluation::algebra;

/// Rows that are used, at most.
pub const ROWS_MAX: u64 = 32_768;
/// Widest rows that are fitted, on either side.
pub const WIDTH_MAX: usize = 4096;
/// Added to the diagonal, of a matrix whose diagonal was scaled to 1.
const RIDGE: f64 = 1e-9;

/// Sums for [`DarkMatter`].
pub struct DarkMatterSums {
    width: usize,
    out: usize,
    rows: u64,
    /// What is subtracted from inputs, so that large means do not cost digits.
    shift: Vec<f64>,
    fitted: Moments,
    judged: Moments,
}

/// How well linear functions of the input predict the error on rows that they were not fitted to. Each `r2` is
/// `1 - sum (t - t^)^2 / sum (t - mean t)^2`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DarkMatter {
    /// Rows that the functions were fitted to.
    pub rows_fitted: u64,
    /// Rows that they are judged on.
    pub rows_judged: u64,
    /// Of the error, the target less its reconstruction: the mean of the `r2` of its dimensions.
    pub error_r2: f64,
    /// Of the error, dimensions weighted by their variance: the share of the error's variance that is linear.
    pub error_r2_pooled: f64,
    /// Of the error's squared norm.
    pub error_norm_r2: f64,
    /// Of the input's squared norm, for comparison.
    pub input_norm_r2: f64,
}

/// Moments of rows `x` (inputs and a 1, `p`) with targets `t` (`q`).
struct Moments {
    n: u64,
    xx: Vec<f64>,
    xt: Vec<f64>,
    tt: Vec<f64>,
    t: Vec<f64>,
}

impl Moments {
    fn new(p: usize, q: usize) -> Self {
        Self { n: 0, xx: vec![0.0; p * p], xt: vec![0.0; p * q], tt: vec![0.0; q], t: vec![0.0; q] }
    }

    fn add(&mut self, x: &[f64], p: usize, t: &[f64], q: usize) {
        self.n += (x.len() / p) as u64;
        algebra::add_products(x, p, x, p, &mut self.xx);
        algebra::add_products(x, p, t, q, &mut self.xt);
        for row in t.chunks_exact(q) {
            for ((t, tt), sum) in row.iter().zip(&mut self.tt).zip(&mut self.t) {
                *tt += t * t;
                *sum += t;
            }
        }
    }
}

impl DarkMatterSums {
    /// Nothing yet, for rows of `width` values that are read and `out` that are reconstructed; `None` if that is too wide.
    pub fn new(width: usize, out: usize) -> Option<Self> {
        let moments = || Moments::new(width + 1, out + 2);
        (width.max(out) <= WIDTH_MAX).then(|| Self {
            width,
            out,
            rows: 0,
            shift: Vec::new(),
            fitted: moments(),
            judged: moments(),
        })
    }

    /// Add inputs `x` `[n, width]`, the rows `target` `[n, out]` that are reconstructed from them (inputs of an autoencoder),
    /// and their reconstructions `y`, until there are enough.
    pub fn add(&mut self, x: &[f32], target: &[f32], y: &[f32]) {
        let (d, p, q) = (self.width, self.width + 1, self.out + 2);
        assert!(target.len() == y.len() && x.len().is_multiple_of(d), "rows and reconstructions do not match");
        assert_eq!(x.len() / d, y.len() / self.out, "one reconstruction a row");
        if self.shift.is_empty() && !x.is_empty() {
            let rows = (x.len() / d) as f64;
            self.shift = vec![0.0; d];
            for row in x.chunks_exact(d) {
                self.shift.iter_mut().zip(row).for_each(|(shift, &x)| *shift += f64::from(x) / rows);
            }
        }
        let mut halves = [(Vec::new(), Vec::new()), (Vec::new(), Vec::new())];
        let made = target.chunks_exact(self.out).zip(y.chunks_exact(self.out));
        for (x, (target, y)) in x.chunks_exact(d).zip(made) {
            if self.rows == ROWS_MAX {
                break;
            }
            let (inputs, targets) = &mut halves[(self.rows % 2) as usize];
            self.rows += 1;
            inputs.extend(x.iter().zip(&self.shift).map(|(&x, shift)| f64::from(x) - shift));
            inputs.push(1.0);
            let errors = target.iter().zip(y).map(|(&x, &y)| f64::from(x) - f64::from(y));
            let norm: f64 = errors.clone().map(|e| e * e).sum();
            targets.extend(errors);
            targets.extend([norm, x.iter().map(|&x| f64::from(x).powi(2)).sum()]);
        }
        let [(x, t), (x_judged, t_judged)] = halves;
        self.fitted.add(&x, p, &t, q);
        self.judged.add(&x_judged, p, &t_judged, q);
    }

    /// The fit, judged; `None` with fewer than two rows a dimension on either side.
    pub fn finish(&self) -> Option<DarkMatter> {
        let (d, p, out, q) = (self.width, self.width + 1, self.out, self.out + 2);
        let Self { fitted, judged, .. } = self;
        if fitted.n.min(judged.n) < 2 * p as u64 {
            return None;
        }
        // scaled so that one ridge fits all dimensions
        let scale: Vec<f64> = (0..p).map(|i| fitted.xx[i * p + i].sqrt().max(f64::MIN_POSITIVE)).collect();
        let mut xx: Vec<f64> =
            fitted.xx.iter().enumerate().map(|(at, v)| v / (scale[at / p] * scale[at % p])).collect();
        (0..d).for_each(|i| xx[i * p + i] += RIDGE);
        let mut b: Vec<f64> = fitted.xt.iter().enumerate().map(|(at, v)| v / scale[at / q]).collect();
        algebra::solve(&mut xx, p, &mut b, q)?;
        b.iter_mut().enumerate().for_each(|(at, b)| *b /= scale[at / q]);
        let mut through = vec![0.0; p * q];
        algebra::add_products(&judged.xx, p, &b, q, &mut through);
        let n = judged.n as f64;
        let mut left = judged.tt.clone();
        for ((b, through), xt) in b.chunks_exact(q).zip(through.chunks_exact(q)).zip(judged.xt.chunks_exact(q)) {
            for j in 0..q {
                left[j] += b[j] * (through[j] - 2.0 * xt[j]);
            }
        }
        let whole: Vec<f64> = judged.tt.iter().zip(&judged.t).map(|(tt, t)| tt - t * t / n).collect();
        // an error that is the same on every row is predicted
        let r2 = |j: usize| if whole[j] > 0.0 { 1.0 - left[j] / whole[j] } else { 1.0 };
        Some(DarkMatter {
            rows_fitted: fitted.n,
            rows_judged: judged.n,
            error_r2: (0..out).map(r2).sum::<f64>() / out as f64,
            error_r2_pooled: 1.0 - left[..out].iter().sum::<f64>() / whole[..out].iter().sum::<f64>(),
            error_norm_r2: r2(out),
            input_norm_r2: r2(out + 1),
        })
    }
}
