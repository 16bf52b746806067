//! Trainers of targets other than the input: rows of several sites, each with a scale of its own.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::compute::cpu::Cpu;
use crate::corpus::cursor::SourceCursor;
use crate::hooks::{HookPoint, Site};
use crate::runtime::rng::Seed;
use crate::trainer::infer::tests::has_the_directions_of_what_it_computes;
use crate::trainer::{Trainer, TrainerSettings};

/// Values of the input, and of the other site.
const D: usize = 12;
const OUT: usize = 7;

fn settings(target: Value, coder: Value, widths: &[usize]) -> TrainerSettings {
    let mut config = json!({
        "name": "small",
        "input": "blocks.1.ln2.hook_normalized",
        "target": target,
        "buffer": {"rows": 256},
        "coder": coder,
        "optimizer": {"type": "adam", "learning_rate": 0.01, "warmup_steps": 5},
        "batch_rows": 64,
        "rows": 100_000,
        "checkpoint": {"url": "unused"},
    });
    if config["target"].is_null() {
        config.as_object_mut().unwrap().remove("target");
    }
    let sites = [Site::Ln2Out, Site::MlpOut, Site::ResidPost, Site::ResidMid].map(|site| HookPoint::block(1, site));
    TrainerSettings {
        config: serde_json::from_value(config).unwrap(),
        sites: sites.into_iter().zip(widths.iter().copied()).collect(),
        seed: Seed(7),
        stream: Value::Null,
    }
}

/// The stream's `batch`-th piece: sparse features, shown in directions of their own at each site, at scales far apart.
fn piece(batch: u64, widths: &[usize]) -> Vec<f32> {
    const FEATURES: usize = 16;
    let mut directions = Seed(2).stream("directions");
    let shown: Vec<Vec<f64>> =
        widths.iter().map(|width| (0..FEATURES * width).map(|_| directions.normal()).collect()).collect();
    let mut rng = Seed(batch).stream("rows");
    let mut rows = Vec::new();
    for _ in 0..64 {
        let z: Vec<f64> = (0..FEATURES).map(|_| if rng.uniform() < 0.15 { 0.5 + rng.uniform() } else { 0.0 }).collect();
        for (site, (width, shown)) in widths.iter().zip(&shown).enumerate() {
            let scale = [20.0, 0.05, 3.0, 7.0][site];
            for p in 0..*width {
                let value: f64 = z.iter().enumerate().map(|(i, z)| z * shown[i * width + p]).sum();
                rows.push((scale * (value + p as f64 * 0.1)) as f32);
            }
        }
    }
    rows
}

fn offer(trainer: &mut Trainer<Cpu>, batches: std::ops::Range<u64>, widths: &[usize]) {
    let documents: Vec<u64> = (0..64).collect();
    for batch in batches {
        let cursor = SourceCursor { next_batch: batch + 1, ..SourceCursor::default() };
        trainer.offer(&piece(batch, widths), &documents, &cursor).unwrap();
    }
}

fn kinds() -> Vec<(Value, Value, Vec<usize>)> {
    let topk = json!({"type": "topk", "width": 48, "k": 4, "dead_after_tokens": 2000});
    let standard = json!({
        "type": "standard", "width": 48, "l1_coefficient": 0.3, "l1_warmup_steps": 20, "dead_after_tokens": 500,
        "resample_every_steps": 25
    });
    let batch_topk = json!({"type": "batch_topk", "width": 48, "k": 4, "decoder": "ranked"});
    let transcoder = json!({"type": "transcoder", "output": "blocks.1.hook_mlp_out"});
    let skip = json!({"type": "transcoder", "output": "blocks.1.hook_mlp_out", "skip": true});
    let crosscoder = json!({"type": "crosscoder", "with": ["blocks.1.hook_mlp_out", "blocks.1.hook_resid_post"]});
    let across = json!({
        "type": "cross_layer", "inputs": ["blocks.2.ln2.hook_normalized"],
        "outputs": ["blocks.1.hook_mlp_out", "blocks.2.hook_mlp_out"]
    });
    let april = json!({
        "type": "standard", "width": 24, "l1_coefficient": 0.3, "l1_warmup_steps": 20, "dead_after_tokens": 500,
        "resample_every_steps": 25
    });
    let jumprelu = json!({
        "type": "jumprelu", "width": 24, "l0_coefficient": 0.1, "sparsity": "tanh", "decoder": "free", "bandwidth": 0.5,
        "pre_act_coefficient": 0.001
    });
    vec![
        (across.clone(), april, vec![D, D, OUT, OUT]),
        (across, jumprelu, vec![D, D, OUT, OUT]),
        (transcoder.clone(), topk.clone(), vec![D, OUT]),
        (skip, topk.clone(), vec![D, OUT]),
        (transcoder, standard, vec![D, OUT]),
        (crosscoder.clone(), batch_topk, vec![D, OUT, 5]),
        (crosscoder, topk, vec![D, OUT, 5]),
    ]
}

#[test]
fn every_target_is_learnt_and_resumes_to_the_same_bytes() {
    let cpu = |threads| Arc::new(Cpu::new(threads).unwrap());
    for (target, coder, widths) in kinds() {
        let what = format!("{target} {coder}");
        let settings = || settings(target.clone(), coder.clone(), &widths);
        let mut whole = Trainer::new(cpu(2), settings()).unwrap();
        offer(&mut whole, 0..6, &widths);
        let early = whole.report();
        offer(&mut whole, 6..120, &widths);
        assert!(whole.report().fvu < 0.5 * early.fvu, "{what}: {} -> {}", early.fvu, whole.report().fvu);
        let mut first = Trainer::new(cpu(1), settings()).unwrap();
        offer(&mut first, 0..47, &widths);
        let files = first.save().unwrap();
        let mut second = Trainer::restore(cpu(2), settings(), &files).unwrap();
        assert!(second.save().unwrap() == files, "{what}: a restored trainer saves what it was restored from");
        offer(&mut second, 47..120, &widths);
        assert!(second.save().unwrap() == whole.save().unwrap(), "{what}");
        assert_eq!(TrainerSettings::of_checkpoint(&files).unwrap().sites, settings().sites);

        // in raw space, whatever the scales of the sites
        let rows = piece(500, &widths);
        let (reads, writes) = match &target["type"] {
            kind if kind == "transcoder" => (0..D, D..D + OUT),
            kind if kind == "cross_layer" => (0..2 * D, 2 * D..2 * D + 2 * OUT),
            _ => (0..widths.iter().sum(), 0..widths.iter().sum()),
        };
        let columns = |range: &std::ops::Range<usize>| -> Vec<f32> {
            rows.chunks(widths.iter().sum()).flat_map(|row| row[range.clone()].to_vec()).collect()
        };
        let (input, wanted) = (columns(&reads), columns(&writes));
        let (mut out, mut l0) = (Vec::new(), Vec::new());
        whole.reconstruct(&input, &mut out, &mut l0, &mut [0; 48]).unwrap();
        assert_eq!(out.len(), wanted.len());
        let mut at = 0;
        for width in if reads == writes { widths.clone() } else { vec![OUT; writes.len() / OUT] } {
            let site = |values: &[f32]| -> Vec<f32> {
                values.chunks(writes.len()).flat_map(|row| row[at..at + width].to_vec()).collect()
            };
            let fvu = fvu(&site(&wanted), &site(&out), width);
            assert!(fvu < 0.4, "{what}: {fvu} of {width} values");
            at += width;
        }
        if target["skip"] != true {
            let linear = target["type"] == "crosscoder";
            has_the_directions_of_what_it_computes(&whole, &input, linear, &what);
        }
    }
}

fn fvu(x: &[f32], y: &[f32], d: usize) -> f64 {
    let n = (x.len() / d) as f64;
    let mean: Vec<f64> = (0..d).map(|p| x.chunks(d).map(|row| f64::from(row[p])).sum::<f64>() / n).collect();
    let left: f64 = x.iter().zip(y).map(|(x, y)| f64::from(x - y).powi(2)).sum();
    let about_mean: f64 =
        x.chunks(d).flat_map(|row| row.iter().zip(&mean).map(|(x, m)| (f64::from(*x) - m).powi(2))).sum();
    left / about_mean
}

/// Two sites that hold the same: their parts of each decoder row are the same.
#[test]
fn parts_of_equal_sites_are_equal() {
    let target = json!({"type": "crosscoder", "with": ["blocks.1.hook_mlp_out"]});
    let coder = json!({"type": "topk", "width": 48, "k": 4});
    let mut trainer = Trainer::new(Arc::new(Cpu::new(2).unwrap()), settings(target, coder, &[D, D])).unwrap();
    let documents: Vec<u64> = (0..64).collect();
    for batch in 0..150 {
        let rows: Vec<f32> = piece(batch, &[D]).chunks(D).flat_map(|row| [row, row].concat()).collect();
        trainer.offer(&rows, &documents, &SourceCursor::default()).unwrap();
    }
    let files = trainer.save().unwrap();
    let tensors = files.iter().find(|(name, _)| name == "tensors.safetensors").unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&tensors.1).unwrap();
    let w_dec = crate::sae::export::f32_tensor(&tensors, "w_dec", &[48, 2 * D]).unwrap();
    let alike = w_dec.chunks(2 * D).filter(|row| {
        let (a, b) = row.split_at(D);
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        let share = dot(a, a).sqrt() / (dot(a, a).sqrt() + dot(b, b).sqrt());
        dot(a, b) / (dot(a, a) * dot(b, b)).sqrt() > 0.95 && (share - 0.5).abs() < 0.05
    });
    assert!(alike.count() >= 16, "as many latents as there are features");
}

/// A coder of rows of `D` values, trained on some.
fn base(coder: Value) -> crate::sae::export::ExportedCoder {
    let mut trainer = Trainer::new(Arc::new(Cpu::new(2).unwrap()), settings(json!(null), coder, &[D])).unwrap();
    offer(&mut trainer, 0..60, &[D]);
    trainer.exported(Default::default()).unwrap()
}

#[test]
fn what_a_coder_leaves_is_learnt_and_the_two_are_one_coder() {
    let batch_topk =
        |k: u32, width: u32| json!({"type": "batch_topk", "width": width, "k": k, "dead_after_tokens": 2000});
    let standard = json!({"type": "standard", "width": 24, "l1_coefficient": 0.05, "l1_warmup_steps": 5});
    for (first, second) in
        [(batch_topk(2, 8), batch_topk(2, 24)), (standard.clone(), batch_topk(2, 24)), (batch_topk(2, 8), standard)]
    {
        let what = format!("{first} {second}");
        let weak = base(first);
        let latents = weak.dims.f + 24;
        let cpu = |threads| Arc::new(Cpu::new(threads).unwrap());
        let target = json!({"type": "boosting", "base": "somewhere"});
        let made = |threads| {
            let mut trainer = Trainer::new(cpu(threads), settings(target.clone(), second.clone(), &[D])).unwrap();
            assert_eq!(trainer.wants_base(), Some("somewhere"));
            trainer.boost(weak.clone()).unwrap();
            trainer
        };
        let mut whole = made(2);
        offer(&mut whole, 0..120, &[D]);
        let mut begun = made(1);
        offer(&mut begun, 0..47, &[D]);
        let files = begun.save().unwrap();
        let mut again = Trainer::restore(cpu(2), settings(target.clone(), second.clone(), &[D]), &files).unwrap();
        assert_eq!(again.wants_base(), None, "a checkpoint has it");
        offer(&mut again, 47..120, &[D]);
        assert!(again.save().unwrap() == whole.save().unwrap(), "{what}");

        let rows = piece(500, &[D]);
        let (mut out, mut l0, mut fired) = (Vec::new(), Vec::new(), vec![0; latents]);
        assert_eq!(whole.n_latents(), latents);
        whole.reconstruct(&rows, &mut out, &mut l0, &mut fired).unwrap();
        let scales = crate::sae::scales::Scales::one(D, 1.0);
        let judged = |coder: &crate::sae::export::ExportedCoder| {
            let (backend, mut out) = (cpu(1), Vec::new());
            let params = coder.upload(&*backend);
            let (mut l0, mut fired) = (Vec::new(), vec![0; coder.dims.f]);
            coder.inference(&*backend, &params).reconstruct(&*backend, &scales, &rows, &mut out, &mut l0, &mut fired);
            (out, l0)
        };
        let alone = fvu(&rows, &judged(&weak).0, D);
        assert!(fvu(&rows, &out, D) < 0.8 * alone, "{what}: {} of {alone}", fvu(&rows, &out, D));
        let (joined, joined_l0) = judged(&whole.exported(Default::default()).unwrap());
        assert_eq!(joined_l0, l0, "{what}");
        for (a, b) in joined.iter().zip(&out) {
            assert!((a - b).abs() < 1e-4 * 20.0, "{what}: {a} instead of {b}");
        }
    }
}

#[test]
fn a_coder_that_cannot_be_boosted_is_refused_and_two_that_are_not_one_are_not_exported() {
    let topk = json!({"type": "topk", "width": 16, "k": 2});
    let target = json!({"type": "boosting", "base": "somewhere"});
    let mut trainer = Trainer::new(Arc::new(Cpu::new(1).unwrap()), settings(target, topk.clone(), &[D])).unwrap();
    let group_max = base(json!({"type": "group_max", "width": 16, "k": 2}));
    assert!(trainer.boost(group_max).unwrap_err().to_string().contains("groupmax"));
    let other = {
        let mut coder = base(topk.clone());
        coder.dims.d += 1;
        coder
    };
    assert!(trainer.boost(other).unwrap_err().to_string().contains("from rows of 13"));
    trainer.boost(base(topk)).unwrap();
    offer(&mut trainer, 0..10, &[D]);
    assert_eq!(trainer.dictionary().unwrap().len(), 32);
    has_the_directions_of_what_it_computes(&trainer, &piece(500, &[D]), true, "two that are not one");
    assert!(trainer.exported(Default::default()).unwrap_err().to_string().contains("threshold of its own"));
}

/// What is linear in the input needs no latents: a skip connection learns it, and not much is left without one.
#[test]
fn a_skip_connection_learns_a_linear_map() {
    let linear = |batch: u64| -> Vec<f32> {
        let mut map = Seed(3).stream("map");
        let map: Vec<f64> = (0..D * OUT).map(|_| map.normal()).collect();
        let mut rng = Seed(batch).stream("inputs");
        let row = |_| {
            let x: Vec<f64> = (0..D).map(|_| 5.0 * rng.normal() + 1.0).collect();
            let y = (0..OUT).map(|j| 0.01 * (0..D).map(|i| x[i] * map[j * D + i]).sum::<f64>()).collect::<Vec<_>>();
            [x, y].concat()
        };
        (0..64).flat_map(row).map(|x| x as f32).collect()
    };
    let trained = |skip: bool| {
        let target = json!({"type": "transcoder", "output": "blocks.1.hook_mlp_out", "skip": skip});
        let coder = json!({"type": "topk", "width": 12, "k": 1, "aux": {"coefficient": 0}});
        let mut trainer = Trainer::new(Arc::new(Cpu::new(2).unwrap()), settings(target, coder, &[D, OUT])).unwrap();
        for batch in 0..400 {
            trainer.offer(&linear(batch), &[0; 64], &SourceCursor::default()).unwrap();
        }
        trainer.report().fvu
    };
    let (with, without) = (trained(true), trained(false));
    assert!(with < 1e-3 && without > 0.3, "{with} with, {without} without");
}
