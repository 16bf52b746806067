//! [`CoderOps`] on a device, in f32, as far as TopK, BatchTopK, JumpReLU and ReLU coders need it; pipelines with others are refused
//! before they run.
//!
//! The encoder's product is of bfloat16 numbers: of each f32 number the three products of its two halves that matter
//! ([`super::launches`]), so that what is chosen is what f32 would choose. Numbers that decide what comes next (how many entries the longest row has,
//! sums of squares) are read back, which waits for the device.

use std::ops::Range;

use super::super::kernels::csr::{Count, Scan, Scatter, Sort};
use super::super::kernels::entries::{EntryDots, LEAST, PENALIZE, PlaceOp, Rename, SCALE_ENTRIES, TermGradients};
use super::super::kernels::latent::Adam;
use super::super::kernels::rows::{
    ADD_SCALED, AdamUpdate, Blend, Center, DISTANCE, DOT, NORM, NORMALIZE, PROJECT, RowOp, SCALE, Take, parts,
};
use super::super::kernels::select::{ABOVE, Compact, NEAR, POSITIVE, TopK};
use super::super::kernels::{In, Out};
use super::launches::{HELD, Index};
use super::{Cuda, Tensor, refused};
use crate::compute::Backend;
use crate::compute::coder_ops::{
    AdamStep, ByLatent, Code, CoderDims, CoderOps, GradientTerm, LatentGradients, PairShape, PenaltyGradients,
    PenaltyShape, Rule, Screening, SignStep, SquareSums, Subset,
};

/// What a code's places are asked, but for what each kind needs.
fn place_op(code: &Code<Cuda>, kind: i32) -> PlaceOp {
    let places = code.places();
    PlaceOp {
        latents: code.latents.input(places),
        values: code.values.floats(places),
        places: places as u64,
        kind,
        ..PlaceOp::default()
    }
}

fn given(t: Option<&Tensor>) -> In<f32> {
    t.map_or_else(In::default, |t| t.floats(0))
}

fn one_group(dims: CoderDims) {
    if dims.groups != 1 {
        refused("a coder of several layers");
    }
}

impl CoderOps for Cuda {
    type Index = Index;

    fn index(&self, len: usize) -> Index {
        Index { memory: self.cleared(len * 4), len }
    }

    fn write_index(&self, t: &mut Index, data: &[u32]) {
        assert!(data.len() <= t.len);
        t.memory.write(0, bytemuck::cast_slice(data).to_vec());
    }

    fn read_index(&self, t: &Index, out: &mut [u32]) {
        assert!(out.len() <= t.len);
        out.copy_from_slice(&self.numbers(&t.memory, out.len()));
    }

    fn center(&self, x: &Tensor, scale: f64, shift: &Tensor, c: &mut Tensor, n: usize, d: usize) {
        if n == 0 {
            return;
        }
        let (x, shift, c) = (x.floats(n * d), shift.floats(d), c.floats_mut(n * d));
        self.device.launch(&Center { x, shift, c, len: (n * d) as u64, d: d as i32, scale: scale as f32 }.launch());
    }

    fn encode_topk(
        &self,
        c: &Tensor,
        w_enc: &Tensor,
        b_enc: &Tensor,
        dims: CoderDims,
        among: Option<Subset<'_, Self>>,
        code: &mut Code<Self>,
    ) {
        one_group(dims);
        if let Some(subset) = among {
            let mut w = self.zeros(subset.len * dims.d);
            let mut b = self.zeros(subset.len);
            self.take_rows(w_enc, &subset, &mut w, dims.d);
            self.take_rows(b_enc, &subset, &mut b, 1);
            self.encode_topk(c, &w, &b, CoderDims { f: subset.len, ..dims }, None, code);
            return self.rename(code, &subset);
        }
        let (n, k, f) = (code.rows, code.k, dims.f);
        if n * k == 0 {
            return;
        }
        self.make_room(code);
        let rows_at_once = (HELD / (f * 4)).clamp(1, n);
        let u = self.memory(rows_at_once * f * 4);
        let (latents, values) = (code.latents.output(n * k).address(), code.values.floats_mut(n * k).address());
        self.each_pre_activations((c, w_enc, b_enc), (n, dims.d, f), (u.address(), rows_at_once), |first, rows| {
            let at = (first * k * 4) as u64;
            let topk = TopK {
                u: In::at(u.address()),
                latents: Out::at(latents + at),
                values: Out::at(values + at),
                f: f as i32,
                k: k as i32,
                ..TopK::default()
            };
            self.device.launch(&topk.launch(rows));
        });
    }

    /// Every pre-activation is computed: a GPU is asked for nothing else.
    fn encode_above(&self, _: &Tensor, _: &Tensor, _: &Tensor, _: CoderDims, _: &Tensor, _: &mut Code<Self>) -> bool {
        false
    }

    fn screening(&self) -> Screening {
        Screening::default()
    }

    fn encode_topk_grouped(
        &self,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
        _: CoderDims,
        _: (&Index, usize),
        _: &mut Code<Self>,
    ) {
        refused("a coder whose rows choose a group");
    }

    fn pair_heads(&self, _: &Tensor, _: PairShape, _: &mut Tensor, _: usize) {
        refused("a coder of pairs");
    }

    fn pair_gradients(&self, _: &Tensor, _: PairShape, _: &Code<Self>, _: &Tensor, _: &mut Tensor) {
        refused("a coder of pairs");
    }

    fn products(&self, _: &Tensor, _: &Tensor, _: &mut Tensor, _: usize, _: usize, _: usize) {
        refused("a coder with a dense product of its own");
    }

    fn pre_activations(&self, c: &Tensor, w_enc: &Tensor, bias: &Tensor, u: &mut Tensor, n: usize, dims: CoderDims) {
        one_group(dims);
        let (d, f) = (dims.d, dims.f);
        if n * f == 0 {
            return;
        }
        let u = u.floats_mut(n * f).address();
        self.each_pre_activations((c, w_enc, bias), (n, d, f), (u, n), |_, _| {});
    }

    fn select(&self, u: &Tensor, f: usize, rule: Rule<'_, Self>, code: &mut Code<Self>) {
        let n = code.rows;
        let all = Compact { u: u.floats(n * f), f: f as i32, ..Compact::default() };
        match rule {
            Rule::Positive => self.compact(Compact { rule: POSITIVE, ..all }, n, code),
            Rule::Above(threshold) => {
                self.compact(Compact { threshold: threshold.floats(f), rule: ABOVE, ..all }, n, code);
            }
            Rule::Near { threshold, half_width } => {
                let half_width = half_width as f32;
                self.compact(Compact { threshold: threshold.floats(f), rule: NEAR, half_width, ..all }, n, code);
            }
            Rule::RowLargest { k, score: None, signed: false } => {
                code.k = k;
                self.make_room(code);
                if n * k == 0 {
                    return;
                }
                let (latents, values) = (code.latents.output(n * k), code.values.floats_mut(n * k));
                let topk = TopK { u: all.u, latents, values, f: f as i32, k: k as i32, ..TopK::default() };
                self.device.launch(&topk.launch(n));
            }
            Rule::BatchLargest { count, score } => self.batch_largest(u, f, count, score, code),
            Rule::RowLargest { .. } => refused("a ranking by norms or of signed values"),
            Rule::Below { .. } => refused("a loss of pre-activations below their thresholds"),
            Rule::RowNorm { .. } | Rule::GroupLargest { .. } | Rule::ColumnLargest { .. } => {
                refused("this rule of selection");
            }
        }
    }

    fn select_entries(&self, _: &Code<Self>, _: Rule<'_, Self>, _: &mut Code<Self>) {
        refused("a selection from entries");
    }

    fn take_rows(&self, x: &Tensor, subset: &Subset<'_, Self>, out: &mut Tensor, d: usize) {
        let len = subset.len * d;
        if len == 0 {
            return;
        }
        let (rows, out) = (subset.latents.input(subset.len), out.floats_mut(len));
        self.device.launch(&Take { x: x.floats(0), rows, out, len: len as u64, d: d as i32 }.launch());
    }

    fn rename(&self, code: &mut Code<Self>, subset: &Subset<'_, Self>) {
        let places = code.places();
        if places > 0 {
            let (latents, names) = (code.latents.output(places), subset.latents.input(subset.len));
            self.device.launch(&Rename { latents, names, places: places as u64 }.launch());
        }
    }

    fn affine_entries(&self, _: &Code<Self>, _: &Tensor, _: &Tensor, _: &mut Code<Self>) {
        refused("a gated coder");
    }

    fn scale_entries(&self, code: &Code<Self>, gain: &Tensor, t: &mut Tensor) {
        if code.places() > 0 {
            let out = t.floats_mut(code.places());
            self.device.launch(&PlaceOp { weight: gain.floats(0), out, ..place_op(code, SCALE_ENTRIES) }.launch());
        }
    }

    fn least_entry(&self, code: &Code<Self>, weight: Option<&Tensor>) -> f64 {
        if code.places() == 0 {
            return f64::INFINITY;
        }
        let partial = self.memory(parts(code.places() as u64) * 8);
        let op = PlaceOp { weight: given(weight), partial: Out::at(partial.address()), ..place_op(code, LEAST) };
        self.device.launch(&op.launch());
        self.partials(&partial).into_iter().fold(f64::INFINITY, f64::min)
    }

    fn penalize(
        &self,
        code: &Code<Self>,
        weight: Option<&Tensor>,
        shape: PenaltyShape,
        scale: f64,
        out: PenaltyGradients<'_, Self>,
    ) -> f64 {
        if shape != PenaltyShape::Linear {
            refused("a penalty that is not linear");
        }
        let places = code.places();
        if places == 0 {
            return 0.0;
        }
        let partial = self.memory(parts(places as u64) * 8);
        let op = PlaceOp {
            weight: given(weight),
            out: out.values.floats_mut(places),
            side: out.weights.map_or_else(Out::default, |side| side.floats_mut(places)),
            partial: Out::at(partial.address()),
            scale: scale as f32,
            ..place_op(code, PENALIZE)
        };
        self.device.launch(&op.launch());
        self.partials(&partial).iter().sum()
    }

    fn norm_distance(&self, _: &Code<Self>, _: &Tensor, _: f64, _: &mut Tensor) -> f64 {
        refused("a loss of the rows' norms");
    }

    fn rank_range(&self, _: &Code<Self>, _: Range<usize>, _: &mut Code<Self>) {
        refused("a coder nested by rank");
    }

    fn entry_minima(&self, by_latent: &ByLatent<Self>, a: &Tensor, f: usize, out: &mut Tensor) {
        self.latent_sums(by_latent, (a.floats(0), In::default()), 1, f, out);
    }

    fn entry_sums(&self, by_latent: &ByLatent<Self>, a: &Tensor, b: Option<&Tensor>, f: usize, out: &mut Tensor) {
        self.latent_sums(by_latent, (a.floats(0), given(b)), 0, f, out);
    }

    fn decode(&self, code: &Code<Self>, w_dec: &Tensor, bias: &Tensor, out: &mut Tensor, d: usize) {
        self.sparse_rows(code, (w_dec, 0..u32::MAX), (bias.floats(d), true), 1.0, out, d);
    }

    fn residual(
        &self,
        code: &Code<Self>,
        latents: Range<u32>,
        w_dec: &Tensor,
        target: &Tensor,
        r: &mut Tensor,
        d: usize,
    ) {
        self.sparse_rows(code, (w_dec, latents), (target.floats(code.rows * d), false), -1.0, r, d);
    }

    fn entry_dots(
        &self,
        code: &Code<Self>,
        latents: Range<u32>,
        w: &Tensor,
        r: &Tensor,
        scale: f64,
        out: &mut Tensor,
        d: usize,
    ) {
        let places = code.places();
        if places == 0 {
            return;
        }
        let dots = EntryDots {
            latents: code.latents.input(places),
            w: w.floats(0),
            rows: r.floats(code.rows * d),
            out: out.floats_mut(places),
            places: places as u64,
            d: d as i32,
            k: code.k as i32,
            scale: scale as f32,
            first: latents.start,
            end: latents.end,
        };
        self.device.launch(&dots.launch());
    }

    fn group_by_latent(&self, code: &Code<Self>, f: usize, out: &mut ByLatent<Self>) {
        let places = code.places();
        let starts = out.starts.output(f + 1);
        if places == 0 {
            return out.starts.memory.clear(0, (f + 1) * 4);
        }
        assert!(places <= i32::MAX as usize, "{places} places of a code");
        if out.places.len < places {
            out.places = self.index(places);
        }
        let (counts, cursors) = (self.cleared(f * 4), self.cleared(f * 4));
        let (latents, sorted) = (code.latents.input(places), out.places.output(places));
        let counted = Out::at(counts.address());
        self.device.launch(&Count { latents, counts: counted, places: places as i32 }.launch());
        self.device.launch(&Scan { counts: In::at(counts.address()), starts, n: f as i32 }.launch());
        let starts = In::at(starts.address());
        let cursors = Out::at(cursors.address());
        self.device.launch(&Scatter { latents, starts, cursors, places: sorted, count: places as i32 }.launch());
        let (rows, k) = (code.rows as i32, code.k as i32);
        self.device.launch(&Sort { starts, latents, places: sorted, rows, k }.launch(f));
    }

    fn latent_gradients(
        &self,
        terms: &[GradientTerm<'_, Self>],
        c: &Tensor,
        dims: CoderDims,
        out: LatentGradients<'_, Self>,
    ) {
        one_group(dims);
        let CoderDims { d, f, out: width, .. } = dims;
        let LatentGradients { w_enc, b_enc, w_dec } = out;
        if terms.is_empty() {
            for t in [w_enc, b_enc, w_dec] {
                t.memory.clear(0, t.len * 4);
            }
            return;
        }
        for (i, term) in terms.iter().enumerate() {
            let places = term.code.places();
            let gradients = TermGradients {
                starts: term.by_latent.starts.input(f + 1),
                places: term.by_latent.places.input(0),
                values: term.code.values.floats(places),
                g: term.g_pre.floats(places),
                residual: term.residual.floats(0),
                c: c.floats(term.code.rows * d),
                w_enc: w_enc.floats_mut(f * d),
                b_enc: b_enc.floats_mut(f),
                w_dec: w_dec.floats_mut(f * width),
                d: d as i32,
                out: width as i32,
                k: term.code.k.max(1) as i32,
                scale: term.residual_scale as f32,
                first: term.latents.start,
                end: term.latents.end,
                accumulate: i32::from(i > 0),
            };
            self.device.launch(&gradients.launch(f));
        }
    }

    fn column_sums(&self, x: &Tensor, scale: f64, out: &mut Tensor, n: usize, d: usize) {
        self.columns(In::default(), x, (0.0, scale), out, n, d);
    }

    fn add_weighted_rows(&self, weight: &Tensor, x: &Tensor, scale: f64, out: &mut Tensor, n: usize, d: usize) {
        self.columns(weight.floats(n), x, (1.0, scale), out, n, d);
    }

    fn row_distances(&self, x: &Tensor, center: &Tensor, out: &mut Tensor, n: usize, d: usize) {
        let (a, b, out) = (x.floats(n * d), center.floats(d), out.floats_mut(n));
        self.row_op(RowOp { a, b, out, kind: DISTANCE, ..RowOp::default() }, n, d);
    }

    fn row_norms(&self, w: &Tensor, out: &mut Tensor, n: usize, d: usize) {
        let (a, out) = (w.floats(n * d), out.floats_mut(n));
        self.row_op(RowOp { a, out, kind: NORM, ..RowOp::default() }, n, d);
    }

    fn add_scaled_rows(&self, scale: &Tensor, w: &Tensor, out: &mut Tensor, n: usize, d: usize) {
        let (scale, a, out) = (scale.floats(n), w.floats(n * d), out.floats_mut(n * d));
        self.row_op(RowOp { scale, a, out, kind: ADD_SCALED, ..RowOp::default() }, n, d);
    }

    fn part_norms(&self, _: &Tensor, _: &mut Tensor, _: usize, _: &[usize]) {
        refused("a coder of several outputs");
    }

    fn add_scaled_parts(&self, _: &Tensor, _: &Tensor, _: &mut Tensor, _: usize, _: &[usize]) {
        refused("a coder of several outputs");
    }

    fn clear_columns(&self, _: &mut Tensor, _: Range<usize>, _: Range<usize>, _: usize) {
        refused("a coder of several layers");
    }

    fn scale_rows(&self, scale: &Tensor, x: &mut Tensor, n: usize, d: usize) {
        let (scale, out) = (scale.floats(n), x.floats_mut(n * d));
        self.row_op(RowOp { scale, out, kind: SCALE, ..RowOp::default() }, n, d);
    }

    fn row_dots(&self, a: &Tensor, b: &Tensor, out: &mut Tensor, n: usize, d: usize) {
        let (a, b, out) = (a.floats(n * d), b.floats(n * d), out.floats_mut(n));
        self.row_op(RowOp { a, b, out, kind: DOT, ..RowOp::default() }, n, d);
    }

    fn combine(&self, a: f64, x: &Tensor, b: f64, y: &mut Tensor, len: usize) {
        let (x, y) = (x.floats(len), y.floats_mut(len));
        self.blend(Blend { x, y, len: len as u64, a: a as f32, b: b as f32, kind: 0 });
    }

    fn multiply(&self, x: &Tensor, y: &mut Tensor, len: usize) {
        let (x, y) = (x.floats(len), y.floats_mut(len));
        self.blend(Blend { x, y, len: len as u64, kind: 1, ..Blend::default() });
    }

    fn add_by_column(&self, _: &Tensor, _: &Tensor, _: &Tensor, _: &mut Tensor, _: usize, _: usize) {
        refused("a coder with a dense gradient");
    }

    fn at_least(&self, t: &mut Tensor, least: f64, len: usize) {
        self.blend(Blend { y: t.floats_mut(len), len: len as u64, a: least as f32, kind: 2, ..Blend::default() });
    }

    fn square_sums(&self, x: &Tensor, n: usize, d: usize) -> SquareSums {
        if n == 0 {
            return SquareSums { about_zero: 0.0, about_mean: 0.0 };
        }
        let mut mean = self.zeros(d);
        self.column_sums(x, 1.0 / n as f64, &mut mean, n, d);
        SquareSums { about_zero: self.squares(x, None, n * d, d), about_mean: self.squares(x, Some(&mean), n * d, d) }
    }

    fn sum_squares(&self, t: &Tensor, len: usize) -> f64 {
        self.squares(t, None, len, 1)
    }

    fn project_rows(&self, g: &mut Tensor, w: &Tensor, n: usize, d: usize) {
        let (a, out) = (w.floats(n * d), g.floats_mut(n * d));
        self.row_op(RowOp { a, out, kind: PROJECT, ..RowOp::default() }, n, d);
    }

    fn normalize_rows(&self, w: &mut Tensor, n: usize, d: usize) {
        let out = w.floats_mut(n * d);
        self.row_op(RowOp { out, kind: NORMALIZE, ..RowOp::default() }, n, d);
    }

    fn adam(&self, w: &mut Tensor, g: &Tensor, m: &mut Tensor, v: &mut Tensor, len: usize, step: &AdamStep) {
        if len == 0 {
            return;
        }
        let rates = Adam::from(step);
        let update = AdamUpdate {
            w: w.floats_mut(len),
            g: g.floats(len),
            m: m.floats_mut(len),
            v: v.floats_mut(len),
            len: len as u64,
            learning_rate: rates.learning_rate,
            beta_1: rates.beta_1,
            beta_2: rates.beta_2,
            epsilon: rates.epsilon,
            decay: rates.decay,
            correct_1: rates.correct_1,
            correct_2: rates.correct_2,
            gradient_scale: rates.gradient_scale,
        };
        self.device.launch(&update.launch());
    }

    fn schedule_free_sign(&self, _: &mut Tensor, _: &Tensor, _: &mut Tensor, _: usize, _: &SignStep) {
        refused("the optimiser `signum`");
    }

    fn orthogonalize(&self, _: &mut Tensor, _: usize, _: usize) {
        refused("the optimiser `muon`");
    }
}
