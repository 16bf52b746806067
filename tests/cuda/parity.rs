//! What a device computes beside what it should: measured here, judged by the tests and by the suite that runs on cards
//! (`benches/gpu`).

use std::sync::Arc;

use harvestd::compute::CoderOps;
use harvestd::compute::backend::MatrixFormat;
use harvestd::compute::cpu::Cpu;
use harvestd::compute::cuda::{Cuda, Device};
use harvestd::corpus::cursor::SourceCursor;
use harvestd::hooks::{HookPoint, PointShape, Site};
use harvestd::model::{self, Model};
use harvestd::runtime::rng::Seed;
use harvestd::trainer::{StepReport, Trainer, TrainerSettings};
use serde_json::{Value, json};

use super::fixture::{MODELS, T, Tensors, batch, folder, golden_value, record, shape, source, worst_row_error};

// === models ===

/// Of all tokens together, norm-wise: bfloat16 between all operations, as transformers has it on a GPU. The golden models are made to
/// show differences.
pub const SITES: f64 = 5e-2;
/// How much farther than transformers in bfloat16 from f32 the last block's output may be.
pub const BESIDE_TRANSFORMERS: f64 = 1.1;

/// Families that are not computed on a GPU.
pub const REFUSED: [&str; 2] = ["mixtral", "qwen3_moe"];

pub fn families() -> impl Iterator<Item = &'static str> {
    MODELS.into_iter().filter(|name| !REFUSED.contains(name))
}

pub fn load(backend: &Arc<Cuda>, name: &str) -> Box<dyn Model<Cuda>> {
    model::load(Arc::clone(backend), &source(name), shape(name), MatrixFormat::Bf16).unwrap()
}

/// How far every site and the logits of a golden model are from transformers in f32; and, of the last block's output, as a share of
/// how far transformers in bfloat16 is.
pub fn sites(backend: &Arc<Cuda>, name: &str) -> (Vec<(String, f64)>, f64) {
    let golden = Tensors::golden(name);
    let weights = Tensors::read(&folder(name).join("model.safetensors"));
    let mut model = load(backend, name);
    let ids = golden.ids();
    let seen = record(model.as_mut(), &batch(&[&ids[..T], &ids[T..]]), &|_| true);
    let (spec, points) = (model.spec().clone(), model.points().to_vec());
    assert_eq!(seen.len(), points.len(), "every declared point is visited");
    let mut errors = Vec::new();
    for PointShape { point, .. } in points {
        let expected = golden_value(&golden, &weights, point, &spec, shape(name).context_length).unwrap();
        errors.push((point.to_string(), error(&seen[&point], &expected)));
    }
    let mut logits = Vec::new();
    model.unembed(&seen[&HookPoint::outside(Site::LnFinalOut)], &mut logits).unwrap();
    errors.push(("logits".to_owned(), error(&logits, golden.get("logits"))));
    let exact = golden.get("layers.1.resid_post");
    let theirs = error(golden.get("bf16.layers.1.resid_post"), exact);
    (errors, error(&seen[&HookPoint::block(1, Site::ResidPost)], exact) / theirs)
}

fn error(actual: &[f32], expected: &[f32]) -> f64 {
    worst_row_error(actual, expected, expected.len())
}

// === coders ===

const WIDTH: usize = 16;
pub const LATENTS: usize = 96;
pub const BATCH: usize = 32;
const STEPS: u64 = 50;
/// Rows of a whole training.
pub const ROWS: usize = (STEPS as usize + 8) * BATCH;

/// How far losses and other figures of each of 50 steps may be from the CPU's, relative.
pub const STEP: f64 = 2e-3;
/// The same of parameters and moments after them, norm-wise.
pub const PARAMETERS: f64 = 2e-2;

pub fn coders() -> Vec<Value> {
    let with = |mut coder: Value| {
        coder["width"] = LATENTS.into();
        coder["dead_after_tokens"] = 200.into();
        coder
    };
    vec![with(json!({"type": "topk", "k": 4})), with(json!({"type": "batch_topk", "k": 4}))]
}

pub fn settings(coder: Value) -> TrainerSettings {
    let config = json!({
        "name": "small",
        "input": "blocks.1.hook_resid_post",
        "buffer": {"rows": 128},
        "coder": coder,
        "optimizer": {"type": "adam", "learning_rate": 0.003, "warmup_steps": 5},
        "batch_rows": BATCH,
        "rows": STEPS * BATCH as u64,
        "checkpoint": {"url": "unused"},
    });
    TrainerSettings {
        config: serde_json::from_value(config).unwrap(),
        sites: vec![(HookPoint::block(1, Site::ResidPost), WIDTH)],
        seed: Seed(7),
        stream: Value::Null,
    }
}

/// Rows that a sparse code can learn: few of some directions each, about a mean.
pub fn rows(n: usize) -> Vec<f32> {
    let mut rng = Seed(11).stream("rows");
    let directions: Vec<f64> = (0..40 * WIDTH).map(|_| rng.normal()).collect();
    let mut all = Vec::with_capacity(n * WIDTH);
    for _ in 0..n {
        let mut row: Vec<f64> = (0..WIDTH).map(|p| p as f64 * 0.3 - 2.0).collect();
        for _ in 0..3 {
            let (which, size) = (rng.below(40) as usize, 1.0 + rng.normal().abs());
            row.iter_mut().zip(&directions[which * WIDTH..]).for_each(|(x, v)| *x += size * v);
        }
        all.extend(row.into_iter().map(|x| x as f32));
    }
    all
}

/// Offer the stream's rows `from..until`, a batch at a time: the report after each.
pub fn train<B: CoderOps>(trainer: &mut Trainer<B>, from: usize, until: usize) -> Vec<StepReport> {
    let rows = rows(until);
    let mut reports = Vec::new();
    for first in (from..until).step_by(BATCH) {
        let end = (first + BATCH).min(until);
        let docs: Vec<u64> = (first as u64..end as u64).map(|row| row / 5).collect();
        let cursor = SourceCursor { next_batch: (end / BATCH) as u64, ..SourceCursor::default() };
        trainer.offer(&rows[first * WIDTH..end * WIDTH], &docs, &cursor).unwrap();
        reports.push(trainer.report());
    }
    reports
}

/// Every step's report, and the checkpoint at the end.
pub type Run = (Vec<StepReport>, Vec<(String, Vec<u8>)>);

pub fn whole<B: CoderOps>(backend: Arc<B>, coder: &Value) -> Run {
    let mut trainer = Trainer::new(backend, settings(coder.clone())).unwrap();
    let reports = train(&mut trainer, 0, ROWS);
    assert!(trainer.done(), "{:?}", trainer.report());
    (reports, trainer.save().unwrap())
}

pub fn cpu() -> Arc<Cpu> {
    Arc::new(Cpu::new(2).unwrap())
}

fn tensors(files: &[(String, Vec<u8>)]) -> Vec<(String, Vec<f32>)> {
    let (_, bytes) = files.iter().find(|(name, _)| name == "tensors.safetensors").unwrap();
    let file = safetensors::SafeTensors::deserialize(bytes).unwrap();
    let floats = file.iter().filter(|(_, view)| view.dtype() == safetensors::Dtype::F32);
    let mut all: Vec<(String, Vec<f32>)> = floats
        .map(|(name, view)| {
            let values = view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
            (name.to_owned(), values.collect())
        })
        .collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

/// How far 50 steps on the device are from the CPU's: reports, and parameters with moments. Both learn.
pub fn training(device: &Device, coder: &Value) -> [f64; 2] {
    let (expected, expected_files) = whole(cpu(), coder);
    let (got, files) = whole(Arc::new(Cuda::for_coders(device.clone()).unwrap()), coder);
    let apart = |a: f64, b: f64| (a - b).abs() / a.abs().max(b.abs()).max(1e-6);
    let mut worst = [0f64; 2];
    for (a, b) in expected.iter().zip(&got) {
        assert_eq!((a.step, a.rows, a.skipped_steps), (b.step, b.rows, b.skipped_steps), "{coder}");
        for (x, y) in [(a.loss, b.loss), (a.fvu, b.fvu), (a.l0, b.l0), (a.grad_norm, b.grad_norm)] {
            worst[0] = worst[0].max(apart(x, y));
        }
    }
    let (first, last) = (&expected[expected.len() / 5], &expected[expected.len() - 1]);
    assert!(last.fvu < first.fvu, "{coder}: nothing is learnt");
    for ((name, a), (other, b)) in tensors(&expected_files).iter().zip(&tensors(&files)) {
        assert_eq!((name, a.len()), (other, b.len()));
        let norm: f64 = a.iter().map(|&x| f64::from(x).powi(2)).sum();
        let error: f64 = a.iter().zip(b).map(|(&x, &y)| (f64::from(x) - f64::from(y)).powi(2)).sum();
        worst[1] = worst[1].max((error / norm.max(1e-12)).sqrt());
    }
    worst
}
