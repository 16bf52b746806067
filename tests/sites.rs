//! What architectures declare about their sites, on the configurations of the golden models, and the reference that ships.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use harvestd::hooks::listing::{SiteGroup, groups};
use harvestd::hooks::reference::{self, Example};
use harvestd::hooks::{ModulePaths, Site, resolve};
use harvestd::model::{ARCHITECTURES, ModelSpec};
use serde_json::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every golden model of an architecture that there is.
fn examples() -> Vec<Example> {
    let folders = std::fs::read_dir(root().join("tests/fixtures/golden")).unwrap().map(|entry| entry.unwrap().path());
    let mut folders: Vec<_> = folders.filter(|folder| folder.join("config.json").is_file()).collect();
    folders.sort();
    let mut examples = Vec::new();
    for folder in folders {
        let config: Value = serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap();
        let model_type = config["model_type"].as_str().unwrap().to_owned();
        // which of them must be readable is for the golden tests to say
        let Ok(spec) = ModelSpec::parse(&config) else { continue };
        examples.push(Example { model_type, points: spec.points(16), paths: spec.module_paths() });
    }
    examples
}

#[test]
fn every_architecture_has_an_example() {
    let found: BTreeSet<String> = examples().into_iter().map(|example| example.model_type).collect();
    for model_type in ARCHITECTURES.map(|architecture| architecture.model_type) {
        assert!(found.contains(model_type), "{model_type}: add a golden model");
    }
}

#[test]
fn declared_points_are_in_order_and_made_of_whole_heads() {
    for Example { model_type, points, .. } in examples() {
        assert!(points.is_sorted_by_key(|shape| shape.point.forward_order()), "{model_type}");
        for shape in &points {
            assert!(shape.point.head.is_none() && shape.width > 0 && shape.heads > 0, "{model_type} {shape:?}");
            assert_eq!(shape.head_width() * shape.heads, shape.width, "{model_type} {}", shape.point);
        }
        let distinct: BTreeSet<_> = points.iter().map(|shape| shape.point).collect();
        assert_eq!(distinct.len(), points.len(), "{model_type}: a point twice");
    }
}

#[test]
fn every_name_selects_its_points_and_no_others() {
    for Example { model_type, points, paths } in examples() {
        for group in groups(&points) {
            for name in group.aliases(paths).into_iter().chain([group.name()]) {
                let found = resolve(&[&name], &points, paths).unwrap_or_else(|e| panic!("{model_type}: {e:?}"));
                assert_eq!(found.len(), group.layers.len().max(1), "{model_type} {name}");
                assert!(found.iter().all(|(point, _)| point.site == group.site), "{model_type} {name}");
            }
        }
        for shape in &points {
            let names = paths.of(shape.point).into_iter().chain([shape.point.to_string()]);
            for name in names {
                assert_eq!(resolve(&[&name], &points, paths).unwrap(), [(shape.point, shape.width)], "{model_type}");
            }
        }
    }
}

#[test]
fn no_path_names_two_sites_or_one_that_the_architecture_never_has() {
    let examples = examples();
    for Example { model_type, paths, .. } in &examples {
        let ModulePaths { blocks, in_block, outside } = paths;
        assert!(!blocks.is_empty());
        let distinct: BTreeSet<&str> = in_block.iter().chain(*outside).map(|(path, _)| *path).collect();
        assert_eq!(distinct.len(), in_block.len() + outside.len(), "{model_type}: a path twice");
        assert!(in_block.iter().all(|(path, site)| site.in_block() && (path.is_empty() || path.starts_with('.'))));
        assert!(outside.iter().all(|(_, site)| !site.in_block()));
        let declared = |site: Site| {
            // a table may be shared by architectures
            let sharing = examples.iter().filter(|other| std::ptr::eq(other.paths, *paths));
            sharing.flat_map(|other| &other.points).any(|shape| shape.point.site == site)
        };
        for (path, site) in in_block.iter().chain(*outside) {
            assert!(declared(*site), "{model_type}: `{path}` names {site:?}, which no example has");
        }
    }
}

/// Run with `UPDATE_DOCS=1` to write the file.
#[test]
fn the_reference_is_current() {
    let path = root().join("docs/sites.md");
    let current = reference::markdown(&examples());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &current).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == current, "docs/sites.md is out of date: UPDATE_DOCS=1 cargo test --test sites");
}

// === harvestd sites ===

fn sites(args: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_harvestd")).arg("sites").args(args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// A folder with nothing but a configuration: weights must not be read, but the file must be there.
fn model_without_weights() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(root().join("tests/fixtures/golden/llama/config.json"), folder.path().join("config.json")).unwrap();
    std::fs::write(folder.path().join("model.safetensors"), "not weights").unwrap();
    folder
}

#[test]
fn sites_prints_patterns_shapes_and_aliases() {
    let folder = model_without_weights();
    let (code, out, err) = sites(&[folder.path().to_str().unwrap(), "--context-length", "10"]);
    assert_eq!(code, 0, "{err}");
    let line = |start: &str| out.lines().find(|l| l.trim_start().starts_with(start)).unwrap_or_else(|| panic!("{out}"));
    let words = |start: &str| line(start).split_whitespace().take(5).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(words("blocks.{0-1}.attn.hook_z"), ["blocks.{0-1}.attn.hook_z", "32", "4", "128B", "64B"]);
    assert_eq!(words("blocks.{0-1}.attn.hook_pattern")[1..3], ["40", "4"]);
    assert!(out.contains("= model.layers.{0-1}.self_attn.o_proj.input"), "{out}");
}

#[test]
fn sites_of_one_block_as_json_and_of_a_pipeline() {
    let (code, out, err) = sites(&["pipelines/quickstart.yaml", "--json", "--layer", "3"]);
    assert_eq!(code, 0, "{err}");
    let report: Value = serde_json::from_str(&out).unwrap();
    let sites = report["sites"].as_array().unwrap();
    let site = |name: &str| sites.iter().find(|site| site["name"] == name).unwrap_or_else(|| panic!("{out}"));
    let k = site("blocks.3.attn.hook_k");
    assert_eq!((k["width"].as_u64(), k["heads"].as_u64(), k["head_width"].as_u64()), (Some(96), Some(3), Some(32)));
    assert_eq!(k["bytes_per_token"]["float16"], 192);
    assert_eq!(k["aliases"][0], "model.layers.3.self_attn.k_proj");
    assert!(site("blocks.3.hook_resid_post")["heads"].is_null());
    assert!(sites.iter().all(|site| site["name"].as_str().unwrap().starts_with("blocks.3.")));
    let context = report["context_length"].as_u64().unwrap();
    assert_eq!(site("blocks.3.attn.hook_pattern")["width"], 6 * context);
}

#[test]
fn sites_of_what_is_no_model_or_block_is_a_configuration_error() {
    for args in [&["no/such/model"][..], &["no/such.yaml"], &["pipelines/quickstart.yaml", "--layer", "6"]] {
        let (code, out, err) = sites(args);
        assert_eq!((code, out.as_str()), (78, ""), "{args:?} {err}");
    }
}

#[test]
fn every_group_is_named_by_the_library_as_by_the_verb() {
    let (_, out, _) = sites(&["pipelines/quickstart.yaml", "--json"]);
    let report: Value = serde_json::from_str(&out).unwrap();
    let names: Vec<&str> = report["sites"].as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap()).collect();
    let config = std::fs::read(root().join("pipelines/quickstart/model/config.json")).unwrap();
    let spec = ModelSpec::parse(&serde_json::from_slice(&config).unwrap()).unwrap();
    let context = report["context_length"].as_u64().unwrap() as usize;
    assert_eq!(names, groups(&spec.points(context)).iter().map(SiteGroup::name).collect::<Vec<_>>());
}
