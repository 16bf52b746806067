use serde_json::{Value, json};

use super::*;
use crate::compute::cpu::Cpu;
use crate::corpus::cursor::SourceCursor;
use crate::hooks::{HookPoint, Site};
use crate::runtime::rng::Seed;
use crate::sae::export::{ExportMetadata, ExportedCoder};
use crate::sae::scales::Scales;
use crate::trainer::TrainerSettings;

const WIDTH: usize = 8;
const PIECES: u64 = 40;

fn settings(every: Option<u64>, optimizer: &Value) -> TrainerSettings {
    let mut config = json!({
        "name": "t", "input": "blocks.1.hook_resid_post", "buffer": {"rows": 64}, "optimizer": optimizer,
        "coder": {"type": "batch_topk", "width": 64, "k": 3, "dead_after_tokens": 40},
        "batch_rows": 16, "rows": 100_000, "checkpoint": {"url": "unused"},
    });
    if let Some(every) = every {
        config["evaluate_every_rows"] = every.into();
    }
    TrainerSettings {
        config: serde_json::from_value(config).unwrap(),
        sites: vec![(HookPoint::block(1, Site::ResidPost), WIDTH)],
        seed: Seed(7),
        stream: Value::Null,
    }
}

fn rows(name: &str, n: usize) -> Vec<f32> {
    let mut rng = Seed(2).stream(name);
    (0..n * WIDTH).map(|i| (rng.normal() + (i % WIDTH) as f64 * 0.5) as f32 * 20.0).collect()
}

fn offer(trainer: &mut Trainer<Cpu>, pieces: std::ops::Range<u64>) {
    for i in pieces {
        let n = 5 + (i * 7 % 50) as usize;
        let cursor = SourceCursor { next_batch: i + 1, ..SourceCursor::default() };
        trainer.offer(&rows(&format!("piece/{i}"), n), &vec![i; n], &cursor).unwrap();
    }
}

fn held_out() -> Arc<HeldOut> {
    let mut held_out = HeldOut::default();
    held_out.add(rows("held out/0", 30), None);
    held_out.add(rows("held out/1", 0), None);
    held_out.add(rows("held out/2", 11), None);
    Arc::new(held_out)
}

fn cpu() -> Arc<Cpu> {
    Arc::new(Cpu::new(1).unwrap())
}

/// The checkpoint's tensors.
fn weights(trainer: &Trainer<Cpu>) -> Vec<u8> {
    trainer.save().unwrap().into_iter().find(|(name, _)| name == "tensors.safetensors").unwrap().1
}

/// FVU and L0 by the coder that is exported, from the definitions.
fn as_exported(trainer: &Trainer<Cpu>) -> (f64, f64) {
    let exported = ExportedCoder::read(&trainer.export(ExportMetadata::default()).unwrap()).unwrap();
    let rows: Vec<f32> = [rows("held out/0", 30), rows("held out/2", 11)].concat();
    let (backend, mut out, mut l0) = (Cpu::new(1).unwrap(), Vec::new(), Vec::new());
    let params = exported.upload(&backend);
    let scales = Scales::one(WIDTH, 1.0);
    exported.inference(&backend, &params).reconstruct(&backend, &scales, &rows, &mut out, &mut l0, &mut [0; 64]);
    let n = l0.len() as f64;
    let mean = |j: usize| rows.iter().skip(j).step_by(WIDTH).map(|&x| f64::from(x)).sum::<f64>() / n;
    let means: Vec<f64> = (0..WIDTH).map(mean).collect();
    let error: f64 = rows.iter().zip(&out).map(|(&x, &y)| f64::from(x - y).powi(2)).sum();
    let variance: f64 = rows.iter().enumerate().map(|(i, &x)| (f64::from(x) - means[i % WIDTH]).powi(2)).sum();
    (error / variance, f64::from(l0.iter().sum::<u32>()) / n)
}

#[test]
fn judging_changes_no_weight_and_judges_what_would_be_exported() {
    for optimizer in [
        json!({"type": "adam", "learning_rate": 0.01, "warmup_steps": 5}),
        json!({"type": "adam", "learning_rate": 0.01, "average": 0.9}),
        json!({"type": "signum", "learning_rate": 0.003}),
    ] {
        let mut plain = Trainer::new(cpu(), settings(None, &optimizer)).unwrap();
        plain.judge_on(held_out());
        offer(&mut plain, 0..PIECES);
        assert!(plain.history().held_out().is_empty() && !plain.is_judged_online());
        let mut judged = Trainer::new(cpu(), settings(Some(100), &optimizer)).unwrap();
        judged.judge_on(held_out());
        let mut seen = 0;
        for i in 0..PIECES {
            offer(&mut judged, i..i + 1);
            let points = judged.history().held_out();
            if let Some(last) = points.last().filter(|last| last.step == judged.report().step) {
                let (fvu, l0) = as_exported(&judged);
                assert!(
                    (last.fvu - fvu).abs() < 1e-4 * fvu && (last.l0 - l0).abs() < 1e-9,
                    "{optimizer}: {last:?} {fvu} {l0}"
                );
                seen += 1;
            }
        }
        assert!(weights(&plain) == weights(&judged), "{optimizer}");
        let points = judged.history().held_out();
        // the first step at or after each multiple
        let expected: Vec<u64> = (1..=judged.report().rows / 100).map(|i| (i * 100).next_multiple_of(16)).collect();
        assert_eq!(points.iter().map(|point| point.rows).collect::<Vec<_>>(), expected);
        assert!(seen >= 2 && points.len() >= 5, "{optimizer}: {seen} of {}", points.len());
        assert!(points.iter().all(|point| (0.0..=1.0).contains(&point.dead_fraction) && point.cosine <= 1.0));
    }
}

#[test]
fn an_interrupted_trainer_is_judged_at_the_same_steps() {
    let optimizer = json!({"type": "adam", "learning_rate": 0.01, "average": 0.9});
    let mut whole = Trainer::new(cpu(), settings(Some(100), &optimizer)).unwrap();
    whole.judge_on(held_out());
    offer(&mut whole, 0..PIECES);
    for cut in [3, 11, 23] {
        let mut first = Trainer::new(cpu(), settings(Some(100), &optimizer)).unwrap();
        first.judge_on(held_out());
        offer(&mut first, 0..cut);
        let files = first.save().unwrap();
        let mut second = Trainer::restore(cpu(), settings(Some(100), &optimizer), &files).unwrap();
        second.judge_on(held_out());
        offer(&mut second, cut..PIECES);
        assert!(second.save().unwrap() == whole.save().unwrap(), "cut after {cut}");
    }
    // how often it is judged may be changed on the way
    let files = whole.save().unwrap();
    let other = Trainer::restore(cpu(), settings(Some(7), &optimizer), &files).unwrap();
    assert_eq!(other.history(), whole.history());
}
