//! Activations from other tools, and to them.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::*;

/// The imports whose values Python compares: (name, arguments after the site).
const KINDS: [(&str, &[&str], &[&str]); 20] = [
    ("npy-f16", &["two-f16.npy"], &[]),
    ("npy-f32", &["three-f32.npy"], &[]),
    ("npy-f64", &["two-f64.npy"], &[]),
    ("npy-bf16", &["two-bf16.npy"], &["--input-dtype", "bfloat16"]),
    ("safetensors", &["states.safetensors"], &[]),
    ("safetensors-ids", &["named.safetensors"], &["--values", "x", "--ids", "token_id=t", "--ids", "doc_id=d"]),
    ("parquet-fixed", &["fixed.parquet"], &[]),
    ("parquet-list", &["list.parquet"], &["--ids", "doc_id=document"]),
    ("parquet-binary", &["binary.parquet"], &["--input-dtype", "float16", "--dtype", "float32"]),
    ("arrow", &["fixed.arrow"], &["--rows-per-shard", "16"]),
    ("arrow-twice", &["twice.arrow"], &["--ids", "doc_id=n", "--ids", "token_id=n"]),
    ("folder", &["hook"], &["--zstd"]),
    ("feather-lz4", &["lz4.feather"], &[]),
    ("feather-zstd", &["zstd.feather"], &[]),
    ("small-ids", &["small.safetensors"], &[]),
    ("unsigned-ids", &["unsigned.safetensors"], &[]),
    ("non-finite", &["non-finite.npy"], &[]),
    ("packed", &["packed.safetensors"], &["--ids", "pos="]),
    ("parts", &["parts"], &[]),
    ("same-name", &["same/0/x.npy", "same/1/x.npy"], &[]),
];

fn text(output: &std::process::Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn import(folder: &Path, sources: &[&str], to: &Path, more: &[&str]) -> std::process::Output {
    let sources: Vec<String> = sources.iter().map(|name| folder.join(name).display().to_string()).collect();
    let mut args = vec!["import"];
    args.extend(sources.iter().map(String::as_str));
    args.extend([to.to_str().unwrap(), "--site", "vit.blocks.8"]);
    args.extend(more);
    harvestd(&args)
}

#[test]
fn what_python_wrote_is_imported_and_trains() {
    let Some(python) = python("imports of what Python's libraries write") else { return };
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().join("files");
    let wrote = ask_python(&python, "foreign_activations.py", &["write"], &json!({"folder": folder}));
    assert_eq!(wrote["ok"], true);
    let mut cases = Vec::new();
    for (kind, sources, more) in KINDS {
        let to = scratch.path().join(kind);
        let output = import(&folder, sources, &to, more);
        assert!(output.status.success(), "{kind}: {}", text(&output));
        let before = files(&to);
        let again = import(&folder, sources, &to, &[more, &["--json"]].concat());
        assert!(again.status.success() && files(&to) == before, "{kind} again: {}", text(&again));
        let imported = summary(&again);
        let not_finite = if kind == "non-finite" { json!({"non_finite": 6}) } else { json!({}) };
        assert_eq!(imported["dropped"], not_finite, "{kind}");
        assert_eq!(imported["passed_over"]["files"], if kind == "folder" { 3 } else { 0 }, "{kind}: {imported}");
        assert_eq!(text(&again).contains("index.bin"), kind == "folder");
        let verify = harvestd(&["verify", to.to_str().unwrap()]);
        assert!(verify.status.success(), "{kind}: {}", text(&verify));
        cases.push(json!({"kind": kind, "dataset": to}));
    }
    let found = ask_python(&python, "foreign_activations.py", &["check"], &json!({"folder": folder, "cases": cases}));
    assert_eq!(found["checked"].as_array().map(Vec::len), Some(KINDS.len()), "{found}");

    for (source, says) in [
        ("fortran.npy", "Fortran"),
        ("object.npy", "only f16"),
        ("cut.npy", "cut off"),
        ("cut.safetensors", "cut off"),
        ("torch.pt", "is a pickle"),
        ("pickled", "1.pt` is a pickle"),
        ("unequal.parquet", "of another length"),
        ("two-columns.parquet", "name one with --values"),
        ("five.npy", "must be [rows, width]"),
        ("nothing", "holds no .npy"),
        ("packed.safetensors", "sequence 0 has position 0 after position 2"),
        ("missing.parquet", "no vector in row 0"),
        ("no-rows", "no file has a row"),
        ("no-positions.safetensors", "samples without positions"),
    ] {
        // some are found out only after the dataset is begun
        let to = scratch.path().join(format!("refused-{source}"));
        let output = import(&folder, &[source], &to, &[]);
        let text = text(&output);
        assert!(output.status.code() == Some(65) && text.contains(says), "{source}: {text}");
    }

    let whole = scratch.path().join("non-finite-whole");
    let output = import(&folder, &["non-finite.npy"], &whole, &["--non-finite", "fail"]);
    assert!(output.status.code() == Some(65) && text(&output).contains("sequence 3 has NaN"), "{}", text(&output));
    // the same names and sizes with other content are other files
    let npy = folder.join("two-f16.npy");
    let mut bytes = std::fs::read(&npy).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&npy, bytes).unwrap();
    let output = import(&folder, &["two-f16.npy"], &scratch.path().join("npy-f16"), &[]);
    assert!(output.status.code() == Some(78) && text(&output).contains("fingerprint"), "{}", text(&output));

    for (source, more, code, says) in [
        ("odd.parquet", &["--input-dtype", "float16"][..], 65, "49 bytes, which are not whole numbers of 2 bytes"),
        ("fixed.arrow", &["--ids", "doc_id=v"], 65, "not one whole number a row"),
        ("two-f16.npy", &["--values", "x"], 78, "leave --values and --ids out"),
        ("two-f16.npy", &["--ids", "pos=x"], 78, "leave --values and --ids out"),
        ("two-f16.npy", &["--rows-per-shard", "0"], 78, "at least one row"),
    ] {
        let output = import(&folder, &[source], &scratch.path().join("refused"), more);
        let text = text(&output);
        assert!(output.status.code() == Some(code) && text.contains(says), "{source} {more:?}: {text}");
    }
    let place = scratch.path().join("refused");
    let output = harvestd(&["import", folder.to_str().unwrap(), place.to_str().unwrap(), "--site", "pos"]);
    assert!(output.status.code() == Some(78) && text(&output).contains("id column"), "{}", text(&output));
    damaged_tables_are_refused(&folder);

    let pipeline = scratch.path().join("train.yaml");
    let yaml = format!(
        r#"version: 1
name: imported
replay: {{url: "{from}", order: shuffled, epochs: 40, holdout: 10%}}
trainers:
  - name: vit
    input: vit.blocks.8
    buffer: {{rows: 512}}
    coder: {{type: topk, width: 64, k: 4}}
    optimizer: {{type: adam, learning_rate: 1.0e-3}}
    batch_rows: 128
    rows: 4k
    checkpoint: {{url: "{out}"}}
"#,
        from = scratch.path().join("safetensors").display(),
        out = scratch.path().join("coder").display()
    );
    std::fs::write(&pipeline, yaml).unwrap();
    let output = harvestd(&["run", pipeline.to_str().unwrap(), "--json"]);
    assert!(output.status.success(), "{}", text(&output));
    let summary = summary(&output);
    assert_eq!(summary["trainers"][0]["site"], "vit.blocks.8");
    assert!(summary["trainers"][0]["evaluation"]["rows"].as_u64().unwrap() > 0, "{summary}");
    // a second run finds the checkpoint of a site that no model has
    assert!(harvestd(&["run", pipeline.to_str().unwrap()]).status.success());
    rows_that_are_not_finite_end_no_trainer(&folder, scratch.path(), &pipeline);
}

/// Numbers beyond half precision are stored as infinities: no coder sees them.
fn rows_that_are_not_finite_end_no_trainer(folder: &Path, scratch: &Path, pipeline: &Path) {
    let to = scratch.join("large");
    let output = import(folder, &["large.npy"], &to, &["--dtype", "float16"]);
    assert!(output.status.success(), "{}", text(&output));
    let inspect = harvestd(&["inspect", to.to_str().unwrap(), "--json"]);
    assert!(text(&inspect).contains(r#""non_finite": 40"#), "{}", text(&inspect));
    for (order, holdout) in [("stream", "0%"), ("shuffled", "30%")] {
        let url = format!("replay.url={}", to.display());
        let (order_set, holdout_set) = (format!("replay.order={order}"), format!("replay.holdout={holdout}"));
        let place = format!("trainers.0.checkpoint.url={}", scratch.join(format!("large-{order}")).display());
        let sets = [&url, &order_set, &holdout_set, &place];
        let mut args = vec!["run", pipeline.to_str().unwrap(), "--set", "trainers.0.rows=20k"];
        sets.iter().for_each(|set| args.extend(["--set", set.as_str()]));
        let output = harvestd(&args);
        let said = text(&output);
        assert!(output.status.success(), "{said}");
        assert!(said.contains("the dataset ended") && said.contains("rows/s"), "{said}");
        assert!(!said.contains("tokens/s") && !said.contains("documents,") && !said.contains("corpus"), "{said}");
        // 40 epochs of them
        assert!(said.contains("non_finite 1600"), "{said}");
    }
}

/// The libraries that read tables panic at some damage: that too must be an error of the file.
fn damaged_tables_are_refused(folder: &Path) {
    let mut refused = 0;
    for name in ["list.parquet", "fixed.arrow"] {
        let whole = std::fs::read(folder.join(name)).unwrap();
        for i in 0..24usize {
            // mostly in the footer, which is at the end
            let back = 9 + i * i * 3;
            let mut bytes = whole.clone();
            let at = bytes.len() - back.min(bytes.len());
            bytes[at] ^= 0x55;
            let damaged = folder.join(format!("damaged-{i}-{name}"));
            std::fs::write(&damaged, bytes).unwrap();
            let to = folder.join(format!("damaged-{i}-{name}-acts"));
            let output = harvestd(&["import", damaged.to_str().unwrap(), to.to_str().unwrap(), "--site", "x"]);
            let code = output.status.code();
            assert!(code == Some(0) || code == Some(65), "{name} {back} {code:?}: {}", text(&output));
            refused += usize::from(code == Some(65));
        }
    }
    assert!(refused >= 10, "{refused} refused");
}

#[test]
fn saelens_trains_from_an_exported_cache_and_torch_from_the_shards() {
    let Some(python) = python("SAELens on an exported cache") else { return };
    let scratch = tempfile::tempdir().unwrap();
    let corpus = scratch.path().join("corpus");
    write_corpus(&corpus, 8, 4);
    let out = scratch.path().join("run");
    let pipeline = write_pipeline(&corpus, &out);
    let run = harvestd(&["run", pipeline.to_str().unwrap(), "--set", "trainers=[]"]);
    assert!(run.status.success(), "{}", text(&run));
    let (acts, cache) = (out.join("acts"), scratch.path().join("cache"));
    let site = "blocks.1.hook_resid_post";
    let export = ["export", acts.to_str().unwrap(), cache.to_str().unwrap(), "--format", "saelens-cache", "--json"];
    let refused = harvestd(&export);
    assert!(
        refused.status.code() == Some(78) && text(&refused).contains("choose one with --site"),
        "{}",
        text(&refused)
    );
    for (length, code) in [("100000000", 78), ("0", 64)] {
        let nowhere = scratch.path().join("nowhere");
        let place = [acts.to_str().unwrap(), nowhere.to_str().unwrap()];
        let rest = ["--format", "saelens-cache", "--site", site, "--context-length", length];
        let refused = harvestd(&[&["export"][..], &place, &rest].concat());
        assert!(refused.status.code() == Some(code) && !nowhere.exists(), "{length}: {}", text(&refused));
    }
    let mut export = export.to_vec();
    export.extend(["--site", site, "--context-length", "50"]);
    let output = harvestd(&export);
    assert!(output.status.success(), "{}", text(&output));
    let exported = summary(&output)["cache"].clone();
    let inspect = summary(&harvestd(&["inspect", acts.to_str().unwrap(), "--json"]));
    let rows = inspect["rows"].as_u64().unwrap();
    assert_eq!(exported["contexts"].as_u64(), Some(rows / 50));
    assert_eq!(exported["rows_left_over"].as_u64(), Some(rows % 50));
    assert_eq!(harvestd(&export).status.code(), Some(78), "a cache is not overwritten");
    let asked = json!({"cache": cache, "dataset": acts, "site": site, "context": 50});
    let found = ask_python(&python, "train_saelens_from_cache.py", &[], &asked);
    assert_eq!(found["rows_equal"].as_u64(), Some(rows / 50 * 50), "{found}");
    assert!(found["steps"].as_u64().unwrap() >= 50, "{found}");
    let losses: Vec<f64> = found["losses"].as_array().unwrap().iter().filter_map(Value::as_f64).collect();
    let (first, last) = (&losses[..5], &losses[losses.len() - 5..]);
    assert!(losses.iter().all(|loss| loss.is_finite()), "{losses:?}");
    assert!(last.iter().sum::<f64>() < first.iter().sum::<f64>(), "{losses:?}");

    let found = ask_python(&python, "activation_dataset.py", &[], &json!({"dataset": acts, "site": site}));
    assert_eq!(found["rows"].as_u64(), Some(rows), "{found}");
    assert_eq!(found["rows_of_workers"].as_u64(), Some(rows), "{found}");
    assert_eq!(found["equal"], true, "{found}");
}
