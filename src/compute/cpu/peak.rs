//! What this machine's arithmetic and memory can do at most, by loops that do nothing else.

use std::hint::black_box;
use std::time::Duration;

use rayon::prelude::*;

use crate::compute::cpu::Cpu;
#[cfg(target_arch = "x86_64")]
use crate::compute::cpu::isa::Isa;
use crate::compute::cpu::simd::{sum, vectorized};
use crate::runtime::clock::Stopwatch;

/// Steps of a loop in registers between two looks at the clock: some tens of microseconds.
const STEPS: usize = 10_000;

/// A unit of arithmetic: the instructions that multiply and add.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// What every machine of the build's target has: on x86-64 four f32, a multiplication and an addition apart.
    Baseline,
    /// Eight f32, fused.
    Avx2,
    /// Sixteen f32, fused.
    Avx512,
    /// Thirty-two products of bfloat16, summed in f32 (`vdpbf16ps`).
    Avx512Bf16,
}

impl Unit {
    /// Those that this thread may use.
    pub(crate) fn here() -> Vec<Self> {
        #[cfg(target_arch = "x86_64")]
        {
            let wide = match Isa::here() {
                Isa::Avx512Bf16 => &[Self::Avx2, Self::Avx512, Self::Avx512Bf16][..],
                Isa::Avx512 => &[Self::Avx2, Self::Avx512],
                Isa::Avx2 => &[Self::Avx2],
                Isa::Baseline => &[],
            };
            [&[Self::Baseline], wide].concat()
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            vec![Self::Baseline]
        }
    }

    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Baseline if cfg!(target_arch = "x86_64") => "sse2 f32",
            Self::Baseline => "baseline f32",
            Self::Avx2 => "avx2+fma f32",
            Self::Avx512 => "avx512 f32",
            Self::Avx512Bf16 => "avx512 bf16",
        }
    }

    /// Whether its factors are bfloat16.
    pub(crate) fn is_bf16(self) -> bool {
        self == Self::Avx512Bf16
    }

    /// Run `steps` of a loop in registers. What it returns are the floating-point operations it did.
    fn work(self, steps: usize) -> usize {
        assert!(Self::here().contains(&self), "{} on a machine without", self.name());
        match self {
            Self::Baseline => baseline(steps),
            // SAFETY: the assert saw the features.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { x86::avx2(steps) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => unsafe { x86::avx512(steps) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => unsafe { x86::avx512_bf16(steps) },
            #[cfg(not(target_arch = "x86_64"))]
            _ => 0,
        }
    }
}

/// Work of every thread of a pool at once.
pub(crate) struct Peaks<'a> {
    cpu: &'a Cpu,
    /// Larger than caches: `[VALUES]`.
    from: Vec<f32>,
    to: Vec<f32>,
}

impl<'a> Peaks<'a> {
    /// With room for `bytes` to read and as many to write.
    pub(crate) fn new(cpu: &'a Cpu, bytes: usize) -> Self {
        let values = bytes / size_of::<f32>();
        Self { cpu, from: vec![1.0; values], to: vec![0.0; values] }
    }

    /// Multiply and add on all threads at once: floating-point operations a second. Each thread's best stretch of
    /// [`STEPS`] within `time` counts, so that neither waking it nor what else runs on its core does.
    pub(crate) fn multiply(&self, unit: Unit, time: Duration) -> f64 {
        let best = |_: rayon::BroadcastContext<'_>| {
            let (whole, mut best) = (Stopwatch::start(), 0.0f64);
            while best == 0.0 || whole.elapsed() < time {
                let watch = Stopwatch::start();
                let done = unit.work(STEPS);
                best = best.max(done as f64 / watch.elapsed().as_secs_f64().max(1e-9));
            }
            best
        };
        self.cpu.run(|| rayon::broadcast(best)).into_iter().sum()
    }

    /// Read: bytes read.
    pub(crate) fn read(&self) -> usize {
        let total: f32 = self.cpu.run(|| {
            let part = |part: &[f32]| {
                vectorized(
                    #[inline(always)]
                    || sum(part, |x| x),
                )
            };
            self.from.par_chunks(self.chunk()).map(part).sum()
        });
        black_box(total);
        size_of_val(&self.from[..])
    }

    /// Copy: bytes read and written.
    pub(crate) fn copy(&mut self) -> usize {
        let chunk = self.chunk();
        let Self { cpu, from, to } = self;
        cpu.run(|| {
            to.par_chunks_mut(chunk).zip(from.par_chunks(chunk)).for_each(|(to, from)| to.copy_from_slice(from))
        });
        black_box(&self.to);
        2 * size_of_val(&self.from[..])
    }

    /// Values of a thread's task.
    fn chunk(&self) -> usize {
        self.from.len().div_ceil(self.cpu.threads()).max(1)
    }
}

/// Independent sums: enough that none waits for its last addition.
const SUMS: usize = 12;

fn baseline(steps: usize) -> usize {
    let (a, b) = (black_box([0.5f32; 4]), black_box([1.0f32; 4]));
    let mut sums = [[0.0f32; 4]; SUMS];
    for _ in 0..steps {
        for sum in &mut sums {
            for l in 0..4 {
                sum[l] = sum[l] * a[l] + b[l];
            }
        }
    }
    black_box(sums);
    2 * 4 * SUMS * steps
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    //! Each loop in the function that has its features.

    use std::arch::x86_64::*;
    use std::hint::black_box;

    use super::SUMS;

    /// # Safety
    /// The machine has the features.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn avx2(steps: usize) -> usize {
        let (a, b) = (_mm256_set1_ps(black_box(0.5)), _mm256_set1_ps(black_box(1.0)));
        let mut sums = [_mm256_setzero_ps(); SUMS];
        for _ in 0..steps {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(*sum, a, b);
            }
        }
        black_box(sums);
        2 * 8 * SUMS * steps
    }

    /// # Safety
    /// The machine has the features.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn avx512(steps: usize) -> usize {
        let (a, b) = (_mm512_set1_ps(black_box(0.5)), _mm512_set1_ps(black_box(1.0)));
        let mut sums = [_mm512_setzero_ps(); 2 * SUMS];
        for _ in 0..steps {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(*sum, a, b);
            }
        }
        black_box(sums);
        2 * 16 * 2 * SUMS * steps
    }

    /// # Safety
    /// The machine has the features.
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(super) unsafe fn avx512_bf16(steps: usize) -> usize {
        let [a, b] = [0x3f00_3f00, 0x3f80_3f80].map(|pair| _mm512_set1_epi32(black_box(pair)));
        // SAFETY: the same 512 bits under another name
        let (a, b) =
            unsafe { (std::mem::transmute::<__m512i, __m512bh>(a), std::mem::transmute::<__m512i, __m512bh>(b)) };
        let mut sums = [_mm512_setzero_ps(); 2 * SUMS];
        for _ in 0..steps {
            for sum in &mut sums {
                *sum = _mm512_dpbf16_ps(*sum, a, b);
            }
        }
        black_box(sums);
        4 * 16 * 2 * SUMS * steps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loops_count_what_they_did() {
        for unit in Unit::here() {
            let one = unit.work(1);
            assert!(one > 0 && unit.work(10) == 10 * one, "{unit:?}");
            let cpu = Cpu::new(3).unwrap();
            assert!(Peaks::new(&cpu, 64).multiply(unit, Duration::from_millis(1)) > 1e6, "{unit:?}");
        }
        let cpu = Cpu::new(2).unwrap();
        let mut peaks = Peaks::new(&cpu, 4000);
        assert_eq!((peaks.read(), peaks.copy()), (4000, 8000));
        assert_eq!(peaks.to, peaks.from);
    }
}
