//! A trainer's coder on rows that are not trained on.

use crate::compute::CoderOps;
use crate::compute::coder_ops::Screening;
use crate::error::Result;
use crate::evaluation::geometry::Dictionary;
use crate::sae::codes::Codes;
use crate::sae::directions;
use crate::sae::infer::Inference;
use crate::sae::rows::RowScaling;
use crate::trainer::Trainer;
use crate::trainer::boosting::Base;

impl<B: CoderOps> Trainer<B> {
    /// Rows whose selection its device screened so far, for all who use it.
    pub fn screening(&self) -> Screening {
        self.backend.screening()
    }

    /// Latents of the coder, and of the one that it makes better: the length of `fired` in [`Trainer::reconstruct`].
    pub fn n_latents(&self) -> usize {
        self.plan.coder.dims.f + self.base.as_ref().map_or(0, Base::n_latents)
    }

    /// Whether rows can be reconstructed from its code; they are zeros otherwise.
    pub fn reconstructs_rows(&self) -> bool {
        self.plan.coder.reconstructs_rows()
    }

    /// The directions of its latents in raw space, those of [`Trainer::code`]: `None` before the first step, and where no rows
    /// are reconstructed.
    pub fn dictionary(&self) -> Option<Dictionary> {
        let (training, backend) = (self.training.as_ref()?, &*self.backend);
        let scales = &training.scales;
        let own = training.judged(backend, |coder, params| directions::of(backend, coder, params, scales))?;
        let dims = self.plan.coder.dims;
        let own = Dictionary {
            encoder_width: if own.encoder.is_empty() { 0 } else { dims.d },
            decoder_width: dims.out,
            encoder: own.encoder,
            decoder: own.decoder,
            rows_scaled: self.settings.config.normalize.rows() != RowScaling::None,
        };
        Some(match &self.base {
            Some(base) => base.before(own),
            None => own,
        })
    }

    /// Reconstructions from rows of the input `[n, d]` in raw space: `out` `[n, out]` and `l0` `[n]` (latents that fired) are
    /// overwritten, `fired` `[n_latents]` is counted up.
    ///
    /// # Errors
    /// `Data` if no step was made yet.
    pub fn reconstruct(&self, rows: &[f32], out: &mut Vec<f32>, l0: &mut Vec<u32>, fired: &mut [u64]) -> Result<()> {
        let mut codes = Codes::default();
        self.code(rows, out, &mut codes)?;
        codes.count(l0, fired);
        Ok(())
    }

    /// As [`Trainer::reconstruct`], with the codes themselves, which are overwritten.
    ///
    /// # Errors
    /// `Data` if no step was made yet.
    pub fn code(&self, rows: &[f32], out: &mut Vec<f32>, codes: &mut Codes) -> Result<()> {
        let training = self.started()?;
        let backend = &*self.backend;
        training.judged(backend, |coder, params| {
            let inference = coder.inference(backend, params);
            let inference = Inference { rows: self.settings.config.normalize.rows(), ..inference };
            inference.code(backend, &training.scales, rows, out, codes);
        });
        if let Some(base) = &self.base {
            base.add(backend, rows, out, codes);
        }
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests;
