//! Fixtures: models on disk, and what transformers computed with them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use harvestd::compute::Backend;
use harvestd::compute::model_ops::NormKind;
use harvestd::error::Result;
use harvestd::hooks::{HookPoint, Site, Taps, Want};
use harvestd::model::{BatchShape, Model, ModelSource, ModelSpec};
use harvestd::tokens::{Segment, TokenBatch};
use safetensors::tensor::{Dtype, SafeTensors};

pub const MODELS: [&str; 21] = [
    "gemma",
    "gemma2",
    "gemma3",
    "gpt2",
    "gpt_neo",
    "gpt_neox",
    "gpt_neox_seq",
    "llama",
    "llama3_rope",
    "llama_dynamic",
    "llama_mha_bias",
    "llama_yarn",
    "mistral",
    "mixtral",
    "olmo2",
    "phi",
    "phi_qk",
    "qwen2",
    "qwen2_window",
    "qwen3",
    "qwen3_moe",
];

/// Sequences and tokens in a sequence of the golden files.
pub const B: usize = 2;
pub const T: usize = 24;

/// Longer than the sequences, so that patterns have columns to leave empty; but `dynamic` rotary embedding follows the
/// context's length, as it follows the sequence's in transformers.
pub fn shape(model: &str) -> BatchShape {
    BatchShape { max_tokens: B * T, context_length: if model == "llama_dynamic" { T } else { 30 } }
}

pub fn folder(model: &str) -> PathBuf {
    // carried to another machine they are in another place
    let fixtures = std::env::var_os("HARVESTD_FIXTURES").map(PathBuf::from);
    let fixtures = fixtures.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures"));
    fixtures.join("golden").join(model)
}

pub fn source(model: &str) -> ModelSource {
    open(&folder(model))
}

pub fn open(folder: &Path) -> ModelSource {
    ModelSource::open(folder.to_str().unwrap()).unwrap()
}

/// The tensors of a safetensors file, as f32 (integers too).
pub struct Tensors(HashMap<String, Vec<f32>>);

impl Tensors {
    pub fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let tensors = file.iter().map(|(name, view)| {
            let values = match view.dtype() {
                Dtype::F32 => view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect(),
                Dtype::I64 => {
                    view.data().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as f32).collect()
                }
                other => panic!("{name} is {other}"),
            };
            (name.to_owned(), values)
        });
        Self(tensors.collect())
    }

    pub fn golden(model: &str) -> Self {
        Self::read(&folder(&format!("{model}.golden.safetensors")))
    }

    pub fn get(&self, name: &str) -> &[f32] {
        self.0.get(name).unwrap_or_else(|| panic!("no tensor {name}"))
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    pub fn ids(&self) -> Vec<u32> {
        self.get("input_ids").iter().map(|&id| id as u32).collect()
    }
}

/// A batch of `sequences`, each one attention context.
pub fn batch(sequences: &[&[u32]]) -> TokenBatch {
    documents(&sequences.iter().map(|ids| vec![*ids]).collect::<Vec<_>>())
}

/// A batch of sequences of documents that do not see each other.
pub fn documents(sequences: &[Vec<&[u32]>]) -> TokenBatch {
    let mut batch = TokenBatch { seq_starts: vec![0], ..TokenBatch::default() };
    for sequence in sequences {
        for ids in sequence {
            batch.segments.push(Segment { start: batch.ids.len() as u32, len: ids.len() as u32 });
            batch.positions.extend(0..ids.len() as u32);
            batch.ids.extend_from_slice(ids);
        }
        batch.seq_starts.push(batch.ids.len() as u32);
    }
    batch
}

/// Values `[n, width]` of what was visited.
pub type Recording = HashMap<HookPoint, Vec<f32>>;

/// A new value from an index and the old value.
pub type Change<'a> = &'a dyn Fn(usize, f32) -> f32;

/// Records the points that `wants` names, after `edit` had its way with the points that it names.
pub struct Recorder<'a> {
    pub wants: &'a dyn Fn(HookPoint) -> bool,
    pub edit: Option<(HookPoint, Change<'a>)>,
    pub seen: Recording,
    pub visits: Vec<HookPoint>,
}

impl<B: Backend> Taps<B> for Recorder<'_> {
    fn wants(&self, point: HookPoint) -> Want {
        match &self.edit {
            Some((edited, _)) if *edited == point => Want::Edit,
            _ if (self.wants)(point) => Want::Read,
            _ => Want::Nothing,
        }
    }

    fn visit(&mut self, backend: &B, point: HookPoint, value: &mut B::Tensor, n: usize, width: usize) -> Result<()> {
        self.visits.push(point);
        let mut rows = vec![0.0; n * width];
        backend.read(value, 0, &mut rows);
        if let Some((edited, change)) = self.edit
            && edited == point
        {
            rows.iter_mut().enumerate().for_each(|(i, x)| *x = change(i, *x));
            backend.write(value, 0, &rows);
        }
        self.seen.insert(point, rows);
        Ok(())
    }
}

/// Run `batch` and record the points that `wants` names.
pub fn record<B: Backend>(
    model: &mut dyn Model<B>,
    batch: &TokenBatch,
    wants: &dyn Fn(HookPoint) -> bool,
) -> Recording {
    let mut taps = Recorder { wants, edit: None, seen: Recording::new(), visits: Vec::new() };
    model.forward(batch, &mut taps).unwrap();
    taps.seen
}

/// Run `batch` with the value at `point` changed, and return the final norm's output.
pub fn final_after_edit<B: Backend>(
    model: &mut dyn Model<B>,
    batch: &TokenBatch,
    point: HookPoint,
    change: Change<'_>,
) -> Vec<f32> {
    let last = HookPoint::outside(Site::LnFinalOut);
    let mut taps =
        Recorder { wants: &|p| p == last, edit: Some((point, change)), seen: Recording::new(), visits: Vec::new() };
    model.forward(batch, &mut taps).unwrap();
    taps.seen.remove(&last).unwrap()
}

/// `|a - b| / |b|` of the worst row of `width` values.
pub fn worst_row_error(actual: &[f32], expected: &[f32], width: usize) -> f64 {
    assert_eq!(actual.len(), expected.len());
    let rows = actual.chunks_exact(width).zip(expected.chunks_exact(width));
    rows.map(|(actual, expected)| {
        let difference: f64 = actual.iter().zip(expected).map(|(a, b)| f64::from(a - b).powi(2)).sum();
        let norm: f64 = expected.iter().map(|b| f64::from(*b).powi(2)).sum();
        let error = if difference == 0.0 { 0.0 } else { (difference / norm).sqrt() };
        if error.is_nan() { f64::INFINITY } else { error }
    })
    .fold(0.0, f64::max)
}

/// The golden value of `point`, `[B*T, width]`, if the file says what it is.
pub fn golden_value(
    golden: &Tensors,
    weights: &Tensors,
    point: HookPoint,
    spec: &ModelSpec,
    t: usize,
) -> Option<Vec<f32>> {
    let Some(layer) = point.layer else {
        return Some(match point.site {
            Site::Embed => golden.get("embed").to_vec(),
            Site::PosEmbed => golden.get("pos_embed").repeat(B),
            Site::LnFinalScale => normed(golden.get("final_norm_in"), spec).0,
            Site::LnFinalNormalized => normed(golden.get("final_norm_in"), spec).1,
            _ => golden.get("final_norm_out").to_vec(),
        });
    };
    let name = |tensor: &str| format!("layers.{layer}.{tensor}");
    let get = |tensor: &str| golden.get(&name(tensor)).to_vec();
    let (has_rope, has_head_norm) = (golden.has(&name("q_pre_rope")), golden.has(&name("q_proj")));
    let experts = golden.has(&name("router_logits"));
    let before_ln2 = if golden.has(&name("resid_mid")) { "resid_mid" } else { "resid_pre" };
    let tensor = match point.site {
        Site::Ln1Scale => return Some(normed(&get("resid_pre"), spec).0),
        Site::Ln1Normalized => return Some(normed(&get("resid_pre"), spec).1),
        Site::Ln1PostScale => return Some(normed(&get("attn_out_pre_norm"), spec).0),
        Site::Ln1PostNormalized => return Some(normed(&get("attn_out_pre_norm"), spec).1),
        Site::Ln2Scale => return Some(normed(&get(before_ln2), spec).0),
        Site::Ln2Normalized => return Some(normed(&get(before_ln2), spec).1),
        Site::Ln2PostScale => return Some(normed(&get("mlp_out_pre_norm"), spec).0),
        Site::Ln2PostNormalized => return Some(normed(&get("mlp_out_pre_norm"), spec).1),
        Site::Named(_) => return None,
        Site::Pattern => return Some(pattern_rows(&get("pattern"), spec.n_heads, t)),
        Site::AttnScores => return Some(pattern_rows(&get("attn_scores"), spec.n_heads, t)),
        Site::Result => return Some(head_results(&get("z"), weights, layer, spec)),
        Site::ResidPre => "resid_pre",
        Site::Ln1Out => "attn_in",
        Site::Q if has_head_norm => "q_proj",
        Site::K if has_head_norm => "k_proj",
        Site::Q if has_rope => "q_pre_rope",
        Site::K if has_rope => "k_pre_rope",
        Site::QNormOut => "q_pre_rope",
        Site::KNormOut => "k_pre_rope",
        Site::Q | Site::RotQ => "q",
        Site::K | Site::RotK => "k",
        Site::V => "v",
        Site::Z => "z",
        Site::AttnRaw => "attn_out_pre_norm",
        Site::AttnOut => "attn_out",
        Site::ResidMid => "resid_mid",
        Site::Ln2Out => "mlp_in",
        Site::RouterLogits => "router_logits",
        Site::ExpertIndices => "expert_indices",
        Site::ExpertWeights => "expert_weights",
        Site::ExpertOut => "expert_out",
        Site::MlpPre if experts => "expert_pre",
        Site::MlpPreLinear if experts => "expert_pre_linear",
        Site::MlpPost if experts => "expert_post",
        Site::MlpPre => "mlp_pre",
        Site::MlpPreLinear => "mlp_pre_linear",
        Site::MlpPost => "mlp_hidden",
        Site::MlpRaw => "mlp_out_pre_norm",
        Site::MlpOut => "mlp_out",
        Site::ResidPost => "resid_post",
        Site::Embed | Site::PosEmbed | Site::LnFinalScale | Site::LnFinalNormalized | Site::LnFinalOut => return None,
    };
    Some(get(tensor))
}

/// What a norm of `x` divides by, and its result before weight and bias.
fn normed(x: &[f32], spec: &ModelSpec) -> (Vec<f32>, Vec<f32>) {
    let d = spec.d_model;
    let (mut scales, mut out) = (Vec::new(), Vec::new());
    for row in x.chunks_exact(d) {
        let row: Vec<f64> = row.iter().map(|&x| f64::from(x)).collect();
        let mean = match spec.norm.kind {
            NormKind::Rms => 0.0,
            NormKind::Layer => row.iter().sum::<f64>() / d as f64,
        };
        let scale = (row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / d as f64 + spec.norm.eps).sqrt();
        scales.push(scale as f32);
        out.extend(row.iter().map(|x| ((x - mean) / scale) as f32));
    }
    (scales, out)
}

/// Each head's share of the output projection, from the heads' outputs and the file's matrix.
fn head_results(z: &[f32], weights: &Tensors, layer: u32, spec: &ModelSpec) -> Vec<f32> {
    const NAMES: [&str; 5] = [
        "model.layers.{}.self_attn.o_proj.weight",
        "model.layers.{}.self_attn.dense.weight",
        "gpt_neox.layers.{}.attention.dense.weight",
        "transformer.h.{}.attn.attention.out_proj.weight",
        "transformer.h.{}.attn.c_proj.weight",
    ];
    let name = |pattern: &&str| pattern.replace("{}", &layer.to_string());
    let name = NAMES.iter().map(name).find(|name| weights.has(name)).expect("one of the names");
    let (w, transposed) = (weights.get(&name), name.ends_with("c_proj.weight"));
    let (heads, e, d) = (spec.n_heads, spec.d_head, spec.d_model);
    let at = |out: usize, input: usize| if transposed { w[input * d + out] } else { w[out * heads * e + input] };
    let mut results = Vec::new();
    for row in z.chunks_exact(heads * e) {
        for (head, out) in (0..heads).flat_map(|head| (0..d).map(move |out| (head, out))) {
            let inputs = head * e..(head + 1) * e;
            let sum: f64 = inputs.map(|input| f64::from(row[input]) * f64::from(at(out, input))).sum();
            results.push(sum as f32);
        }
    }
    results
}

/// `[B, H, T, T]` to `[B*T, H * t]`.
fn pattern_rows(pattern: &[f32], heads: usize, t: usize) -> Vec<f32> {
    let mut rows = vec![0.0; B * T * heads * t];
    for (at, p) in pattern.iter().enumerate() {
        let (key, query, head, sequence) = (at % T, at / T % T, at / (T * T) % heads, at / (T * T * heads));
        rows[((sequence * T + query) * heads + head) * t + key] = *p;
    }
    rows
}
