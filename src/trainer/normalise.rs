//! The input's scale: one constant, measured once, stored with the coder, folded into its weights on export.

use crate::error::{Error, Result};
use crate::sae::rows::RowScaling;
use crate::trainer::config::Normalize;

/// The scale for `rows`, each of `width` values: 1, or what makes the mean norm the square root of the width, the mean
/// square of a value 1, or that of the norm.
pub(super) fn measure_scale<'a>(
    normalize: Normalize,
    width: usize,
    rows: impl Iterator<Item = &'a [f32]>,
) -> Result<f64> {
    if normalize == Normalize::None || normalize.rows() != RowScaling::None {
        return Ok(1.0);
    }
    let (mut n, mut norms, mut squares) = (0u64, 0f64, 0f64);
    for row in rows {
        let square: f64 = row.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        n += 1;
        norms += square.sqrt();
        squares += square;
    }
    let scale = match normalize {
        Normalize::SqrtD => (width as f64).sqrt() / (norms / n as f64),
        Normalize::UnitRms => (squares / (n as f64 * width as f64)).sqrt().recip(),
        Normalize::UnitNorm => (squares / n as f64).sqrt().recip(),
        Normalize::None | Normalize::RowNorm | Normalize::LayerNorm => 1.0,
    };
    if scale.is_finite() && scale > 0.0 {
        return Ok(scale);
    }
    Err(Error::data(format!(
        "cannot measure the input's scale: {n} rows of mean norm {} (set `normalize: none`, or look at the site)",
        norms / n as f64
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_do_what_they_say() {
        let rows = [[3.0f32, 4.0, 0.0, 0.0], [0.0, 0.0, 6.0, 8.0]];
        let scale = |normalize| measure_scale(normalize, 4, rows.iter().map(|r| r.as_slice())).unwrap();
        assert!((scale(Normalize::SqrtD) * 7.5 - 2.0).abs() < 1e-12);
        assert!((scale(Normalize::UnitRms).powi(2) * 125.0 / 8.0 - 1.0).abs() < 1e-12);
        assert!((scale(Normalize::UnitNorm).powi(2) * 125.0 / 2.0 - 1.0).abs() < 1e-12);
        assert_eq!((scale(Normalize::None), scale(Normalize::LayerNorm)), (1.0, 1.0));
    }

    #[test]
    fn rows_of_zeros_have_no_scale() {
        let rows = [[0f32; 4]; 3];
        let error = measure_scale(Normalize::SqrtD, 4, rows.iter().map(|r| r.as_slice())).unwrap_err().to_string();
        assert!(error.contains("mean norm 0"), "{error}");
    }
}
