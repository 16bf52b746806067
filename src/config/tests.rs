use proptest::prelude::*;
use serde_json::{Value, json};

use super::raw::RawPipeline;
use super::*;

/// A pipeline that uses every section.
const FULL: &str = r#"
version: 1
name: full
seed: 3
model: {source: models/m, dtype: float32, device: cpu, threads: 2}
corpus: {type: jsonl, paths: ["c/*.jsonl"], field: text, unit_bytes: 1MiB, holdout: 2%}
tokens:
  context_length: 128
  packing: concat
  prepend_bos: true
  separator: eos
  attend_across_documents: false
  exclude: {special: true, positions: [0, 1], norm_above_median: 10}
  batch_tokens: 1024
  interleave: 2
capture: ["blocks.*.hook_mlp_out"]
dataset: {url: out/acts, dtype: float16, layout: typed, rows_per_shard: 1000, rows_per_group: 100, compression: none, sample: 10%, shared: true}
trainers:
  - name: t
    input: blocks.0.hook_mlp_out
    normalize: unit_rms
    buffer: {rows: 10k, reuse: 2}
    coder: {type: topk, width: 64, k: 8, aux: {form: gao, coefficient: 0.1, k: 4}, dead_after_tokens: 1M}
    optimizer: {type: adam, learning_rate: 1.0e-3, betas: [0.9, 0.99], epsilon: 1.0e-8, warmup_steps: 5, decay: 10%, clip_norm: 1.0}
    batch_rows: 256
    rows: 1M
    checkpoint: {url: out/coder, every: 1min, keep: 2}
    when_slow: drop
evaluate: {tokens: 1000}
admin: {listen: "127.0.0.1:9464"}
stores:
  - prefix: s3://acts
    endpoint: https://minio.example
    region: eu-west-1
    account: acts
    path_style: true
    allow_http: false
    anonymous: false
    conditional_put: auto
    connect_timeout: 5s
    timeout: 1min
    retry: {tries: 5, budget: 1min, first_wait: 100ms, longest_wait: 10s}
prices: {currency: EUR, source: a list, write_1000: 0.005, list_1000: 0.005, read_1000: 0.0004, delete_1000: 0.1, gb_month: 0.023, read_gb: 0.09}
limits: {memory: 1GiB}
shutdown: {grace: 5s}
"#;

fn no_variables(_: &str) -> Option<String> {
    None
}

/// Paths of every node of [`FULL`].
fn paths() -> Vec<String> {
    let tree = document::parse(FULL, Origin::File).unwrap();
    let mut paths = Vec::new();
    tree.walk(&document::Path::default(), &mut |path, _| paths.push(path.to_string()));
    paths.retain(|p| !p.is_empty());
    paths
}

/// Values that are wrong in most places and right in some.
fn odd_value() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        Just("[]".to_owned()),
        Just("{}".to_owned()),
        Just("[1, two, {three: 3}]".to_owned()),
        Just("{type: topk}".to_owned()),
        Just("''".to_owned()),
        Just("10%".to_owned()),
        Just("5min".to_owned()),
        Just("1.5M".to_owned()),
        any::<i64>().prop_map(|n| n.to_string()),
        any::<u64>().prop_map(|n| n.to_string()),
        (-2i32..70).prop_map(|n| n.to_string()),
        any::<f32>().prop_filter("finite", |x| x.is_finite()).prop_map(|x| format!("{x:?}")),
        "[a-z0-9./:%]{0,8}".prop_map(|s| format!("'{s}'")),
    ]
}

#[test]
fn the_full_pipeline_uses_every_key() {
    let mut tree = document::parse(FULL, Origin::File).unwrap();
    let mut problems = Vec::new();
    let (raw, _) = resolve::resolve(&mut tree, &mut problems, Purpose::Run).unwrap_or_else(|| panic!("{problems:#?}"));
    let (written, read) = (tree.to_value(), serde_json::to_value(raw).unwrap());
    let keys = |value: &Value| {
        let mut tree = document::parse(&value.to_string(), Origin::File).unwrap();
        let mut keys = Vec::new();
        tree.place = Place::File;
        tree.walk(&document::Path::default(), &mut |path, _| keys.push(path.to_string()));
        keys.sort();
        keys
    };
    assert_eq!(keys(&written), keys(&read));
}

proptest! {
    /// What the schema's check and the rules let pass, the structs can read: there is one definition of the format.
    #[test]
    fn what_passes_the_check_can_be_read(
        at in prop::sample::select(paths()), value in odd_value(), again in prop::sample::select(paths()), other in odd_value(),
    ) {
        let sets = [format!("{at}={value}"), format!("{again}={other}")];
        if let Err(problems) = load_text(FULL, &sets, &no_variables, (&Edits::default(), Purpose::Run)) {
            prop_assert!(!problems.is_empty());
            for problem in problems {
                // a problem with the whole file would be the structs' own complaint
                prop_assert!(problem.place != Place::File, "{sets:?}: {}", problem.line("f"));
            }
        }
    }

    /// And what the structs cannot read, the check refuses with a place.
    #[test]
    fn what_cannot_be_read_is_refused(at in prop::sample::select(paths()), value in odd_value()) {
        let mut tree = document::parse(FULL, Origin::File).unwrap();
        let mut problems = Vec::new();
        overrides::apply(&mut tree, &[format!("{at}={value}")], &mut problems);
        let readable = serde_json::from_value::<RawPipeline>(tree.to_value()).is_ok();
        let accepted = problems.is_empty() && resolve::resolve(&mut tree, &mut problems, Purpose::Run).is_some();
        prop_assert!(readable || !accepted, "{at}={value}");
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in "[ \\n\\ta-c:\\-\\[\\]{},&*!|>'\"#?%@$0-9.]{0,60}") {
        drop(load_text(&text, &[], &no_variables, (&Edits::default(), Purpose::Run)));
    }

    #[test]
    fn no_set_makes_it_panic(set in "[a-z0-9.\\[\\]=]{0,24}") {
        drop(load_text(FULL, &[set], &no_variables, (&Edits::default(), Purpose::Run)));
    }
}

#[test]
fn what_is_published_reads_back() {
    let (pipeline, published, ..) = load_text(FULL, &[], &no_variables, (&Edits::default(), Purpose::Run)).unwrap();
    let (again, ..) = load_text(&published.to_string(), &[], &no_variables, (&Edits::default(), Purpose::Run)).unwrap();
    assert_eq!(again, pipeline);
    assert_eq!(published["tokens"]["exclude"]["positions"], json!([0, 1]));
}

/// A pipeline with one trainer that has this grid, as flow text.
fn swept(grid: &str) -> Result<Vec<crate::trainer::config::TrainerConfig>, Vec<String>> {
    let text = format!(
        "version: 1\nname: x\nmodel: {{source: m}}\ncorpus: {{type: jsonl, paths: [a.jsonl]}}\ntrainers:\n  - name: a\n    \
         input: blocks.0.hook_mlp_out\n    grid: {grid}\n    coder: {{type: topk, width: 64, k: 4}}\n    optimizer: {{type: \
         adam, learning_rate: 1.0e-3}}\n    rows: 1M\n    checkpoint: {{url: \"out/${{PLACE}}/\"}}\n  - name: b\n    input: \
         blocks.0.hook_mlp_out\n    coder: {{type: topk, width: 64, k: 4}}\n    optimizer: {{type: adam, learning_rate: \
         1.0e-3}}\n    rows: 1M\n    checkpoint: {{url: out/b}}\n"
    );
    let lookup = |name: &str| (name == "PLACE").then(|| "there".to_owned());
    match super::load_text(&text, &[], &lookup, (&Edits::default(), Purpose::Run)) {
        Ok((pipeline, published, ..)) => {
            let url = published["trainers"][0]["checkpoint"]["url"].as_str().unwrap();
            assert!(url.starts_with("out/${PLACE}/"), "{url}");
            Ok(pipeline.trainers)
        }
        Err(problems) => Err(problems.iter().map(|p| p.line("p")).collect()),
    }
}

#[test]
fn a_grid_is_a_trainer_for_each_combination() {
    let trainers = swept("{coder.k: [4, 8], optimizer.learning_rate: [1.0e-3, 0.01], seed: [3]}").unwrap();
    let names: Vec<&str> = trainers.iter().map(|t| t.name.as_str()).collect();
    let expected = [
        "a-k4-learning_rate0.001-seed3",
        "a-k4-learning_rate0.01-seed3",
        "a-k8-learning_rate0.001-seed3",
        "a-k8-learning_rate0.01-seed3",
        "b",
    ];
    assert_eq!(names, expected);
    assert_eq!(trainers[2].checkpoint.url, "out/there/k8-learning_rate0.001-seed3");
    assert_eq!((trainers[2].coder.common().k, trainers[2].seed), (Some(8.0), Some(3)));
    assert!(trainers[4].seed.is_none());
    let types = swept("{coder.decoder: [unit, ranked]}").unwrap();
    assert_eq!(types[1].name, "a-decoderranked");
}

#[test]
fn wrong_grids_are_said_once() {
    for (grid, expected) in [
        ("[1]", "trainers[0].grid: must be a section"),
        ("{}", "trainers[0].grid: must have a key"),
        ("{coder.k: 4}", "trainers[0].grid.coder.k: must be a list of values"),
        ("{coder.k: []}", "must be a list of numbers, words"),
        ("{coder.k: [4, 4]}", "has a value twice"),
        ("{name: [x, y]}", "cannot differ in a grid"),
        ("{coder..k: [4]}", "must be a key of a trainer"),
        ("{seed: [1,2,3,4,5,6,7,8,9], coder.k: [1,2,3,4,5,6,7,8]}", "is 72 trainers: at most 64"),
        ("{coder.width: [64, 128], coder.kk: [1]}", "trainers[0].coder.kk: is not a known key"),
        ("{coder.k: [65, 4], coder.width: [64, 32]}", "trainers[0].coder.k: 65: must be at most coder.width (64)"),
    ] {
        let problems = swept(grid).unwrap_err();
        assert!(problems.iter().filter(|p| p.contains(expected)).count() == 1, "{grid}: {problems:#?}");
    }
}

/// Stored rows that are only for judging coders of others: no trainer, and all of them held out.
#[test]
fn a_replay_may_be_for_judging_alone() {
    let text = "version: 1\nname: judged\nreplay: {url: acts, holdout: 100%}\n";
    let loaded = |purpose| load_text(text, &[], &no_variables, (&Edits::default(), purpose));
    let (pipeline, ..) = loaded(Purpose::Judge).unwrap();
    assert!(pipeline.trainers.is_empty() && pipeline.replay().unwrap().holdout.share() == 1.0);
    let rules: Vec<String> = loaded(Purpose::Run).unwrap_err().iter().map(|p| p.line("p")).collect();
    let says = |words: &str| rules.iter().any(|rule| rule.contains(words));
    assert!(says("a replay does nothing but train") && says("nothing would be trained on"), "{rules:?}");
}
