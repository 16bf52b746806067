//! Rows that are scaled each by itself before a coder reads them, and back after it: what no weights can hold.

/// How.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RowScaling {
    /// Not at all.
    #[default]
    None,
    /// To the norm `sqrt(d)` (SAELens: `constant_norm_rescale`).
    Norm,
    /// To mean 0 and standard deviation 1 (SAELens: `layer_norm`).
    Standard,
}

/// Added to standard deviations.
const EPSILON: f64 = 1e-5;

impl RowScaling {
    /// SAELens' name.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Norm => "constant_norm_rescale",
            Self::Standard => "layer_norm",
        }
    }

    /// Of SAELens' name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::None, Self::Norm, Self::Standard].into_iter().find(|scaling| scaling.name() == name)
    }

    /// Scale rows of `d` values. Returns what [`RowScaling::undo`] needs: for each row, factor and shift.
    pub fn apply(self, rows: &mut [f32], d: usize) -> Vec<[f64; 2]> {
        if self == Self::None {
            return Vec::new();
        }
        rows.chunks_exact_mut(d).map(|row| self.scale(row)).collect()
    }

    fn scale(self, row: &mut [f32]) -> [f64; 2] {
        let d = row.len() as f64;
        let mean = if self == Self::Standard { row.iter().map(|&x| f64::from(x)).sum::<f64>() / d } else { 0.0 };
        let square: f64 = row.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum();
        // rows of zeros stay as they are
        let (divisor, back) = match self {
            Self::None => (1.0, 1.0),
            Self::Norm if square > 0.0 => ((square / d).sqrt(), (square / d).sqrt()),
            Self::Norm => (1.0, 1.0),
            Self::Standard => {
                let deviation = (square / (d - 1.0).max(1.0)).sqrt();
                (deviation + EPSILON, deviation)
            }
        };
        row.iter_mut().for_each(|x| *x = ((f64::from(*x) - mean) / divisor) as f32);
        [back, mean]
    }

    /// The inverse, for reconstructions of rows that [`RowScaling::apply`] scaled.
    pub fn undo(self, rows: &mut [f32], d: usize, by: &[[f64; 2]]) {
        for (row, [factor, shift]) in rows.chunks_exact_mut(d).zip(by) {
            row.iter_mut().for_each(|x| *x = (f64::from(*x) * factor + shift) as f32);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_what_was_asked_for_and_come_back() {
        let rows = [3.0f32, 4.0, 0.0, 0.0, -1.0, 5.0, 2.0, 2.0];
        for scaling in [RowScaling::Norm, RowScaling::Standard] {
            let mut scaled = rows;
            let by = scaling.apply(&mut scaled, 4);
            for row in scaled.chunks(4) {
                let square: f32 = row.iter().map(|x| x * x).sum();
                let mean = row.iter().sum::<f32>() / 4.0;
                match scaling {
                    RowScaling::Standard => assert!((square - 3.0).abs() < 1e-3 && mean.abs() < 1e-6),
                    _ => assert!((square - 4.0).abs() < 1e-5),
                }
            }
            scaling.undo(&mut scaled, 4, &by);
            assert!(scaled.iter().zip(&rows).all(|(a, b)| (a - b).abs() < 1e-3), "{scaled:?}");
            assert_eq!(RowScaling::named(scaling.name()), Some(scaling));
        }
        let mut zeros = [0f32; 4];
        RowScaling::Norm.apply(&mut zeros, 4);
        RowScaling::Standard.apply(&mut zeros, 4);
        assert_eq!(zeros, [0.0; 4]);
    }
}
