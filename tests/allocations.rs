//! A forward pass allocates nothing of its own: buffers are planned when the model is loaded.
//!
//! Two dependencies do allocate: `gemm` takes packing buffers in every product, and rayon's queue takes a block of memory
//! for every few dozen jobs that enter the pool from outside. Both are measured here by themselves, and the pass must not
//! exceed them.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use harvestd::compute::Backend;
use harvestd::compute::backend::{LinearDims, MatrixFormat};
use harvestd::compute::cpu::Cpu;
use harvestd::error::Result;
use harvestd::hooks::{HookPoint, Site, Taps, Want};
use harvestd::model::{self, BatchShape, ModelSource};
use harvestd::tokens::{Segment, TokenBatch};

/// Counts allocations, by all threads.
struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is handed to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises are those that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are those that `System` asks for.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations during `work`, after two rounds to warm up: the fewest of five, since other threads may allocate too.
fn allocations(mut work: impl FnMut()) -> usize {
    work();
    work();
    let count = |_| {
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        work();
        ALLOCATIONS.load(Ordering::Relaxed) - before
    };
    (0..5).map(count).min().unwrap()
}

/// Wants the normalized copies, one pattern, and everything at the end.
struct SomeSites {
    sum: f32,
    rows: Vec<f32>,
}

impl<B: Backend> Taps<B> for SomeSites {
    fn wants(&self, point: HookPoint) -> Want {
        match point.site {
            Site::Pattern | Site::Ln1Normalized | Site::LnFinalOut => Want::Read,
            Site::ResidMid => Want::Edit,
            _ => Want::Nothing,
        }
    }

    fn visit(&mut self, backend: &B, _: HookPoint, value: &mut B::Tensor, n: usize, width: usize) -> Result<()> {
        backend.read(value, 0, &mut self.rows[..n * width]);
        self.sum += self.rows[0];
        Ok(())
    }
}

fn batch(sequences: usize, tokens: usize) -> TokenBatch {
    let n = sequences * tokens;
    TokenBatch {
        ids: (0..n).map(|i| (i * 37 % 150) as u32).collect(),
        positions: (0..n).map(|i| (i % tokens) as u32).collect(),
        seq_starts: (0..=sequences).map(|i| (i * tokens) as u32).collect(),
        segments: (0..sequences).map(|i| Segment { start: (i * tokens) as u32, len: tokens as u32 }).collect(),
        ..TokenBatch::default()
    }
}

#[test]
fn a_forward_pass_allocates_only_what_its_products_do() {
    let cpu = Arc::new(Cpu::new(2).unwrap());
    let (sequences, tokens) = (8, 64);
    let batch = batch(sequences, tokens);
    let n = batch.n_tokens();
    for (name, linears) in [("llama", 14), ("gpt2", 12)] {
        let folder = format!("{}/tests/fixtures/golden/{name}", env!("CARGO_MANIFEST_DIR"));
        let source = ModelSource::open(&folder).unwrap();
        let shape = BatchShape { max_tokens: n, context_length: tokens };
        let mut model = model::load(cpu.clone(), &source, shape, MatrixFormat::F32).unwrap();
        let mut taps = SomeSites { sum: 0.0, rows: vec![0.0; n * 1024] };
        let forward = allocations(|| model.forward(&batch, &mut taps).unwrap());
        assert!(taps.sum.is_finite());

        let dims = LinearDims { n, n_in: 32, n_out: 80 };
        let (x, mut y) = (cpu.zeros(n * 32), cpu.zeros(n * 80));
        let w = cpu.weights(vec![0.0; 80 * 32], [80, 32], MatrixFormat::F32);
        let product = allocations(|| (0..linears).for_each(|_| cpu.linear(&x, &w, None, &mut y, dims)));

        // the pass enters the pool about three times for each product
        let jobs = 3 * linears;
        eprintln!("{name}: {forward} allocations in a pass, {product} in its {linears} products");
        assert!(forward <= product + jobs / 16, "{name}: {forward} allocations, its products alone {product}");
    }
}
