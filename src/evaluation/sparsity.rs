//! How many latents fire on a row, and how often each of them fires. A latent fires where its value is not 0.

use serde::{Deserialize, Serialize};

use crate::evaluation::geometry::Spread;
use crate::sae::codes::Codes;

/// What is added to a density before its logarithm is taken. (SAELens `sparsity.safetensors`.)
const DENSITY_FLOOR: f64 = 1e-10;
/// Bins of the histogram of densities: from `10^-10` to 1, ten a decade.
const BINS: usize = 100;

/// Sums for [`SparsityMetrics`].
#[derive(Clone, Debug, PartialEq)]
pub struct SparsitySums {
    rows: u64,
    fired: Vec<u64>,
    /// Rows by their number of latents, `[f + 1]`.
    by_l0: Vec<u64>,
    hoyer: f64,
    rows_with_code: u64,
    /// Rows whose inputs are known, and `sum |c|_1 / |x|` over them.
    rows_read: u64,
    l1: f64,
    /// Rows whose prompts are known; of each latent the prompts in which it fired, and the last of them and 1.
    rows_prompted: u64,
    prompts: Vec<(u64, u64)>,
}

/// How sparse codes are over a sample of rows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SparsityMetrics {
    /// Mean number of latents that fire on a row.
    pub l0: f64,
    /// Median of that number.
    pub l0_p50: u64,
    /// Its 99th percentile: the least number that 99% of rows do not exceed.
    pub l0_p99: u64,
    /// Share of latents that fired on no row of the sample. Rare latents are among them: the smaller the sample, the more.
    pub dead_fraction: f64,
    /// Share of latents that fire on more than 1% of rows.
    pub over_1_percent: f64,
    /// Share of latents that fire on more than 10% of rows: dense ones.
    pub dense_fraction: f64,
    /// Share of all activations that are of latents above 1%. (SAEBench.)
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub over_1_percent_mass: Option<f64>,
    /// Share of all activations that are of latents above 10%.
    pub dense_mass: f64,
    /// Mean over rows with a code of `(sqrt F - |c|_1 / |c|_2) / (sqrt F - 1)`: 1 for one latent, 0 for all alike.
    pub hoyer: f64,
    /// `mean |c|_1 / |x|`, `x` the row that is read, in raw space; rows of zeros count as 0. (OpenAI `normalized_L1_loss`.)
    /// Absent where the inputs were not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub normalized_l1: Option<f64>,
    /// Of latents that fire: rows on which one does, over prompts in which it does. (SAELens
    /// `consistent_activation_heuristic`.) Absent where it is not known which rows are of one prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consistent_activation: Option<Spread>,
}

/// How many latents have which density: the histogram of `log10(density + 1e-10)`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DensityHistogram {
    /// Lower edge of the first bin.
    pub from: f64,
    /// Width of a bin.
    pub step: f64,
    /// Latents in each; the first has those that never fired.
    pub counts: Vec<u64>,
}

impl SparsitySums {
    /// Nothing yet, for a coder of `f` latents.
    pub fn new(f: usize) -> Self {
        Self {
            rows: 0,
            fired: vec![0; f],
            by_l0: vec![0; f + 1],
            hoyer: 0.0,
            rows_with_code: 0,
            rows_read: 0,
            l1: 0.0,
            rows_prompted: 0,
            prompts: Vec::new(),
        }
    }

    /// As [`SparsitySums::add`], of rows `inputs` `[n, width]` that are of `prompts` `[n]`, if that is known. Rows of one
    /// prompt come together.
    pub fn add_read(&mut self, codes: &Codes, inputs: &[f32], prompts: Option<&[u64]>) {
        self.add(codes);
        let width = inputs.len() / codes.len().max(1);
        self.rows_read += codes.len() as u64;
        for ((_, values), input) in codes.rows().zip(inputs.chunks_exact(width.max(1))) {
            let norm = input.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
            if norm > 0.0 {
                self.l1 += values.iter().map(|&value| f64::from(value).abs()).sum::<f64>() / norm;
            }
        }
        let Some(prompts) = prompts else { return };
        assert_eq!(prompts.len(), codes.len(), "one prompt a row");
        self.prompts.resize(self.fired.len(), (0, 0));
        self.rows_prompted += codes.len() as u64;
        for ((latents, values), prompt) in codes.rows().zip(prompts) {
            for (&latent, _) in latents.iter().zip(values).filter(|(_, value)| **value != 0.0) {
                let (n, last) = &mut self.prompts[latent as usize];
                if *last != prompt + 1 {
                    (*n, *last) = (*n + 1, prompt + 1);
                }
            }
        }
    }

    /// Add the codes of some rows.
    pub fn add(&mut self, codes: &Codes) {
        let root = (self.fired.len() as f64).sqrt();
        for (latents, values) in codes.rows() {
            self.rows += 1;
            let (mut sum, mut squares, mut l0) = (0f64, 0f64, 0);
            for (&latent, &value) in latents.iter().zip(values).filter(|(_, value)| **value != 0.0) {
                self.fired[latent as usize] += 1;
                l0 += 1;
                sum += f64::from(value).abs();
                squares += f64::from(value).powi(2);
            }
            self.by_l0[l0] += 1;
            if squares > 0.0 {
                self.rows_with_code += 1;
                self.hoyer += (root - sum / squares.sqrt()) / (root - 1.0);
            }
        }
    }

    /// Rows on which each latent fired, `[f]`.
    pub fn fired(&self) -> &[u64] {
        &self.fired
    }

    /// The metrics; `None` without rows.
    pub fn finish(&self) -> Option<SparsityMetrics> {
        if self.rows == 0 {
            return None;
        }
        let n = self.rows as f64;
        let all: u64 = self.fired.iter().sum();
        let share = |is: &dyn Fn(f64) -> bool| {
            let those = self.fired.iter().filter(|&&fired| is(fired as f64 / n));
            those.count() as f64 / self.fired.len().max(1) as f64
        };
        let mass = |above: f64| {
            let those: u64 = self.fired.iter().filter(|&&fired| fired as f64 / n > above).sum();
            those as f64 / all.max(1) as f64
        };
        let consistent = || {
            let of_latent = |(&fired, &(prompts, _)): (&u64, &(u64, u64))| fired as f64 / prompts as f64;
            let each = self.fired.iter().zip(&self.prompts).filter(|(fired, _)| **fired > 0);
            Spread::of(&each.map(of_latent).collect::<Vec<f64>>())
        };
        Some(SparsityMetrics {
            l0: all as f64 / n,
            l0_p50: self.quantile(0.5),
            l0_p99: self.quantile(0.99),
            dead_fraction: share(&|density| density == 0.0),
            over_1_percent: share(&|density| density > 0.01),
            dense_fraction: share(&|density| density > 0.1),
            over_1_percent_mass: Some(mass(0.01)),
            dense_mass: mass(0.1),
            hoyer: self.hoyer / self.rows_with_code.max(1) as f64,
            normalized_l1: (self.rows_read == self.rows).then(|| self.l1 / n),
            consistent_activation: (self.rows_prompted == self.rows).then(consistent),
        })
    }

    /// The least number of latents that a share `q` of rows does not exceed.
    fn quantile(&self, q: f64) -> u64 {
        let wanted = (q * self.rows as f64).ceil().max(1.0) as u64;
        let mut below = 0;
        let found = self.by_l0.iter().position(|&rows| {
            below += rows;
            below >= wanted
        });
        found.unwrap_or_default() as u64
    }

    /// The histogram of densities.
    pub fn histogram(&self) -> DensityHistogram {
        let mut counts = vec![0; BINS];
        let step = 10.0 / BINS as f64;
        for &fired in &self.fired {
            let density = fired as f64 / self.rows.max(1) as f64;
            let bin = (((density + DENSITY_FLOOR).log10() + 10.0) / step) as usize;
            counts[bin.min(BINS - 1)] += 1;
        }
        DensityHistogram { from: -10.0, step, counts }
    }
}
