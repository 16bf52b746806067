//! The fast CPU backend: f32, one rayon pool, products of our own with what a model keeps ([`product`]), others from the
//! `gemm` crate, both with AVX-512 where the machine has it.
//!
//! Work is split by rows in fixed blocks, so results do not depend on how many threads there are.

mod activation;
mod adam;
mod arithmetic;
mod attention;
mod coder;
mod dense;
mod embedding;
mod entries;
mod experts;
pub mod heap;
pub mod isa;
mod matmul;
mod matrix;
mod model;
mod norm;
mod orthogonalize;
mod pairs;
pub(crate) mod peak;
pub(crate) mod product;
mod reduce;
mod rope;
mod screen;
mod select;
pub(crate) mod simd;
mod sparse;
pub mod stored;
mod topk;

pub use arithmetic::Arithmetic;
pub use attention::BatchIndex;
pub use matrix::Matrix;

use std::ops::Range;

use rayon::prelude::*;

use crate::compute::backend::{Backend, LinearDims, MatrixFormat};
use crate::compute::cpu::isa::Isa;
use crate::compute::cpu::product::Panels;
use crate::compute::cpu::simd::Vectors;
use crate::error::{Error, ErrorKind, Result, ResultExt};

/// The CPU and its pool of compute threads.
pub struct Cpu {
    pool: rayon::ThreadPool,
    isa: Isa,
    screened: screen::Counts,
}

impl Cpu {
    /// A backend with `threads` compute threads; 0 means one for each core that this process may use.
    pub fn new(threads: usize) -> Result<Self> {
        Self::with_isa(threads, Isa::of_machine())
    }

    /// As [`Cpu::new`], with no more instructions than `isa`. Training gives the same bits with any.
    ///
    /// # Errors
    /// `Config` if the machine does not have it; `Unavailable` if threads cannot be started.
    pub fn with_isa(threads: usize, isa: Isa) -> Result<Self> {
        if isa > Isa::of_machine() {
            let has = Isa::of_machine();
            return Err(Error::config(format!("this machine has no `{isa}` instructions, it has `{has}`")));
        }
        let threads = if threads == 0 { std::thread::available_parallelism().map_or(1, usize::from) } else { threads };
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("compute-{i}"))
            .start_handler(move |_| isa.choose())
            .build()
            .or_kind(ErrorKind::Unavailable, || format!("cannot start {threads} compute threads"))?;
        Ok(Self { pool, isa, screened: screen::Counts::default() })
    }

    /// Compute threads.
    pub fn threads(&self) -> usize {
        self.pool.current_num_threads()
    }

    /// The instructions it uses.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Run `work` inside the pool.
    pub(crate) fn run<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.pool.install(work)
    }
}

impl Backend for Cpu {
    type Tensor = Vec<f32>;
    type Matrix = Matrix;

    fn name(&self) -> &'static str {
        "cpu"
    }

    fn zeros(&self, len: usize) -> Vec<f32> {
        vec![0.0; len]
    }

    fn upload(&self, data: &[f32]) -> Vec<f32> {
        data.to_vec()
    }

    fn matrix(&self, data: Vec<f32>, format: MatrixFormat) -> Matrix {
        Matrix::new(data, format)
    }

    fn weights(&self, data: Vec<f32>, shape: [usize; 2], format: MatrixFormat) -> Matrix {
        self.run(|| Matrix::Panels(Panels::new(&data, shape, format, Vectors::here())))
    }

    fn len(&self, t: &Vec<f32>) -> usize {
        t.len()
    }

    fn write(&self, t: &mut Vec<f32>, at: usize, data: &[f32]) {
        t[at..at + data.len()].copy_from_slice(data);
    }

    fn read(&self, t: &Vec<f32>, at: usize, out: &mut [f32]) {
        out.copy_from_slice(&t[at..at + out.len()]);
    }

    fn read_f64(&self, t: &Vec<f32>, at: usize, out: &mut [f64]) {
        let n = out.len();
        for (to, &from) in out.iter_mut().zip(&t[at..at + n]) {
            *to = f64::from(from);
        }
    }

    fn gather_rows(&self, x: &Vec<f32>, width: usize, columns: Range<usize>, rows: &[u32], out: &mut [f32]) {
        let n = columns.len();
        assert!(columns.end <= width && out.len() == rows.len() * n);
        if n == 0 {
            return;
        }
        self.run(|| {
            out.par_chunks_mut(n * 64).zip(rows.par_chunks(64)).for_each(|(block, rows)| {
                for (to, &row) in block.chunks_exact_mut(n).zip(rows) {
                    to.copy_from_slice(&x[row as usize * width + columns.start..][..n]);
                }
            });
        });
    }

    fn linear(&self, x: &Vec<f32>, w: &Matrix, bias: Option<&Vec<f32>>, y: &mut Vec<f32>, dims: LinearDims) {
        matmul::linear(self, x, w, bias.map(Vec::as_slice), y, dims);
    }
}
