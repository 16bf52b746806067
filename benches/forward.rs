//! Tokens a second of a forward pass to block 14 of a SmolLM2-135M-shaped model with random weights, in f32 and bfloat16, and
//! of its matrix products alone: the bound that attention, norms and elementwise ops keep it from; and the share of what the
//! machine's measured peaks allow.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use harvestd::compute::backend::{LinearDims, MatrixFormat};
use harvestd::compute::cpu::{Cpu, Matrix};
use harvestd::compute::{Backend, ModelOps};
use harvestd::error::Result;
use harvestd::hooks::{HookPoint, Site, Taps, Want};
use harvestd::model::{self, BatchShape, Model, ModelSource};
use harvestd::roofline::{ForwardWork, Machine, Stage};
use harvestd::runtime::rng::Seed;
use harvestd::tokens::{Segment, TokenBatch};
use safetensors::tensor::{Dtype, TensorView};

/// SmolLM2-135M, up to block 14.
const BLOCKS: usize = 15;
const D: usize = 576;
const KV: usize = 192;
const M: usize = 1536;
const VOCAB: usize = 49152;

/// Sequences, and tokens in each.
const BATCHES: [(usize, usize); 3] = [(32, 128), (8, 512), (2, 2048)];

/// Runs to the last block and copies every row out, as capturing does.
struct LastBlock {
    rows: Vec<u32>,
    out: Vec<f32>,
}

impl<B: Backend> Taps<B> for LastBlock {
    fn wants(&self, point: HookPoint) -> Want {
        if point == HookPoint::block(BLOCKS as u32 - 1, Site::ResidPost) { Want::Read } else { Want::Nothing }
    }

    fn visit(&mut self, backend: &B, _: HookPoint, value: &mut B::Tensor, _: usize, width: usize) -> Result<()> {
        backend.gather_rows(value, width, 0..width, &self.rows, &mut self.out);
        Ok(())
    }
}

/// A folder with a random model.
fn random_model() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = serde_json::json!({
        "model_type": "llama", "hidden_size": D, "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": VOCAB,
        "intermediate_size": M, "num_hidden_layers": BLOCKS, "max_position_embeddings": 8192, "rope_theta": 100000.0,
        "tie_word_embeddings": true, "rms_norm_eps": 1e-5,
    });
    std::fs::write(folder.path().join("config.json"), config.to_string()).expect("written");
    let mut shapes =
        vec![("model.embed_tokens.weight".to_owned(), vec![VOCAB, D]), ("model.norm.weight".to_owned(), vec![D])];
    for layer in 0..BLOCKS {
        for (name, shape) in [
            ("input_layernorm", vec![D]),
            ("post_attention_layernorm", vec![D]),
            ("self_attn.q_proj", vec![D, D]),
            ("self_attn.k_proj", vec![KV, D]),
            ("self_attn.v_proj", vec![KV, D]),
            ("self_attn.o_proj", vec![D, D]),
            ("mlp.gate_proj", vec![M, D]),
            ("mlp.up_proj", vec![M, D]),
            ("mlp.down_proj", vec![D, M]),
        ] {
            shapes.push((format!("model.layers.{layer}.{name}.weight"), shape));
        }
    }
    // a stretch of random numbers serves all tensors: what they are does not change the time
    let mut rng = Seed(7).stream("weights");
    let mut random = |n: usize, mean: f32| -> Vec<u8> {
        (0..n).flat_map(|_| half::bf16::from_f32(mean + 0.04 * rng.normal() as f32).to_le_bytes()).collect()
    };
    let (matrix, norm) = (random(VOCAB * D, 0.0), random(D, 1.0));
    let tensors = shapes.iter().map(|(name, shape)| {
        let values = if shape.len() == 1 { &norm } else { &matrix };
        let bytes = &values[..2 * shape.iter().product::<usize>()];
        (name, TensorView::new(Dtype::BF16, shape.clone(), bytes).expect("bytes fit the shape"))
    });
    safetensors::serialize_to_file(tensors, None, &folder.path().join("model.safetensors")).expect("written");
    folder
}

fn batch(sequences: usize, tokens: usize) -> TokenBatch {
    let n = sequences * tokens;
    let segment = |i: usize| Segment { start: (i * tokens) as u32, len: tokens as u32 };
    TokenBatch {
        ids: (0..n).map(|i| (i * 7919 % VOCAB) as u32).collect(),
        positions: (0..n).map(|i| (i % tokens) as u32).collect(),
        seq_starts: (0..=sequences).map(|i| (i * tokens) as u32).collect(),
        segments: (0..sequences).map(segment).collect(),
        ..TokenBatch::default()
    }
}

/// The matrix products of a pass over `n` tokens, each with its own matrix.
struct Products {
    matrices: Vec<(Matrix, LinearDims)>,
    x: Vec<f32>,
    y: Vec<f32>,
}

impl Products {
    fn new(cpu: &Cpu, n: usize, format: MatrixFormat) -> Self {
        let shapes = [(D, D), (D, KV), (D, KV), (D, D), (D, M), (D, M), (M, D)];
        let matrices = std::iter::repeat_n(shapes, BLOCKS).flatten().map(|(n_in, n_out)| {
            let w = (0..n_in * n_out).map(|i| (i % 17) as f32 * 0.01).collect();
            (cpu.weights(w, [n_out, n_in], format), LinearDims { n, n_in, n_out })
        });
        Self { matrices: matrices.collect(), x: vec![0.1; n * M], y: vec![0.0; n * M] }
    }

    fn run(&mut self, cpu: &Cpu) {
        for (w, dims) in &self.matrices {
            cpu.linear(&self.x, w, None, &mut self.y, *dims);
        }
        black_box(&self.y);
    }

    fn flops(&self) -> f64 {
        self.matrices.iter().map(|(_, d)| 2.0 * (d.n * d.n_in * d.n_out) as f64).sum()
    }
}

fn best_of(runs: usize, mut work: impl FnMut()) -> Duration {
    let time = |_| {
        let start = Instant::now();
        work();
        start.elapsed()
    };
    (0..runs).map(time).min().unwrap_or_default()
}

/// Best of a few interleaved runs of both, on one line.
fn print_fraction(
    model: &mut dyn Model<Cpu>,
    (cpu, machine, format): (&Cpu, &Machine, MatrixFormat),
    tokens: &TokenBatch,
    taps: &mut LastBlock,
) {
    let n = tokens.n_tokens();
    let mut products = Products::new(cpu, n, format);
    let last = [HookPoint::block(BLOCKS as u32 - 1, Site::ResidPost)];
    let work = ForwardWork::of(model.spec(), &last, n / tokens.n_sequences());
    let [whole, ..] = Stage::forward(work, format == MatrixFormat::Bf16, machine);
    let (mut forward, mut gemm) = (Duration::MAX, Duration::MAX);
    for _ in 0..4 {
        forward = forward.min(best_of(1, || model.forward(tokens, taps).expect("runs")));
        gemm = gemm.min(best_of(1, || products.run(cpu)));
    }
    eprintln!(
        "{format:?}, {} x {}: forward {:.0} tokens/s, its products alone {:.0} ({:.0} GF/s): {:.0}% of them, {:.0}% of the roofline",
        tokens.n_sequences(),
        n / tokens.n_sequences(),
        n as f64 / forward.as_secs_f64(),
        n as f64 / gemm.as_secs_f64(),
        products.flops() / gemm.as_secs_f64() / 1e9,
        100.0 * gemm.as_secs_f64() / forward.as_secs_f64(),
        100.0 * n as f64 / forward.as_secs_f64() / whole.ideal.unwrap_or(f64::INFINITY),
    );
}

fn load<B: ModelOps>(
    backend: Arc<B>,
    source: &ModelSource,
    shape: BatchShape,
    format: MatrixFormat,
) -> Box<dyn Model<B>> {
    model::load(backend, source, shape, format).expect("loads")
}

fn forward(c: &mut Criterion) {
    let folder = random_model();
    let source = ModelSource::open(folder.path().to_str().expect("a plain path")).expect("opens");
    let cpu = Arc::new(Cpu::new(0).expect("threads start"));
    let shape = BatchShape { max_tokens: 4096, context_length: 2048 };
    let machine = Machine::measure(&cpu, folder.path()).expect("measured");
    for format in [MatrixFormat::F32, MatrixFormat::Bf16] {
        of_format(c, &source, (&cpu, &machine), (shape, format));
    }
}

fn of_format(
    c: &mut Criterion,
    source: &ModelSource,
    (cpu, machine): (&Arc<Cpu>, &Machine),
    (shape, format): (BatchShape, MatrixFormat),
) {
    let mut model = load(Arc::clone(cpu), source, shape, format);
    let mut group = c.benchmark_group("forward");
    group.sample_size(10).measurement_time(Duration::from_secs(10));
    for (sequences, tokens) in BATCHES {
        let batch = batch(sequences, tokens);
        let n = batch.n_tokens();
        let mut taps = LastBlock { rows: (0..n as u32).collect(), out: vec![0.0; n * D] };
        print_fraction(model.as_mut(), (cpu, machine, format), &batch, &mut taps);
        group.throughput(Throughput::Elements(n as u64));
        group.bench_function(
            BenchmarkId::new(format!("to block 14, {format:?}"), format!("{sequences}x{tokens}")),
            |b| {
                b.iter(|| model.forward(&batch, &mut taps).expect("runs"));
            },
        );
    }
    let mut products = Products::new(cpu, 4096, format);
    group.throughput(Throughput::Elements(4096));
    group.bench_function(format!("matrix products alone, {format:?}"), |b| b.iter(|| products.run(cpu)));
    group.finish();
}

criterion_group!(benches, forward);
criterion_main!(benches);
