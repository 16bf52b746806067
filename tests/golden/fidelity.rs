//! `docs/fidelity.md`: how far every site of every golden model is from transformers, as measured.

use std::collections::BTreeMap;
use std::path::Path;

use harvestd::compute::backend::MatrixFormat;
use harvestd::hooks::Site;

use crate::fixture::{MODELS, Tensors, batch, record, shape, source, worst_row_error};
use crate::{cpu, errors};

const INTRODUCTION: &str = "\
# Fidelity

Measured by `UPDATE_DOCS=1 cargo test --release --test golden fidelity`; do not edit.

Tiny random models of every architecture (two blocks, 2 x 24 tokens, weights large enough that attention is peaky and every
norm, bias and cap matters; `tests/python/make_golden.py` makes them) through transformers 5.23 on a CPU in float32 with eager
attention, and through this program's CPU backend. An error is `|ours - theirs| / |theirs|` of one token's row at one site, in
the Euclidean norm; the table shows the worst token of the worst block. Both sides round: two float32 programs that add in
different orders differ by about 1e-6 here. The tests refuse anything above 2e-5, and require that the same code in f64
agrees as well.

`gpt_neox_seq` is GPT-NeoX without parallel residual; `llama3_rope`, `llama_yarn` and `llama_dynamic` are Llama with those
rotary scalings, `llama_mha_bias` with biases and linear scaling; `phi_qk` is Phi with norms of queries and keys;
`qwen2_window` is Qwen 2 with a sliding window in its last block.
";

const BFLOAT16: &str = "
## `dtype: bfloat16`

`blocks.1.hook_resid_post`, all tokens together, against transformers in float32: this program with matrices and the
rows that they multiply rounded to bfloat16 (sums and everything between products stay float32; `vdpbf16ps`, where the machine
has it, takes denormals for zero), and transformers in bfloat16 throughout. The promise is 2e-2. Both round the weights of
models that were made in float32; those published in bfloat16 lose nothing here.

| model | this program | transformers |
|---|---|---|
";

/// Worst error of each site, by name.
fn by_site(name: &str) -> BTreeMap<&'static str, f64> {
    let mut worst = BTreeMap::new();
    for (_, what, error) in errors(cpu(), name, MatrixFormat::F32) {
        let slot = worst.entry(what).or_insert(0.0f64);
        *slot = slot.max(error);
    }
    worst
}

fn table(models: &[&'static str]) -> String {
    let columns: Vec<BTreeMap<&str, f64>> = models.iter().map(|name| by_site(name)).collect();
    let mut out = format!("\n| site | {} |\n|---|{}\n", models.join(" | "), "---|".repeat(models.len()));
    let sites = Site::ALL.into_iter().map(Site::suffix).chain(["logits", "loss"]);
    for site in sites.filter(|site| columns.iter().any(|column| column.contains_key(site))) {
        let cells = columns.iter().map(|column| column.get(site).map_or(String::new(), |error| format!("{error:.0e}")));
        out += &format!("| `{site}` | {} |\n", cells.collect::<Vec<_>>().join(" | "));
    }
    out
}

fn bfloat16() -> String {
    let mut out = BFLOAT16.to_owned();
    for name in MODELS {
        let (ours, theirs) = bfloat16_errors(name);
        out += &format!("| {name} | {ours:.1e} | {theirs:.1e} |\n");
    }
    out
}

/// How far block 1's output is from float32: ours, and transformers'.
pub fn bfloat16_errors(name: &str) -> (f64, f64) {
    let (golden, point) = (Tensors::golden(name), harvestd::hooks::HookPoint::block(1, Site::ResidPost));
    let ids = golden.ids();
    let (a, b) = ids.split_at(ids.len() / 2);
    let format = MatrixFormat::Bf16;
    let mut model = harvestd::model::load(cpu(), &source(name), shape(name), format).unwrap();
    let seen = record(model.as_mut(), &batch(&[a, b]), &|p| p == point).remove(&point).unwrap();
    let exact = golden.get("layers.1.resid_post");
    let error = |values: &[f32]| worst_row_error(values, exact, exact.len());
    (error(&seen), error(golden.get("bf16.layers.1.resid_post")))
}

/// Numbers differ from machine to machine, so it is the models and sites of the file that are tested.
#[test]
fn fidelity() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/fidelity.md");
    let tables: Vec<String> = MODELS.chunks(7).map(table).collect();
    let current = format!("{INTRODUCTION}{}{}", tables.concat(), bfloat16());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &current).unwrap();
    }
    let frame = |text: &str| -> Vec<String> {
        let heads = text.lines().map(|line| match line.strip_prefix("| ") {
            Some(row) if !row.starts_with("site") => row.split('|').next().unwrap_or_default().to_owned(),
            _ => line.to_owned(),
        });
        heads.collect()
    };
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    let command = "UPDATE_DOCS=1 cargo test --release --test golden fidelity";
    assert!(frame(&written) == frame(&current), "docs/fidelity.md is out of date: {command}");
}
