//! Module paths against transformers: a hook on each module of each golden model sees what we say the path names.

use std::collections::{BTreeMap, BTreeSet};

use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

use crate::fixture::*;
use crate::support::{ask_python, python};
use crate::{TOLERANCE, cpu, everywhere, load};

/// Names of older or newer versions of transformers than the one that is compared with.
const OTHER_VERSIONS: [&str; 2] = ["block_sparse_moe", "embed_out"];

#[test]
fn every_module_path_names_what_transformers_sees_there() {
    let Some(python) = python("what modules return and read") else { return };
    let scratch = tempfile::tempdir().unwrap();
    let mut cases = Vec::new();
    for name in MODELS {
        let ids = Tensors::golden(name).ids();
        let mut model = load(cpu(), name);
        let seen = record(model.as_mut(), &batch(&[&ids[..T], &ids[T..]]), &everywhere);
        let paths = model.spec().module_paths();
        let mut values: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        for shape in model.points() {
            for path in paths.of(shape.point) {
                values.insert(path, seen[&shape.point].iter().flat_map(|x| x.to_le_bytes()).collect());
            }
        }
        let file = scratch.path().join(format!("{name}.safetensors"));
        let views = values
            .iter()
            .map(|(path, bytes)| (path, TensorView::new(Dtype::F32, vec![bytes.len() / 4], bytes).unwrap()));
        safetensors::serialize_to_file(views, None, &file).unwrap();
        cases.push(json!({"name": name, "folder": folder(name), "values": file, "ids": [ids[..T], ids[T..]]}));
    }
    let found = ask_python(&python, "module_paths.py", &[], &json!(cases));
    let mut known: BTreeSet<String> = BTreeSet::new();
    let mut missing: BTreeSet<String> = BTreeSet::new();
    for (name, paths) in found.as_object().unwrap() {
        let model_type = name.split('_').next().unwrap();
        for (path, error) in paths.as_object().unwrap() {
            let form = path.split('.').map(|part| if part.parse::<u32>().is_ok() { "L" } else { part });
            let form = format!("{model_type} {}", form.collect::<Vec<_>>().join("."));
            match error {
                Value::Null => missing.insert(form),
                error => {
                    let error = error.as_f64().unwrap();
                    assert!(error <= TOLERANCE, "{name} {path}: {error:e}");
                    known.insert(form)
                }
            };
        }
    }
    assert!(known.len() > 300, "{}", known.len());
    let never: Vec<&String> = missing.difference(&known).collect();
    let stale = never.iter().filter(|form| !OTHER_VERSIONS.iter().any(|other| form.contains(other)));
    assert_eq!(stale.count(), 0, "no such modules: {never:#?}");
}
