//! Coders that reconstruct other sites than they read, checked with the libraries that load them.

use std::path::Path;
use std::sync::Arc;

use harvestd::compute::cpu::Cpu;
use harvestd::corpus::cursor::SourceCursor;
use harvestd::hooks::{HookPoint, Site};
use harvestd::runtime::rng::Seed;
use harvestd::sae::export::{ExportMetadata, ExportedCoder, W_SKIP};
use harvestd::sae::formats::{Files, Format, circuit_tracer};
use harvestd::trainer::{Trainer, TrainerSettings};
use serde_json::{Value, json};

use crate::formats::{bytes, computed, script, succeed};
use crate::{assert_close, floats, support};

const D: usize = 16;
const LAYERS: usize = 3;

/// Rows of `widths` values side by side, at scales far apart.
fn rows(n: usize, widths: &[usize], purpose: &str) -> Vec<f32> {
    let mut rng = Seed(6).stream(purpose);
    let mut row = || {
        let z: Vec<f64> = (0..D).map(|_| rng.normal()).collect();
        let mut row = Vec::new();
        for (site, width) in widths.iter().enumerate() {
            let scale = [3.0, 0.2, 7.0, 1.0, 0.05, 12.0][site];
            row.extend((0..*width).map(|p| (scale * (z[p % D] * z[(p + site) % D] + 0.3 * p as f64 - 1.0)) as f32));
        }
        row
    };
    (0..n).flat_map(|_| row()).collect()
}

fn site(layer: u32, out: bool) -> HookPoint {
    HookPoint::block(layer, if out { Site::MlpOut } else { Site::Ln2Out })
}

fn trained(target: Value, coder: Value, sites: Vec<(HookPoint, usize)>) -> Trainer<Cpu> {
    let config = json!({
        "name": "small", "input": sites[0].0.to_string(), "target": target, "buffer": {"rows": 1024}, "coder": coder,
        "optimizer": {"type": "adam", "learning_rate": 0.01}, "batch_rows": 256, "rows": 2048,
        "checkpoint": {"url": "unused"},
    });
    let widths: Vec<usize> = sites.iter().map(|(_, width)| *width).collect();
    let config = serde_json::from_value(config).unwrap();
    let settings = TrainerSettings { config, sites, seed: Seed(4), stream: Value::Null };
    let mut trainer = Trainer::new(Arc::new(Cpu::new(2).unwrap()), settings).unwrap();
    trainer.offer(&rows(2048, &widths, "train"), &vec![0; 2048], &SourceCursor::default()).unwrap();
    trainer.finish().unwrap();
    trainer
}

/// With `skip: true` it has a skip connection. A transcoder of a layer, from [`D`] values to `out`.
fn of_layer(mut coder: Value, layer: u32, out: usize) -> ExportedCoder {
    coder["width"] = 40.into();
    let skip = coder.as_object_mut().and_then(|keys| keys.remove("skip")).unwrap_or(false.into());
    let target = json!({"type": "transcoder", "output": site(layer, true).to_string(), "skip": skip});
    let trainer = trained(target, coder, vec![(site(layer, false), D), (site(layer, true), out)]);
    trainer
        .exported(ExportMetadata { model_name: "test/model: \"a\"".to_owned(), ..ExportMetadata::default() })
        .unwrap()
}

fn across_layers(coder: Value) -> ExportedCoder {
    let layers = 0..LAYERS as u32;
    let names = |out| layers.clone().map(|layer| site(layer, out).to_string()).collect::<Vec<_>>();
    let target = json!({"type": "cross_layer", "inputs": names(false)[1..], "outputs": names(true)});
    let sites = [false, true].into_iter().flat_map(|out| layers.clone().map(move |layer| (site(layer, out), D)));
    trained(target, coder, sites.collect()).exported(ExportMetadata::default()).unwrap()
}

/// What ours gives for rows of all coders' inputs side by side: latents and reconstructions, side by side.
fn ours(coders: &[ExportedCoder], rows: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let width: usize = coders.iter().map(|coder| coder.dims.d * coder.dims.groups).sum();
    let parts = coders.iter().enumerate().map(|(i, coder)| {
        let own = coder.dims.d * coder.dims.groups;
        let input: Vec<f32> = rows.chunks(width).flat_map(|row| row[i * own..][..own].to_vec()).collect();
        (computed(coder, &input), coder.dims)
    });
    let parts: Vec<_> = parts.collect();
    let (mut latents, mut out) = (Vec::new(), Vec::new());
    for row in 0..rows.len() / width {
        for ((of_latents, of_out), dims) in &parts {
            latents.extend_from_slice(&of_latents[row * dims.f..][..dims.f]);
            out.extend_from_slice(&of_out[row * dims.out..][..dims.out]);
        }
    }
    (latents, out)
}

#[test]
fn libraries_load_exported_transcoders_and_compute_the_same() {
    let Some(python) = support::python("SAELens, sparsify and circuit-tracer on exported transcoders") else { return };
    let standard = json!({"type": "standard", "l1_coefficient": 0.1});
    let jumprelu = json!({"type": "jumprelu", "l0_coefficient": 0.001});
    let batch_topk = json!({"type": "batch_topk", "k": 6, "decoder": "ranked"});
    let topk = json!({"type": "topk", "k": 6});
    let group_max = json!({"type": "group_max", "k": 8});
    let with_skip = |coder: &Value| {
        let mut coder = coder.clone();
        coder["skip"] = true.into();
        coder
    };
    let mut written: Vec<(String, Vec<ExportedCoder>, Format, Files)> = Vec::new();
    let mut add = |what: String, coders: Vec<ExportedCoder>, format: Format| {
        let files = match format {
            Format::CircuitTracer => circuit_tracer::write(&coders).unwrap(),
            format => format.write(&coders[0]).unwrap(),
        };
        written.push((what.clone(), coders, format, files.expect(&what)));
    };
    for coder in [&standard, &jumprelu, &batch_topk, &with_skip(&standard), &with_skip(&jumprelu)] {
        add(format!("{coder}"), vec![of_layer(coder.clone(), 1, 11)], Format::Saelens);
    }
    for coder in [&topk, &group_max, &with_skip(&topk)] {
        add(format!("{coder}"), vec![of_layer(coder.clone(), 1, D)], Format::Sparsify);
    }
    for coder in [&standard, &with_skip(&jumprelu)] {
        // in any order
        let set = [1, 0, 2].map(|layer| of_layer(coder.clone(), layer, D));
        let (what, set) = (format!("{coder} of all layers"), set.to_vec());
        add(what, set, Format::CircuitTracer);
    }
    for mut coder in [standard, jumprelu] {
        coder["width"] = 24.into();
        add(format!("{coder} across layers"), vec![across_layers(coder)], Format::CircuitTracer);
    }

    let (n, folder) = (64, tempfile::tempdir().unwrap());
    for layers in [1, LAYERS] {
        let (path, rows) = (folder.path().join(format!("rows-{layers}")), rows(n, &vec![D; layers], "test"));
        std::fs::write(&path, bytes(&rows)).unwrap();
        let mut command = script(&python, "load_other_formats.py");
        command.args([&path, Path::new(&n.to_string())]);
        let of_rows = |i: &usize| written[*i].1.iter().map(|coder| coder.dims.groups).sum::<usize>() == layers;
        let own: Vec<usize> = (0..written.len()).filter(of_rows).collect();
        assert!(own.len() >= 4);
        for &i in &own {
            let (_, _, format, files) = &written[i];
            let place = folder.path().join(i.to_string());
            std::fs::create_dir(&place).unwrap();
            for (name, bytes) in files {
                std::fs::write(place.join(name), bytes).unwrap();
            }
            command.args([&place, Path::new(format.name())]);
        }
        succeed(command);
        for i in own {
            let (what, coders, _, _) = &written[i];
            let skips = coders[0].params.find(W_SKIP);
            assert_eq!(skips.is_some(), what.contains("skip"), "{what}");
            assert!(skips.is_none_or(|w| w.iter().any(|x| x.abs() > 1e-4)), "{what}: nothing was learnt");
            let mut coders = coders.clone();
            coders.sort_by_key(|coder| coder.metadata["hook_name"].to_string());
            let (latents, out) = ours(&coders, &rows);
            assert!(latents.iter().filter(|x| **x > 0.0).count() > n, "{what}: hardly anything is active");
            let found = floats(&folder.path().join(i.to_string()).join("out"));
            let (found_latents, found_rows) = found.split_at(latents.len());
            assert_close(found_latents, &latents, &format!("{what}: latents"));
            assert_close(found_rows, &out, &format!("{what}: reconstructions"));
        }
    }
}
