//! One body per op: the CPU against the f64 reference, at sizes of one, odd sizes and sizes with tails.

use super::*;
use crate::compute::backend::LinearDims;
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

const NO_ATTENTION: AttentionDims = AttentionDims { heads: 1, kv_heads: 1, e: 1, scale: 1.0 };

#[test]
fn elementwise_ops() {
    let mut p = cpu();
    for len in [1, 2, 15, 16, 33, 1000, 8191, 8192, 20_001] {
        let (mut x, y) = (p.random(len + 3), p.random(len + 5));
        Reference.add(&mut x.exact, &y.exact, len);
        p.backend.add(&mut x.fast, &y.fast, len);
        p.check("add", &x, len);
        Reference.silu_mul(&mut x.exact, &y.exact, len);
        p.backend.silu_mul(&mut x.fast, &y.fast, len);
        p.check("silu_mul", &x, len);
        let mut x = p.random(len + 1);
        Reference.gelu_tanh(&mut x.exact, len);
        p.backend.gelu_tanh(&mut x.fast, len);
        p.check("gelu_tanh", &x, len);
    }
}

#[test]
fn activations_are_right_in_the_tails_and_keep_nan() {
    let p = cpu();
    for x in [-1e30f32, -200.0, -88.5, -30.0, -1e-20, 0.0, 1e-20, 30.0, 88.5, 200.0, 1e30] {
        let (mut silu, mut gelu, one) = (p.of(&[x]), p.of(&[x]), p.of(&[1.0]));
        Reference.silu_mul(&mut silu.exact, &one.exact, 1);
        p.backend.silu_mul(&mut silu.fast, &one.fast, 1);
        Reference.gelu_tanh(&mut gelu.exact, 1);
        p.backend.gelu_tanh(&mut gelu.fast, 1);
        for (name, pair) in [("silu", silu), ("gelu", gelu)] {
            let error = (f64::from(pair.fast[0]) - pair.exact[0]).abs();
            assert!(error <= 1e-6 * pair.exact[0].abs() + 1e-6 * f64::from(x.abs()).min(1.0), "{name}({x})");
        }
    }
    let (mut x, one) = (vec![f32::NAN], vec![1.0]);
    p.backend.silu_mul(&mut x, &one, 1);
    assert!(x[0].is_nan());
    let mut x = vec![f32::NAN];
    p.backend.gelu_tanh(&mut x, 1);
    assert!(x[0].is_nan());
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
    }
}

#[test]
fn embeddings_and_rope() {
    let mut p = cpu();
    for (lens, heads, e) in [(vec![1], 1, 2), (vec![5, 3, 17], 3, 6), (vec![40, 33], 2, 64)] {
        let contexts = contexts(&lens);
        let (n, d) = (lens.iter().sum::<usize>(), heads * e);
        let shape = BatchShape { max_tokens: n + 1, context_length: 73 };
        let (exact, fast) = p.index(&contexts, shape, NO_ATTENTION);
        let (tokens, positions, mut y) = (p.random(7 * d), p.random(73 * d), p.random(n * d + 1));
        Reference.embed_tokens(&exact, &tokens.exact, &mut y.exact, d);
        p.backend.embed_tokens(&fast, &tokens.fast, &mut y.fast, d);
        p.check("embed_tokens", &y, n * d);
        Reference.embed_positions(&exact, &positions.exact, &mut y.exact, d);
        p.backend.embed_positions(&fast, &positions.fast, &mut y.fast, d);
        p.check("embed_positions", &y, n * d);
        let (cos, sin, dims) = (p.random(73 * e / 2), p.random(73 * e / 2), RopeDims { heads, e });
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
        let contexts = contexts(&lens);
        let n = lens.iter().sum::<usize>();
        let t = contexts.iter().map(|c| c.column + c.len).max().unwrap_or(0) + 2;
        let dims = AttentionDims { heads, kv_heads, e, scale: 1.5 / (e as f32).sqrt() };
        let (mut exact, mut fast) = p.index(&contexts, BatchShape { max_tokens: n + 9, context_length: t }, dims);
        let (q, k, v) = (p.random(n * heads * e), p.random(n * kv_heads * e), p.random(n * kv_heads * e));
        let (mut z, mut pattern) = (p.random(n * heads * e + 1), p.random(n * heads * t + 1));
        let exact_qkv = || Qkv { q: &q.exact, k: &k.exact, v: &v.exact };
        let fast_qkv = || Qkv { q: &q.fast, k: &k.fast, v: &v.fast };
        Reference.attention(&mut exact, exact_qkv(), &mut z.exact, Some(&mut pattern.exact), dims);
        p.backend.attention(&mut fast, fast_qkv(), &mut z.fast, Some(&mut pattern.fast), dims);
        p.check(&format!("z {dims:?}"), &z, n * heads * e);
        p.check(&format!("pattern {dims:?}"), &pattern, n * heads * t);
        let with_pattern = std::mem::replace(&mut z.fast, p.backend.zeros(n * heads * e));
        p.backend.attention(&mut fast, fast_qkv(), &mut z.fast, None, dims);
        assert!(z.fast == with_pattern[..n * heads * e], "the pattern does not change z");
    }
}

#[test]
fn linear() {
    let mut p = cpu();
    for (n, n_in, n_out) in [(1, 1, 1), (3, 5, 7), (33, 64, 31), (100, 576, 192)] {
        let dims = LinearDims { n, n_in, n_out };
        let (x, w, bias) = (p.random(n * n_in + 1), p.random(n_out * n_in), p.random(n_out));
        let mut y = p.random(n * n_out + 1);
        for bias in [None, Some(&bias)] {
            Reference.linear(&x.exact, &w.exact, bias.map(|b| &b.exact), &mut y.exact, dims);
            p.backend.linear(&x.fast, &w.fast, bias.map(|b| &b.fast), &mut y.fast, dims);
            p.check(&format!("linear {dims:?}"), &y, n * n_out);
        }
    }
}

#[test]
fn large_products_do_not_depend_on_the_number_of_threads() {
    let mut p = cpu();
    let dims = LinearDims { n: 300, n_in: 700, n_out: 900 };
    let (x, w) = (p.random(dims.n * dims.n_in).fast, p.random(dims.n_in * dims.n_out).fast);
    let run = |threads| {
        let mut y = vec![0.0; dims.n * dims.n_out];
        Cpu::new(threads).unwrap().linear(&x, &w, None, &mut y, dims);
        y
    };
    let one = run(1);
    assert!([2, 3, 8].into_iter().all(|threads| run(threads) == one));
}

#[test]
fn a_row_is_not_touched_by_rows_that_it_does_not_see() {
    let mut p = cpu();
    let dims = AttentionDims { heads: 2, kv_heads: 1, e: 8, scale: 0.5 };
    let lens = [37, 41, 20];
    let n = lens.iter().sum::<usize>();
    let contexts = contexts(&lens);
    let (_, mut index) = p.index(&contexts, BatchShape { max_tokens: n, context_length: 80 }, dims);
    let (q, mut k, mut v) = (p.random(n * 16).fast, p.random(n * 8).fast, p.random(n * 8).fast);
    let mut clean = vec![0.0; n * 16];
    p.backend.attention(&mut index, Qkv { q: &q, k: &k, v: &v }, &mut clean, None, dims);
    let poisoned = 37 + 17;
    k[poisoned * 8..][..8].fill(f32::NAN);
    v[poisoned * 8..][..8].fill(f32::INFINITY);
    let mut z = vec![0.0; n * 16];
    p.backend.attention(&mut index, Qkv { q: &q, k: &k, v: &v }, &mut z, None, dims);
    for row in 0..n {
        let (z, clean) = (&z[row * 16..][..16], &clean[row * 16..][..16]);
        let sees_it = (poisoned..37 + 41).contains(&row);
        assert!(if sees_it { z.iter().all(|z| z.is_nan()) } else { z == clean }, "row {row}");
    }
}

#[test]
fn a_context_is_the_same_to_the_last_bit_wherever_it_lies() {
    let mut p = cpu();
    let dims = AttentionDims { heads: 2, kv_heads: 2, e: 24, scale: 0.3 };
    let (len, width) = (150, 48);
    let shape = BatchShape { max_tokens: 400, context_length: 200 };
    let mut run = |before: usize, q: &[f32], k: &[f32], v: &[f32]| {
        let lens = [before, len, 10];
        let (_, mut index) = p.index(&contexts(&lens)[usize::from(before == 0)..], shape, dims);
        let pad = |x: &[f32]| [&vec![0.7; before * width][..], x, &vec![0.9; 10 * width][..]].concat();
        let mut z = vec![0.0; (before + len + 10) * width];
        p.backend.attention(&mut index, Qkv { q: &pad(q), k: &pad(k), v: &pad(v) }, &mut z, None, dims);
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
