//! One body per op: the CPU against the f64 reference, at sizes of one, odd sizes and sizes with tails.

use super::*;
use crate::compute::backend::{LinearDims, MatrixFormat};
use crate::compute::cpu::Cpu;
use crate::compute::reference::Reference;
use crate::runtime::rng::{Rng, Seed};

/// Norm-wise, of a whole result.
const TOLERANCE: f64 = 1e-6;

/// The same values on the reference and on the backend under test.
struct Pair<B: Backend> {
    exact: Vec<f64>,
    fast: B::Tensor,
}

/// The same matrix on both.
struct Matrices<B: Backend> {
    exact: Vec<f64>,
    fast: B::Matrix,
}

/// Both sides, and where random values come from.
struct Parity<B> {
    backend: B,
    rng: Rng,
}

impl<B: ModelOps> Parity<B> {
    fn new(backend: B) -> Self {
        Self { backend, rng: Seed(3).stream("parity") }
    }

    /// `len` normal values.
    fn random(&mut self, len: usize) -> Pair<B> {
        let values: Vec<f32> = (0..len).map(|_| self.rng.normal() as f32).collect();
        self.of(&values)
    }

    /// As [`Parity::random`], of a matrix.
    fn matrix(&mut self, len: usize) -> Matrices<B> {
        let values: Vec<f32> = (0..len).map(|_| self.rng.normal() as f32).collect();
        Matrices { exact: Reference.upload(&values), fast: self.backend.matrix(values, MatrixFormat::F32) }
    }

    fn of(&self, values: &[f32]) -> Pair<B> {
        Pair { exact: Reference.upload(values), fast: self.backend.upload(values) }
    }

    /// Both sides hold the same first `len` values, and the fast one left the rest alone.
    fn check(&self, what: &str, pair: &Pair<B>, len: usize) {
        let mut fast = vec![0.0; len];
        self.backend.read_f64(&pair.fast, 0, &mut fast);
        let error: f64 = fast.iter().zip(&pair.exact).map(|(a, b)| (a - b).powi(2)).sum();
        let norm: f64 = pair.exact[..len].iter().map(|b| b.powi(2)).sum();
        assert!(error.sqrt() <= TOLERANCE * norm.sqrt(), "{what}: {:e}", (error / norm).sqrt());
        let mut rest = vec![0.0; pair.exact.len() - len];
        self.backend.read_f64(&pair.fast, len, &mut rest);
        assert_eq!(rest, pair.exact[len..], "{what}: values beyond the last row changed");
    }

    /// An index of `contexts` on both sides, with positions that restart with each.
    fn index(
        &mut self,
        contexts: &[AttentionRows],
        shape: BatchShape,
        dims: AttentionDims,
    ) -> (<Reference as ModelOps>::BatchIndex, B::BatchIndex) {
        let n = contexts.iter().map(|c| c.len).sum();
        let ids: Vec<u32> = (0..n).map(|_| self.rng.below(7) as u32).collect();
        let positions: Vec<u32> = contexts.iter().flat_map(|c| 0..c.len as u32).collect();
        let rows = BatchRows { ids: &ids, positions: &positions, contexts };
        let mut exact = Reference.batch_index(shape, dims);
        let mut fast = self.backend.batch_index(shape, dims);
        Reference.load_batch(&mut exact, rows);
        self.backend.load_batch(&mut fast, rows);
        (exact, fast)
    }
}

fn cpu() -> Parity<Cpu> {
    Parity::new(Cpu::new(2).unwrap())
}

/// Contexts of `lens` rows, two to a sequence.
fn contexts(lens: &[usize]) -> Vec<AttentionRows> {
    let mut start = 0;
    let mut contexts = Vec::new();
    for (i, &len) in lens.iter().enumerate() {
        let column = if i % 2 == 1 { lens[i - 1] } else { 0 };
        contexts.push(AttentionRows { start, len, column });
        start += len;
    }
    contexts
}

const NO_ATTENTION: AttentionDims =
    AttentionDims { heads: 1, kv_heads: 1, e: 1, scale: 1.0, window: None, softcap: None };

const ACTIVATIONS: [Activation; 4] = [Activation::Silu, Activation::GeluTanh, Activation::GeluErf, Activation::Relu];

/// Nothing on the side.
fn no_sides<T>() -> AttentionSides<'static, T> {
    AttentionSides { scores: None, pattern: None }
}

#[test]
fn elementwise_ops() {
    let mut p = cpu();
    for len in [1, 2, 15, 16, 33, 1000, 8191, 8192, 20_001] {
        let (mut x, y) = (p.random(len + 3), p.random(len + 5));
        Reference.add(&mut x.exact, &y.exact, len);
        p.backend.add(&mut x.fast, &y.fast, len);
        p.check("add", &x, len);
        Reference.scale(&mut x.exact, 1.7, len);
        p.backend.scale(&mut x.fast, 1.7, len);
        p.check("scale", &x, len);
        for f in ACTIVATIONS {
            let mut x = p.random(len + 3);
            Reference.activate_mul(f, &mut x.exact, &y.exact, len);
            p.backend.activate_mul(f, &mut x.fast, &y.fast, len);
            p.check(&format!("{f:?} of {len}, times"), &x, len);
            let mut x = p.random(len + 1);
            Reference.activate(f, &mut x.exact, len);
            p.backend.activate(f, &mut x.fast, len);
            p.check(&format!("{f:?} of {len}"), &x, len);
        }
    }
}

#[test]
fn activations_are_right_in_the_tails_and_keep_nan() {
    let p = cpu();
    for f in ACTIVATIONS {
        for x in [-1e30f32, -200.0, -88.5, -30.0, -6.0, -3.0, -1e-20, 0.0, 1e-20, 6.0, 30.0, 88.5, 200.0, 1e30] {
            let mut pair = p.of(&[x]);
            Reference.activate(f, &mut pair.exact, 1);
            p.backend.activate(f, &mut pair.fast, 1);
            let error = (f64::from(pair.fast[0]) - pair.exact[0]).abs();
            assert!(error <= 1e-6 * pair.exact[0].abs() + 1e-6 * f64::from(x.abs()).min(1.0), "{f:?}({x})");
        }
        let mut x = vec![f32::NAN];
        p.backend.activate(f, &mut x, 1);
        assert!(x[0].is_nan(), "{f:?}");
    }
}

#[test]
fn norms() {
    let mut p = cpu();
    for (n, d) in [(1, 1), (1, 7), (3, 31), (17, 32), (33, 100), (5, 576)] {
        let dims = NormDims { n, d, eps: 1e-5 };
        let (x, weight, bias, mut y) = (p.random(n * d), p.random(d), p.random(d), p.random(n * d + 2));
        for affine in [false, true] {
            Reference.rms_norm(&x.exact, affine.then_some(&weight.exact), &mut y.exact, dims);
            p.backend.rms_norm(&x.fast, affine.then_some(&weight.fast), &mut y.fast, dims);
            p.check(&format!("rms_norm {dims:?}"), &y, n * d);
            if d == 1 {
                continue; // a layer norm of one value is a difference of equal numbers
            }
            Reference.layer_norm(&x.exact, affine.then_some((&weight.exact, &bias.exact)), &mut y.exact, dims);
            p.backend.layer_norm(&x.fast, affine.then_some((&weight.fast, &bias.fast)), &mut y.fast, dims);
            p.check(&format!("layer_norm {dims:?}"), &y, n * d);
        }
        for kind in [NormKind::Rms, NormKind::Layer] {
            let mut scale = p.random(n + 2);
            Reference.norm_scale(kind, &x.exact, &mut scale.exact, dims);
            p.backend.norm_scale(kind, &x.fast, &mut scale.fast, dims);
            p.check(&format!("norm_scale {kind:?} {dims:?}"), &scale, n);
        }
    }
}

#[test]
fn embeddings_and_rope() {
    let mut p = cpu();
    for (lens, heads, e, rotary) in
        [(vec![1], 1, 2, 2), (vec![5, 3, 17], 3, 6, 6), (vec![5, 3, 17], 3, 16, 4), (vec![40, 33], 2, 64, 64)]
    {
        let contexts = contexts(&lens);
        let (n, d) = (lens.iter().sum::<usize>(), heads * e);
        let shape = BatchShape { max_tokens: n + 1, context_length: 73 };
        let (exact, fast) = p.index(&contexts, shape, NO_ATTENTION);
        let (tokens, positions, mut y) = (p.matrix(7 * d), p.matrix(73 * d), p.random(n * d + 1));
        Reference.embed_tokens(&exact, &tokens.exact, &mut y.exact, d);
        p.backend.embed_tokens(&fast, &tokens.fast, &mut y.fast, d);
        p.check("embed_tokens", &y, n * d);
        Reference.embed_positions(&exact, &positions.exact, &mut y.exact, d);
        p.backend.embed_positions(&fast, &positions.fast, &mut y.fast, d);
        p.check("embed_positions", &y, n * d);
        let (cos, sin) = (p.random(73 * rotary / 2), p.random(73 * rotary / 2));
        let dims = RopeDims { heads, e, rotary };
        Reference.rope(&exact, &mut y.exact, &cos.exact, &sin.exact, dims);
        p.backend.rope(&fast, &mut y.fast, &cos.fast, &sin.fast, dims);
        p.check("rope", &y, n * d);
    }
}

#[test]
fn attention() {
    let mut p = cpu();
    for (lens, heads, kv_heads, e) in [
        (vec![1], 1, 1, 1),
        (vec![1, 1, 2, 3], 2, 1, 4),
        (vec![31, 33], 4, 2, 8),
        (vec![5, 64, 65, 1, 100], 3, 1, 12),
        (vec![129, 200], 6, 2, 64),
        (vec![600, 7], 2, 2, 80),
    ] {
        let plain = AttentionDims { heads, kv_heads, e, scale: 1.5 / (e as f32).sqrt(), window: None, softcap: None };
        for window in [None, Some(1), Some(3), Some(8), Some(70), Some(1000)] {
            check_attention(&mut p, &lens, AttentionDims { window, ..plain });
        }
        check_attention(&mut p, &lens, AttentionDims { softcap: Some(0.8), ..plain });
        check_attention(&mut p, &lens, AttentionDims { softcap: Some(50.0), window: Some(37), ..plain });
    }
}

fn check_attention(p: &mut Parity<Cpu>, lens: &[usize], dims: AttentionDims) {
    let AttentionDims { heads, kv_heads, e, .. } = dims;
    let contexts = contexts(lens);
    let n = lens.iter().sum::<usize>();
    let t = contexts.iter().map(|c| c.column + c.len).max().unwrap_or(0) + 2;
    let (mut exact, mut fast) = p.index(&contexts, BatchShape { max_tokens: n + 9, context_length: t }, dims);
    let (q, k, v) = (p.random(n * heads * e), p.random(n * kv_heads * e), p.random(n * kv_heads * e));
    let mut z = p.random(n * heads * e + 1);
    let (mut scores, mut pattern) = (p.random(n * heads * t + 1), p.random(n * heads * t + 1));
    let exact_qkv = Qkv { q: &q.exact, k: &k.exact, v: &v.exact };
    let fast_qkv = || Qkv { q: &q.fast, k: &k.fast, v: &v.fast };
    let sides = AttentionSides { scores: Some(&mut scores.exact), pattern: Some(&mut pattern.exact) };
    Reference.attention(&mut exact, exact_qkv, &mut z.exact, sides, dims);
    let sides = AttentionSides { scores: Some(&mut scores.fast), pattern: Some(&mut pattern.fast) };
    p.backend.attention(&mut fast, fast_qkv(), &mut z.fast, sides, dims);
    p.check(&format!("z {dims:?}"), &z, n * heads * e);
    p.check(&format!("scores {dims:?}"), &scores, n * heads * t);
    p.check(&format!("pattern {dims:?}"), &pattern, n * heads * t);
    let with_sides = std::mem::replace(&mut z.fast, p.backend.zeros(n * heads * e));
    p.backend.attention(&mut fast, fast_qkv(), &mut z.fast, no_sides(), dims);
    assert!(z.fast == with_sides[..n * heads * e], "what is written on the side does not change z");
}

#[test]
fn head_results_sum_to_the_output_projection() {
    let mut p = cpu();
    for (n, heads, e, d) in [(1, 1, 1, 1), (5, 3, 4, 7), (33, 4, 16, 40)] {
        let dims = HeadResultDims { n, heads, e, d };
        let (z, w, mut y) = (p.random(n * heads * e), p.matrix(d * heads * e), p.random(n * heads * d + 1));
        Reference.head_results(&z.exact, &w.exact, &mut y.exact, dims);
        p.backend.head_results(&z.fast, &w.fast, &mut y.fast, dims);
        p.check(&format!("head_results {dims:?}"), &y, n * heads * d);
        let mut whole = Reference.zeros(n * d);
        Reference.linear(&z.exact, &w.exact, None, &mut whole, LinearDims { n, n_in: heads * e, n_out: d });
        for (i, j) in (0..n).flat_map(|i| (0..d).map(move |j| (i, j))) {
            let sum: f64 = (0..heads).map(|head| y.exact[(i * heads + head) * d + j]).sum();
            assert!((sum - whole[i * d + j]).abs() < 1e-9);
        }
    }
}

#[test]
fn mixtures_of_experts() {
    let mut p = cpu();
    for (n, experts, chosen, n_in, n_out) in [(1, 1, 1, 1, 1), (7, 4, 2, 5, 9), (130, 8, 3, 33, 17)] {
        let logits = p.random(n * experts);
        let slots = n * chosen;
        for renormalise in [false, true] {
            let dims = RouteDims { n, experts, chosen, renormalise };
            let (mut indices, mut weights) = (p.random(slots + 1), p.random(slots + 1));
            Reference.route(&logits.exact, &mut indices.exact, &mut weights.exact, dims);
            p.backend.route(&logits.fast, &mut indices.fast, &mut weights.fast, dims);
            p.check(&format!("indices {dims:?}"), &indices, slots);
            p.check(&format!("weights {dims:?}"), &weights, slots);
            let bank: Vec<_> = (0..experts).map(|_| p.matrix(n_out * n_in)).collect();
            let (exact, fast): (Vec<_>, Vec<_>) = bank.into_iter().map(|w| (w.exact, w.fast)).unzip();
            for x_by_expert in [false, true] {
                let dims = ExpertDims { n, chosen, n_in, n_out, x_by_expert };
                let x = p.random(if x_by_expert { slots } else { n } * n_in);
                let (mut y, mut mixed) = (p.random(slots * n_out + 1), p.random(n * n_out + 1));
                Reference.expert_linear(&x.exact, &exact, &indices.exact, &mut y.exact, dims);
                p.backend.expert_linear(&x.fast, &fast, &indices.fast, &mut y.fast, dims);
                p.check(&format!("expert_linear {dims:?}"), &y, slots * n_out);
                Reference.mix_experts(&y.exact, &weights.exact, &mut mixed.exact, n, chosen, n_out);
                p.backend.mix_experts(&y.fast, &weights.fast, &mut mixed.fast, n, chosen, n_out);
                p.check("mix_experts", &mixed, n * n_out);
            }
        }
    }
}

#[test]
fn equal_logits_go_to_the_expert_with_the_smaller_number() {
    let p = cpu();
    let (mut indices, mut weights) = (vec![9.0; 3], vec![0.0; 3]);
    let dims = RouteDims { n: 1, experts: 5, chosen: 3, renormalise: true };
    p.backend.route(&vec![1.0, 2.0, 1.0, 2.0, 1.0], &mut indices, &mut weights, dims);
    assert_eq!(indices, [1.0, 3.0, 0.0]);
}

#[test]
fn linear() {
    let mut p = cpu();
    for (n, n_in, n_out) in [(1, 1, 1), (3, 5, 7), (33, 64, 31), (100, 576, 192)] {
        let dims = LinearDims { n, n_in, n_out };
        let (x, mut w, bias) = (p.random(n * n_in + 1), p.matrix(n_out * n_in), p.random(n_out));
        let mut y = p.random(n * n_out + 1);
        for (bias, in_panels) in [(None, false), (Some(&bias), false), (None, true), (Some(&bias), true)] {
            if in_panels {
                let values = w.exact.iter().map(|&w| w as f32).collect();
                w.fast = p.backend.weights(values, [n_out, n_in], MatrixFormat::F32);
            }
            Reference.linear(&x.exact, &w.exact, bias.map(|b| &b.exact), &mut y.exact, dims);
            p.backend.linear(&x.fast, &w.fast, bias.map(|b| &b.fast), &mut y.fast, dims);
            p.check(&format!("linear {dims:?}"), &y, n * n_out);
        }
    }
}

#[test]
fn bfloat16_matrices_are_products_of_their_rounded_numbers() {
    let mut p = cpu();
    for (n, n_in, n_out) in [(1, 1, 1), (3, 5, 7), (33, 640, 1000), (5, 100_000, 9)] {
        let dims = LinearDims { n, n_in, n_out };
        let (x, w, bias) = (p.random(n * n_in), p.random(n_out * n_in).fast, p.random(n_out));
        let mut y = p.random(n * n_out + 1);
        let rounded: Vec<f32> = w.iter().map(|w| half::bf16::from_f32(*w).to_f32()).collect();
        let exact = Reference.upload(&rounded);
        let fast = p.backend.matrix(w, MatrixFormat::Bf16);
        Reference.linear(&x.exact, &exact, Some(&bias.exact), &mut y.exact, dims);
        p.backend.linear(&x.fast, &fast, Some(&bias.fast), &mut y.fast, dims);
        p.check(&format!("linear {dims:?}"), &y, n * n_out);
    }
}

#[test]
fn large_products_do_not_depend_on_the_number_of_threads() {
    let mut p = cpu();
    let dims = LinearDims { n: 300, n_in: 700, n_out: 900 };
    let (x, w) = (p.random(dims.n * dims.n_in).fast, p.random(dims.n_in * dims.n_out).fast);
    for format in [MatrixFormat::F32, MatrixFormat::Bf16] {
        let w = p.backend.matrix(w.clone(), format);
        let run = |threads| {
            let mut y = vec![0.0; dims.n * dims.n_out];
            Cpu::new(threads).unwrap().linear(&x, &w, None, &mut y, dims);
            y
        };
        let one = run(1);
        assert!([2, 3, 8].into_iter().all(|threads| run(threads) == one));
    }
}

#[test]
fn a_row_is_not_touched_by_rows_that_it_does_not_see() {
    let mut p = cpu();
    let dims = AttentionDims { heads: 2, kv_heads: 1, e: 8, scale: 0.5, window: None, softcap: None };
    let lens = [37, 41, 20];
    let n = lens.iter().sum::<usize>();
    let contexts = contexts(&lens);
    let (_, mut index) = p.index(&contexts, BatchShape { max_tokens: n, context_length: 80 }, dims);
    let (q, mut k, mut v) = (p.random(n * 16).fast, p.random(n * 8).fast, p.random(n * 8).fast);
    let mut clean = vec![0.0; n * 16];
    p.backend.attention(&mut index, Qkv { q: &q, k: &k, v: &v }, &mut clean, no_sides(), dims);
    let poisoned = 37 + 17;
    k[poisoned * 8..][..8].fill(f32::NAN);
    v[poisoned * 8..][..8].fill(f32::INFINITY);
    let mut z = vec![0.0; n * 16];
    p.backend.attention(&mut index, Qkv { q: &q, k: &k, v: &v }, &mut z, no_sides(), dims);
    for row in 0..n {
        let (z, clean) = (&z[row * 16..][..16], &clean[row * 16..][..16]);
        let sees_it = (poisoned..37 + 41).contains(&row);
        assert!(if sees_it { z.iter().all(|z| z.is_nan()) } else { z == clean }, "row {row}");
    }
}

#[test]
fn a_context_is_the_same_to_the_last_bit_wherever_it_lies() {
    let mut p = cpu();
    let dims = AttentionDims { heads: 2, kv_heads: 2, e: 24, scale: 0.3, window: Some(70), softcap: None };
    let (len, width) = (150, 48);
    let shape = BatchShape { max_tokens: 400, context_length: 200 };
    let mut run = |before: usize, q: &[f32], k: &[f32], v: &[f32]| {
        let lens = [before, len, 10];
        let (_, mut index) = p.index(&contexts(&lens)[usize::from(before == 0)..], shape, dims);
        let pad = |x: &[f32]| [&vec![0.7; before * width][..], x, &vec![0.9; 10 * width][..]].concat();
        let mut z = vec![0.0; (before + len + 10) * width];
        p.backend.attention(&mut index, Qkv { q: &pad(q), k: &pad(k), v: &pad(v) }, &mut z, no_sides(), dims);
        z[before * width..][..len * width].to_vec()
    };
    let mut rng = Seed(5).stream("rows");
    let mut random = || (0..len * width).map(|_| rng.normal() as f32).collect::<Vec<_>>();
    let (q, k, v) = (random(), random(), random());
    let alone = run(0, &q, &k, &v);
    for before in [1, 31, 32, 45] {
        assert!(run(before, &q, &k, &v) == alone, "behind {before} rows");
    }
}
