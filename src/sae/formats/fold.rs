//! The same coder with other numbers: what formats and training differ in, moved into the weights.

use crate::sae::export::{Architecture, ExportedCoder, W_SKIP};

/// The parameter of a gated coder that is the logarithm of a ratio.
const RATIO: &str = "r_mag";

/// Decoder rows shorter than this stay as they are.
const SHORTEST: f64 = 1e-12;

impl ExportedCoder {
    /// Norms of decoder rows `[f]`.
    pub fn decoder_norms(&self) -> Vec<f64> {
        let norm = |row: &[f32]| row.iter().map(|&w| f64::from(w) * f64::from(w)).sum::<f64>().sqrt();
        self.params.w_dec.chunks_exact(self.out()).map(norm).collect()
    }

    fn out(&self) -> usize {
        self.dims.out
    }

    /// Every latent's value times a positive number, the reconstruction as it was. Where latents compete by size, those that
    /// win may be others.
    #[must_use]
    pub fn with_gains(mut self, gains: &[f64]) -> Self {
        let (d, out) = (self.dims.d, self.out());
        let p = &mut self.params;
        times(&mut p.w_enc, |i| gains[i / d]);
        times(&mut p.b_enc, |i| gains[i]);
        times(&mut p.w_dec, |i| 1.0 / gains[i / out]);
        for (name, values) in &mut p.extra {
            // the gate's scale is a factor of the rest, and the skip connection knows no latents
            if ![RATIO, W_SKIP].contains(name) {
                times(values, |i| gains[i]);
            }
        }
        self
    }

    /// With decoder rows of norm 1, but for those that are almost nothing; see [`ExportedCoder::with_gains`].
    #[must_use]
    pub fn with_unit_decoder(self) -> Self {
        let gains: Vec<f64> =
            self.decoder_norms().into_iter().map(|norm| if norm > SHORTEST { norm } else { 1.0 }).collect();
        self.with_gains(&gains)
    }

    /// The coder of `x` that this one is of `scale x`, where it reconstructs `scale x` too.
    #[must_use]
    pub fn of_unscaled(self, scale: f64) -> Self {
        self.of_unscaled_sides(scale, scale)
    }

    /// The coder of `x` that this one is of `input x`, where it reconstructs `output y`.
    #[must_use]
    pub fn of_unscaled_sides(mut self, input: f64, output: f64) -> Self {
        let p = &mut self.params;
        times(&mut p.w_enc, |_| input);
        times(&mut p.w_dec, |_| 1.0 / output);
        times(&mut p.b_dec, |_| 1.0 / output);
        if p.find(W_SKIP).is_some() {
            times(p.extra_mut(W_SKIP), |_| input / output);
        }
        self
    }

    /// The same code, with `b_dec` subtracted from the encoder's input or not.
    #[must_use]
    pub fn with_b_dec_subtracted(mut self, subtract: bool) -> Self {
        if subtract == self.apply_b_dec_to_input {
            return self;
        }
        self.apply_b_dec_to_input = subtract;
        let sign = if subtract { 1.0 } else { -1.0 };
        let p = &mut self.params;
        let dot = |row: &[f32]| row.iter().zip(&p.b_dec).map(|(&w, &b)| f64::from(w) * f64::from(b)).sum::<f64>();
        let shifts: Vec<f64> = p.w_enc.chunks_exact(self.dims.d).map(|row| sign * dot(row)).collect();
        plus(&mut p.b_enc, |i| shifts[i]);
        if self.architecture == Architecture::Gated {
            let gains: Vec<f64> = p.extra("r_mag").iter().map(|&r| f64::from(r).exp()).collect();
            plus(p.extra_mut("b_mag"), |i| gains[i] * shifts[i]);
        }
        self
    }
}

fn times(values: &mut [f32], factor: impl Fn(usize) -> f64) {
    values.iter_mut().enumerate().for_each(|(i, x)| *x = (f64::from(*x) * factor(i)) as f32);
}

fn plus(values: &mut [f32], term: impl Fn(usize) -> f64) {
    values.iter_mut().enumerate().for_each(|(i, x)| *x = (f64::from(*x) + term(i)) as f32);
}
