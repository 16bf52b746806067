//! Rows of a table.

use rayon::prelude::*;

use crate::compute::cpu::{Cpu, Matrix};

/// Rows in one task.
const ROWS: usize = 32;

/// `y[i, :] = table[rows[i], :]`, rows of `d` values.
pub(super) fn copy_rows(cpu: &Cpu, table: &Matrix, rows: &[u32], y: &mut [f32], d: usize) {
    if d == 0 {
        return;
    }
    let y = &mut y[..rows.len() * d];
    cpu.run(|| {
        y.par_chunks_mut(ROWS * d).zip(rows.par_chunks(ROWS)).for_each(|(y, rows)| {
            for (y, &row) in y.chunks_exact_mut(d).zip(rows) {
                table.copy_to(row as usize * d, y);
            }
        });
    });
}
