//! The definition of correct: every op written naively in f64, one loop per sum sign of its formula.

mod coder;
pub mod model;
mod select;

use std::ops::Range;

use crate::compute::backend::{Backend, LinearDims, MatrixFormat};

/// The f64 reference.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reference;

impl Backend for Reference {
    type Tensor = Vec<f64>;
    type Matrix = Vec<f64>;

    fn name(&self) -> &'static str {
        "reference"
    }

    fn zeros(&self, len: usize) -> Vec<f64> {
        vec![0.0; len]
    }

    fn upload(&self, data: &[f32]) -> Vec<f64> {
        data.iter().map(|&x| f64::from(x)).collect()
    }

    /// Never rounded: the reference says what the published weights compute.
    fn matrix(&self, data: Vec<f32>, _: MatrixFormat) -> Vec<f64> {
        data.into_iter().map(f64::from).collect()
    }

    fn len(&self, t: &Vec<f64>) -> usize {
        t.len()
    }

    fn write(&self, t: &mut Vec<f64>, at: usize, data: &[f32]) {
        for (to, &from) in t[at..at + data.len()].iter_mut().zip(data) {
            *to = f64::from(from);
        }
    }

    fn write_f64(&self, t: &mut Vec<f64>, at: usize, data: &[f64]) {
        t[at..at + data.len()].copy_from_slice(data);
    }

    fn read(&self, t: &Vec<f64>, at: usize, out: &mut [f32]) {
        let n = out.len();
        for (to, &from) in out.iter_mut().zip(&t[at..at + n]) {
            *to = from as f32;
        }
    }

    fn read_f64(&self, t: &Vec<f64>, at: usize, out: &mut [f64]) {
        let n = out.len();
        out.copy_from_slice(&t[at..at + n]);
    }

    fn gather_rows(&self, x: &Vec<f64>, width: usize, columns: Range<usize>, rows: &[u32], out: &mut [f32]) {
        assert!(columns.end <= width && out.len() == rows.len() * columns.len());
        for (to, &row) in out.chunks_exact_mut(columns.len().max(1)).zip(rows) {
            self.read(x, row as usize * width + columns.start, to);
        }
    }

    fn linear(&self, x: &Vec<f64>, w: &Vec<f64>, bias: Option<&Vec<f64>>, y: &mut Vec<f64>, dims: LinearDims) {
        let LinearDims { n, n_in, n_out } = dims;
        assert!(x.len() >= n * n_in && w.len() >= n_out * n_in && y.len() >= n * n_out);
        for i in 0..n {
            for j in 0..n_out {
                let mut sum = bias.map_or(0.0, |b| b[j]);
                for p in 0..n_in {
                    sum += x[i * n_in + p] * w[j * n_in + p];
                }
                y[i * n_out + j] = sum;
            }
        }
    }
}
