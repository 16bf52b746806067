//! SAELens v6 folders: `cfg.json` and `sae_weights.safetensors`, as bytes.
//!
//! `sae_lens.SAE.load_from_disk` reads them. The input scale is folded in, so that they take and give raw activations:
//! with `c = s x - b` a coder of the scaled input is one of the raw input with `W_enc * s`, `W_dec / s`, `b_dec / s` and
//! the same `b_enc`; its latents' values stay those of training. Where latents are ranked by decoder norms, these are
//! folded too (`W_enc`, `b_enc` and thresholds times the norm, `W_dec` divided by it), so that values are those that were
//! ranked. SAELens keeps `W_enc` as `[d_in, d_sae]` and `W_dec` as `[d_sae, d_in]`.

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::compute::CoderOps;
use crate::compute::coder_ops::CoderDims;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::sae::coder::{Coder, decoder_norms};
use crate::sae::infer::{Inference, Keep};
use crate::sae::params::{Params, PerParam};
use crate::sae::rows::RowScaling;
use crate::sae::scales::Scales;
use crate::sae::selection::{gated, host};
use crate::sae::settings::{DecoderNorm, SelectionSettings};

/// Name of the configuration file.
pub const CONFIG_FILE: &str = "cfg.json";
/// Name of the weights file.
pub const WEIGHTS_FILE: &str = "sae_weights.safetensors";
/// The SAELens release whose format this is; without a version its loader takes the folder for a legacy one.
const SAE_LENS_VERSION: &str = "6.54.12";

/// What a folder says about where its coder comes from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ExportMetadata {
    /// The language model: a hub name or a path.
    pub model_name: String,
    /// The corpus.
    pub dataset_path: String,
    /// Tokens in a sequence.
    pub context_size: u32,
    /// Whether sequences start with the BOS token.
    pub prepend_bos: bool,
    /// `bos`, `eos` or nothing: what stands between documents.
    pub separator: Option<String>,
    /// Whether rows at special tokens were left out.
    pub exclude_special_tokens: bool,
    /// Anything else; keys must not repeat those that SAELens knows.
    pub extra: Map<String, Value>,
}

/// A coder as it is in a folder: raw space, f32.
#[derive(Clone, Debug)]
pub struct ExportedCoder {
    /// Shape.
    pub dims: CoderDims,
    /// What it is in SAELens.
    pub architecture: Architecture,
    /// Whether `b_dec` is subtracted from the encoder's input.
    pub apply_b_dec_to_input: bool,
    /// What is done to raw rows first.
    pub rows: RowScaling,
    /// Parameters, rows as in [`PerParam`] (the encoder is turned on the way in and out); extra ones as the architecture
    /// has them.
    pub params: PerParam<Vec<f32>>,
    /// The `metadata` object.
    pub metadata: Map<String, Value>,
}

/// The architectures of SAELens that coders are written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// ReLU.
    Standard,
    /// The `k` largest of a row.
    Topk {
        /// Latents kept a row.
        k: usize,
    },
    /// The largest of each of `groups` ranges of latents: sparsify's, which SAELens does not know.
    GroupMax {
        /// Ranges.
        groups: usize,
    },
    /// Above a `threshold`.
    Jumprelu,
    /// `b_gate` (our `b_enc`), `r_mag` and `b_mag`.
    Gated,
}

impl Architecture {
    /// SAELens' name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::Topk { .. } => "topk",
            Self::GroupMax { .. } => "groupmax",
            Self::Jumprelu => "jumprelu",
            Self::Gated => "gated",
        }
    }

    /// Names of its parameters besides the four: ours, which are SAELens' too.
    fn extra(self) -> &'static [&'static str] {
        match self {
            Self::Standard | Self::Topk { .. } | Self::GroupMax { .. } => &[],
            Self::Jumprelu => &["threshold"],
            Self::Gated => &["r_mag", "b_mag"],
        }
    }

    /// Whether it is one of `f` latents.
    ///
    /// # Errors
    /// `Data` if ranges do not divide them.
    pub(super) fn check(self, f: usize) -> Result<()> {
        match self {
            Self::GroupMax { groups } if groups == 0 || !f.is_multiple_of(groups) => {
                Err(Error::data(format!("{CONFIG_FILE}: `k` is {groups}: it must divide the number of latents ({f})")))
            }
            _ => Ok(()),
        }
    }

    /// SAELens' name of the encoder's bias.
    fn bias(self) -> &'static str {
        if self == Self::Gated { "b_gate" } else { "b_enc" }
    }
}

/// The `metadata` object for a coder at `hook_name`, or at one head of it.
pub fn metadata(hook_name: &str, head: Option<u32>, about: &ExportMetadata) -> Map<String, Value> {
    let known = json!({
        "sae_lens_version": SAE_LENS_VERSION,
        "sae_lens_training_version": null,
        "harvestd_version": env!("CARGO_PKG_VERSION"),
        "dataset_path": about.dataset_path,
        "hook_name": hook_name,
        "hook_name_out": null,
        "model_name": about.model_name,
        "model_class_name": "HookedTransformer",
        "hook_head_index": head,
        "context_size": about.context_size,
        "seqpos_slice": [null],
        "model_from_pretrained_kwargs": {"fold_ln": false, "center_writing_weights": false, "center_unembed": false},
        "prepend_bos": about.prepend_bos,
        "exclude_special_tokens": about.exclude_special_tokens,
        "sequence_separator_token": about.separator,
        "disable_concat_sequences": false,
    });
    let mut object = match known {
        Value::Object(object) => object,
        _ => Map::new(),
    };
    for (key, value) in &about.extra {
        object.entry(key.clone()).or_insert_with(|| value.clone());
    }
    object
}

impl ExportedCoder {
    /// From a coder that was trained on rows times `scales`, with its own parameters or an average of them.
    pub fn new<B: CoderOps>(
        backend: &B,
        coder: &Coder<B>,
        coder_params: &Params<B>,
        scales: &Scales,
        metadata: Map<String, Value>,
    ) -> Self {
        let settings = coder.settings();
        let CoderDims { d, f, out, .. } = settings.dims;
        let architecture = match settings.selection {
            SelectionSettings::TopK { k } => Architecture::Topk { k },
            SelectionSettings::GroupMax { groups } => Architecture::GroupMax { groups },
            SelectionSettings::BatchTopK { .. }
            | SelectionSettings::TopAfa { .. }
            | SelectionSettings::FeatureChoice(_)
            | SelectionSettings::JumpRelu(_) => Architecture::Jumprelu,
            SelectionSettings::Positive => Architecture::Standard,
            SelectionSettings::Gated { .. } => Architecture::Gated,
        };
        let norms = match settings.decoder {
            DecoderNorm::Ranked => {
                let mut norms = backend.zeros(f);
                decoder_norms(backend, settings, &coder_params.w_dec, &mut norms);
                host(backend, &norms, f)
            }
            DecoderNorm::Unit | DecoderNorm::Free => vec![1.0; f],
        };
        let folded = |t: &B::Tensor, factor: &dyn Fn(usize) -> f64| {
            let mut values = vec![0f32; backend.len(t)];
            backend.read(t, 0, &mut values);
            values.iter_mut().enumerate().for_each(|(i, x)| *x = (f64::from(*x) * factor(i)) as f32);
            values
        };
        let extra = |name: &'static str| {
            let values = match settings.selection {
                SelectionSettings::BatchTopK { .. }
                | SelectionSettings::TopAfa { .. }
                | SelectionSettings::FeatureChoice(_) => coder
                    .thresholds(backend, coder_params)
                    .iter()
                    .zip(&norms)
                    .map(|(threshold, norm)| (threshold * norm) as f32)
                    .collect(),
                _ => folded(coder_params.extra(name), &|_| 1.0),
            };
            (name, values)
        };
        let (input, output) = (scales.by_input(), scales.by_output());
        let params = PerParam {
            w_enc: folded(&coder_params.w_enc, &|i| input[i % d] * norms[i / d]),
            b_enc: folded(&coder_params.b_enc, &|i| norms[i]),
            w_dec: folded(&coder_params.w_dec, &|i| 1.0 / (output[i % out] * norms[i / out])),
            b_dec: folded(&coder_params.b_dec, &|i| 1.0 / output[i]),
            extra: architecture.extra().iter().map(|name| extra(name)).collect(),
        };
        Self {
            dims: settings.dims,
            architecture,
            apply_b_dec_to_input: settings.subtract_bias,
            rows: RowScaling::None,
            params,
            metadata,
        }
    }

    /// The parameters on a device.
    pub fn upload<B: CoderOps>(&self, backend: &B) -> Params<B> {
        let PerParam { w_enc, b_enc, w_dec, b_dec, extra } = &self.params;
        PerParam {
            w_enc: backend.upload(w_enc),
            b_enc: backend.upload(b_enc),
            w_dec: backend.upload(w_dec),
            b_dec: backend.upload(b_dec),
            extra: extra.iter().map(|(name, values)| (*name, backend.upload(values))).collect(),
        }
    }

    /// For inference on raw rows (scale 1), with what [`ExportedCoder::upload`] gave.
    pub fn inference<'a, B: CoderOps>(&self, backend: &B, params: &'a Params<B>) -> Inference<'a, B> {
        let f = self.dims.f;
        let of = |values: &[f64]| {
            let mut t = backend.zeros(f);
            backend.write_f64(&mut t, 0, values);
            t
        };
        let keep = match self.architecture {
            Architecture::Topk { k } => Keep::TopK { k, score: None },
            Architecture::GroupMax { groups } => Keep::GroupLargest { groups },
            Architecture::Standard => Keep::Positive,
            Architecture::Jumprelu => Keep::Above(of(&host(backend, params.extra("threshold"), f))),
            Architecture::Gated => {
                let read = |t: &B::Tensor| host(backend, t, f);
                let (r_mag, b_mag) = (read(params.extra("r_mag")), read(params.extra("b_mag")));
                let (gain, offset) = gated::magnitude(&r_mag, &b_mag, &read(&params.b_enc));
                Keep::Gated { gain: of(&gain), offset: of(&offset) }
            }
        };
        Inference { dims: self.dims, params, keep, subtract_bias: self.apply_b_dec_to_input, rows: self.rows }
    }

    /// The folder's files: (name, bytes).
    ///
    /// # Errors
    /// `Internal` only.
    pub fn write(&self) -> Result<Vec<(String, Vec<u8>)>> {
        let CoderDims { d, f, .. } = self.dims;
        let mut config = json!({
            "architecture": self.architecture.name(),
            "d_in": d,
            "d_sae": f,
            "dtype": "float32",
            "device": "cpu",
            "apply_b_dec_to_input": self.apply_b_dec_to_input,
            "normalize_activations": self.rows.name(),
            "reshape_activations": "none",
            "metadata": self.metadata,
        });
        if let Architecture::Topk { k } | Architecture::GroupMax { groups: k } = self.architecture {
            config["k"] = json!(k);
            config["rescale_acts_by_decoder_norm"] = json!(false);
        }
        let config =
            serde_json::to_vec_pretty(&config).or_kind(ErrorKind::Internal, || format!("write {CONFIG_FILE}"))?;
        let w_enc = transposed(&self.params.w_enc, f, d);
        let PerParam { b_enc, w_dec, b_dec, extra, .. } = &self.params;
        let mut tensors = vec![
            ("W_enc", vec![d, f], &w_enc),
            (self.architecture.bias(), vec![f], b_enc),
            ("W_dec", vec![f, d], w_dec),
            ("b_dec", vec![d], b_dec),
        ];
        tensors.extend(extra.iter().map(|(name, values)| (*name, vec![f], values)));
        let views: Result<Vec<_>> = tensors
            .into_iter()
            .map(|(name, shape, values)| {
                let view = TensorView::new(Dtype::F32, shape, bytemuck::cast_slice(values))
                    .or_kind(ErrorKind::Internal, || format!("write tensor `{name}`"))?;
                Ok((name, view))
            })
            .collect();
        let weights =
            safetensors::serialize(views?, None).or_kind(ErrorKind::Internal, || format!("write {WEIGHTS_FILE}"))?;
        Ok(vec![(CONFIG_FILE.to_owned(), config), (WEIGHTS_FILE.to_owned(), weights)])
    }

    /// Read a folder's files: what [`ExportedCoder::write`] wrote, or SAELens for a coder without extras.
    ///
    /// # Errors
    /// `Data`, naming what is missing, damaged or not known.
    pub fn read(files: &[(String, Vec<u8>)]) -> Result<Self> {
        let find = |name: &str| {
            let file = files.iter().find(|(n, _)| n == name);
            file.map(|(_, bytes)| bytes.as_slice()).ok_or_else(|| Error::data(format!("the coder has no {name}")))
        };
        let config: Value =
            serde_json::from_slice(find(CONFIG_FILE)?).or_kind(ErrorKind::Data, || format!("read {CONFIG_FILE}"))?;
        let key = "rescale_acts_by_decoder_norm";
        if let Some(found) = config.get(key).filter(|found| **found != json!(false)) {
            return Err(Error::data(format!("{CONFIG_FILE}: `{key}` is {found}: only false can be read")));
        }
        let rows = match config.get("normalize_activations") {
            None => RowScaling::None,
            Some(found) => found.as_str().and_then(RowScaling::named).ok_or_else(|| {
                let known = "only \"none\", \"constant_norm_rescale\" and \"layer_norm\" can be read";
                Error::data(format!("{CONFIG_FILE}: `normalize_activations` is {found}: {known}"))
            })?,
        };
        let number = |key: &str| {
            let found = config.get(key).and_then(Value::as_u64).filter(|&n| n > 0);
            found
                .map(|n| n as usize)
                .ok_or_else(|| Error::data(format!("{CONFIG_FILE}: `{key}` is not a positive number")))
        };
        let architecture = match config.get("architecture").and_then(Value::as_str) {
            Some("standard") => Architecture::Standard,
            Some("topk") => Architecture::Topk { k: number("k")? },
            Some("groupmax") => Architecture::GroupMax { groups: number("k")? },
            Some("jumprelu") => Architecture::Jumprelu,
            Some("gated") => Architecture::Gated,
            _ => {
                let found = config.get("architecture").cloned().unwrap_or(Value::Null);
                let known = "only \"standard\", \"topk\", \"jumprelu\" and \"gated\" can be read";
                return Err(Error::data(format!("{CONFIG_FILE}: `architecture` is {found}: {known}")));
            }
        };
        let dims = CoderDims::square(number("d_in")?, number("d_sae")?);
        architecture.check(dims.f)?;
        let tensors = SafeTensors::deserialize(find(WEIGHTS_FILE)?)
            .or_kind(ErrorKind::Data, || format!("read {WEIGHTS_FILE}"))?;
        let CoderDims { d, f, .. } = dims;
        let params = PerParam {
            w_enc: transposed(&f32_tensor(&tensors, "W_enc", &[d, f])?, d, f),
            b_enc: f32_tensor(&tensors, architecture.bias(), &[f])?,
            w_dec: f32_tensor(&tensors, "W_dec", &[f, d])?,
            b_dec: f32_tensor(&tensors, "b_dec", &[d])?,
            extra: architecture
                .extra()
                .iter()
                .map(|name| Ok((*name, f32_tensor(&tensors, name, &[f])?)))
                .collect::<Result<_>>()?,
        };
        let apply_b_dec_to_input = config.get("apply_b_dec_to_input").and_then(Value::as_bool).unwrap_or(true);
        let metadata = config.get("metadata").and_then(Value::as_object).cloned().unwrap_or_default();
        Ok(Self { dims, architecture, apply_b_dec_to_input, rows, params, metadata })
    }
}

/// The values of an f32 tensor of a given shape.
pub fn f32_tensor(tensors: &SafeTensors<'_>, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
    let view = tensors.tensor(name).or_kind(ErrorKind::Data, || format!("read tensor `{name}`"))?;
    if view.dtype() != Dtype::F32 || view.shape() != shape {
        let (dtype, found) = (view.dtype(), view.shape());
        return Err(Error::data(format!("tensor `{name}` is {dtype:?} {found:?}: expected F32 {shape:?}")));
    }
    Ok(view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
}

/// `[rows, columns]` to `[columns, rows]`, by blocks that stay in cache.
fn transposed(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    const BLOCK: usize = 32;
    let mut out = vec![0.0; values.len()];
    for row0 in (0..rows).step_by(BLOCK) {
        for column0 in (0..columns).step_by(BLOCK) {
            for row in row0..rows.min(row0 + BLOCK) {
                for column in column0..columns.min(column0 + BLOCK) {
                    out[column * rows + row] = values[row * columns + column];
                }
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small(architecture: Architecture) -> ExportedCoder {
        let dims = CoderDims::square(3, 5);
        let numbers = |n: usize, from: f32| (0..n).map(|i| from + i as f32).collect::<Vec<_>>();
        let params = PerParam {
            w_enc: numbers(15, 0.0),
            b_enc: numbers(5, 20.0),
            w_dec: numbers(15, 30.0),
            b_dec: numbers(3, 50.0),
            extra: architecture.extra().iter().map(|name| (*name, numbers(5, 60.0))).collect(),
        };
        let about = ExportMetadata { model_name: "m".into(), context_size: 128, ..ExportMetadata::default() };
        let metadata = metadata("blocks.1.hook_resid_post", None, &about);
        let apply_b_dec_to_input = architecture != Architecture::Standard;
        let rows = RowScaling::Standard;
        ExportedCoder { dims, architecture, apply_b_dec_to_input, rows, params, metadata }
    }

    #[test]
    fn a_folder_reads_back_as_it_was() {
        use Architecture::{Gated, GroupMax, Jumprelu, Standard, Topk};
        for architecture in [Standard, Topk { k: 2 }, GroupMax { groups: 5 }, Jumprelu, Gated] {
            let coder = small(architecture);
            let files = coder.write().unwrap();
            let back = ExportedCoder::read(&files).unwrap();
            assert_eq!((back.dims, back.architecture), (coder.dims, coder.architecture));
            assert_eq!((back.apply_b_dec_to_input, back.rows), (coder.apply_b_dec_to_input, coder.rows));
            assert_eq!((back.params.names(), back.params.each()), (coder.params.names(), coder.params.each()));
            assert_eq!(back.metadata, coder.metadata);
            let tensors = SafeTensors::deserialize(&files[1].1).unwrap();
            let w_enc = f32_tensor(&tensors, "W_enc", &[3, 5]).unwrap();
            assert_eq!(w_enc[..5], [0.0, 3.0, 6.0, 9.0, 12.0], "SAELens has inputs as rows");
        }
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let mut files = small(Architecture::Topk { k: 2 }).write().unwrap();
        let text = String::from_utf8(files[0].1.clone()).unwrap();
        files[0].1 = text.replace("\"topk\"", "\"temporal\"").into_bytes();
        let error = ExportedCoder::read(&files).unwrap_err().to_string();
        assert!(error.contains("`architecture` is \"temporal\""), "{error}");
        files[0].1 = text.replace("\"d_in\": 3", "\"d_in\": 4").into_bytes();
        let error = ExportedCoder::read(&files).unwrap_err().to_string();
        assert!(error.contains("`W_enc` is F32 [3, 5]: expected F32 [4, 5]"), "{error}");
        assert!(ExportedCoder::read(&files[1..]).unwrap_err().to_string().contains("cfg.json"));
    }
}
