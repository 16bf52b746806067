//! A coder that was trained before and does not change, and one that learns what it leaves (Koriagin et al. 2025).
//!
//! The two read the same row; their reconstructions are added, and their latents stand side by side, those of the first one
//! before the others. Its weights are kept in checkpoints, so that these are whole wherever it was read from.

use crate::compute::CoderOps;
use crate::error::{Error, Result};
use crate::evaluation::geometry::Dictionary;
use crate::sae::codes::Codes;
use crate::sae::export::{Architecture, ExportedCoder};
use crate::sae::params::{Params, PerParam};
use crate::sae::rows::RowScaling;
use crate::sae::scales::Scales;
use crate::sae::settings::{CoderSettings, SelectionSettings};
use crate::trainer::Trainer;

/// What names of its files in a checkpoint begin with.
const PREFIX: &str = "base.";

/// See the module.
pub(super) struct Base<B: CoderOps> {
    coder: ExportedCoder,
    params: Params<B>,
}

impl<B: CoderOps> Base<B> {
    /// For rows of `d` values.
    ///
    /// # Errors
    /// `Config` if the coder is of another width, or none that can be kept.
    pub(super) fn new(backend: &B, coder: ExportedCoder, d: usize) -> Result<Self> {
        let dims = coder.dims;
        if dims.d != d || dims.out != d || dims.groups != 1 {
            let what = format!("a coder that reconstructs rows of {} values from rows of {}", dims.out, dims.d);
            return Err(Error::config(format!("{what} cannot be boosted on rows of {d} values")));
        }
        if coder.transcodes {
            return Err(Error::config("a transcoder cannot be boosted: it reconstructs another site than it reads"));
        }
        if let Architecture::GroupMax { .. } = coder.architecture {
            return Err(Error::config(
                "a coder of architecture groupmax cannot be kept in checkpoints: it cannot be boosted",
            ));
        }
        Ok(Self { params: coder.upload(backend), coder })
    }

    /// That of a checkpoint.
    ///
    /// # Errors
    /// `Data` if a file is missing or damaged.
    pub(super) fn read(backend: &B, files: &[(String, Vec<u8>)], d: usize) -> Result<Self> {
        let own = files.iter().filter_map(|(name, bytes)| Some((name.strip_prefix(PREFIX)?.to_owned(), bytes.clone())));
        let coder = ExportedCoder::read(&own.collect::<Vec<_>>())
            .map_err(|e| Error::data(format!("the coder that was boosted: {e}")))?;
        Self::new(backend, coder, d).map_err(|e| Error::data(e.to_string()))
    }

    /// Its files in a checkpoint.
    ///
    /// # Errors
    /// `Internal` only.
    pub(super) fn files(&self) -> Result<Vec<(String, Vec<u8>)>> {
        let files = self.coder.write()?;
        Ok(files.into_iter().map(|(name, bytes)| (format!("{PREFIX}{name}"), bytes)).collect())
    }

    /// Latents.
    pub(super) fn n_latents(&self) -> usize {
        self.coder.dims.f
    }

    fn code(&self, backend: &B, rows: &[f32], out: &mut Vec<f32>, codes: &mut Codes) {
        let scales = Scales::one(self.coder.dims.d, 1.0);
        self.coder.inference(backend, &self.params).code(backend, &scales, rows, out, codes);
    }

    /// Each of the rows `[n, d]` with what is left of it beside it: `[n, 2 d]`.
    pub(super) fn with_residuals(&self, backend: &B, rows: &[f32]) -> Vec<f32> {
        let d = self.coder.dims.d;
        let (mut made, mut codes) = (Vec::new(), Codes::default());
        self.code(backend, rows, &mut made, &mut codes);
        let mut both = Vec::with_capacity(2 * rows.len());
        for (row, made) in rows.chunks_exact(d).zip(made.chunks_exact(d)) {
            both.extend_from_slice(row);
            both.extend(row.iter().zip(made).map(|(x, y)| x - y));
        }
        both
    }

    /// Add its reconstructions of `rows` to `out`, and put its codes before `codes`.
    pub(super) fn add(&self, backend: &B, rows: &[f32], out: &mut [f32], codes: &mut Codes) {
        let (mut made, mut first) = (Vec::new(), Codes::default());
        self.code(backend, rows, &mut made, &mut first);
        out.iter_mut().zip(&made).for_each(|(sum, x)| *sum += x);
        let offset = self.coder.dims.f as u32;
        let mut both = Codes::default();
        for ((latents, values), (more, more_values)) in first.rows().zip(codes.rows()) {
            let latents: Vec<u32> = latents.iter().copied().chain(more.iter().map(|i| i + offset)).collect();
            both.push(&latents, &[values, more_values].concat());
        }
        *codes = both;
    }

    /// The directions of both.
    pub(super) fn before(&self, own: Dictionary) -> Dictionary {
        let base = Dictionary::from(&self.coder);
        let both = |mut base: Vec<f32>, own: &[f32]| {
            base.extend_from_slice(own);
            base
        };
        Dictionary {
            encoder: if own.has_encoder() { both(base.encoder, &own.encoder) } else { Vec::new() },
            decoder: both(base.decoder, &own.decoder),
            rows_scaled: base.rows_scaled || own.rows_scaled,
            ..own
        }
    }

    /// Why no format holds the two as one coder, if so.
    pub(super) fn not_one_coder(&self, settings: &CoderSettings) -> Option<&'static str> {
        let own = matches!(
            settings.selection,
            SelectionSettings::BatchTopK { .. }
                | SelectionSettings::TopAfa { .. }
                | SelectionSettings::FeatureChoice(_)
                | SelectionSettings::JumpRelu(_)
                | SelectionSettings::Positive
        );
        if !own || !matches!(self.coder.architecture, Architecture::Jumprelu | Architecture::Standard) {
            return Some("two coders are one only where each latent of both has a threshold of its own");
        }
        (self.coder.rows != RowScaling::None).then_some("the coder that it boosts scales each row by itself")
    }

    /// Both as one coder.
    ///
    /// # Errors
    /// `Config` if they are none ([`Base::not_one_coder`]).
    pub(super) fn joined(&self, other: ExportedCoder) -> Result<ExportedCoder> {
        let base = with_thresholds(self.coder.clone().with_b_dec_subtracted(false))?;
        let mut joined = with_thresholds(other.with_b_dec_subtracted(false))?;
        joined.dims.f += base.dims.f;
        joined.transcodes = false;
        let PerParam { w_enc, b_enc, w_dec, b_dec, extra } = base.params;
        let own = &mut joined.params;
        let before = |own: &mut Vec<f32>, mut base: Vec<f32>| {
            base.append(own);
            *own = base;
        };
        before(&mut own.w_enc, w_enc);
        before(&mut own.b_enc, b_enc);
        before(&mut own.w_dec, w_dec);
        own.b_dec.iter_mut().zip(&b_dec).for_each(|(sum, x)| *sum += x);
        for ((_, own), (_, base)) in own.extra.iter_mut().zip(extra) {
            before(own, base);
        }
        Ok(joined)
    }
}

impl<B: CoderOps> Trainer<B> {
    /// Where the coder is that its own is to make better, if it was not given it.
    pub fn wants_base(&self) -> Option<&str> {
        self.settings.config.target.base().filter(|_| self.base.is_none())
    }

    /// Make a trained coder better: what is at [`Trainer::wants_base`].
    ///
    /// # Errors
    /// `Config` if it does not fit.
    pub fn boost(&mut self, coder: ExportedCoder) -> Result<()> {
        self.base = Some(Base::new(&*self.backend, coder, self.settings.width())?);
        Ok(())
    }
}

/// A coder whose latents have thresholds: 0 where all positive ones are active.
fn with_thresholds(mut coder: ExportedCoder) -> Result<ExportedCoder> {
    match coder.architecture {
        Architecture::Jumprelu => {}
        Architecture::Standard => {
            coder.architecture = Architecture::Jumprelu;
            coder.params.extra = vec![("threshold", vec![0.0; coder.dims.f])];
        }
        other => return Err(Error::config(format!("latents of architecture {} have no thresholds", other.name()))),
    }
    Ok(coder)
}
