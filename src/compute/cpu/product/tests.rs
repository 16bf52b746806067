//! Products in panels: against f64, against each other, and bit by bit where that is promised.

use super::*;
use crate::compute::backend::Backend;
use crate::compute::model_ops::{Activation, ModelOps};
use crate::compute::projection::{Factor, Projection, ProjectionDims, Then, one_by_one};
use crate::runtime::rng::Seed;

fn random(name: &'static str, len: usize) -> Vec<f32> {
    let mut rng = Seed(11).stream(name);
    (0..len).map(|_| rng.normal() as f32).collect()
}

/// Shapes with tails in every direction, of more than one chunk and panel.
const SHAPES: [[usize; 3]; 8] =
    [[1, 1, 1], [3, 5, 7], [6, 64, 64], [7, 33, 65], [97, 130, 80], [100, 385, 129], [33, 1537, 49], [300, 576, 192]];

fn every_kind_of_vectors() -> Vec<Vectors> {
    #[cfg(target_arch = "x86_64")]
    match Vectors::here() {
        Vectors::Avx512 => vec![Vectors::Avx512, Vectors::Avx2, Vectors::Baseline],
        Vectors::Avx2 => vec![Vectors::Avx2, Vectors::Baseline],
        Vectors::Baseline => vec![Vectors::Baseline],
    }
    #[cfg(not(target_arch = "x86_64"))]
    vec![Vectors::Baseline]
}

fn product(x: &[f32], w: &Panels, bias: Option<&[f32]>, n: usize, threads: usize) -> Vec<f32> {
    let mut y = vec![7.0; n * w.n_out];
    let part = Part { w, bias, finish: Finish::Keep, y: &mut y };
    run(&Cpu::new(threads).unwrap(), x, n, &mut [part]);
    y
}

/// `|y - exact| / |exact|`, with the exact products of `x` and `w`.
fn error(y: &[f32], x: &[f32], w: &[f32], bias: &[f32], [n, n_in, n_out]: [usize; 3]) -> f64 {
    let (mut error, mut norm) = (0.0, 0.0);
    for i in 0..n {
        for j in 0..n_out {
            let dot = |p: usize| f64::from(x[i * n_in + p]) * f64::from(w[j * n_in + p]);
            let exact: f64 = (0..n_in).map(dot).sum::<f64>() + f64::from(bias[j]);
            error += (f64::from(y[i * n_out + j]) - exact).powi(2);
            norm += exact * exact;
        }
    }
    (error / norm).sqrt()
}

#[test]
fn f32_products_are_the_same_bits_on_every_instruction_set_and_number_of_threads() {
    for shape @ [n, n_in, n_out] in SHAPES {
        let (x, w, bias) = (random("x", n * n_in), random("w", n_in * n_out), random("b", n_out));
        let mut first: Option<Vec<f32>> = None;
        for vectors in every_kind_of_vectors() {
            let panels = Panels::new(&w, [n_out, n_in], MatrixFormat::F32, vectors);
            for threads in [1, 2, 5] {
                let y = product(&x, &panels, Some(&bias), n, threads);
                let first = first.get_or_insert_with(|| y.clone());
                assert!(*first == y, "{shape:?} {vectors:?} {threads}");
            }
        }
        let error = error(&first.unwrap(), &x, &w, &bias, shape);
        assert!(error < 1e-6, "{shape:?}: {error:e}");
    }
}

#[test]
fn bfloat16_products_are_those_of_both_factors_rounded() {
    let rounded = |x: &[f32]| x.iter().map(|&x| bf16::from_f32(x).to_f32()).collect::<Vec<f32>>();
    for shape @ [n, n_in, n_out] in SHAPES {
        let (x, w, bias) = (random("x", n * n_in), random("w", n_in * n_out), random("b", n_out));
        for vectors in every_kind_of_vectors() {
            let panels = Panels::new(&w, [n_out, n_in], MatrixFormat::Bf16, vectors);
            let y = product(&x, &panels, Some(&bias), n, 1);
            let error = error(&y, &rounded(&x), &rounded(&w), &bias, shape);
            assert!(error < 1e-6, "{shape:?} {vectors:?}: {error:e}");
            assert!(product(&x, &panels, Some(&bias), n, 3) == y, "{shape:?} {vectors:?}: threads");
        }
    }
}

#[test]
fn a_row_is_the_same_bits_whatever_lies_beside_it() {
    let (n, n_in, n_out) = (50, 96, 130);
    let (x, w) = (random("x", n * n_in), random("w", n_in * n_out));
    for format in [MatrixFormat::F32, MatrixFormat::Bf16] {
        let w = Panels::new(&w, [n_out, n_in], format, Vectors::here());
        let all = product(&x, &w, None, n, 2);
        for row in [0, 5, 6, 49] {
            let alone = product(&x[row * n_in..][..n_in], &w, None, 1, 1);
            assert!(alone == all[row * n_out..][..n_out], "row {row} of {format:?}");
        }
    }
}

#[test]
fn infinities_and_nans_stay_in_their_rows() {
    let (n, n_in, n_out) = (9, 40, 70);
    let (mut x, w) = (random("x", n * n_in), random("w", n_in * n_out));
    x[3 * n_in + 5] = f32::NAN;
    x[4 * n_in + 7] = f32::INFINITY;
    for format in [MatrixFormat::F32, MatrixFormat::Bf16] {
        let y = product(&x, &Panels::new(&w, [n_out, n_in], format, Vectors::here()), None, n, 1);
        for (row, y) in y.chunks(n_out).enumerate() {
            let numbers = y.iter().filter(|y| y.is_finite()).count();
            assert_eq!(numbers, if row == 3 || row == 4 { 0 } else { n_out }, "row {row} of {format:?}");
        }
    }
}

#[test]
fn panels_hold_the_numbers_they_were_given() {
    let (n_out, n_in) = (70, 33);
    let w = random("w", n_out * n_in);
    for vectors in every_kind_of_vectors() {
        let mut back = vec![0.0; w.len() - 5];
        Panels::new(&w, [n_out, n_in], MatrixFormat::F32, vectors).copy_to(5, &mut back);
        assert!(back == w[5..]);
        Panels::new(&w, [n_out, n_in], MatrixFormat::Bf16, vectors).copy_to(5, &mut back);
        assert!(back.iter().zip(&w[5..]).all(|(back, &w)| *back == bf16::from_f32(w).to_f32()));
    }
    assert_eq!(Panels::new(&[], [4, 5], MatrixFormat::F32, Vectors::here()).len(), 0);
}

#[test]
fn what_follows_a_product_is_the_same_bits_as_single_ops() {
    let cpu = Cpu::new(2).unwrap();
    for [n, n_in, n_out] in SHAPES {
        for format in [MatrixFormat::F32, MatrixFormat::Bf16] {
            let matrix = |name| cpu.weights(random(name, n_in * n_out), [n_out, n_in], format);
            let (x, bias) = (random("x", n * n_in), random("b", n_out));
            let (a, b, up) = (matrix("a"), matrix("b"), matrix("c"));
            let f = Activation::GeluTanh;
            let up = Factor { w: &up, bias: Some(&bias) };
            let thens = [Then::Keep, Then::Add, Then::Activate(Activation::Silu), Then::Gate(f, up)];
            let dims = ProjectionDims { n, n_in };
            for then in thens {
                let results = [true, false].map(|fused| {
                    let mut y = [random("y", n * n_out + 3), random("z", n * n_out + 3), random("v", n * n_out)];
                    let [y0, y1, y2] = &mut y;
                    let part = |w, then, y| Projection { factor: Factor { w, bias: Some(&bias) }, n_out, then, y };
                    let mut parts = [part(&a, then, y0), part(&b, Then::Keep, y1), part(&a, Then::Add, y2)];
                    if fused {
                        cpu.project(&x, dims, &mut parts);
                    } else {
                        one_by_one(&cpu, &x, dims, &mut parts);
                    }
                    y
                });
                assert!(results[0] == results[1], "{n} x {n_in} x {n_out}, {format:?}");
            }
        }
    }
}
