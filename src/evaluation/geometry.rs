//! Directions of one dictionary: norms, what they share with each other, and with the encoder.

use serde::{Deserialize, Serialize};

use crate::compute::Backend;
use crate::compute::backend::{LinearDims, MatrixFormat};
use crate::sae::export::ExportedCoder;
use crate::sae::rows::RowScaling;

/// Rows of a block of cosines.
const BLOCK: usize = 256;

/// Encoder and decoder of a coder of `f` latents, in raw space; rows of several sites are side by side.
#[derive(Clone, Debug, Default)]
pub struct Dictionary {
    /// Values a row of the encoder; 0 where latents have no encoder rows of their own.
    pub encoder_width: usize,
    /// Values a row of the decoder.
    pub decoder_width: usize,
    /// `[f, encoder_width]`.
    pub encoder: Vec<f32>,
    /// `[f, decoder_width]`.
    pub decoder: Vec<f32>,
    /// Whether rows are scaled each by itself, so that a latent's value times its direction is not what it adds.
    pub rows_scaled: bool,
}

/// How the directions of a dictionary lie. Latents whose decoder row is zero count as 0.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Geometry {
    /// Norms of decoder rows.
    pub decoder_norm: Spread,
    /// Norms of encoder rows; absent where latents have none of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoder_norm: Option<Spread>,
    /// Each decoder row's largest cosine with another.
    pub nearest_cosine: Spread,
    /// Share of latents whose nearest is above 0.9: duplicates.
    pub duplicates: f64,
    /// Cosine of each latent's encoder and decoder row; absent where they are of different spaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoder_decoder_cosine: Option<Spread>,
    /// Histogram of decoder norms.
    pub decoder_norms: Histogram,
    /// Histogram of the nearest cosines, from -1 to 1.
    pub nearest_cosines: Histogram,
}

/// How values lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// Smallest.
    pub min: f64,
    /// 5th percentile.
    pub p5: f64,
    /// Mean.
    pub mean: f64,
    /// Median.
    pub p50: f64,
    /// 95th percentile.
    pub p95: f64,
    /// Largest.
    pub max: f64,
}

/// Counts of values in equal bins.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Histogram {
    /// Lower edge of the first bin.
    pub from: f64,
    /// Width of a bin.
    pub step: f64,
    /// Values in each; what lies outside is in the first or last.
    pub counts: Vec<u64>,
}

impl Histogram {
    /// Of `values`, `bins` bins between `from` and `to`.
    pub fn new(values: &[f64], from: f64, to: f64, bins: usize) -> Self {
        let step = ((to - from) / bins as f64).max(f64::MIN_POSITIVE);
        let mut counts = vec![0; bins];
        for value in values {
            counts[(((value - from) / step) as usize).min(bins - 1)] += 1;
        }
        Self { from, step, counts }
    }
}

impl Spread {
    /// Of `values`; zeros without any.
    pub fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |q: f64| sorted.get((q * sorted.len().saturating_sub(1) as f64).round() as usize).copied();
        let at = |q: f64| at(q).unwrap_or_default();
        let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
        Self { min: at(0.0), p5: at(0.05), mean, p50: at(0.5), p95: at(0.95), max: at(1.0) }
    }
}

impl From<&ExportedCoder> for Dictionary {
    fn from(coder: &ExportedCoder) -> Self {
        let (f, params) = (coder.dims.f, &coder.params);
        Self {
            encoder_width: params.w_enc.len() / f,
            decoder_width: params.w_dec.len() / f,
            encoder: params.w_enc.clone(),
            decoder: params.w_dec.clone(),
            rows_scaled: coder.rows != RowScaling::None,
        }
    }
}

impl Dictionary {
    /// Latents.
    pub fn len(&self) -> usize {
        self.decoder.len() / self.decoder_width.max(1)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether latents have encoder rows of their own.
    pub fn has_encoder(&self) -> bool {
        self.encoder_width > 0
    }

    /// The geometry. Latents times latents times width products.
    pub fn geometry<B: Backend>(&self, backend: &B) -> Geometry {
        let decoder_norms = norms(&self.decoder, self.decoder_width);
        let encoder_norm = self.has_encoder().then(|| Spread::of(&norms(&self.encoder, self.encoder_width)));
        let decoder = unit_rows(&self.decoder, self.decoder_width);
        let mut nearest = vec![0f64; self.len()];
        cosines(backend, &decoder, &decoder, self.decoder_width, |first, block| {
            for (row, cosines) in block.chunks_exact(nearest.len()).enumerate() {
                let others = cosines.iter().enumerate().filter(|(j, _)| *j != first + row);
                let largest = others.fold(f32::NEG_INFINITY, |a, (_, &x)| a.max(x));
                nearest[first + row] = if largest.is_finite() { f64::from(largest) } else { 0.0 };
            }
        });
        let same_space = self.encoder_width == self.decoder_width;
        let both = same_space.then(|| {
            let encoder = unit_rows(&self.encoder, self.encoder_width);
            let rows = encoder.chunks_exact(self.encoder_width).zip(decoder.chunks_exact(self.decoder_width));
            let cosines: Vec<f64> =
                rows.map(|(a, b)| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()).collect();
            Spread::of(&cosines)
        });
        let longest = decoder_norms.iter().fold(0f64, |a, &b| a.max(b));
        let duplicates = nearest.iter().filter(|&&cosine| cosine > 0.9).count();
        Geometry {
            decoder_norm: Spread::of(&decoder_norms),
            encoder_norm,
            nearest_cosine: Spread::of(&nearest),
            duplicates: duplicates as f64 / self.len().max(1) as f64,
            encoder_decoder_cosine: both,
            decoder_norms: Histogram::new(&decoder_norms, 0.0, longest.max(1e-30) * 1.02, 60),
            nearest_cosines: Histogram::new(&nearest, -1.0, 1.0, 80),
        }
    }
}

/// The norm of each row of `rows` `[n, width]`.
pub fn norms(rows: &[f32], width: usize) -> Vec<f64> {
    rows.chunks_exact(width).map(|row| row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt()).collect()
}

/// Rows of norm 1; rows of zeros stay.
pub fn unit_rows(rows: &[f32], width: usize) -> Vec<f32> {
    let norms = norms(rows, width);
    let scaled = rows.chunks_exact(width).zip(&norms).flat_map(|(row, &norm)| {
        let factor = if norm > 0.0 { 1.0 / norm } else { 0.0 };
        row.iter().map(move |&x| (f64::from(x) * factor) as f32)
    });
    scaled.collect()
}

/// Products of every row of `a` `[n, width]` with every row of `b` `[m, width]`, by blocks: `each` gets the first row of
/// the block in `a` and the block's products `[rows, m]`.
pub fn cosines<B: Backend>(backend: &B, a: &[f32], b: &[f32], width: usize, mut each: impl FnMut(usize, &[f32])) {
    let (n, m) = (a.len() / width, b.len() / width);
    if n == 0 || m == 0 {
        return;
    }
    let others = backend.matrix(b.to_vec(), MatrixFormat::F32);
    let mut products = backend.zeros(BLOCK.min(n) * m);
    let mut block = vec![0f32; BLOCK.min(n) * m];
    for (i, rows) in a.chunks(BLOCK * width).enumerate() {
        let dims = LinearDims { n: rows.len() / width, n_in: width, n_out: m };
        backend.linear(&backend.upload(rows), &others, None, &mut products, dims);
        let block = &mut block[..dims.n * m];
        backend.read(&products, 0, block);
        each(i * BLOCK, block);
    }
}
