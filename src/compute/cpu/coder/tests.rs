//! Every op against the f64 reference, over shapes with tails, and the same bits for any number of threads.

use super::*;
use crate::compute::Backend;
use crate::compute::coder_ops::NO_LATENT;
use crate::compute::cpu::isa::Isa;
use crate::compute::reference::Reference;
use crate::runtime::rng::Seed;

/// (rows, input width, latents, kept a row): single ones, odd ones, more than one tile or block in each direction.
///
/// The last two are dense codes.
const SHAPES: [(usize, usize, usize, usize); 7] = [
    (1, 1, 1, 1),
    (3, 5, 7, 2),
    (33, 17, 65, 7),
    (257, 24, 1100, 9),
    (40, 130, 300, 150),
    (600, 12, 40, 40),
    (300, 33, 290, 120),
];

fn random(len: usize, purpose: &str) -> Vec<f32> {
    let mut rng = Seed(2).stream(purpose);
    (0..len).map(|_| rng.normal() as f32).collect()
}

fn read<B: Backend>(backend: &B, t: &B::Tensor, len: usize) -> Vec<f64> {
    let mut out = vec![0.0; len];
    backend.read_f64(t, 0, &mut out);
    out
}

/// All numbers that the ops give for a shape, by name; codes are those of the reference, so that no near-tie between
/// the encoders spreads.
fn everything<B: CoderOps>(backend: &B, (n, d, f, k): (usize, usize, usize, usize)) -> Vec<(&'static str, Vec<f64>)> {
    let up = |len: usize, purpose: &str| backend.upload(&random(len, purpose));
    let (x, shift, w, w2, b) = (up(n * d, "x"), up(d, "shift"), up(f * d, "w"), up(f * d, "w2"), up(f, "b"));
    let dims = CoderDims::square(d, f);
    let mut results = Vec::new();

    let mut c = backend.zeros(n * d);
    backend.center(&x, 1.5, &shift, &mut c, n, d);
    results.push(("center", read(backend, &c, n * d)));

    let code = reference_code(backend, (n, d, f, k));
    let mut out = backend.zeros(n * d);
    backend.decode(&code, &w2, &shift, &mut out, d);
    results.push(("decode", read(backend, &out, n * d)));
    let mut r = backend.zeros(n * d);
    backend.residual(&code, 0..u32::MAX, &w2, &c, &mut r, d);
    results.push(("residual", read(backend, &r, n * d)));
    let mut g_pre = backend.upload(&vec![9.0; n * k]);
    backend.entry_dots(&code, 0..u32::MAX, &w2, &r, -0.25, &mut g_pre, d);
    results.push(("entry_dots", read(backend, &g_pre, n * k)));

    let mut by_latent = ByLatent::new(backend, n, k, f);
    backend.group_by_latent(&code, f, &mut by_latent);
    let (mut starts, mut places) = (vec![0; f + 1], vec![0; n * k]);
    backend.read_index(&by_latent.starts, &mut starts);
    backend.read_index(&by_latent.places, &mut places);
    places.truncate(starts[f] as usize);
    results.push(("group_by_latent", starts.iter().chain(&places).map(|&i| f64::from(i)).collect()));

    let term = |latents| GradientTerm {
        code: &code,
        by_latent: &by_latent,
        g_pre: &g_pre,
        residual: &r,
        residual_scale: -0.5,
        latents,
    };
    let (mut g_enc, mut g_b, mut g_dec) = (up(f * d, "x"), up(f, "x"), up(f * d, "x"));
    let gradients = LatentGradients { w_enc: &mut g_enc, b_enc: &mut g_b, w_dec: &mut g_dec };
    backend.latent_gradients(&[term(0..u32::MAX), term(1..4)], &c, dims, gradients);
    results.push(("gradient of w_enc", read(backend, &g_enc, f * d)));
    results.push(("gradient of b_enc", read(backend, &g_b, f)));
    results.push(("gradient of w_dec", read(backend, &g_dec, f * d)));

    // groups of latents with inputs of their own; parts of rows
    let groups = (1..=f.min(6)).rev().find(|groups| f % groups == 0).unwrap_or(1);
    let grouped = CoderDims { groups, ..dims };
    let (c, mut u) = (up(groups * n * d, "several inputs"), backend.zeros(n * f));
    backend.pre_activations(&c, &w, &b, &mut u, n, grouped);
    results.push(("pre_activations of groups", read(backend, &u, n * f)));
    let gradients = LatentGradients { w_enc: &mut g_enc, b_enc: &mut g_b, w_dec: &mut g_dec };
    backend.latent_gradients(&[term(0..u32::MAX), term(1..4)], &c, grouped, gradients);
    results.push(("gradient of w_enc of groups", read(backend, &g_enc, f * d)));
    results.push(("gradient of w_dec of groups", read(backend, &g_dec, f * d)));
    let parts = if d > 2 { vec![1, d - 2, 1] } else { vec![d] };
    let mut part_norms = backend.zeros(f * parts.len());
    backend.part_norms(&w, &mut part_norms, f, &parts);
    results.push(("part_norms", read(backend, &part_norms, f * parts.len())));
    let mut scaled = up(f * d, "w2");
    backend.add_scaled_parts(&part_norms, &w, &mut scaled, f, &parts);
    backend.clear_columns(&mut scaled, f / 2..f, 0..d.div_ceil(2), d);
    results.push(("add_scaled_parts, clear_columns", read(backend, &scaled, f * d)));

    let mut sums = backend.upload(&random(d, "sums"));
    backend.add_weighted_rows(&b, &w, -0.5, &mut sums, f, d);
    results.push(("add_weighted_rows", read(backend, &sums, d)));
    backend.column_sums(&x, 0.5, &mut sums, n, d);
    results.push(("column_sums", read(backend, &sums, d)));
    let mut distances = backend.zeros(n);
    backend.row_distances(&x, &shift, &mut distances, n, d);
    results.push(("row_distances", read(backend, &distances, n)));
    let squares = backend.square_sums(&x, n, d);
    results.push(("square_sums", vec![squares.about_zero, squares.about_mean, backend.sum_squares(&x, n * d)]));

    let mut unit = up(f * d, "w");
    backend.normalize_rows(&mut unit, f, d);
    results.push(("normalize_rows", read(backend, &unit, f * d)));
    backend.project_rows(&mut g_dec, &unit, f, d);
    results.push(("project_rows", read(backend, &g_dec, f * d)));

    results.extend(entry_ops(backend, &code, (n, d, f, k)));
    let mut norms = backend.zeros(f);
    backend.row_norms(&w, &mut norms, f, d);
    results.push(("row_norms", read(backend, &norms, f)));
    backend.add_scaled_rows(&norms, &w, &mut unit, f, d);
    backend.combine(0.25, &w2, -0.5, &mut unit, f * d);
    backend.at_least(&mut unit, -0.3, f * d);
    results.push(("add_scaled_rows, combine, at_least", read(backend, &unit, f * d)));
    backend.scale_rows(&norms, &mut unit, f, d);
    results.push(("scale_rows", read(backend, &unit, f * d)));
    backend.row_dots(&unit, &w, &mut norms, f, d);
    results.push(("row_dots", read(backend, &norms, f)));

    let (mut weights, mut m, mut v) = (up(f * d, "w"), backend.zeros(f * d), backend.zeros(f * d));
    for t in 1..=3 {
        let step = AdamStep {
            learning_rate: 0.01,
            betas: [0.9, 0.99],
            epsilon: 1e-8,
            weight_decay: 0.0,
            t,
            gradient_scale: 0.5,
        };
        backend.adam(&mut weights, &w2, &mut m, &mut v, f * d, &step);
    }
    results.push(("adam", read(backend, &weights, f * d)));
    results
}

/// `[n, f]`: how many places a row has does not matter.
fn dense<B: CoderOps>(backend: &B, code: &Code<B>, f: usize) -> Vec<f64> {
    let mut latents = vec![0; code.places()];
    backend.read_index(&code.latents, &mut latents);
    let mut out = vec![0.0; code.rows * f];
    for (place, value) in read(backend, &code.values, code.places()).into_iter().enumerate() {
        if latents[place] != NO_LATENT {
            out[place / code.k * f + latents[place] as usize] = value;
        }
    }
    out
}

/// What is done to each entry of a code.
fn entry_ops<B: CoderOps>(
    backend: &B,
    code: &Code<B>,
    (n, _, f, k): (usize, usize, usize, usize),
) -> Vec<(&'static str, Vec<f64>)> {
    let positive = |purpose| backend.upload(&random(f, purpose).iter().map(|x| x.abs() + 0.1).collect::<Vec<_>>());
    let (weight, gain, offset) = (positive("weight"), positive("gain"), backend.upload(&random(f, "offset")));
    let mut results =
        vec![("least_entry", vec![backend.least_entry(code, None), backend.least_entry(code, Some(&weight))])];
    let shapes = [
        PenaltyShape::Linear,
        PenaltyShape::Tanh { scale: 4.0 },
        PenaltyShape::Power { p: 0.6 },
        PenaltyShape::RowNorm { p: 1.7 },
    ];
    for shape in shapes {
        for weight in [None, Some(&weight)] {
            let (mut values, mut weights) = (backend.upload(&random(n * k, "values")), backend.zeros(n * k));
            let out = PenaltyGradients { values: &mut values, weights: Some(&mut weights) };
            let total = backend.penalize(code, weight, shape, 0.5, out);
            let all = [vec![total], read(backend, &values, n * k), read(backend, &weights, n * k)];
            results.push(("penalize", all.concat()));
        }
    }
    let (wide, mut set) = (backend.upload(&random((3 * f + 1) * 2, "wide")), backend.index(f));
    backend.write_index(&mut set, &(0..f as u32).map(|i| 3 * i + 1).collect::<Vec<_>>());
    let subset = Subset { latents: &set, len: f };
    let mut gathered = backend.zeros(f * 2);
    backend.take_rows(&wide, &subset, &mut gathered, 2);
    results.push(("take_rows", read(backend, &gathered, f * 2)));
    let mut renamed = Code::new(backend, 0, 0);
    backend.affine_entries(code, &weight, &weight, &mut renamed);
    backend.rename(&mut renamed, &subset);
    results.push(("rename", dense(backend, &renamed, 3 * f + 1)));
    let mut scaled = Code::new(backend, 0, 0);
    backend.affine_entries(code, &gain, &offset, &mut scaled);
    results.push(("affine_entries", dense(backend, &scaled, f)));
    let (mut by_latent, mut sums) = (ByLatent::new(backend, n, k, f), backend.zeros(f));
    backend.group_by_latent(code, f, &mut by_latent);
    let mut a = backend.upload(&random(n * k, "a"));
    backend.scale_entries(code, &gain, &mut a);
    backend.entry_minima(&by_latent, &a, f, &mut sums);
    results.push(("entry_minima", read(backend, &sums, f).iter().map(|x| x.min(1e6)).collect()));
    let mut values = backend.upload(&random(n * k, "values"));
    let norm = backend.upload(&random(n, "norm"));
    let mut all = vec![backend.norm_distance(code, &norm, 0.5, &mut values)];
    all.extend(read(backend, &values, n * k));
    results.push(("norm_distance", all));
    for ranks in [0..1, 0..k + 3, 1..k.div_ceil(2)] {
        let mut some = Code::new(backend, 0, 0);
        backend.rank_range(code, ranks, &mut some);
        results.push(("rank_range", dense(backend, &some, f)));
    }
    for b in [None, Some(&code.values)] {
        backend.entry_sums(&by_latent, &a, b, f, &mut sums);
        results.push(("scale_entries, entry_sums", read(backend, &sums, f)));
    }
    results
}

/// The codes of all rules on the same pre-activations, which have ties: latents, then values.
fn selections<B: CoderOps>(backend: &B, (n, _, f, k): (usize, usize, usize, usize)) -> Vec<(String, Vec<f64>)> {
    let rounded = |len, purpose| random(len, purpose).iter().map(|x| (x * 8.0).round() / 8.0).collect::<Vec<f32>>();
    let u = backend.upload(&rounded(n * f, "u"));
    let positive: Vec<f32> = rounded(f, "threshold").iter().map(|x| x.abs() + 0.0625).collect();
    let threshold = backend.upload(&positive);
    let (score, mut set) = (Some(&threshold), backend.index(f));
    let among: Vec<u32> = (0..f as u32).filter(|i| i % 3 == 1).collect();
    backend.write_index(&mut set, &among);
    let mut counts = backend.index(f);
    backend.write_index(&mut counts, &(0..f as u32).map(|i| i * 7 % 90).collect::<Vec<_>>());
    let norms: Vec<f32> = random(n, "norm").iter().map(|x| x.abs() * (k as f32).sqrt()).collect();
    let norm = backend.upload(&norms);
    let below = Rule::Below { threshold: &threshold, among: Subset { latents: &set, len: among.len() } };
    let rules: Vec<(&str, Rule<'_, B>)> = vec![
        ("positive", Rule::Positive),
        ("above", Rule::Above(&threshold)),
        ("near", Rule::Near { threshold: &threshold, half_width: 0.3 }),
        ("below", below),
        ("row", Rule::RowLargest { k, score: None, signed: false }),
        ("row by score", Rule::RowLargest { k, score, signed: false }),
        ("row, signed", Rule::RowLargest { k: k + f / 2, score, signed: true }),
        ("row norm", Rule::RowNorm { norm: &norm, score: None }),
        ("row norm by score", Rule::RowNorm { norm: &norm, score }),
        ("one group", Rule::GroupLargest { groups: 1 }),
        ("groups", Rule::GroupLargest { groups: (1..=f.min(9)).rev().find(|groups| f % groups == 0).unwrap() }),
        ("columns", Rule::ColumnLargest { counts: &counts }),
        ("batch", Rule::BatchLargest { count: n * k / 2, score: None }),
        ("batch by score", Rule::BatchLargest { count: n * k / 3 + 1, score }),
        ("batch, all", Rule::BatchLargest { count: n * f + 5, score: None }),
        ("batch, none", Rule::BatchLargest { count: 0, score: None }),
    ];
    let one = |(name, rule): (&str, Rule<'_, B>)| {
        let mut code = Code::new(backend, n, 1);
        backend.select(&u, f, rule, &mut code);
        let mut latents = vec![0; code.places()];
        backend.read_index(&code.latents, &mut latents);
        let values = read(backend, &code.values, code.places());
        (name.to_owned(), latents.into_iter().map(f64::from).chain(values).collect())
    };
    rules.into_iter().map(one).collect()
}

#[test]
fn selections_agree_with_the_reference() {
    for shape in SHAPES {
        let expected = selections(&Reference, shape);
        for threads in [1, 3] {
            assert_eq!(selections(&Cpu::new(threads).unwrap(), shape), expected, "{shape:?}");
        }
    }
}

#[test]
fn orthogonalized_matrices_agree_with_the_reference_and_have_singular_values_near_1() {
    for (n, d) in [(1, 1), (7, 3), (3, 7), (40, 40), (130, 12)] {
        let values = random(n * d, "matrix");
        let mut expected = Reference.upload(&values);
        Reference.orthogonalize(&mut expected, n, d);
        let of = |threads| {
            let mut found = values.clone();
            Cpu::new(threads).unwrap().orthogonalize(&mut found, n, d);
            found
        };
        let found = of(1);
        assert!(found == of(3), "the threads change the result");
        assert!(found.iter().zip(&expected).all(|(f, e)| (f64::from(*f) - e).abs() < 1e-3), "{n} x {d}");
        // the squares of the singular values add up to that of the norm
        let mean_square = expected.iter().map(|x| x * x).sum::<f64>() / n.min(d) as f64;
        assert!((0.3..1.7).contains(&mean_square), "{n} x {d}: {mean_square}");
    }
}

#[test]
fn pre_activations_agree_with_the_reference() {
    for (n, d, f, _) in SHAPES {
        let (c, w, b) = (random(n * d, "c"), random(f * d, "w"), random(f, "b"));
        let dims = CoderDims::square(d, f);
        let mut expected = vec![0.0; n * f];
        let up = |v: &[f32]| Reference.upload(v);
        Reference.pre_activations(&up(&c), &up(&w), &up(&b), &mut expected, n, dims);
        let of = |threads| {
            let mut found = vec![0.0; n * f];
            Cpu::new(threads).unwrap().pre_activations(&c, &w, &b, &mut found, n, dims);
            found
        };
        let found = of(1);
        assert!(found == of(3), "the threads change the result");
        let largest = expected.iter().fold(1f64, |a, x| a.max(x.abs()));
        assert!(found.iter().zip(&expected).all(|(f, e)| (f64::from(*f) - e).abs() <= 2e-6 * largest));
    }
}

/// Latents of groups, latents that are pairs, and sums of outer products.
fn map_ops<B: CoderOps>(backend: &B, (n, d, f, k): (usize, usize, usize, usize)) -> Vec<(&'static str, Vec<f64>)> {
    let up = |len: usize, purpose: &str| backend.upload(&random(len, purpose));
    let mut results = Vec::new();
    let (groups, f) = (3, f.next_multiple_of(3));
    let mut group = backend.index(n);
    backend.write_index(&mut group, &(0..n as u32).map(|b| b * 7 % 5 % 3).collect::<Vec<_>>());
    let mut code = Code::new(backend, n, k);
    let (c, w, b) = (up(n * d, "c"), up(f * d, "w"), up(f, "b"));
    backend.encode_topk_grouped(&c, &w, &b, CoderDims::square(d, f), (&group, groups), &mut code);
    results.push(("encode_topk_grouped", dense(backend, &code, f)));

    let shape = PairShape { heads: d, first: 2, second: 3, epsilon: 1e-5 };
    let parts = up(n * shape.parts(), "parts");
    let mut z = backend.zeros(n * shape.latents());
    backend.pair_heads(&parts, shape, &mut z, n);
    results.push(("pair_heads", read(backend, &z, n * shape.latents())));
    let mut code = Code::new(backend, n, 0);
    backend.select(&z, shape.latents(), Rule::Positive, &mut code);
    let (g, mut out) = (up(code.places(), "g"), up(n * shape.parts(), "out"));
    backend.pair_gradients(&parts, shape, &code, &g, &mut out);
    // slopes are steep where a part is near 0
    let slopes = read(backend, &out, n * shape.parts());
    results.push(("pair_gradients", slopes.into_iter().map(|g| g / (1.0 + g.abs())).collect()));

    let mut sums = backend.zeros(k * d);
    backend.products(&up(n * k, "left"), &c, &mut sums, n, k, d);
    results.push(("products", read(backend, &sums, k * d)));
    let mut y = up(n * d, "y");
    backend.multiply(&c, &mut y, n * d);
    backend.add_by_column(&c, &up(d, "signs"), &up(d, "factors"), &mut y, n, d);
    results.push(("multiply, add_by_column", read(backend, &y, n * d)));
    results
}

#[test]
fn ops_of_maps_agree_with_the_reference() {
    for shape in SHAPES {
        let found = map_ops(&Cpu::new(1).unwrap(), shape);
        assert_eq!(found, map_ops(&Cpu::new(3).unwrap(), shape), "the threads change the result");
        for ((name, found), (_, expected)) in found.into_iter().zip(map_ops(&Reference, shape)) {
            assert_eq!(found.len(), expected.len(), "{name} at {shape:?}");
            let largest = expected.iter().fold(1f64, |a, x| a.max(x.abs()));
            let far = found.iter().zip(&expected).filter(|(x, e)| (*x - *e).abs() > 2e-5 * largest).count();
            // a near-tie may fall the other way
            assert!(far <= if name == "encode_topk_grouped" { 4 } else { 0 }, "{name} at {shape:?}: {far} differ");
        }
    }
}

/// The reference's code, on any backend.
fn reference_code<B: CoderOps>(backend: &B, (n, d, f, k): (usize, usize, usize, usize)) -> Code<B> {
    let mut found = Code::new(&Reference, n, k);
    let up = |len: usize, purpose: &str| Reference.upload(&random(len, purpose));
    Reference.encode_topk(&up(n * d, "x"), &up(f * d, "w"), &up(f, "b"), CoderDims::square(d, f), None, &mut found);
    let mut code = Code::new(backend, n, k);
    backend.write_index(&mut code.latents, &found.latents);
    let values: Vec<f32> = found.values.iter().map(|&v| v as f32).collect();
    backend.write(&mut code.values, 0, &values);
    code
}

#[test]
fn ops_agree_with_the_reference() {
    let cpu = Cpu::new(2).unwrap();
    for shape in SHAPES {
        for ((name, found), (_, expected)) in everything(&cpu, shape).into_iter().zip(everything(&Reference, shape)) {
            assert_eq!(found.len(), expected.len(), "{name} at {shape:?}");
            let largest = expected.iter().fold(1f64, |a, x| a.max(x.abs()));
            for (i, (x, e)) in found.iter().zip(&expected).enumerate() {
                assert!((x - e).abs() <= 2e-6 * largest, "{name} at {shape:?}, number {i}: {x} instead of {e}");
            }
        }
    }
}

#[test]
fn encoders_agree_with_the_reference() {
    let cpu = Cpu::new(2).unwrap();
    for (n, d, f, k) in SHAPES {
        let (c, w, b) = (random(n * d, "c"), random(f * d, "w"), random(f, "b"));
        let subset: Vec<u32> = (0..f as u32).filter(|i| i % 3 == 1).collect();
        for among in [None, Some(&subset)] {
            let mut expected = Code::new(&Reference, n, k);
            let mut found = Code::new(&cpu, n, k);
            let len = subset.len();
            let (up, dims) = (|v: &[f32]| Reference.upload(v), CoderDims::square(d, f));
            let set = among.map(|latents| Subset::<Reference> { latents, len });
            Reference.encode_topk(&up(&c), &up(&w), &up(&b), dims, set, &mut expected);
            let set = among.map(|latents| Subset::<Cpu> { latents, len });
            cpu.encode_topk(&c, &w, &b, dims, set, &mut found);
            for row in 0..n {
                let of =
                    |code: &[u32]| code[row * k..][..k].iter().copied().filter(|&i| i != NO_LATENT).collect::<Vec<_>>();
                let (found_latents, expected_latents) = (of(&found.latents), of(&expected.latents));
                // a near-tie may fall the other way in f32; more than one in a row is an error
                let strange = found_latents.iter().filter(|i| !expected_latents.contains(i)).count();
                assert!(strange <= 1, "row {row}: {found_latents:?} instead of {expected_latents:?}");
                assert_eq!(found_latents.len(), expected_latents.len());
                assert!(found_latents.iter().all(|i| among.is_none_or(|subset| subset.contains(i))));
            }
            let sum = |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>();
            let (total, exact) =
                (sum(&mut found.values.iter().map(|&v| f64::from(v))), sum(&mut expected.values.iter().copied()));
            assert!((total - exact).abs() <= 1e-6 * exact.max(1.0), "sum of values {total} instead of {exact}");
        }
    }
}

#[test]
fn equal_values_go_to_the_lower_latent() {
    let cpu = Cpu::new(1).unwrap();
    let (f, k) = (3000, 5);
    let mut code = Code::new(&cpu, 2, k);
    // every latent has the same value, but two that are larger and one that is not positive
    let mut b = vec![1.0; f];
    (b[1500], b[2999], b[0]) = (2.0, 1.5, 0.0);
    cpu.encode_topk(&vec![0.0; 4], &vec![0.0; f * 2], &b, CoderDims::square(2, f), None, &mut code);
    assert_eq!(code.latents[..k], [1, 2, 3, 1500, 2999]);
    assert_eq!(code.values[k..], [1.0, 1.0, 1.0, 2.0, 1.5]);
    b.iter_mut().for_each(|b| *b = -1.0);
    b[7] = f32::NAN;
    cpu.encode_topk(&vec![0.0; 4], &vec![0.0; f * 2], &b, CoderDims::square(2, f), None, &mut code);
    assert!(code.latents.iter().all(|&i| i == NO_LATENT) && code.values.iter().all(|&v| v == 0.0));
}

#[test]
fn results_do_not_depend_on_instructions() {
    for shape in [(300, 24, 500, 9), (600, 12, 40, 40), (300, 33, 290, 120)] {
        let sets = Isa::ALL.into_iter().filter(|isa| *isa <= Isa::of_machine());
        let mut found = sets.map(|isa| (isa, everything(&Cpu::with_isa(2, isa).unwrap(), shape)));
        let (_, first) = found.next().unwrap();
        for (isa, results) in found {
            for (result, expected) in results.iter().zip(&first) {
                assert!(result == expected, "{} at {shape:?} with {isa}", result.0);
            }
        }
    }
}

#[test]
fn results_do_not_depend_on_threads() {
    let (one, three) = (Cpu::new(1).unwrap(), Cpu::new(3).unwrap());
    let shape @ (n, d, f, k) = (700, 24, 1100, 9);
    assert_eq!(everything(&one, shape), everything(&three, shape));
    let encode = |cpu: &Cpu| {
        let mut code = Code::new(cpu, n, k);
        let (c, w, b) = (random(n * d, "c"), random(f * d, "w"), random(f, "b"));
        cpu.encode_topk(&c, &w, &b, CoderDims::square(d, f), None, &mut code);
        (code.latents, code.values)
    };
    assert_eq!(encode(&one), encode(&three));
}

/// What one pass does is what the passes that it stands for do, to the bit, whatever lies across the borders of blocks.
#[test]
fn one_pass_is_as_good_as_several() {
    let step = AdamStep {
        learning_rate: 1e-3,
        betas: [0.9, 0.999],
        epsilon: 1e-8,
        weight_decay: 0.01,
        t: 3,
        gradient_scale: 0.7,
    };
    // rows that fill whole blocks of a sum once in 1, 9, 16384 rows, and not at the end
    for (n, d) in [(70, 1024), (83, 576), (40, 33), (1, 5), (20_000, 3)] {
        let w = random(n * d, "w");
        for threads in [1, 3] {
            let cpu = Cpu::new(threads).unwrap();
            let (mut g, mut projected) = (random(n * d, "g"), random(n * d, "g"));
            let sum = cpu.project_and_sum(&mut g, &w, n, d);
            cpu.project_rows(&mut projected, &w, n, d);
            assert_eq!((sum.to_bits(), &g), (cpu.sum_squares(&projected, n * d).to_bits(), &projected), "{n} x {d}");

            let fresh = || (w.clone(), random(n * d, "m"), w.iter().map(|x| x * x).collect::<Vec<_>>());
            let ((mut a, mut m, mut v), (mut b, mut m_b, mut v_b)) = (fresh(), fresh());
            cpu.adam_unit_rows(&mut a, &g, (&mut m, &mut v), (n, d), &step);
            cpu.adam(&mut b, &g, &mut m_b, &mut v_b, n * d, &step);
            cpu.normalize_rows(&mut b, n, d);
            assert_eq!((a, m, v), (b, m_b, v_b), "{n} x {d}");
        }
    }
    let cpu = Cpu::new(2).unwrap();
    for shape @ (n, d, f, k) in SHAPES {
        let (code, w, target) = (reference_code(&cpu, shape), random(f * d, "w2"), random(n * d, "x"));
        for latents in [0..u32::MAX, 2..5, 0..0] {
            let (mut r, mut dots) = (vec![7.0; n * d], vec![9.0; n * k]);
            let (mut r_b, mut dots_b) = (r.clone(), dots.clone());
            cpu.residual_and_dots(&code, latents.clone(), &w, &target, &mut r, (-0.25, &mut dots), d);
            cpu.residual(&code, latents.clone(), &w, &target, &mut r_b, d);
            cpu.entry_dots(&code, latents, &w, &r_b, -0.25, &mut dots_b, d);
            assert_eq!((r, dots), (r_b, dots_b), "{shape:?}");
        }
    }
}
