//! [`CoderOps`] in f64, as the formulas say.

use std::ops::Range;

use crate::compute::coder_ops::{
    AdamStep, ByLatent, Code, CoderDims, CoderOps, GradientTerm, LatentGradients, NEWTON_SCHULZ, NEWTON_SCHULZ_STEPS,
    NO_LATENT, PairShape, PenaltyGradients, PenaltyShape, Rule, Screening, SignStep, SquareSums, Subset,
};
use crate::compute::reference::Reference;
use crate::compute::reference::select::{self, slope};

/// The entries of a code: (row, place, latent, value).
fn entries(code: &Code<Reference>) -> impl Iterator<Item = (usize, usize, usize, f64)> + '_ {
    (0..code.rows * code.k)
        .filter(|&place| code.latents[place] != NO_LATENT)
        .map(|place| (place / code.k, place, code.latents[place] as usize, code.values[place]))
}

impl CoderOps for Reference {
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

    fn center(&self, x: &Vec<f64>, scale: f64, shift: &Vec<f64>, c: &mut Vec<f64>, n: usize, d: usize) {
        for i in 0..n * d {
            c[i] = scale * x[i] - shift[i % d];
        }
    }

    fn encode_topk(
        &self,
        c: &Vec<f64>,
        w_enc: &Vec<f64>,
        b_enc: &Vec<f64>,
        dims: CoderDims,
        among: Option<Subset<'_, Self>>,
        code: &mut Code<Self>,
    ) {
        let CoderDims { d, f, .. } = dims;
        let latents: Vec<u32> = match among {
            Some(subset) => subset.latents[..subset.len].to_vec(),
            None => (0..f as u32).collect(),
        };
        for b in 0..code.rows {
            let mut ranked: Vec<(f64, u32)> = latents
                .iter()
                .map(|&i| {
                    let w = &w_enc[i as usize * d..][..d];
                    let dot: f64 = (0..d).map(|p| c[b * d + p] * w[p]).sum();
                    (dot + b_enc[i as usize], i)
                })
                .filter(|&(u, _)| u > 0.0)
                .collect();
            ranked.sort_by(|x, y| y.0.total_cmp(&x.0).then(x.1.cmp(&y.1)));
            ranked.truncate(code.k);
            ranked.sort_by_key(|&(_, i)| i);
            for place in 0..code.k {
                let (value, latent) = ranked.get(place).copied().unwrap_or((0.0, NO_LATENT));
                code.values[b * code.k + place] = value;
                code.latents[b * code.k + place] = latent;
            }
        }
    }

    fn decode(&self, code: &Code<Self>, w_dec: &Vec<f64>, bias: &Vec<f64>, out: &mut Vec<f64>, d: usize) {
        for i in 0..code.rows * d {
            out[i] = bias[i % d];
        }
        for (b, _, i, value) in entries(code) {
            for p in 0..d {
                out[b * d + p] += value * w_dec[i * d + p];
            }
        }
    }

    fn encode_above(
        &self,
        _: &Vec<f64>,
        _: &Vec<f64>,
        _: &Vec<f64>,
        _: CoderDims,
        _: &Vec<f64>,
        _: &mut Code<Self>,
    ) -> bool {
        false
    }

    fn screening(&self) -> Screening {
        Screening::default()
    }

    fn encode_topk_grouped(
        &self,
        c: &Vec<f64>,
        w_enc: &Vec<f64>,
        b_enc: &Vec<f64>,
        dims: CoderDims,
        (group, groups): (&Vec<u32>, usize),
        code: &mut Code<Self>,
    ) {
        let (k, size) = (code.k, dims.f / groups);
        for b in 0..code.rows {
            let first = group[b] * size as u32;
            let latents: Vec<u32> = (first..first + size as u32).collect();
            let among = Subset { latents: &latents, len: size };
            let mut row = Code::new(self, 1, k);
            self.encode_topk(&c[b * dims.d..][..dims.d].to_vec(), w_enc, b_enc, dims, Some(among), &mut row);
            code.latents[b * k..][..k].copy_from_slice(&row.latents);
            code.values[b * k..][..k].copy_from_slice(&row.values);
        }
    }

    fn pair_heads(&self, parts: &Vec<f64>, shape: PairShape, z: &mut Vec<f64>, n: usize) {
        for (b, i) in (0..n).flat_map(|b| (0..shape.latents()).map(move |i| (b, i))) {
            let row = &parts[b * shape.parts()..];
            let (p, q) = (row[shape.of(i).0], row[shape.of(i).1]);
            z[b * shape.latents() + i] = if p > 0.0 && q > 0.0 { (p * q + shape.epsilon).sqrt() } else { 0.0 };
        }
    }

    fn pair_gradients(&self, parts: &Vec<f64>, shape: PairShape, code: &Code<Self>, g: &Vec<f64>, out: &mut Vec<f64>) {
        for (b, place, i, z) in entries(code) {
            let (p, q) = (b * shape.parts() + shape.of(i).0, b * shape.parts() + shape.of(i).1);
            out[p] += g[place] * parts[q] / (2.0 * z);
            out[q] += g[place] * parts[p] / (2.0 * z);
        }
    }

    fn products(&self, x: &Vec<f64>, y: &Vec<f64>, out: &mut Vec<f64>, n: usize, p: usize, q: usize) {
        for (i, j) in (0..p).flat_map(|i| (0..q).map(move |j| (i, j))) {
            out[i * q + j] = (0..n).map(|b| x[b * p + i] * y[b * q + j]).sum();
        }
    }

    fn pre_activations(
        &self,
        c: &Vec<f64>,
        w_enc: &Vec<f64>,
        bias: &Vec<f64>,
        u: &mut Vec<f64>,
        n: usize,
        dims: CoderDims,
    ) {
        let CoderDims { d, f, .. } = dims;
        for (b, i) in (0..n).flat_map(|b| (0..f).map(move |i| (b, i))) {
            let row = (i / dims.group() * n + b) * d;
            u[b * f + i] = bias[i] + (0..d).map(|p| c[row + p] * w_enc[i * d + p]).sum::<f64>();
        }
    }

    fn select(&self, u: &Vec<f64>, f: usize, rule: Rule<'_, Self>, code: &mut Code<Self>) {
        select::select(u, f, &rule, code);
    }

    fn select_entries(&self, u: &Code<Self>, rule: Rule<'_, Self>, code: &mut Code<Self>) {
        let f = u.latents[..u.places()].iter().filter(|i| **i != NO_LATENT).max().map_or(0, |&i| i as usize + 1);
        let mut all = vec![f64::NEG_INFINITY; u.rows * f];
        entries(u).for_each(|(b, _, i, value)| all[b * f + i] = value);
        code.rows = u.rows;
        select::select(&all, f, &rule, code);
    }

    fn take_rows(&self, x: &Vec<f64>, subset: &Subset<'_, Self>, out: &mut Vec<f64>, d: usize) {
        for (j, &i) in subset.latents[..subset.len].iter().enumerate() {
            out[j * d..][..d].copy_from_slice(&x[i as usize * d..][..d]);
        }
    }

    fn rename(&self, code: &mut Code<Self>, subset: &Subset<'_, Self>) {
        let places = code.places();
        let used = code.latents[..places].iter_mut().filter(|latent| **latent != NO_LATENT);
        used.for_each(|latent| *latent = subset.latents[*latent as usize]);
    }

    fn affine_entries(&self, from: &Code<Self>, gain: &Vec<f64>, offset: &Vec<f64>, to: &mut Code<Self>) {
        let mut rows = vec![Vec::new(); from.rows];
        for (b, _, i, value) in entries(from) {
            let value = gain[i] * value + offset[i];
            if value > 0.0 {
                rows[b].push((i as u32, value));
            }
        }
        to.rows = from.rows;
        select::write(rows, to);
    }

    fn scale_entries(&self, code: &Code<Self>, gain: &Vec<f64>, t: &mut Vec<f64>) {
        for (_, place, i, _) in entries(code) {
            t[place] *= gain[i];
        }
    }

    fn least_entry(&self, code: &Code<Self>, weight: Option<&Vec<f64>>) -> f64 {
        entries(code).map(|(_, _, i, value)| value * weight.map_or(1.0, |w| w[i])).fold(f64::INFINITY, f64::min)
    }

    fn penalize(
        &self,
        code: &Code<Self>,
        weight: Option<&Vec<f64>>,
        shape: PenaltyShape,
        scale: f64,
        mut out: PenaltyGradients<'_, Self>,
    ) -> f64 {
        let mut total = 0.0;
        for b in 0..code.rows {
            let row: Vec<_> = entries(code).filter(|entry| entry.0 == b).collect();
            let weight = |i: usize| weight.map_or(1.0, |w| w[i]);
            let (sum, slopes) = slope(shape, row.iter().map(|&(_, _, i, value)| value * weight(i)));
            total += sum;
            for (&(_, place, i, value), slope) in row.iter().zip(slopes) {
                out.values[place] += scale * slope * weight(i);
                if let Some(weights) = &mut out.weights {
                    weights[place] = scale * slope * value;
                }
            }
        }
        total
    }

    fn norm_distance(&self, code: &Code<Self>, norm: &Vec<f64>, scale: f64, values: &mut Vec<f64>) -> f64 {
        let mut total = 0.0;
        for (b, norm) in norm[..code.rows].iter().enumerate() {
            let row: Vec<_> = entries(code).filter(|entry| entry.0 == b).collect();
            let length = row.iter().map(|entry| entry.3 * entry.3).sum::<f64>().sqrt();
            total += (length - norm).powi(2);
            for (_, place, _, value) in row.into_iter().filter(|_| length > 0.0) {
                values[place] += scale * 2.0 * (length - norm) * value / length;
            }
        }
        total
    }

    fn rank_range(&self, code: &Code<Self>, ranks: Range<usize>, to: &mut Code<Self>) {
        let mut rows = vec![Vec::new(); code.rows];
        for (b, _, i, value) in entries(code) {
            rows[b].push((i as u32, value));
        }
        for row in &mut rows {
            row.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            *row = row.iter().copied().take(ranks.end).skip(ranks.start).collect();
            row.sort_by_key(|entry| entry.0);
        }
        to.rows = code.rows;
        select::write(rows, to);
    }

    fn entry_minima(&self, by_latent: &ByLatent<Self>, a: &Vec<f64>, f: usize, out: &mut Vec<f64>) {
        for (out, ends) in out.iter_mut().zip(by_latent.starts[..=f].windows(2)) {
            let places = &by_latent.places[ends[0] as usize..ends[1] as usize];
            *out = places.iter().map(|&p| a[p as usize]).fold(f64::INFINITY, f64::min);
        }
    }

    fn entry_sums(&self, by_latent: &ByLatent<Self>, a: &Vec<f64>, b: Option<&Vec<f64>>, f: usize, out: &mut Vec<f64>) {
        for (out, ends) in out.iter_mut().zip(by_latent.starts[..=f].windows(2)) {
            let places = &by_latent.places[ends[0] as usize..ends[1] as usize];
            *out = places.iter().map(|&p| a[p as usize] * b.map_or(1.0, |b| b[p as usize])).sum();
        }
    }

    fn residual(
        &self,
        code: &Code<Self>,
        latents: Range<u32>,
        w_dec: &Vec<f64>,
        target: &Vec<f64>,
        r: &mut Vec<f64>,
        d: usize,
    ) {
        r[..code.rows * d].copy_from_slice(&target[..code.rows * d]);
        for (b, _, i, value) in entries(code).filter(|entry| latents.contains(&(entry.2 as u32))) {
            for p in 0..d {
                r[b * d + p] -= value * w_dec[i * d + p];
            }
        }
    }

    fn entry_dots(
        &self,
        code: &Code<Self>,
        latents: Range<u32>,
        w: &Vec<f64>,
        r: &Vec<f64>,
        scale: f64,
        out: &mut Vec<f64>,
        d: usize,
    ) {
        for place in (0..code.places()).filter(|&place| code.latents[place] == NO_LATENT) {
            out[place] = 0.0;
        }
        for (b, place, i, _) in entries(code).filter(|entry| latents.contains(&(entry.2 as u32))) {
            out[place] = scale * (0..d).map(|p| r[b * d + p] * w[i * d + p]).sum::<f64>();
        }
    }

    fn group_by_latent(&self, code: &Code<Self>, f: usize, out: &mut ByLatent<Self>) {
        out.places.resize(out.places.len().max(code.places()), 0);
        let mut at = 0;
        for latent in 0..f {
            out.starts[latent] = at as u32;
            for (_, place, _, _) in entries(code).filter(|&(_, _, i, _)| i == latent) {
                out.places[at] = place as u32;
                at += 1;
            }
        }
        out.starts[f] = at as u32;
    }

    fn latent_gradients(
        &self,
        terms: &[GradientTerm<'_, Self>],
        c: &Vec<f64>,
        dims: CoderDims,
        out: LatentGradients<'_, Self>,
    ) {
        let CoderDims { d, f, out: width, .. } = dims;
        out.w_enc[..f * d].fill(0.0);
        out.b_enc[..f].fill(0.0);
        out.w_dec[..f * width].fill(0.0);
        for term in terms {
            for (b, place, i, value) in entries(term.code).filter(|entry| term.latents.contains(&(entry.2 as u32))) {
                out.b_enc[i] += term.g_pre[place];
                let row = (i / dims.group() * term.code.rows + b) * d;
                for p in 0..d {
                    out.w_enc[i * d + p] += term.g_pre[place] * c[row + p];
                }
                // the residual of a term without a reconstruction is not looked at
                for p in 0..if term.residual_scale == 0.0 { 0 } else { width } {
                    out.w_dec[i * width + p] += value * term.residual_scale * term.residual[b * width + p];
                }
            }
        }
    }

    fn column_sums(&self, x: &Vec<f64>, scale: f64, out: &mut Vec<f64>, n: usize, d: usize) {
        for p in 0..d {
            out[p] = scale * (0..n).map(|b| x[b * d + p]).sum::<f64>();
        }
    }

    fn add_weighted_rows(&self, weight: &Vec<f64>, x: &Vec<f64>, scale: f64, out: &mut Vec<f64>, n: usize, d: usize) {
        for p in 0..d {
            out[p] += scale * (0..n).map(|i| weight[i] * x[i * d + p]).sum::<f64>();
        }
    }

    fn row_distances(&self, x: &Vec<f64>, center: &Vec<f64>, out: &mut Vec<f64>, n: usize, d: usize) {
        for b in 0..n {
            out[b] = (0..d).map(|p| (x[b * d + p] - center[p]).powi(2)).sum::<f64>().sqrt();
        }
    }

    fn row_norms(&self, w: &Vec<f64>, out: &mut Vec<f64>, n: usize, d: usize) {
        for i in 0..n {
            out[i] = w[i * d..][..d].iter().map(|x| x * x).sum::<f64>().sqrt();
        }
    }

    fn part_norms(&self, w: &Vec<f64>, out: &mut Vec<f64>, n: usize, parts: &[usize]) {
        let mut rest = &w[..n * parts.iter().sum::<usize>()];
        for (out, &width) in out.iter_mut().zip(parts.iter().cycle()).take(n * parts.len()) {
            let (part, after) = rest.split_at(width);
            *out = part.iter().map(|x| x * x).sum::<f64>().sqrt();
            rest = after;
        }
    }

    fn add_scaled_parts(&self, scale: &Vec<f64>, w: &Vec<f64>, out: &mut Vec<f64>, n: usize, parts: &[usize]) {
        let mut at = 0;
        for (scale, &width) in scale.iter().zip(parts.iter().cycle()).take(n * parts.len()) {
            for i in at..at + width {
                out[i] += scale * w[i];
            }
            at += width;
        }
    }

    fn clear_columns(&self, w: &mut Vec<f64>, rows: Range<usize>, columns: Range<usize>, d: usize) {
        for row in rows {
            w[row * d..][columns.clone()].fill(0.0);
        }
    }

    fn add_scaled_rows(&self, scale: &Vec<f64>, w: &Vec<f64>, out: &mut Vec<f64>, n: usize, d: usize) {
        for i in 0..n * d {
            out[i] += scale[i / d] * w[i];
        }
    }

    fn scale_rows(&self, scale: &Vec<f64>, x: &mut Vec<f64>, n: usize, d: usize) {
        for i in 0..n * d {
            x[i] *= scale[i / d];
        }
    }

    fn row_dots(&self, a: &Vec<f64>, b: &Vec<f64>, out: &mut Vec<f64>, n: usize, d: usize) {
        for i in 0..n {
            out[i] = (0..d).map(|p| a[i * d + p] * b[i * d + p]).sum();
        }
    }

    fn combine(&self, a: f64, x: &Vec<f64>, b: f64, y: &mut Vec<f64>, len: usize) {
        for i in 0..len {
            y[i] = a * x[i] + if b == 0.0 { 0.0 } else { b * y[i] };
        }
    }

    fn multiply(&self, x: &Vec<f64>, y: &mut Vec<f64>, len: usize) {
        (0..len).for_each(|i| y[i] *= x[i]);
    }

    fn add_by_column(&self, x: &Vec<f64>, sign: &Vec<f64>, factor: &Vec<f64>, out: &mut Vec<f64>, n: usize, f: usize) {
        for place in 0..n * f {
            let sgn = if x[place] == 0.0 { 0.0 } else { x[place].signum() };
            out[place] += sign[place % f] * sgn + factor[place % f] * x[place];
        }
    }

    fn at_least(&self, t: &mut Vec<f64>, least: f64, len: usize) {
        t[..len].iter_mut().for_each(|x| *x = x.max(least));
    }

    fn square_sums(&self, x: &Vec<f64>, n: usize, d: usize) -> SquareSums {
        let mut sums = SquareSums { about_zero: 0.0, about_mean: 0.0 };
        for p in 0..d {
            let mean = (0..n).map(|b| x[b * d + p]).sum::<f64>() / n as f64;
            for b in 0..n {
                sums.about_zero += x[b * d + p].powi(2);
                sums.about_mean += (x[b * d + p] - mean).powi(2);
            }
        }
        sums
    }

    fn sum_squares(&self, t: &Vec<f64>, len: usize) -> f64 {
        t[..len].iter().map(|x| x * x).sum()
    }

    fn project_rows(&self, g: &mut Vec<f64>, w: &Vec<f64>, n: usize, d: usize) {
        for i in 0..n {
            let along: f64 = (0..d).map(|p| g[i * d + p] * w[i * d + p]).sum();
            for p in 0..d {
                g[i * d + p] -= along * w[i * d + p];
            }
        }
    }

    fn normalize_rows(&self, w: &mut Vec<f64>, n: usize, d: usize) {
        for row in w[..n * d].chunks_exact_mut(d) {
            let norm = row.iter().map(|x| x * x).sum::<f64>().sqrt().max(1e-8);
            row.iter_mut().for_each(|x| *x /= norm);
        }
    }

    fn adam(&self, w: &mut Vec<f64>, g: &Vec<f64>, m: &mut Vec<f64>, v: &mut Vec<f64>, len: usize, step: &AdamStep) {
        let [b1, b2] = step.betas;
        for i in 0..len {
            let g = step.gradient_scale * g[i];
            m[i] = b1 * m[i] + (1.0 - b1) * g;
            v[i] = b2 * v[i] + (1.0 - b2) * g * g;
            let m_hat = m[i] / (1.0 - b1.powf(step.t as f64));
            let v_hat = v[i] / (1.0 - b2.powf(step.t as f64));
            w[i] *= 1.0 - step.learning_rate * step.weight_decay;
            w[i] -= step.learning_rate * m_hat / (v_hat.sqrt() + step.epsilon);
        }
    }

    fn schedule_free_sign(&self, y: &mut Vec<f64>, g: &Vec<f64>, z: &mut Vec<f64>, len: usize, step: &SignStep) {
        let SignStep { learning_rate, beta, share } = *step;
        for i in 0..len {
            let x = (y[i] - (1.0 - beta) * z[i]) / beta;
            z[i] -= learning_rate * if g[i] == 0.0 { 0.0 } else { g[i].signum() };
            y[i] = (1.0 - beta) * z[i] + beta * (x + share * (z[i] - x));
        }
    }

    fn orthogonalize(&self, x: &mut Vec<f64>, n: usize, d: usize) {
        let norm = x[..n * d].iter().map(|x| x * x).sum::<f64>().sqrt() + 1e-7;
        x[..n * d].iter_mut().for_each(|x| *x /= norm);
        let [a, b, c] = NEWTON_SCHULZ;
        for _ in 0..NEWTON_SCHULZ_STEPS {
            let gram = matrix(n, n, |i, j| (0..d).map(|p| x[i * d + p] * x[j * d + p]).sum());
            let mixed = matrix(n, n, |i, j| {
                b * gram[i * n + j] + c * (0..n).map(|k| gram[i * n + k] * gram[k * n + j]).sum::<f64>()
            });
            let next =
                matrix(n, d, |i, p| a * x[i * d + p] + (0..n).map(|k| mixed[i * n + k] * x[k * d + p]).sum::<f64>());
            x[..n * d].copy_from_slice(&next);
        }
    }
}

fn matrix(rows: usize, columns: usize, at: impl Fn(usize, usize) -> f64) -> Vec<f64> {
    (0..rows * columns).map(|place| at(place / columns, place % columns)).collect()
}
