use proptest::prelude::*;

use super::*;
use crate::compute::CoderOps;
use crate::compute::coder_ops::{Code, CoderDims, NO_LATENT, Rule, Subset};
use crate::compute::cpu::isa::Isa;
use crate::compute::cpu::screen::list::number;
use crate::runtime::rng::Seed;

/// Rows and latents that are hard to screen.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Plain,
    Huge,
    Overflowing,
    Zero,
    Denormal,
    OneDimension,
    NearTies,
    NotNumbers,
}

const KINDS: [Kind; 8] = [
    Kind::Plain,
    Kind::Huge,
    Kind::Overflowing,
    Kind::Zero,
    Kind::Denormal,
    Kind::OneDimension,
    Kind::NearTies,
    Kind::NotNumbers,
];

/// `[n, d]` numbers of a kind.
fn rows(kind: Kind, n: usize, d: usize, seed: u64) -> Vec<f32> {
    let mut rng = Seed(seed).stream("rows");
    let mut t: Vec<f32> = (0..n * d).map(|_| (rng.uniform() * 2.0 - 1.0) as f32).collect();
    match kind {
        Kind::Plain => {}
        Kind::Huge => t.iter_mut().for_each(|x| *x *= 1e15),
        Kind::Overflowing => t.iter_mut().for_each(|x| *x *= 3e38),
        Kind::Zero => t.fill(0.0),
        Kind::Denormal => t.iter_mut().for_each(|x| *x *= 3e-39),
        Kind::OneDimension => t.iter_mut().step_by(d).for_each(|x| *x *= 1e6),
        Kind::NearTies => {
            let first = t[..d].to_vec();
            for row in t.chunks_exact_mut(d) {
                let at = rng.below(d as u64) as usize;
                row.copy_from_slice(&first);
                row[at] = if rng.below(2) == 0 { row[at].next_up() } else { row[at] };
            }
        }
        Kind::NotNumbers => {
            let len = t.len() as u64;
            for x in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                t[rng.below(len) as usize] = x;
            }
        }
    }
    t
}

/// The backends of this machine: every instruction set, one and three threads.
fn backends() -> Vec<Cpu> {
    let sets = Isa::ALL.into_iter().filter(|isa| *isa <= Isa::of_machine());
    sets.flat_map(|isa| [1, 3].map(|threads| Cpu::with_isa(threads, isa).unwrap())).collect()
}

#[derive(Debug)]
struct Case {
    c: Vec<f32>,
    w: Vec<f32>,
    b: Vec<f32>,
    dims: CoderDims,
    n: usize,
}

impl Case {
    /// All pre-activations by the product that defines them.
    fn all(&self) -> Vec<f32> {
        let d = self.dims.d;
        let each = |row| self.w.chunks_exact(d).zip(&self.b).map(move |(w, b)| dot(row, w) + b);
        self.c.chunks_exact(d).flat_map(each).collect()
    }
}

fn cases() -> impl Strategy<Value = Case> {
    let kinds = || prop::sample::select(&KINDS[..]);
    (kinds(), kinds(), 1usize..120, 1usize..150, 1usize..110, any::<u64>()).prop_map(|(x, w, d, f, n, seed)| Case {
        c: rows(x, n, d, seed),
        w: rows(w, f, d, seed ^ 1),
        b: rows(if seed & 1 == 0 { Kind::Plain } else { Kind::Zero }, f, 1, seed ^ 2),
        dims: CoderDims::square(d, f),
        n,
    })
}

/// (row, latent, bits of the value), of a code.
fn entries(code: &Code<Cpu>) -> Vec<(usize, u32, u32)> {
    let places = (0..code.places()).filter(|&at| code.latents[at] != NO_LATENT);
    places.map(|at| (at / code.k, code.latents[at], code.values[at].to_bits())).collect()
}

/// By a sort of everything: of each row, the `k` largest of `of_row` in the order of the latents.
fn expected(u: &[f32], f: usize, k: usize, key: impl Fn(f32, usize) -> Option<f32>) -> Vec<(usize, u32, u32)> {
    let mut all = Vec::new();
    for (b, row) in u.chunks_exact(f).enumerate() {
        let ranked = row.iter().enumerate().filter_map(|(i, &u)| Some((key(u, i)?, i as u32, u)));
        let mut ranked: Vec<(f32, u32, f32)> = ranked.collect();
        ranked.sort_by(|x, y| y.0.total_cmp(&x.0).then(x.1.cmp(&y.1)));
        ranked.truncate(k);
        ranked.sort_by_key(|entry| entry.1);
        all.extend(ranked.into_iter().map(|(_, i, u)| (b, i, u.to_bits())));
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn choices_are_those_of_all_products(case in cases(), k in 1usize..40, score_seed in any::<u64>()) {
        let Case { ref c, ref w, ref b, dims, n } = case;
        let (u, f) = (case.all(), dims.f);
        let k = k.min(f);
        let positive = |u: f32, _: usize| (u > 0.0).then_some(u);
        let score: Vec<f32> = rows(Kind::Plain, f, 1, score_seed).into_iter().map(|x| x.abs() + 0.01).collect();
        let scored = |u: f32, i: usize| (u > 0.0).then(|| u * score[i]).filter(|key| *key > 0.0);
        let signed = |u: f32, _: usize| (!u.is_nan()).then_some(u + 0.0);
        let half: Vec<u32> = (0..f as u32).step_by(2).collect();
        let of_half = |u: f32, i: usize| (u > 0.0 && i.is_multiple_of(2)).then_some(u);
        for cpu in backends() {
            let name = format!("{} x {}", cpu.isa(), cpu.threads());
            let mut code = Code::new(&cpu, n, k);
            cpu.encode_topk(c, w, b, dims, None, &mut code);
            prop_assert_eq!(entries(&code), expected(&u, f, k, positive), "{}", &name);
            cpu.encode_topk(c, w, b, dims, Some(Subset { latents: &half, len: half.len() }), &mut code);
            prop_assert_eq!(entries(&code), expected(&u, f, k, of_half), "a subset, {}", &name);
            cpu.encode(c, w, b, dims, Rule::RowLargest { k, score: Some(&score), signed: false }, &mut code);
            prop_assert_eq!(entries(&code), expected(&u, f, k, scored), "with a score, {}", &name);
            cpu.encode(c, w, b, dims, Rule::RowLargest { k, score: None, signed: true }, &mut code);
            prop_assert_eq!(entries(&code), expected(&u, f, k, signed), "of any sign, {}", &name);
        }
    }

    #[test]
    fn choices_of_a_batch_and_by_thresholds_are_those_of_all_products(case in cases(), k in 1usize..9, lift in 0f32..2.0) {
        let Case { ref c, ref w, ref b, dims, n } = case;
        let (u, f) = (case.all(), dims.f);
        let floor: Vec<f32> = (0..f).map(|i| lift - (i % 3) as f32 * 0.3).collect();
        let count = (n * k).min(n * f);
        // select works on all of them, as they are
        let whole = Cpu::new(1).unwrap();
        let mut batch = Code::new(&whole, n, k);
        whole.select(&u, f, Rule::BatchLargest { count, score: None }, &mut batch);
        let above = expected(&u, f, f, |u, i| (u > floor[i]).then_some(u));
        for cpu in backends() {
            let name = format!("{} x {}", cpu.isa(), cpu.threads());
            let mut code = Code::new(&cpu, n, k);
            cpu.encode(c, w, b, dims, Rule::BatchLargest { count, score: None }, &mut code);
            prop_assert_eq!(entries(&code), entries(&batch), "{}", &name);
            if cpu.encode_above(c, w, b, dims, &floor, &mut code) {
                prop_assert_eq!(entries(&code), above.clone(), "{}", &name);
            }
        }
    }

    #[test]
    fn bounds_hold_and_candidates_contain_the_largest_in_f64(case in cases(), k in 1usize..40) {
        let Case { ref c, ref w, ref b, dims, n } = case;
        let (d, f) = (dims.d, dims.f);
        let source = Source { w, b, d, among: None, score: None, floor: None };
        let in_f64 = |row: &[f32], i: usize| {
            let products = row.iter().zip(&w[i * d..][..d]).map(|(&x, &w)| f64::from(x) * f64::from(w));
            products.sum::<f64>() + f64::from(b[i])
        };
        for cpu in backends() {
            cpu.screened(&source, |latents| SCRATCH.with_borrow_mut(|scratch| {
                for (block, c) in c.chunks(ROWS * d).enumerate() {
                    screen_block(scratch, c, (&source, latents), f32::NEG_INFINITY, |_, _| {});
                    let Scratch { lists, order, .. } = scratch;
                    for (b, (list, row)) in lists.iter_mut().zip(c.chunks_exact(d)).enumerate() {
                        let name = format!("row {} of {n}, {}", block * ROWS + b, cpu.isa());
                        assert_eq!(list.len, f, "{name}");
                        let mut ranked: Vec<(f64, usize)> = (0..f).map(|i| (in_f64(row, i), i)).collect();
                        for &(z, i) in &ranked {
                            let (lower, upper) = (f64::from(list.lower[i]), f64::from(list.upper[i]));
                            // bounds, or the product in f64, may be no numbers
                            assert!(!(z < lower || z > upper), "{z} is not in {lower} .. {upper}: {name}");
                        }
                        ranked.retain(|(z, _)| *z > 0.0);
                        ranked.sort_by(|x, y| y.0.total_cmp(&x.0).then(x.1.cmp(&y.1)));
                        list.raise(k, order);
                        for (z, i) in ranked.iter().take(k) {
                            // equal ones can stand for each other
                            let there = list.places().contains(&(*i as u32));
                            assert!(there || ranked.iter().filter(|e| e.0 >= *z).count() > k, "{i} is lost: {name}");
                        }
                    }
                }
            }));
        }
    }

    #[test]
    fn integers_are_in_the_order_of_numbers(a in any::<f32>(), b in any::<f32>()) {
        if !a.is_nan() && !b.is_nan() {
            prop_assert_eq!(list::order(a).cmp(&list::order(b)), a.total_cmp(&b));
            prop_assert_eq!(number(list::order(a)).to_bits(), a.to_bits());
        }
    }
}

#[test]
fn screens_are_counted_and_let_most_go() {
    let (d, f, n, k) = (64, 2048, 200, 16);
    let (mut c, w, b) = (rows(Kind::Plain, n, d, 1), rows(Kind::Plain, f, d, 2), vec![0.0; f]);
    c[5 * d] = f32::NAN;
    for cpu in backends() {
        let mut code = Code::new(&cpu, n, k);
        cpu.encode_topk(&c, &w, &b, CoderDims::square(d, f), None, &mut code);
        let seen = cpu.screening();
        assert_eq!((seen.rows, seen.unscreened_rows), (n as u64, 1), "{}", cpu.isa());
        let candidates = seen.candidates - f as u64;
        assert!(candidates >= ((n - 1) * k) as u64 && candidates < (n * 3 * k) as u64, "{candidates}: {}", cpu.isa());
    }
}

#[test]
fn more_instructions_than_the_machine_has_are_refused() {
    for isa in Isa::ALL {
        assert_eq!(isa.name().parse::<Isa>().unwrap(), isa);
        assert_eq!(Cpu::with_isa(1, isa).is_ok(), isa <= Isa::of_machine());
    }
    assert!("mmx".parse::<Isa>().is_err());
}
