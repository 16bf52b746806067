//! A trained coder as other tools see it: SAELens loads the exported folder and computes the same.
//!
//! Needs a Python with `sae-lens`, named by `HARVESTD_PYTHON`.

mod support;

use std::path::Path;
use std::sync::Arc;

use harvestd::compute::cpu::Cpu;
use harvestd::corpus::cursor::SourceCursor;
use harvestd::hooks::{HookPoint, Site};
use harvestd::runtime::rng::Seed;
use harvestd::sae::export::{ExportMetadata, ExportedCoder};
use harvestd::trainer::{Trainer, TrainerSettings};

const WIDTH: usize = 48;
const LATENTS: usize = 160;
const K: usize = 6;

/// Rows far from the origin and from unit scale, as residual streams are.
fn rows(n: usize, purpose: &str) -> Vec<f32> {
    let mut rng = Seed(4).stream(purpose);
    (0..n * WIDTH).map(|i| (rng.normal() * 3.0 + (i % WIDTH) as f64 * 0.2 - 4.0) as f32).collect()
}

fn trained() -> Trainer<Cpu> {
    let config = serde_json::json!({
        "name": "small",
        "input": "blocks.3.attn.hook_z[2]",
        "buffer": {"rows": 1024},
        "coder": {"type": "topk", "width": LATENTS, "k": K},
        "optimizer": {"type": "adam", "learning_rate": 0.01},
        "batch_rows": 256,
        "rows": 10_000,
        "checkpoint": {"url": "unused"},
    });
    let settings = TrainerSettings {
        config: serde_json::from_value(config).unwrap(),
        point: HookPoint::block(3, Site::Z).at_head(2),
        width: WIDTH,
        seed: Seed(4),
        stream: serde_json::Value::Null,
    };
    let mut trainer = Trainer::new(Arc::new(Cpu::new(2).unwrap()), settings).unwrap();
    trainer.offer(&rows(10_000, "train"), &vec![0; 10_000], &SourceCursor::default()).unwrap();
    trainer.finish().unwrap();
    assert!(trainer.report().step > 30);
    trainer
}

fn floats(path: &Path) -> Vec<f32> {
    let bytes = std::fs::read(path).unwrap();
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

fn assert_close(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(1f32, |a, x| a.max(x.abs()));
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!((f - e).abs() <= 1e-5 * largest, "{what}[{i}]: SAELens gives {f}, we give {e}");
    }
}

/// Our latents from the exported weights: raw rows in, dense `[n, LATENTS]` out.
fn latents(coder: &ExportedCoder, rows: &[f32]) -> Vec<f32> {
    let p = &coder.params;
    let encode = |row: &[f32]| {
        let centered: Vec<f64> = row.iter().zip(&p.b_dec).map(|(x, b)| f64::from(*x) - f64::from(*b)).collect();
        let mut ranked: Vec<(f64, usize)> = (0..LATENTS)
            .map(|i| {
                let w = &p.w_enc[i * WIDTH..][..WIDTH];
                let dot: f64 = centered.iter().zip(w).map(|(c, w)| c * f64::from(*w)).sum();
                (dot + f64::from(p.b_enc[i]), i)
            })
            .collect();
        ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mut dense = vec![0f32; LATENTS];
        ranked.iter().take(K).filter(|(u, _)| *u > 0.0).for_each(|&(u, i)| dense[i] = u as f32);
        dense
    };
    rows.chunks(WIDTH).flat_map(encode).collect()
}

#[test]
fn saelens_loads_an_exported_coder_and_computes_the_same() {
    let Some(python) = support::python("SAELens on exported coders") else { return };
    let trainer = trained();
    let about = ExportMetadata {
        model_name: "test/model".to_owned(),
        dataset_path: "test/corpus".to_owned(),
        context_size: 128,
        prepend_bos: true,
        separator: Some("eos".to_owned()),
        ..ExportMetadata::default()
    };
    let files = trainer.export(about).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in &files {
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    let n = 64;
    let rows = rows(n, "test");
    let (rows_path, out_path) = (folder.path().join("rows"), folder.path().join("out"));
    std::fs::write(&rows_path, rows.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>()).unwrap();

    let output = std::process::Command::new(python)
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/load_coder.py"))
        .args([folder.path(), &rows_path, Path::new(&n.to_string()), &out_path])
        .env("OMP_NUM_THREADS", "1")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let found = floats(&out_path);
    let (found_latents, found_rows) = found.split_at(n * LATENTS);
    let coder = ExportedCoder::read(&files).unwrap();
    assert_close(found_latents, &latents(&coder, &rows), "latents");
    let (mut ours, mut l0, mut fired) = (Vec::new(), Vec::new(), vec![0; LATENTS]);
    trainer.reconstruct(&rows, &mut ours, &mut l0, &mut fired).unwrap();
    assert_close(found_rows, &ours, "reconstructions");
    let active = found_latents.iter().filter(|f| **f > 0.0).count();
    assert_eq!(active as u32, l0.iter().sum::<u32>());
}
