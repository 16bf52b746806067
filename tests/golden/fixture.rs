//! Fixtures: models on disk, and what transformers computed with them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use harvestd::compute::Backend;
use harvestd::error::Result;
use harvestd::hooks::{HookPoint, Site, Taps, Want};
use harvestd::model::{BatchShape, Model, ModelSource};
use harvestd::tokens::{Segment, TokenBatch};
use safetensors::tensor::{Dtype, SafeTensors};

pub const MODELS: [&str; 4] = ["gpt2", "llama", "llama3_rope", "llama_mha_bias"];

/// Sequences and tokens in a sequence of the golden files.
pub const B: usize = 2;
pub const T: usize = 24;

/// Longer than the sequences, so that patterns have columns to leave empty.
pub const SHAPE: BatchShape = BatchShape { max_tokens: B * T, context_length: 30 };

pub fn folder(model: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden").join(model)
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

/// The golden value of `point`, `[B*T, width]`, if the file has it.
pub fn golden_value(golden: &Tensors, weights: &Tensors, point: HookPoint, heads: usize) -> Option<Vec<f32>> {
    let Some(layer) = point.layer else {
        return match point.site {
            Site::Embed => Some(golden.get("embed").to_vec()),
            Site::PosEmbed => Some(golden.get("pos_embed").repeat(B)),
            Site::LnFinalOut => Some(golden.get("final_norm_out").to_vec()),
            _ => Some(undo_affine(golden.get("final_norm_out"), weights, &["model.norm", "transformer.ln_f"])),
        };
    };
    let name = |tensor: &str| format!("layers.{layer}.{tensor}");
    let has_rope = golden.has(&name("q_pre_rope"));
    let norm = |tensor: &str, names: [&str; 2]| {
        let names = [format!("model.layers.{layer}.{}", names[0]), format!("transformer.h.{layer}.{}", names[1])];
        Some(undo_affine(golden.get(&name(tensor)), weights, &[&names[0], &names[1]]))
    };
    let tensor = match point.site {
        Site::Ln1Normalized => return norm("attn_in", ["input_layernorm", "ln_1"]),
        Site::Ln2Normalized => return norm("mlp_in", ["post_attention_layernorm", "ln_2"]),
        Site::Pattern => return Some(pattern_rows(golden.get(&name("pattern")), heads)),
        Site::ResidPre => "resid_pre",
        Site::Ln1Out => "attn_in",
        Site::Q if has_rope => "q_pre_rope",
        Site::K if has_rope => "k_pre_rope",
        Site::Q | Site::RotQ => "q",
        Site::K | Site::RotK => "k",
        Site::V => "v",
        Site::Z => "z",
        Site::AttnOut => "attn_out",
        Site::ResidMid => "resid_mid",
        Site::Ln2Out => "mlp_in",
        Site::MlpPre => "mlp_pre",
        Site::MlpPreLinear => "mlp_pre_linear",
        Site::MlpPost => "mlp_hidden",
        Site::MlpOut => "mlp_out",
        Site::ResidPost => "resid_post",
        _ => return None,
    };
    Some(golden.get(&name(tensor)).to_vec())
}

/// `(out - bias) / weight` of the norm that has one of `names`.
fn undo_affine(out: &[f32], weights: &Tensors, names: &[&str]) -> Vec<f32> {
    let name = names.iter().find(|name| weights.has(&format!("{name}.weight"))).unwrap();
    let weight = weights.get(&format!("{name}.weight"));
    let zeros = vec![0.0; weight.len()];
    let bias_name = format!("{name}.bias");
    let bias = if weights.has(&bias_name) { weights.get(&bias_name) } else { &zeros };
    out.iter().enumerate().map(|(i, x)| (x - bias[i % weight.len()]) / weight[i % weight.len()]).collect()
}

/// `[B, H, T, T]` to `[B*T, H * context_length]`.
fn pattern_rows(pattern: &[f32], heads: usize) -> Vec<f32> {
    let t = SHAPE.context_length;
    let mut rows = vec![0.0; B * T * heads * t];
    for (at, p) in pattern.iter().enumerate() {
        let (key, query, head, sequence) = (at % T, at / T % T, at / (T * T) % heads, at / (T * T * heads));
        rows[((sequence * T + query) * heads + head) * t + key] = *p;
    }
    rows
}
