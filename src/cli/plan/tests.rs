use super::estimate::Facts;
use super::stored::StoredPart;
use super::*;
use crate::config::{self, Sites};
use crate::hooks::{HookPoint, Site};
use crate::model::{ModelSpec, WeightCount};

/// GPT-2 small.
fn gpt2() -> ModelSpec {
    let config = serde_json::json!({"model_type": "gpt2", "n_layer": 12, "n_embd": 768, "n_head": 12,
        "vocab_size": 50257, "n_positions": 1024, "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5,
        "bos_token_id": 50256, "eos_token_id": 50256});
    ModelSpec::parse(&config).unwrap()
}

const PIPELINE: &str = r#"
version: 1
name: p
model: {source: models/gpt2}
corpus: {type: jsonl, paths: [c.jsonl], holdout: 10%}
tokens: {context_length: 100, prepend_bos: true, separator: eos, exclude: {positions: [0, 1]}}
capture: ["blocks.5.hook_resid_post"]
dataset: {url: out/acts, sample: 50%, rows_per_shard: 100000}
trainers:
  - name: t
    input: blocks.2.hook_mlp_out
    coder: {type: topk, width: 1000, k: 8}
    optimizer: {type: adam, learning_rate: 1.0e-3}
    batch_rows: 1000
    rows: 10M
    buffer: {rows: 10000, reuse: 4}
    checkpoint: {url: out/c, keep: 2}
"#;

/// The plan of [`PIPELINE`] with `sets`, for a corpus of 10 000 documents of 1000 tokens.
fn plan_with(sets: &[&str]) -> Plan {
    plan_beside(None, sets)
}

/// As [`plan_with`], where this dataset is there already.
fn plan_beside(stored: Option<Stored>, sets: &[&str]) -> Plan {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("p.yaml");
    std::fs::write(&file, PIPELINE).unwrap();
    let sets: Vec<String> = sets.iter().map(|s| (*s).to_owned()).collect();
    let loaded = config::load(&file, &sets).unwrap();
    let spec = gpt2();
    let sites: Sites = loaded.sites(&spec.points(100), spec.module_paths()).unwrap();
    let estimate = Estimate {
        documents_sampled: 64,
        bytes_per_token: 4.0,
        tokens_per_document: 1000.0,
        documents: 10_000.0,
        tokens: 10_000_000.0,
        holdout_share: 0.1,
        dropped_share: 0.0,
        outside_share: 0.0,
    };
    let rates = rate::Rates { flops_per_second: 1e11, bytes_per_second: 1e10 };
    let facts = Facts {
        pipeline: &loaded.pipeline,
        harvest: loaded.pipeline.harvest().unwrap(),
        sites: &sites,
        spec: &spec,
        second: None,
        weights: WeightCount { matrices: 124_000_000, vectors: 439_808 },
        tokenizer_bytes: 1 << 20,
        files: 1,
        units: 4,
        bytes: 1 << 30,
        estimate: &estimate,
        special_tokens: Default::default(),
        rates,
        arithmetic: crate::compute::cpu::Cpu::new(1).unwrap().arithmetic(),
        stored: stored.as_ref(),
    };
    estimate::plan(&facts).unwrap()
}

#[test]
fn operations_of_gpt2() {
    let spec = gpt2();
    let block = |layer, site| [HookPoint::block(layer, site)];
    let flops = |points: &[HookPoint]| work::flops_per_token(&spec, points, 0);
    // a block has 12 d^2 parameters in its matrices
    let one = 2.0 * 12.0 * 768.0 * 768.0;
    assert_eq!(flops(&block(11, Site::ResidPost)), 12.0 * one);
    assert_eq!(flops(&block(6, Site::ResidPre)), 6.0 * one);
    assert_eq!(flops(&block(0, Site::AttnOut)), one / 3.0);
    assert_eq!(flops(&[HookPoint::outside(Site::LnFinalOut)]), 12.0 * one);
    assert_eq!(flops(&[HookPoint::outside(Site::Embed)]), 0.0);
    assert_eq!(flops(&[]), 0.0);
}

#[test]
fn rows_bytes_and_shards() {
    let plan = plan_with(&[]);
    // 9000 documents are harvested; each begins a context, and so does every 100th token
    let contexts = 9000.0 + 90_000.0;
    assert_eq!(plan.forward.tokens, 9e6 + contexts + 9000.0);
    // position 0 is BOS and special already, position 1 of each context is excluded
    assert_eq!(plan.forward.rows, 9e6 - contexts);
    assert_eq!(plan.forward.last_site, "blocks.5.hook_resid_post");
    let dataset = plan.dataset.unwrap();
    assert_eq!(dataset.rows, plan.forward.rows / 2.0);
    assert_eq!(dataset.bytes, dataset.rows * (768.0 * 2.0 + 24.0));
    assert_eq!(dataset.shards, 4.0 * 12.0);
    assert_eq!(plan.sites.len(), 2);
    let stored = plan.sites.iter().find(|s| s.name.contains("resid_post")).unwrap();
    assert_eq!((stored.stored_bytes_per_token, stored.trainers.len()), (768.0, 0));
    let trained = plan.sites.iter().find(|s| s.name.contains("mlp_out")).unwrap();
    assert_eq!((trained.stored_bytes_per_token, trained.trainers.as_slice()), (0.0, &["t".to_owned()][..]));
    assert!(plan.warnings.is_empty(), "{:?}", plan.warnings);
}

#[test]
fn what_drawing_rows_more_often_saves_is_said_where_nothing_is_stored() {
    assert!(plan_with(&[]).reuse.is_empty(), "the dataset needs every row");
    let plan = plan_with(&["dataset=null"]);
    let of = |reuse: u32| plan.reuse.iter().find(|plan| plan.reuse == reuse).unwrap();
    assert_eq!(plan.reuse.iter().map(|plan| plan.reuse).collect::<Vec<_>>(), [1, 2, 4, 8]);
    assert_eq!((of(1).rows, of(8).rows), (1e7, 1.25e6));
    assert!((of(4).forward_seconds - plan.time.forward_seconds).abs() < 1e-6, "it is what the pipeline has");
    assert!((of(2).forward_seconds - 4.0 * of(8).forward_seconds).abs() < 1e-6);
    assert!(!of(1).corpus_is_enough && of(2).corpus_is_enough, "the corpus has 8.9 M rows");
    assert_eq!(reuse_text(of(8)).split(", ").next(), Some("8: 1.25M rows"));
    assert!(reuse_text(of(1)).contains("more than the corpus has"));
}

#[test]
fn what_is_there_is_not_planned_again_and_limits_are_compared() {
    let whole = plan_with(&["trainers=[]"]);
    let dataset = whole.dataset.unwrap();
    // the dataset is done for three units of four, and a group of one more site is new
    let base = vec![(HookPoint::block(5, Site::ResidPost), 768)];
    let done =
        StoredPart { exists: true, units_done: 3, shards: 36, uncovered: 36, ..StoredPart::fresh(None, base.clone()) };
    let group = StoredPart::fresh(Some("more".into()), vec![(HookPoint::block(6, Site::ResidPost), 768)]);
    let there = dataset.bytes * 0.75;
    let stored = Stored { parts: vec![done.clone(), group], groups: 0, bytes: there as u64 };
    let plan = plan_beside(Some(stored), &["trainers=[]"]);
    let parts = plan.dataset.unwrap().parts;
    assert_eq!((parts[0].shards, parts[1].shards), (12.0, 48.0));
    assert_eq!((parts[0].bytes, parts[1].bytes), (dataset.bytes / 4.0, dataset.bytes));
    assert_eq!(plan.forward.tokens, whole.forward.tokens, "the group needs every batch");
    assert!(plan.warnings.is_empty(), "{:?}", plan.warnings);
    let alone = Stored { parts: vec![done], groups: 1, bytes: there as u64 };
    let plan = plan_beside(Some(alone.clone()), &["trainers=[]"]);
    assert_eq!(plan.forward.tokens, whole.forward.tokens / 4.0);
    // what is there counts against the limit
    for (limit, warned) in [(1.01, false), (0.99, true)] {
        let limit = format!("limits.store_bytes={}", (dataset.bytes * limit) as u64);
        let plan = plan_beside(Some(alone.clone()), &["trainers=[]", &limit]);
        assert_eq!(plan.warnings.iter().any(|w| w.contains("limits.store_bytes")), warned, "{:?}", plan.warnings);
        let fresh = plan_with(&["trainers=[]", &limit]);
        assert_eq!(fresh.warnings.len(), usize::from(warned), "{:?}", fresh.warnings);
    }
}

#[test]
fn without_a_dataset_the_run_ends_when_trainers_have_enough() {
    let plan = plan_with(&["dataset=null"]);
    assert_eq!(plan.forward.rows, 2.5e6, "10M rows, each drawn 4 times");
    assert!(plan.dataset.is_none());
    let more = plan_with(&["dataset=null", "trainers.0.rows=100M"]);
    assert_eq!(more.warnings.len(), 1);
    assert!(more.forward.rows < 25e6);
}

#[test]
fn trainers_cost_memory_disk_and_time() {
    let plan = plan_with(&[]);
    let trainer = &plan.trainers[0];
    let parameters = 2.0 * 768.0 * 1000.0;
    assert_eq!(trainer.steps, 10_000);
    assert_eq!(trainer.buffer_bytes, 10_000 * (768 * 4 + 17));
    assert_eq!(trainer.checkpoint_bytes, 2.0 * (parameters * 12.0 + 10_000.0 * (768.0 * 4.0 + 9.0)));
    // one dense product, six passes over 8 latents a row, seven of Adam a step
    let values = 1e7 * 8.0 * 768.0 * 6.0 + parameters * 7.0 * 1e4;
    let seconds = parameters * 1e7 / (1e11 * 0.75 * 0.75) + values * 4.0 / 1e10;
    assert!((trainer.seconds / seconds - 1.0).abs() < 1e-9, "{} {seconds}", trainer.seconds);
    assert_eq!(plan.time.trainer_seconds, trainer.seconds);
    assert_eq!(plan.memory.trainers, (trainer.buffer_bytes + trainer.coder_bytes) as f64);
}

#[test]
fn coders_of_a_sweep_have_one_buffer() {
    let (one, plan) = (plan_with(&[]), plan_with(&["trainers.0.grid={coder.k: [4, 8], seed: [1, 2]}"]));
    let [first, others @ ..] = &plan.trainers[..] else { panic!("four trainers") };
    assert_eq!(first.buffer_bytes, one.trainers[0].buffer_bytes);
    assert!(others.iter().all(|t| (t.buffer_bytes, t.shares_buffer_of.as_ref()) == (0, Some(&first.name))));
    let coders: u64 = plan.trainers.iter().map(|t| t.coder_bytes).sum();
    assert_eq!(plan.memory.trainers, (first.buffer_bytes + coders) as f64);
    assert_eq!(plan.memory.checkpoints, one.memory.checkpoints, "they are written one after the other");
    let apart = plan_with(&["trainers.0.grid={batch_rows: [1000, 500]}"]);
    assert!(apart.trainers.iter().all(|t| t.buffer_bytes > 0 && t.shares_buffer_of.is_none()));
}

#[test]
fn the_peak_is_that_of_the_worst_moment() {
    let m = plan_with(&[]).memory;
    assert_eq!(m.model, 124_439_808.0 * 4.0);
    assert_eq!(
        m.peak,
        m.process + m.model + m.workspace + m.trainers + (m.batches + m.dataset + m.checkpoints).max(m.evaluation)
    );
    // no more than a shard, and no more than two parts of 16 MiB, of each of four units
    let group = 16_384.0 * (768.0 * 2.0 + 24.0);
    assert_eq!(m.dataset, 4.0 * (group + f64::from(32 << 20)));
    // a trainer that is slower than the model fills its queue, if it has so many rows
    let slow = plan_with(&["trainers.0.coder.width=100000", "limits.memory=8GiB"]).memory;
    assert_eq!(slow.batches, f64::from(1 << 30) / 3.0);
    assert!(m.batches < slow.batches / 4.0, "{}", m.batches);
    let none = plan_with(&["trainers=[]"]).memory;
    assert_eq!((none.trainers, none.checkpoints, none.evaluation), (0.0, 0.0, 0.0));
}

#[test]
fn packing_decides_what_is_computed() {
    let truncated = plan_with(&["tokens.packing=truncate"]);
    assert_eq!(truncated.forward.tokens, 9000.0 * 102.0);
    let padded = plan_with(&["tokens.packing=pad", "tokens.prepend_bos=false", "tokens.exclude.special=false"]);
    assert_eq!(padded.forward.tokens, 9e6 + 9000.0);
    assert_eq!(padded.forward.rows, 9e6 + 9000.0 - 2.0 * 90_000.0);
    let across = plan_with(&["tokens.attend_across_documents=true", "tokens.separator=none"]);
    assert_eq!(across.forward.tokens, 9e6 + 90_000.0);
}

#[test]
fn durations_have_two_figures() {
    assert_eq!(duration(12.4), "12s");
    assert_eq!(duration(125.0), "2min 5s");
    assert_eq!(duration(1205.0), "20min");
    assert_eq!(duration(7500.0), "2h 5min");
    assert_eq!(duration(3.0 * 86_400.0 + 4.0 * 3600.0), "3d 4h");
}

#[test]
fn rates_are_measured() {
    let rates = rate::measure(&crate::compute::cpu::Cpu::new(1).unwrap(), 64, 64, 64);
    assert!(rates.flops_per_second > 1e7 && rates.bytes_per_second > 1e7, "{rates:?}");
}
