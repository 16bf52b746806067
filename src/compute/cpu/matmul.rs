//! Matrix products through the `gemm` crate.

use rayon::prelude::*;

use crate::compute::backend::LinearDims;
use crate::compute::cpu::Cpu;

/// See [`crate::compute::Backend::linear`].
pub(super) fn linear(cpu: &Cpu, x: &[f32], w: &[f32], bias: Option<&[f32]>, y: &mut [f32], dims: LinearDims) {
    let LinearDims { n, n_in, n_out } = dims;
    assert!(
        x.len() >= n * n_in && w.len() >= n_out * n_in && y.len() >= n * n_out,
        "linear: buffers too short for {dims:?}"
    );
    if n == 0 || n_out == 0 {
        return;
    }
    let y = &mut y[..n * n_out];
    cpu.run(|| {
        if let Some(bias) = bias {
            assert!(bias.len() >= n_out, "linear: bias too short for {dims:?}");
            y.par_chunks_mut(n_out).for_each(|row| row.copy_from_slice(&bias[..n_out]));
        }
        // y^T = w x^T, seen column-major: the long side (outputs) is gemm's m, along which it is contiguous.
        // SAFETY: the asserts above give the extents that these strides address; y does not alias x or w (&mut).
        unsafe {
            gemm::gemm(
                n_out,
                n,
                n_in,
                y.as_mut_ptr(),
                n_out as isize,
                1,
                bias.is_some(),
                w.as_ptr(),
                1,
                n_in as isize,
                x.as_ptr(),
                n_in as isize,
                1,
                1.0,
                1.0,
                false,
                false,
                false,
                if cpu.threads() > 1 { gemm::Parallelism::Rayon(cpu.threads()) } else { gemm::Parallelism::None },
            );
        }
    });
}
