//! [`CoderOps`] on the CPU: checks and hand-over to the loops.

use std::ops::Range;

use crate::compute::coder_ops::{
    AdamStep, ByLatent, Code, CoderDims, CoderOps, GradientTerm, LatentGradients, PairShape, PenaltyGradients,
    PenaltyShape, Rule, Screening, SignStep, SquareSums, Subset,
};
use crate::compute::cpu::sparse::OfLatents;
use crate::compute::cpu::{Cpu, adam, dense, entries, orthogonalize, pairs, reduce, select, sparse, topk};

impl CoderOps for Cpu {
    type Index = Vec<u32>;

    fn index(&self, len: usize) -> Vec<u32> {
        vec![0; len]
    }

    fn write_index(&self, t: &mut Vec<u32>, data: &[u32]) {
        t[..data.len()].copy_from_slice(data);
    }

    fn read_index(&self, t: &Vec<u32>, out: &mut [u32]) {
        let len = out.len();
        out.copy_from_slice(&t[..len]);
    }

    fn center(&self, x: &Vec<f32>, scale: f64, shift: &Vec<f32>, c: &mut Vec<f32>, n: usize, d: usize) {
        reduce::center(self, &x[..n * d], scale as f32, &shift[..d], &mut c[..n * d], d);
    }

    fn encode_topk(
        &self,
        c: &Vec<f32>,
        w_enc: &Vec<f32>,
        b_enc: &Vec<f32>,
        dims: CoderDims,
        among: Option<Subset<'_, Self>>,
        code: &mut Code<Self>,
    ) {
        let (n, k) = (code.rows, code.k);
        let out = topk::CodeOut { latents: &mut code.latents[..n * k], values: &mut code.values[..n * k], k };
        topk::encode_topk(self, c, (w_enc, b_enc), dims, among.map(|s| &s.latents[..s.len]), out);
    }

    fn encode(
        &self,
        c: &Vec<f32>,
        w_enc: &Vec<f32>,
        b_enc: &Vec<f32>,
        dims: CoderDims,
        rule: Rule<'_, Self>,
        code: &mut Code<Self>,
    ) {
        topk::encode(self, c, (w_enc, b_enc), dims, rule, code);
    }

    fn encode_above(
        &self,
        c: &Vec<f32>,
        w_enc: &Vec<f32>,
        b_enc: &Vec<f32>,
        dims: CoderDims,
        floor: &Vec<f32>,
        code: &mut Code<Self>,
    ) -> bool {
        topk::encode_above(self, c, (w_enc, b_enc), dims, &floor[..dims.f], code)
    }

    fn screening(&self) -> Screening {
        self.screened.so_far()
    }

    fn encode_topk_grouped(
        &self,
        c: &Vec<f32>,
        w_enc: &Vec<f32>,
        b_enc: &Vec<f32>,
        dims: CoderDims,
        (group, groups): (&Vec<u32>, usize),
        code: &mut Code<Self>,
    ) {
        let (n, k) = (code.rows, code.k);
        let out = topk::CodeOut { latents: &mut code.latents[..n * k], values: &mut code.values[..n * k], k };
        topk::encode_topk_grouped(self, c, (w_enc, b_enc), dims, (&group[..n], groups), out);
    }

    fn pair_heads(&self, parts: &Vec<f32>, shape: PairShape, z: &mut Vec<f32>, n: usize) {
        pairs::pair_heads(self, &parts[..n * shape.parts()], shape, &mut z[..n * shape.latents()]);
    }

    fn pair_gradients(&self, parts: &Vec<f32>, shape: PairShape, code: &Code<Self>, g: &Vec<f32>, out: &mut Vec<f32>) {
        let len = code.rows * shape.parts();
        pairs::pair_gradients(self, &parts[..len], shape, code, g, &mut out[..len]);
    }

    fn products(&self, x: &Vec<f32>, y: &Vec<f32>, out: &mut Vec<f32>, n: usize, p: usize, q: usize) {
        dense::products(self, &x[..n * p], &y[..n * q], &mut out[..p * q], [n, p, q]);
    }

    fn pre_activations(
        &self,
        c: &Vec<f32>,
        w_enc: &Vec<f32>,
        bias: &Vec<f32>,
        u: &mut Vec<f32>,
        n: usize,
        dims: CoderDims,
    ) {
        let CoderDims { d, f, groups, .. } = dims;
        select::pre_activations(self, &c[..groups * n * d], &w_enc[..f * d], &bias[..f], &mut u[..n * f], dims);
    }

    fn select(&self, u: &Vec<f32>, f: usize, rule: Rule<'_, Self>, code: &mut Code<Self>) {
        select::select(self, u, f, rule, code);
    }

    fn select_entries(&self, u: &Code<Self>, rule: Rule<'_, Self>, code: &mut Code<Self>) {
        entries::choose(self, u, rule, code);
    }

    fn take_rows(&self, x: &Vec<f32>, subset: &Subset<'_, Self>, out: &mut Vec<f32>, d: usize) {
        entries::take_rows(self, x, &subset.latents[..subset.len], out, d);
    }

    fn rename(&self, code: &mut Code<Self>, subset: &Subset<'_, Self>) {
        entries::rename(self, code, &subset.latents[..subset.len]);
    }

    fn affine_entries(&self, from: &Code<Self>, gain: &Vec<f32>, offset: &Vec<f32>, to: &mut Code<Self>) {
        entries::affine(self, from, gain, offset, to);
    }

    fn scale_entries(&self, code: &Code<Self>, gain: &Vec<f32>, t: &mut Vec<f32>) {
        entries::scale(self, code, gain, t);
    }

    fn least_entry(&self, code: &Code<Self>, weight: Option<&Vec<f32>>) -> f64 {
        entries::least(self, code, weight.map(Vec::as_slice))
    }

    fn penalize(
        &self,
        code: &Code<Self>,
        weight: Option<&Vec<f32>>,
        shape: PenaltyShape,
        scale: f64,
        out: PenaltyGradients<'_, Self>,
    ) -> f64 {
        entries::penalize(self, code, weight.map(Vec::as_slice), shape, scale, out)
    }

    fn norm_distance(&self, code: &Code<Self>, norm: &Vec<f32>, scale: f64, values: &mut Vec<f32>) -> f64 {
        entries::norm_distance(self, code, &norm[..code.rows], scale, values)
    }

    fn rank_range(&self, code: &Code<Self>, ranks: Range<usize>, to: &mut Code<Self>) {
        entries::rank_range(self, code, ranks, to);
    }

    fn entry_minima(&self, by_latent: &ByLatent<Self>, a: &Vec<f32>, f: usize, out: &mut Vec<f32>) {
        entries::minima(self, by_latent, a, &mut out[..f]);
    }

    fn entry_sums(&self, by_latent: &ByLatent<Self>, a: &Vec<f32>, b: Option<&Vec<f32>>, f: usize, out: &mut Vec<f32>) {
        entries::sums(self, by_latent, a, b.map(Vec::as_slice), &mut out[..f]);
    }

    fn decode(&self, code: &Code<Self>, w_dec: &Vec<f32>, bias: &Vec<f32>, out: &mut Vec<f32>, d: usize) {
        sparse::decode(self, code, 0..u32::MAX, w_dec, |_| &bias[..d], 1.0, out, d);
    }

    fn residual(
        &self,
        code: &Code<Self>,
        latents: Range<u32>,
        w_dec: &Vec<f32>,
        target: &Vec<f32>,
        r: &mut Vec<f32>,
        d: usize,
    ) {
        sparse::decode(self, code, latents, w_dec, |b| &target[b * d..][..d], -1.0, r, d);
    }

    fn entry_dots(
        &self,
        code: &Code<Self>,
        latents: Range<u32>,
        w: &Vec<f32>,
        r: &Vec<f32>,
        scale: f64,
        out: &mut Vec<f32>,
        d: usize,
    ) {
        sparse::entry_dots(self, code, latents, (w, r), scale as f32, out, d);
    }

    fn residual_and_dots(
        &self,
        code: &Code<Self>,
        latents: Range<u32>,
        w_dec: &Vec<f32>,
        target: &Vec<f32>,
        r: &mut Vec<f32>,
        (scale, dots): (f64, &mut Vec<f32>),
        d: usize,
    ) {
        sparse::residual_and_dots(self, code, latents, (w_dec, target), r, (scale as f32, dots), d);
    }

    fn group_by_latent(&self, code: &Code<Self>, f: usize, out: &mut ByLatent<Self>) {
        sparse::group_by_latent(code, f, out);
    }

    fn latent_gradients(
        &self,
        terms: &[GradientTerm<'_, Self>],
        c: &Vec<f32>,
        dims: CoderDims,
        out: LatentGradients<'_, Self>,
    ) {
        let (CoderDims { d, out: width, groups, .. }, group) = (dims, dims.group());
        let n = terms.first().map_or(0, |term| term.code.rows);
        for g in 0..groups {
            let first = g * group;
            let own = OfLatents {
                first,
                w_enc: &mut out.w_enc[first * d..][..group * d],
                b_enc: &mut out.b_enc[first..][..group],
                w_dec: &mut out.w_dec[first * width..][..group * width],
            };
            sparse::latent_gradients(self, terms, &c[g * n * d..], dims, own);
        }
    }

    fn column_sums(&self, x: &Vec<f32>, scale: f64, out: &mut Vec<f32>, n: usize, d: usize) {
        let sums = reduce::weighted_columns(self, x, |_| 1.0, n, d);
        for (out, sum) in out[..d].iter_mut().zip(sums) {
            *out = (scale * sum) as f32;
        }
    }

    fn add_weighted_rows(&self, weight: &Vec<f32>, x: &Vec<f32>, scale: f64, out: &mut Vec<f32>, n: usize, d: usize) {
        let sums = reduce::weighted_columns(self, x, |i| f64::from(weight[i]), n, d);
        for (out, sum) in out[..d].iter_mut().zip(sums) {
            *out = (f64::from(*out) + scale * sum) as f32;
        }
    }

    fn row_distances(&self, x: &Vec<f32>, center: &Vec<f32>, out: &mut Vec<f32>, n: usize, d: usize) {
        reduce::row_distances(self, &x[..n * d], &center[..d], &mut out[..n], d);
    }

    fn row_norms(&self, w: &Vec<f32>, out: &mut Vec<f32>, n: usize, d: usize) {
        reduce::row_norms(self, &w[..n * d], &mut out[..n], d);
    }

    fn add_scaled_rows(&self, scale: &Vec<f32>, w: &Vec<f32>, out: &mut Vec<f32>, n: usize, d: usize) {
        reduce::add_scaled_rows(self, &scale[..n], &w[..n * d], &mut out[..n * d], d);
    }

    fn part_norms(&self, w: &Vec<f32>, out: &mut Vec<f32>, n: usize, parts: &[usize]) {
        reduce::part_norms(self, &w[..n * parts.iter().sum::<usize>()], &mut out[..n * parts.len()], parts);
    }

    fn add_scaled_parts(&self, scale: &Vec<f32>, w: &Vec<f32>, out: &mut Vec<f32>, n: usize, parts: &[usize]) {
        let len = n * parts.iter().sum::<usize>();
        reduce::add_scaled_parts(self, &scale[..n * parts.len()], &w[..len], &mut out[..len], parts);
    }

    fn clear_columns(&self, w: &mut Vec<f32>, rows: Range<usize>, columns: Range<usize>, d: usize) {
        for row in rows {
            w[row * d..][columns.clone()].fill(0.0);
        }
    }

    fn scale_rows(&self, scale: &Vec<f32>, x: &mut Vec<f32>, n: usize, d: usize) {
        reduce::scale_rows(self, &scale[..n], &mut x[..n * d], d);
    }

    fn row_dots(&self, a: &Vec<f32>, b: &Vec<f32>, out: &mut Vec<f32>, n: usize, d: usize) {
        reduce::row_dots(self, &a[..n * d], &b[..n * d], &mut out[..n], d);
    }

    fn combine(&self, a: f64, x: &Vec<f32>, b: f64, y: &mut Vec<f32>, len: usize) {
        reduce::combine(self, (a as f32, &x[..len]), b as f32, &mut y[..len]);
    }

    fn multiply(&self, x: &Vec<f32>, y: &mut Vec<f32>, len: usize) {
        reduce::multiply(self, &x[..len], &mut y[..len]);
    }

    fn add_by_column(&self, x: &Vec<f32>, sign: &Vec<f32>, factor: &Vec<f32>, out: &mut Vec<f32>, n: usize, f: usize) {
        reduce::add_by_column(self, &x[..n * f], (&sign[..f], &factor[..f]), &mut out[..n * f]);
    }

    fn at_least(&self, t: &mut Vec<f32>, least: f64, len: usize) {
        t[..len].iter_mut().for_each(|x| *x = x.max(least as f32));
    }

    fn square_sums(&self, x: &Vec<f32>, n: usize, d: usize) -> SquareSums {
        reduce::square_sums(self, x, n, d)
    }

    fn sum_squares(&self, t: &Vec<f32>, len: usize) -> f64 {
        reduce::sum_squares(self, &t[..len])
    }

    fn project_rows(&self, g: &mut Vec<f32>, w: &Vec<f32>, n: usize, d: usize) {
        reduce::project_rows(self, &mut g[..n * d], &w[..n * d], d);
    }

    fn project_and_sum(&self, g: &mut Vec<f32>, w: &Vec<f32>, n: usize, d: usize) -> f64 {
        reduce::project_and_sum(self, &mut g[..n * d], &w[..n * d], d)
    }

    fn normalize_rows(&self, w: &mut Vec<f32>, n: usize, d: usize) {
        reduce::normalize_rows(self, &mut w[..n * d], d);
    }

    fn adam(&self, w: &mut Vec<f32>, g: &Vec<f32>, m: &mut Vec<f32>, v: &mut Vec<f32>, len: usize, step: &AdamStep) {
        adam::adam(self, &mut w[..len], &g[..len], &mut m[..len], &mut v[..len], step);
    }

    fn adam_unit_rows(
        &self,
        w: &mut Vec<f32>,
        g: &Vec<f32>,
        (m, v): (&mut Vec<f32>, &mut Vec<f32>),
        (n, d): (usize, usize),
        step: &AdamStep,
    ) {
        let len = n * d;
        adam::adam_unit_rows(self, &mut w[..len], &g[..len], &mut m[..len], &mut v[..len], d, step);
    }

    fn orthogonalize(&self, x: &mut Vec<f32>, n: usize, d: usize) {
        orthogonalize::orthogonalize(self, &mut x[..n * d], n, d);
    }

    fn schedule_free_sign(&self, y: &mut Vec<f32>, g: &Vec<f32>, z: &mut Vec<f32>, len: usize, step: &SignStep) {
        adam::schedule_free_sign(self, &mut y[..len], &g[..len], &mut z[..len], step);
    }
}

#[cfg(test)]
mod tests;
