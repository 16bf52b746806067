//! Trained coders on rows that are not trained on: the code without what only a batch has.

use crate::compute::CoderOps;
use crate::compute::coder_ops::{Code, CoderDims, NO_LATENT, PairShape, Rule};
use crate::sae::codes::Codes;
use crate::sae::decoder::Held;
use crate::sae::params::Params;
use crate::sae::rows::RowScaling;
use crate::sae::scales::{self, Scales};
use crate::sae::selection::products::Values;
use crate::sae::selection::{experts, host, pairs, pursuit};
use crate::sae::settings::ExpertSettings;
use crate::sae::skip::{self, W_SKIP};

/// Rows that are taken at once.
const ROWS: usize = 1024;

/// Which latents are active, and their values. Tensors are `[f]`.
pub enum Keep<T> {
    /// The `k` largest of a row, by `u`, or by `u score` with a score.
    TopK {
        /// Latents kept a row.
        k: usize,
        /// Weights of the ranking.
        score: Option<T>,
    },
    /// The largest of each of `groups` ranges.
    GroupLargest {
        /// Ranges.
        groups: usize,
    },
    /// The `k` largest of a row, whatever their sign.
    SignedTopK {
        /// Latents kept a row.
        k: usize,
    },
    /// Those that matching pursuit chooses.
    Pursuit {
        /// Steps.
        k: usize,
    },
    /// The `k` largest of a row, of pairs of parts.
    Pairs {
        /// How latents are made of parts.
        shape: PairShape,
        /// Latents kept a row.
        k: usize,
    },
    /// The `k` largest of an expert.
    Experts(ExpertSettings),
    /// All products of two numbers, of rows of norm 1; no rows are reconstructed from them.
    Products,
    /// All that are positive.
    Positive,
    /// Those above a threshold.
    Above(T),
    /// Where the gate `u` is positive: `gain u + offset`, if that is.
    Gated {
        /// Factor.
        gain: T,
        /// Term.
        offset: T,
    },
}

/// A coder for inference: parameters, and what it keeps.
pub struct Inference<'a, B: CoderOps> {
    /// Shape.
    pub dims: CoderDims,
    /// Parameters; `w_dec` is the decoder.
    pub params: Held<'a, Params<B>>,
    /// The rule.
    pub keep: Keep<B::Tensor>,
    /// `[f]` what values are multiplied by before they are reported, where that is not 1; reconstructions are from values
    /// as they were.
    pub gains: Option<Vec<f64>>,
    /// Whether `b_dec` is subtracted from the encoder's input.
    pub subtract_bias: bool,
    /// What is done to raw rows first.
    pub rows: RowScaling,
}

/// Rows `[n, groups, d]` as `[groups, n, d]`.
pub(crate) fn by_group(rows: &[f32], groups: usize, d: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(rows.len());
    for group in 0..groups {
        rows.chunks_exact(groups * d).for_each(|row| out.extend_from_slice(&row[group * d..][..d]));
    }
    out
}

/// Buffers for a number of rows.
struct Scratch<B: CoderOps> {
    x: B::Tensor,
    y: B::Tensor,
    c: B::Tensor,
    zeros: B::Tensor,
    u: Option<B::Tensor>,
    skip: Option<B::Tensor>,
    gate: Code<B>,
    code: Code<B>,
}

impl<B: CoderOps> Inference<'_, B> {
    /// Reconstructions of raw rows `[n, d]`, in raw space: `out` `[n, out]` and `l0` `[n]` (latents that fired) are overwritten;
    /// `fired` `[f]` is counted up. The coder reads rows times their scales, after what [`Inference::rows`] does to them.
    pub fn reconstruct(
        &self,
        backend: &B,
        scales: &Scales,
        rows: &[f32],
        out: &mut Vec<f32>,
        l0: &mut Vec<u32>,
        fired: &mut [u64],
    ) {
        assert!(fired.len() == self.dims.f, "reconstruct: {} latents", self.dims.f);
        let mut codes = Codes::default();
        self.code(backend, scales, rows, out, &mut codes);
        codes.count(l0, fired);
    }

    /// As [`Inference::reconstruct`], with the codes themselves, which are overwritten. Values are those of the scaled
    /// input, times [`Inference::gains`]. Where no rows are reconstructed `out` is zeros.
    pub fn code(&self, backend: &B, scales: &Scales, rows: &[f32], out: &mut Vec<f32>, codes: &mut Codes) {
        let CoderDims { d, out: width, groups, .. } = self.dims;
        let d = d * groups;
        assert!(rows.len().is_multiple_of(d), "reconstruct: rows of width {d}");
        out.clear();
        out.resize(rows.len() / d * width, 0.0);
        codes.clear();
        let mut scratch = self.scratch(backend, ROWS.min(rows.len() / d));
        let (mut latents, mut values) = (Vec::new(), Vec::new());
        for (rows, out) in rows.chunks(ROWS * d).zip(out.chunks_mut(ROWS * width)) {
            let mut scaled = rows.to_vec();
            let by = self.rows.apply(&mut scaled, d);
            let scale = scales.of_input().unwrap_or_else(|| {
                scales::apply(&mut scaled, &scales.input);
                1.0
            });
            if groups > 1 {
                scaled = by_group(&scaled, groups, d / groups);
            }
            self.encode(backend, scale, &scaled, &mut scratch);
            let code = &scratch.code;
            if !matches!(self.keep, Keep::Products) {
                backend.decode(code, &self.params.w_dec, &self.params.b_dec, &mut scratch.y, width);
                if let (Some(w_skip), Some(skip)) = (self.params.find(W_SKIP), &mut scratch.skip) {
                    skip::product(backend, &scratch.c, w_skip, self.dims, skip, code.rows);
                    backend.combine(1.0, skip, 1.0, &mut scratch.y, code.rows * width);
                }
                backend.read(&scratch.y, 0, out);
            }
            scales::undo(out, &scales.output);
            self.rows.undo(out, width, &by);
            latents.resize(code.places(), 0);
            values.resize(code.places(), 0.0);
            backend.read_index(&code.latents, &mut latents);
            backend.read(&code.values, 0, &mut values);
            if let Some(gains) = &self.gains {
                let active = latents.iter().zip(&mut values).filter(|(latent, _)| **latent != NO_LATENT);
                active.for_each(|(&i, value)| *value = (f64::from(*value) * gains[i as usize]) as f32);
            }
            if code.k == 0 {
                (0..code.rows).for_each(|_| codes.push(&[], &[]));
            }
            for (latents, values) in latents.chunks_exact(code.k.max(1)).zip(values.chunks_exact(code.k.max(1))) {
                let active = latents.iter().take_while(|&&i| i != NO_LATENT).count();
                codes.push(&latents[..active], &values[..active]);
            }
        }
    }

    fn scratch(&self, backend: &B, rows: usize) -> Scratch<B> {
        let CoderDims { d, f, out, groups } = self.dims;
        let (k, dense) = match &self.keep {
            Keep::TopK { k, .. } => (*k, false),
            Keep::SignedTopK { k } => (*k, false),
            Keep::Above(_) => (0, false),
            Keep::Experts(own) => (own.k, false),
            Keep::Pursuit { .. } | Keep::Products => (0, false),
            _ => (0, true),
        };
        Scratch {
            x: backend.zeros(rows * groups * d),
            y: backend.zeros(rows * out),
            c: backend.zeros(rows * groups * d),
            zeros: backend.zeros(if self.subtract_bias { 0 } else { d }),
            u: dense.then(|| backend.zeros(rows * f)),
            skip: self.params.find(W_SKIP).map(|_| backend.zeros(rows * out)),
            gate: Code::new(backend, 0, 0),
            code: Code::new(backend, rows, k),
        }
    }

    fn encode(&self, backend: &B, scale: f64, rows: &[f32], scratch: &mut Scratch<B>) {
        let (dims, params) = (self.dims, &*self.params);
        let Scratch { x, c, zeros, u, gate, code, .. } = scratch;
        let n = rows.len() / (dims.groups * dims.d);
        code.rows = n;
        backend.write(x, 0, rows);
        backend.center(x, scale, if self.subtract_bias { &params.b_dec } else { zeros }, c, n * dims.groups, dims.d);
        match &self.keep {
            Keep::Pursuit { k } => {
                let mut steps = pursuit::Steps::new(backend, dims, n, *k);
                return steps.encode(backend, (c, n), &params.w_dec, dims, code);
            }
            Keep::Products => {
                backend.normalize_rows(c, n, dims.d);
                let mut values = Values::new(backend, dims.f, n);
                values.set(backend, params, c, n, dims);
                return values.code(backend, dims.f, code);
            }
            Keep::Experts(own) => {
                let shift = if self.subtract_bias { host(backend, &params.b_dec, dims.d) } else { vec![0.0; dims.d] };
                let routes = experts::route(backend, params, (c, n, dims.d), &shift, *own);
                routes.encode(backend, params, (c, dims), own.experts, code);
                return routes.weigh(backend, &mut code.values, n, own.k);
            }
            _ => {}
        }
        let Some(u) = u else {
            let rule = match &self.keep {
                Keep::Above(threshold) => Rule::Above(threshold),
                Keep::SignedTopK { k } => Rule::RowLargest { k: *k, score: None, signed: true },
                Keep::TopK { k, score } => Rule::RowLargest { k: *k, score: score.as_ref(), signed: false },
                // those that hold pre-activations
                _ => Rule::Positive,
            };
            return backend.encode(c, &params.w_enc, &params.b_enc, dims, rule, code);
        };
        if let Keep::Pairs { shape, k } = &self.keep {
            let mut parts = backend.zeros(n * shape.parts());
            pairs::pre_activations(backend, params, (c, n, dims), *shape, (&mut parts, u));
            return backend.select(u, dims.f, Rule::RowLargest { k: *k, score: None, signed: false }, code);
        }
        backend.pre_activations(c, &params.w_enc, &params.b_enc, u, n, dims);
        match &self.keep {
            Keep::GroupLargest { groups } => backend.select(u, dims.f, Rule::GroupLargest { groups: *groups }, code),
            // encoded above
            Keep::TopK { .. } | Keep::SignedTopK { .. } | Keep::Above(_) => {}
            Keep::Pursuit { .. } | Keep::Pairs { .. } | Keep::Experts(_) | Keep::Products => {}
            Keep::Positive => backend.select(u, dims.f, Rule::Positive, code),
            Keep::Gated { gain, offset } => {
                gate.rows = n;
                backend.select(u, dims.f, Rule::Positive, gate);
                backend.affine_entries(gate, gain, offset, code);
            }
        }
    }
}
