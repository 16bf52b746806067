//! [`CoderOps`] on the CPU: checks and hand-over to the loops.

use crate::compute::coder_ops::{
    AdamStep, ByLatent, Code, CoderDims, CoderOps, GradientTerm, LatentGradients, SquareSums, Subset,
};
use crate::compute::cpu::{Cpu, adam, reduce, sparse, topk};

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

    fn decode(&self, code: &Code<Self>, w_dec: &Vec<f32>, bias: &Vec<f32>, out: &mut Vec<f32>, d: usize) {
        sparse::decode(self, code, w_dec, |_| &bias[..d], 1.0, out, d);
    }

    fn residual(&self, code: &Code<Self>, w_dec: &Vec<f32>, target: &Vec<f32>, r: &mut Vec<f32>, d: usize) {
        sparse::decode(self, code, w_dec, |b| &target[b * d..][..d], -1.0, r, d);
    }

    fn entry_dots(&self, code: &Code<Self>, w: &Vec<f32>, r: &Vec<f32>, scale: f64, out: &mut Vec<f32>, d: usize) {
        sparse::entry_dots(self, code, w, r, scale as f32, out, d);
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
        sparse::latent_gradients(self, terms, c, dims, out);
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

    fn square_sums(&self, x: &Vec<f32>, n: usize, d: usize) -> SquareSums {
        reduce::square_sums(self, x, n, d)
    }

    fn sum_squares(&self, t: &Vec<f32>, len: usize) -> f64 {
        reduce::sum_squares(self, &t[..len])
    }

    fn project_rows(&self, g: &mut Vec<f32>, w: &Vec<f32>, n: usize, d: usize) {
        reduce::project_rows(self, &mut g[..n * d], &w[..n * d], d);
    }

    fn normalize_rows(&self, w: &mut Vec<f32>, n: usize, d: usize) {
        reduce::normalize_rows(self, &mut w[..n * d], d);
    }

    fn adam(&self, w: &mut Vec<f32>, g: &Vec<f32>, m: &mut Vec<f32>, v: &mut Vec<f32>, len: usize, step: &AdamStep) {
        adam::adam(self, &mut w[..len], &g[..len], &mut m[..len], &mut v[..len], step);
    }
}

#[cfg(test)]
mod tests;
