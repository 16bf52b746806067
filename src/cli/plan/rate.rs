//! How fast this machine multiplies matrices and goes through memory, measured for a fraction of a second.

use std::time::Duration;

use crate::compute::Backend;
use crate::compute::backend::{LinearDims, MatrixFormat};
use crate::runtime::clock::Stopwatch;

/// Time spent on each measurement: long enough that turning up the clock and starting threads do not count.
const MEASURED: Duration = Duration::from_millis(300);

/// Rows of the measured products, at most: more change nothing.
pub(super) const ROWS_MAX: usize = 4096;

/// What was measured.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub(super) struct Rates {
    /// Floating-point operations a second, in products of the model's shape.
    pub(super) flops_per_second: f64,
    /// Bytes a second, read and written, in one thread.
    pub(super) bytes_per_second: f64,
}

/// Measure products `[n, d] x [d, m]` and a pass over memory.
pub(super) fn measure<B: Backend>(backend: &B, n: usize, d: usize, m: usize) -> Rates {
    Rates { flops_per_second: products(backend, LinearDims { n, n_in: d, n_out: m }), bytes_per_second: memory() }
}

fn products<B: Backend>(backend: &B, dims: LinearDims) -> f64 {
    let values = |len: usize| (0..len).map(|i| (i % 7) as f32 * 0.25 - 0.75).collect::<Vec<_>>();
    let x = backend.upload(&values(dims.n * dims.n_in));
    let w = backend.weights(values(dims.n_out * dims.n_in), [dims.n_out, dims.n_in], MatrixFormat::F32);
    let mut y = backend.zeros(dims.n * dims.n_out);
    backend.linear(&x, &w, None, &mut y, dims);
    let (watch, mut times) = (Stopwatch::start(), 0.0);
    while watch.elapsed() < MEASURED {
        backend.linear(&x, &w, None, &mut y, dims);
        times += 1.0;
    }
    times * 2.0 * (dims.n * dims.n_in * dims.n_out) as f64 / watch.elapsed().as_secs_f64()
}

/// Adam's pattern: read and write several streams that are larger than caches.
fn memory() -> f64 {
    const VALUES: usize = 16 << 20;
    let mut moments = vec![0.5f32; VALUES];
    let gradient = vec![0.25f32; VALUES];
    let (watch, mut bytes) = (Stopwatch::start(), 0.0);
    while watch.elapsed() < MEASURED {
        moments.iter_mut().zip(&gradient).for_each(|(m, g)| *m += 0.1 * (g - *m));
        bytes += (VALUES * 3 * size_of::<f32>()) as f64;
    }
    std::hint::black_box(&moments);
    bytes / watch.elapsed().as_secs_f64()
}
