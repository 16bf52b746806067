//! Resident memory stays flat however long the corpus is, and is what `harvestd plan` says.

mod support;

use std::io::Write;
use std::path::Path;

use support::*;

/// Peak resident memory of one whole run, in KiB.
fn peak_of_run(corpus: &Path, out: &Path) -> i64 {
    // no trainer rows limit reached early: the trainer sees the whole corpus in both runs. Queues are small, so that it does
    // not matter who is slow on a busy machine
    let sets = ["trainers.0.rows=100M", "evaluate.tokens=0", "limits.memory=96MiB"];
    peak_with(&write_pipeline(corpus, out), out, &sets.map(|set| ["--set", set]).concat())
}

/// Peak resident memory of a run of `pipeline`, in KiB. It can seem no smaller than this process, which must stay small.
#[allow(clippy::zombie_processes, reason = "wait4 is the wait that also tells the peak")]
fn peak_with(pipeline: &Path, out: &Path, sets: &[&str]) -> i64 {
    let child = start(pipeline, &out.join("log"), sets);
    let mut status = 0;
    // SAFETY: an all-zero rusage is valid, and the pointers live through the call; the pid is our own child.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        let pid = libc::wait4(child.id() as i32, &raw mut status, 0, &raw mut usage);
        assert_eq!(pid, child.id() as i32);
        usage
    };
    assert_eq!(status, 0, "{}", std::fs::read_to_string(out.join("log")).unwrap());
    usage.ru_maxrss
}

#[test]
fn twenty_times_the_corpus_needs_no_more_memory() {
    let scratch = tempfile::tempdir().unwrap();
    let (small, large) = (scratch.path().join("small"), scratch.path().join("large"));
    write_corpus(&small, 20, 4);
    write_corpus(&large, 400, 4);
    let small_peak = peak_of_run(&small, &scratch.path().join("out-small"));
    let large_peak = peak_of_run(&large, &scratch.path().join("out-large"));
    // the allocator's own slack differs a little from run to run
    assert!(large_peak < small_peak + small_peak / 8 + 8 * 1024, "peak grew from {small_peak} KiB to {large_peak} KiB");
}

/// A Llama of 37 million parameters that reads the shipped model's tokens; random weights, written as they are made.
fn write_large_model(folder: &Path) {
    const SHIPPED: &str = "pipelines/quickstart/model";
    std::fs::create_dir_all(folder).unwrap();
    std::fs::copy(format!("{SHIPPED}/tokenizer.json"), folder.join("tokenizer.json")).unwrap();
    let config = std::fs::read_to_string(format!("{SHIPPED}/config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
    let (d, m, kv, layers) = (512, 1376, 256, 12);
    let vocab = config["vocab_size"].as_u64().unwrap() as usize;
    for (key, value) in [
        ("hidden_size", d),
        ("intermediate_size", m),
        ("num_hidden_layers", layers),
        ("num_attention_heads", 8),
        ("num_key_value_heads", 4),
        ("head_dim", 64),
    ] {
        config[key] = value.into();
    }
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let mut tensors =
        vec![("model.embed_tokens.weight".to_owned(), vec![vocab, d]), ("model.norm.weight".into(), vec![d])];
    for i in 0..layers {
        for (name, shape) in [
            ("self_attn.q_proj", vec![d, d]),
            ("self_attn.k_proj", vec![kv, d]),
            ("self_attn.v_proj", vec![kv, d]),
            ("self_attn.o_proj", vec![d, d]),
            ("mlp.gate_proj", vec![m, d]),
            ("mlp.up_proj", vec![m, d]),
            ("mlp.down_proj", vec![d, m]),
            ("input_layernorm", vec![d]),
            ("post_attention_layernorm", vec![d]),
        ] {
            tensors.push((format!("model.layers.{i}.{name}.weight"), shape));
        }
    }
    let (mut header, mut at) = (serde_json::Map::new(), 0);
    for (name, shape) in tensors {
        let end = at + 4 * shape.iter().product::<usize>();
        header.insert(name, serde_json::json!({"dtype": "F32", "shape": shape, "data_offsets": [at, end]}));
        at = end;
    }
    let mut header = serde_json::Value::from(header).to_string();
    header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));
    let mut file = std::io::BufWriter::new(std::fs::File::create(folder.join("model.safetensors")).unwrap());
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    let mut state = 1u32;
    for _ in 0..at / 4 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        file.write_all(&((state >> 8) as f32 / (1u32 << 28) as f32 - 0.03).to_le_bytes()).unwrap();
    }
    file.flush().unwrap();
}

/// A run's peak against what `harvestd plan` says of it.
fn assert_planned(name: &str, documents: usize, model: Option<&Path>, sets: &[&str]) {
    let scratch = tempfile::tempdir().unwrap();
    let (corpus, out) = (scratch.path().join("corpus"), scratch.path().join("out"));
    write_corpus(&corpus, documents, 4);
    let pipeline = write_pipeline(&corpus, &out);
    let source = model.map(|folder| format!("model.source={}", folder.display()));
    let sets: Vec<&str> = source.iter().map(String::as_str).chain(sets.iter().copied()).collect();
    let sets: Vec<&str> = sets.into_iter().flat_map(|set| ["--set", set]).collect();
    let plan = harvestd(&[&["plan", "--json", pipeline.to_str().unwrap()], &sets[..]].concat());
    assert!(plan.status.success(), "{}", String::from_utf8_lossy(&plan.stderr));
    let memory = &summary(&plan)["memory"];
    let planned = memory["peak"].as_f64().unwrap() / f64::from(1 << 20);
    let peak = peak_with(&pipeline, &out, &sets) as f64 / 1024.0;
    println!("{name}: planned {planned:.1} MiB, peak {peak:.1} MiB, {:+.1}%", (planned / peak - 1.0) * 100.0);
    assert!((planned / peak - 1.0).abs() < 0.15, "{name}: planned {planned:.1} MiB, peak {peak:.1} MiB: {memory}");
}

#[test]
fn a_run_needs_the_memory_that_was_planned() {
    // the trainer's buffer is full before the corpus ends
    assert_planned("shipped model, stored and trained on", 40, None, &[]);
    let training = ["dataset=null", "capture=[]", "trainers.0.buffer.rows=60k", "trainers.0.rows=120k"];
    assert_planned("shipped model, large buffer", 40, None, &training);
    let folder = tempfile::tempdir().unwrap();
    write_large_model(folder.path());
    assert_planned("a larger model", 4, Some(folder.path()), &["trainers=[]", "tokens.batch_tokens=2048"]);
}
