//! A matrix in the order in which products read it.
//!
//! Rows of the matrix (outputs) are taken in panels; a panel holds, input after input, one number of each of its rows, so that
//! a step of a product is a few whole vectors. bfloat16 numbers lie in pairs of neighbouring inputs, as `vdpbf16ps` takes
//! them. Panels are as wide as the machine's kernel; the last one is filled up with zeros.

use bytemuck::{Pod, Zeroable};
use half::bf16;
use rayon::prelude::*;

use crate::compute::backend::MatrixFormat;
use crate::compute::cpu::simd::Vectors;

/// Numbers in a [`Line`].
pub(in crate::compute::cpu) const LINE: usize = 16;

/// A line of the cache: no vector that is loaded lies across two.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub(in crate::compute::cpu) struct Line([u32; LINE]);

/// A matrix `[n_out, n_in]` in panels.
#[derive(Clone, Debug, PartialEq)]
pub struct Panels {
    pub(super) n_in: usize,
    pub(super) n_out: usize,
    pub(super) format: MatrixFormat,
    /// What the panels are laid out for.
    pub(super) vectors: Vectors,
    /// `[panels, steps, lanes]` f32, or pairs of bfloat16, the lower input in the lower half.
    lines: Vec<Line>,
}

impl Panels {
    /// The matrix `[n_out, n_in]` with the values of `data`, rounded to `format`, for kernels with `vectors`.
    pub(in crate::compute::cpu) fn new(
        data: &[f32],
        [n_out, n_in]: [usize; 2],
        format: MatrixFormat,
        vectors: Vectors,
    ) -> Self {
        // a matrix that could not be read comes without values: the loader reports it
        let n_out = if data.len() == n_in * n_out { n_out } else { 0 };
        let mut panels = Self { n_in, n_out, format, vectors, lines: Vec::new() };
        if panels.len() == 0 {
            return panels;
        }
        let (steps, lanes) = (panels.steps(), panels.lanes());
        panels.lines = vec![Line::zeroed(); panels.n_out.div_ceil(lanes) * steps * lanes / LINE];
        let rows = data.par_chunks(lanes * n_in);
        panels.lines.par_chunks_mut(steps * lanes / LINE).zip(rows).for_each(|(panel, rows)| {
            let panel: &mut [u32] = bytemuck::cast_slice_mut(panel);
            // a line of each row at a time: what is written stays near
            for first in (0..n_in).step_by(LINE) {
                for (lane, row) in rows.chunks(n_in).enumerate() {
                    let row = &row[first..n_in.min(first + LINE)];
                    match format {
                        MatrixFormat::F32 => {
                            let to = panel[first * lanes + lane..].iter_mut().step_by(lanes);
                            to.zip(row).for_each(|(to, &x)| *to = x.to_bits());
                        }
                        MatrixFormat::Bf16 => {
                            let to = panel[first / 2 * lanes + lane..].iter_mut().step_by(lanes);
                            to.zip(row.chunks(2)).for_each(|(to, x)| *to = pair(x));
                        }
                    }
                }
            }
        });
        panels
    }

    /// Rows of the matrix in a panel.
    pub(super) fn lanes(&self) -> usize {
        panel_lanes(self.vectors)
    }

    /// Inputs, or pairs of them.
    pub(super) fn steps(&self) -> usize {
        match self.format {
            MatrixFormat::F32 => self.n_in,
            MatrixFormat::Bf16 => self.n_in.div_ceil(2),
        }
    }

    /// Numbers of the matrix.
    pub(in crate::compute::cpu) fn len(&self) -> usize {
        self.n_in * self.n_out
    }

    /// Steps from `first` on of panel `panel`: f32 numbers, or pairs.
    pub(super) fn steps_of<T: Pod>(&self, panel: usize, first: usize, len: usize) -> &[T] {
        let at = (panel * self.steps() + first) * self.lanes() / LINE;
        bytemuck::cast_slice(&self.lines[at..at + len * self.lanes() / LINE])
    }

    /// The steps that a kernel takes after those up to `end` of panel `panel`, at most `len`: of the next panel after the last.
    pub(super) fn steps_after<T: Pod>(&self, panel: usize, end: usize, len: usize) -> &[T] {
        let at = ((panel * self.steps() + end) * self.lanes() / LINE).min(self.lines.len());
        bytemuck::cast_slice(&self.lines[at..self.lines.len().min(at + len * self.lanes() / LINE)])
    }

    /// Copy the numbers from `at` on, counted along the rows of the matrix, to `out`.
    pub(in crate::compute::cpu) fn copy_to(&self, at: usize, out: &mut [f32]) {
        let lanes = self.lanes();
        for (i, out) in out.iter_mut().enumerate() {
            let (row, input) = ((at + i) / self.n_in, (at + i) % self.n_in);
            *out = match self.format {
                MatrixFormat::F32 => self.steps_of::<f32>(row / lanes, input, 1)[row % lanes],
                MatrixFormat::Bf16 => {
                    let pair = self.steps_of::<u32>(row / lanes, input / 2, 1)[row % lanes];
                    f32::from_bits(if input % 2 == 0 { pair << 16 } else { pair & 0xffff_0000 })
                }
            };
        }
    }
}

/// Rows of a matrix in a panel: what a kernel of these vectors takes at once.
pub(in crate::compute::cpu) fn panel_lanes(vectors: Vectors) -> usize {
    match vectors {
        #[cfg(target_arch = "x86_64")]
        Vectors::Avx512 => 4 * LINE,
        _ => LINE,
    }
}

/// One or two numbers, rounded to bfloat16, the first in the lower half.
fn pair(x: &[f32]) -> u32 {
    let half = |i: usize| x.get(i).map_or(0, |&x| u32::from(bf16::from_f32(x).to_bits()));
    half(0) | half(1) << 16
}
