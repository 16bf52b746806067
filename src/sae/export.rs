//! A trained coder without what only training has, as it goes to other tools and comes from them ([`formats`]).
//!
//! The input scale is folded in, so that it takes and gives raw activations: with `c = s x - b` a coder of the scaled
//! input is one of the raw input with `W_enc * s`, `W_dec / s`, `b_dec / s` and the same `b_enc`; its latents' values
//! stay those of training. Where latents are ranked by decoder norms, these are folded too (`W_enc`, `b_enc` and
//! thresholds times the norm, `W_dec` divided by it), so that values are those that were ranked.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::compute::CoderOps;
use crate::compute::coder_ops::CoderDims;
use crate::error::{Error, Result};
use crate::sae::coder::Coder;
use crate::sae::decoder::Held;
use crate::sae::directions;
use crate::sae::formats::{self, Files};
use crate::sae::infer::{Inference, Keep};
use crate::sae::params::{Params, PerParam};
use crate::sae::rows::RowScaling;
use crate::sae::scales::{Part, Scales};
use crate::sae::selection::{gated, host};
use crate::sae::settings::{CoderSettings, SelectionSettings};

pub use crate::sae::formats::saelens::{CONFIG_FILE, WEIGHTS_FILE};
pub use crate::sae::formats::tensors::f32_tensor;
pub use crate::sae::skip::W_SKIP;

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
    /// Whether it reconstructs something else than it reads (of several layers, where `dims` has groups).
    pub transcodes: bool,
    /// Parameters, rows as in [`PerParam`] (the encoder is turned on the way in and out); extra ones as the architecture
    /// has them, and [`W_SKIP`] where there is one.
    pub params: PerParam<Vec<f32>>,
    /// The `metadata` object.
    pub metadata: Map<String, Value>,
}

/// Keys of `metadata` with the sites of all layers, where a coder has several.
pub(crate) const HOOK_NAMES: &str = "hook_names";
/// The same of what it reconstructs.
pub(crate) const HOOK_NAMES_OUT: &str = "hook_names_out";

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
    pub(crate) fn extra(self) -> &'static [&'static str] {
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

/// Say in `metadata` what a coder reads and reconstructs, where these differ: sites of one layer or of several.
pub fn name_target(metadata: &mut Map<String, Value>, reads: &[String], writes: &[String]) {
    metadata.insert("hook_name_out".to_owned(), writes.first().cloned().into());
    if reads.len() > 1 {
        metadata.insert(HOOK_NAMES.to_owned(), reads.into());
        metadata.insert(HOOK_NAMES_OUT.to_owned(), writes.into());
    }
}

impl ExportedCoder {
    /// From a coder that was trained on rows times `scales`, with its own parameters or an average of them.
    ///
    /// # Errors
    /// `Config` if no format has a form of it ([`CoderSettings::not_exported`]).
    pub fn new<B: CoderOps>(
        backend: &B,
        coder: &Coder<B>,
        coder_params: &Params<B>,
        scales: &Scales,
        metadata: Map<String, Value>,
    ) -> Result<Self> {
        let settings = coder.settings();
        if settings.not_exported().is_some() {
            return Err(not_exported(settings));
        }
        let coder_params = &*coder.effective(backend, coder_params);
        let CoderDims { d, f, .. } = settings.dims;
        let architecture = match settings.selection {
            SelectionSettings::TopK { k } => Architecture::Topk { k },
            SelectionSettings::GroupMax { groups } => Architecture::GroupMax { groups },
            SelectionSettings::BatchTopK { .. }
            | SelectionSettings::TopAfa { .. }
            | SelectionSettings::FeatureChoice(_)
            | SelectionSettings::JumpRelu(_) => Architecture::Jumprelu,
            SelectionSettings::Positive => Architecture::Standard,
            SelectionSettings::Gated { .. } => Architecture::Gated,
            SelectionSettings::SignedTopK { .. }
            | SelectionSettings::Pursuit { .. }
            | SelectionSettings::Pairs { .. }
            | SelectionSettings::Products(_)
            | SelectionSettings::Experts(_) => return Err(not_exported(settings)),
        };
        let norms = directions::gains(backend, settings, &coder_params.w_dec).unwrap_or_else(|| vec![1.0; f]);
        let folded = |t: &B::Tensor, factor: &dyn Fn(usize) -> f64| directions::folded(backend, t, factor);
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
        let skip = coder_params.find(W_SKIP).map(|w| (W_SKIP, folded(w, &|i| input[i % d] / output[i / d])));
        let params = PerParam {
            w_enc: directions::encoder_rows(backend, settings, &coder_params.w_enc, scales, &norms),
            b_enc: folded(&coder_params.b_enc, &|i| norms[i]),
            w_dec: directions::decoder_rows(backend, settings, &coder_params.w_dec, scales, &norms),
            b_dec: folded(&coder_params.b_dec, &|i| 1.0 / output[i]),
            extra: architecture.extra().iter().map(|name| extra(name)).chain(skip).collect(),
        };
        Ok(Self {
            dims: settings.dims,
            architecture,
            apply_b_dec_to_input: settings.subtract_bias,
            rows: RowScaling::None,
            transcodes: !settings.target.is_input,
            params,
            metadata,
        })
    }

    /// The scales of raw rows: 1.
    pub fn scales(&self) -> Scales {
        let part = |width| vec![Part { width, scale: 1.0 }];
        Scales { input: part(self.dims.d * self.dims.groups), output: part(self.dims.out) }
    }

    /// Its name in SAELens; `None` where that has none.
    pub fn saelens_name(&self) -> Option<&'static str> {
        let skips = self.params.find(W_SKIP).is_some();
        if !self.transcodes {
            return (!skips && !matches!(self.architecture, Architecture::GroupMax { .. }))
                .then(|| self.architecture.name());
        }
        match (self.architecture, skips) {
            _ if self.dims.groups > 1 => None,
            (Architecture::Standard, false) => Some("transcoder"),
            (Architecture::Standard, true) => Some("skip_transcoder"),
            (Architecture::Jumprelu, false) => Some("jumprelu_transcoder"),
            (Architecture::Jumprelu, true) => Some("jumprelu_skip_transcoder"),
            _ => None,
        }
    }

    /// What it is, for people.
    pub fn kind(&self) -> String {
        let own = self.architecture.name();
        let kind = match (self.transcodes, self.dims.groups) {
            (true, 2..) => format!("{own}, cross-layer transcoder"),
            (true, _) => format!("{own}, transcoder"),
            (false, _) => own.to_owned(),
        };
        if self.params.find(W_SKIP).is_some() { kind + " with a skip connection" } else { kind }
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
        let params = Held::Borrowed(params);
        let subtract_bias = self.apply_b_dec_to_input;
        Inference { dims: self.dims, params, keep, gains: None, subtract_bias, rows: self.rows }
    }

    /// As a SAELens folder: (file name, bytes).
    ///
    /// # Errors
    /// `Internal` only.
    pub fn write(&self) -> Result<Files> {
        formats::saelens::write(self)
    }

    /// Read a folder of SAELens or sparsify ([`formats::read`]).
    ///
    /// # Errors
    /// `Data`, naming what is missing, damaged or not known.
    pub fn read(files: &[(String, Vec<u8>)]) -> Result<Self> {
        formats::read(files)
    }
}

fn not_exported(settings: &CoderSettings) -> Error {
    let why = settings.not_exported().unwrap_or_default();
    Error::config(format!("no format has a form of this coder ({why}): its checkpoint is the coder"))
}
