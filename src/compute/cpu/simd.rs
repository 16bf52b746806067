//! Vectorised loops: one source, compiled for the widest vectors that the machine has.
//!
//! The build targets plain x86-64, so a loop is autovectorised to four floats unless its function says otherwise.
//! [`vectorized`] runs a closure inside a function that does. Results do not depend on the width: reductions keep
//! [`LANES`] partial sums, whatever the machine, and `mul_add` is fused everywhere (in software, slowly, where the
//! hardware cannot).

use crate::compute::cpu::isa::Isa;

/// Partial sums of a reduction: two AVX-512 registers, four AVX2 registers.
const LANES: usize = 32;

/// The widest vectors that loops on this thread are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Vectors {
    /// 512 bits: `avx512f,avx512vl,avx512bw,avx512dq,avx2,fma`.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// 256 bits: `avx2,fma`.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// What the build targets.
    Baseline,
}

impl Vectors {
    /// Those of [`Isa::here`].
    #[inline(always)]
    pub(crate) fn here() -> Self {
        match Isa::here() {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Avx512Bf16 => Self::Avx512,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => Self::Avx2,
            _ => Self::Baseline,
        }
    }
}

/// Run `work`, compiled for AVX-512 or AVX2 with FMA where the machine has them. Only what is inlined is compiled so:
/// write `#[inline(always)]` on the closure itself and on everything that it calls.
#[inline(always)]
pub(crate) fn vectorized<R>(work: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
    fn avx512<R>(work: impl FnOnce() -> R) -> R {
        work()
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn avx2<R>(work: impl FnOnce() -> R) -> R {
        work()
    }
    match Vectors::here() {
        // SAFETY: the machine has every feature that `avx512` enables.
        #[cfg(target_arch = "x86_64")]
        Vectors::Avx512 => unsafe { avx512(work) },
        // SAFETY: the machine has every feature that `avx2` enables.
        #[cfg(target_arch = "x86_64")]
        Vectors::Avx2 => unsafe { avx2(work) },
        Vectors::Baseline => work(),
    }
}

/// The sum of `f(x)`.
#[inline(always)]
pub(crate) fn sum(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let (whole, tail) = x.as_chunks::<LANES>();
    for chunk in whole {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane += f(x);
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(tail) {
        *lane += f(x);
    }
    fold(lanes, |a, b| a + b)
}

/// The largest of `x`; negative infinity if there is none. NaNs are passed over.
#[inline(always)]
pub(crate) fn max(x: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (whole, tail) = x.as_chunks::<LANES>();
    for chunk in whole {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, x);
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(tail) {
        *lane = larger(*lane, x);
    }
    fold(lanes, larger)
}

/// `y += a * x`.
#[inline(always)]
pub(crate) fn axpy(a: f32, x: &[f32], y: &mut [f32]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y = a.mul_add(x, *y);
    }
}

/// `y += a_1 * x_1`, then `+= a_2 * x_2` and so on, as [`axpy`] would one after the other: `y` stays in registers meanwhile.
#[inline(always)]
pub(crate) fn axpy_all<'a>(terms: impl Iterator<Item = (f32, &'a [f32])> + Clone, y: &mut [f32]) {
    /// Numbers kept at a time: eight AVX2 registers, as many additions as are under way at once.
    const WIDE: usize = 64;
    let (whole, tail) = y.as_chunks_mut::<WIDE>();
    let mut at = 0;
    for y in whole {
        let mut sums = *y;
        for (a, x) in terms.clone() {
            let x: &[f32; WIDE] = x[at..].first_chunk().expect("as long as y");
            for (sum, &x) in sums.iter_mut().zip(x) {
                *sum = a.mul_add(x, *sum);
            }
        }
        *y = sums;
        at += WIDE;
    }
    if !tail.is_empty() {
        let end = at + tail.len();
        terms.for_each(|(a, x)| axpy(a, &x[at..end], tail));
    }
}

/// `sum_i x[i] * y[i]`, in twice as many partial sums as [`sum`]: it waits for values, not for the last addition.
#[inline(always)]
pub(crate) fn dot(x: &[f32], y: &[f32]) -> f32 {
    let mut lanes = [0.0; 2 * LANES];
    let ((xs, x_tail), (ys, y_tail)) = (x.as_chunks::<{ 2 * LANES }>(), y.as_chunks::<{ 2 * LANES }>());
    for (x, y) in xs.iter().zip(ys) {
        for ((lane, &x), &y) in lanes.iter_mut().zip(x).zip(y) {
            *lane = x.mul_add(y, *lane);
        }
    }
    for ((lane, &x), &y) in lanes.iter_mut().zip(x_tail).zip(y_tail) {
        *lane = x.mul_add(y, *lane);
    }
    fold(lanes, |a, b| a + b)
}

/// Halve until one is left: a tree, so the error of a sum grows with the logarithm.
#[inline(always)]
fn fold<const N: usize>(mut lanes: [f32; N], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut width = N;
    while width > 1 {
        width /= 2;
        for i in 0..width {
            lanes[i] = f(lanes[i], lanes[i + width]);
        }
    }
    lanes[0]
}

/// `e^x` within 2 ulp for `x` in `[-87.3, 88]`; outside, the value at the nearer end. NaN stays NaN.
///
/// `x = n ln 2 + r` with `|r| <= ln 2 / 2`, `e^r` by a polynomial (coefficients from Cephes' `expf`), `2^n` by setting the
/// exponent's bits.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    /// Adding it rounds to an integer, which then stands in the lowest bits.
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23
    const LN_2_HIGH: f32 = 355.0 / 512.0; // few bits, so that n times it is exact
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let x = if x > 88.0 { 88.0 } else { x };
    let x = if x < -87.3 { -87.3 } else { x };
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN_2_LOW, n.mul_add(-LN_2_HIGH, x));
    let p = 1.987_569_1e-4f32;
    let p = p.mul_add(r, 1.398_199_9e-3);
    let p = p.mul_add(r, 8.333_452e-3);
    let p = p.mul_add(r, 4.166_579_6e-2);
    let p = p.mul_add(r, 1.666_666_5e-1);
    let p = p.mul_add(r, 0.5);
    let e_r = p.mul_add(r * r, r) + 1.0;
    e_r * f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0f32.to_bits()))
}

/// `tanh x` within 3 ulp: near 0 an odd polynomial (coefficients from Cephes' `tanhf`), elsewhere by [`exp`].
#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    let z = x * x;
    let p = (-5.704_99e-3f32).mul_add(z, 2.063_908_8e-2);
    let p = p.mul_add(z, -5.373_971_5e-2);
    let p = p.mul_add(z, 1.333_144_2e-1);
    let p = p.mul_add(z, -3.333_328e-1);
    let small = (p * z).mul_add(x, x);
    let a = x.abs();
    let large = 1.0 - 2.0 / (exp(2.0 * a) + 1.0);
    let large = if a > 9.0 { 1.0 } else { large };
    let large = if x < 0.0 { -large } else { large };
    if a < 0.625 {
        small
    } else if x.is_nan() {
        x
    } else {
        large
    }
}

/// The error function within `4e-7`: `x P(x^2) / Q(x^2)` on the interval beyond which it is 1 in f32 (the rational minimax
/// approximation that XLA uses).
#[inline(always)]
pub(crate) fn erf(x: f32) -> f32 {
    const LIMIT: f32 = 3.832_507;
    let x = if x > LIMIT { LIMIT } else { x };
    let x = if x < -LIMIT { -LIMIT } else { x };
    let z = x * x;
    let p = 2.290_506_5e-4f32.mul_add(z, 3.408_291e-3);
    let p = p.mul_add(z, 5.095_569_5e-2);
    let p = p.mul_add(z, 1.852_083_2e-1);
    let p = p.mul_add(z, std::f32::consts::FRAC_2_SQRT_PI);
    let q = (-1.179_160_3e-7f32).mul_add(z, 2.354_796_6e-5);
    let q = q.mul_add(z, 1.017_962_5e-3);
    let q = q.mul_add(z, 1.407_047e-2);
    let q = q.mul_add(z, 1.109_850_5e-1);
    let q = q.mul_add(z, 4.974_692_5e-1);
    let q = q.mul_add(z, 1.0);
    x * p / q
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_ulp() {
        let mut worst = 0.0f64;
        for i in 0..2_000_000 {
            let x = -87.3 + 175.3 * (i as f32 / 2e6);
            let exact = f64::from(x).exp();
            let ulp = f64::from((exact as f32).next_up()) - f64::from(exact as f32);
            worst = worst.max((f64::from(exp(x)) - exact).abs() / ulp);
        }
        assert!(worst <= 2.0, "{worst} ulp");
    }

    #[test]
    fn tanh_and_erf_are_what_they_say() {
        let (mut tanh_ulps, mut erf_error) = (0.0f64, 0.0f64);
        for i in 0..2_000_000 {
            let x = -12.0 + 24.0 * (i as f32 / 2e6);
            let exact = f64::from(x).tanh();
            let ulp = f64::from((exact.abs() as f32).next_up()) - f64::from(exact.abs() as f32);
            tanh_ulps = tanh_ulps.max((f64::from(tanh(x)) - exact).abs() / ulp);
            erf_error = erf_error.max((f64::from(erf(x)) - libm::erf(f64::from(x))).abs());
        }
        assert!(tanh_ulps <= 3.0, "{tanh_ulps} ulp");
        assert!(erf_error <= 4e-7, "{erf_error:e}");
        assert!(tanh(f32::NAN).is_nan() && erf(f32::NAN).is_nan());
        assert_eq!((tanh(f32::INFINITY), erf(f32::NEG_INFINITY)), (1.0, erf(-4.0)));
    }

    #[test]
    fn exp_saturates_and_keeps_nan() {
        assert!(exp(f32::NAN).is_nan());
        assert_eq!(exp(f32::INFINITY), exp(88.0));
        assert_eq!(exp(f32::NEG_INFINITY), exp(-87.3));
        assert_eq!(exp(0.0), 1.0);
    }

    #[test]
    fn many_rows_are_added_as_one_after_the_other() {
        for n in [0, 1, 63, 64, 65, 200] {
            let rows: Vec<Vec<f32>> = (1..5).map(|r| (0..n).map(|i| (i as f32 + 0.1) / r as f32).collect()).collect();
            let factors = [1.5f32, -0.7, 1e-3, 40.0];
            let mut one_by_one: Vec<f32> = (0..n).map(|i| i as f32).collect();
            let mut at_once = one_by_one.clone();
            rows.iter().zip(factors).for_each(|(x, a)| axpy(a, x, &mut one_by_one));
            axpy_all(factors.into_iter().zip(rows.iter().map(Vec::as_slice)), &mut at_once);
            assert_eq!(at_once, one_by_one);
        }
    }

    #[test]
    fn reductions_take_every_element_at_every_length() {
        for n in 0..200 {
            let x: Vec<f32> = (1..=n).map(|i| i as f32).collect();
            assert_eq!(vectorized(|| sum(&x, |x| x)), (n * (n + 1) / 2) as f32);
            let signs: Vec<f32> = (0..n).map(|i| [1.0, -1.0, 2.0][i as usize % 3]).collect();
            let exact: f32 = x.iter().zip(&signs).map(|(x, y)| x * y).sum();
            assert_eq!(vectorized(|| dot(&x, &signs)), exact);
            for at in 0..n as usize {
                let mut x = vec![-1.0; n as usize];
                x[at] = 3.0;
                assert_eq!(vectorized(|| max(&x)), 3.0);
            }
        }
        assert_eq!(max(&[]), f32::NEG_INFINITY);
    }
}
