//! SAELens v6 folders: `cfg.json` and `sae_weights.safetensors`, as bytes.
//!
//! `sae_lens.SAE.load_from_disk` reads what is written. Read is what it writes: inference folders, transcoders' too, and the
//! ones that hold a coder in training (`batchtopk` and `matryoshka_batchtopk` become `jumprelu`, latents that are ranked
//! by decoder norms have these folded in, and so has an input scale). It keeps `W_enc` as `[d_in, d_sae]` and `W_dec` as
//! `[d_sae, d_in]`.

use serde_json::{Value, json};

use super::tensors::{self, Tensors, transposed};
use super::{Config, Files, find, parse};
use crate::compute::coder_ops::CoderDims;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::sae::export::{Architecture, ExportedCoder, W_SKIP};
use crate::sae::params::PerParam;
use crate::sae::rows::RowScaling;

/// Name of the configuration file.
pub const CONFIG_FILE: &str = "cfg.json";
/// Name of the weights file.
pub const WEIGHTS_FILE: &str = "sae_weights.safetensors";
/// Name of the file with the input's scale, where a coder in training was saved.
pub const SCALER_FILE: &str = "activation_scaler.json";
/// SAELens' end of the name of a site whose rows it has by head.
const Z_SITE: &str = "hook_z";

/// The folder's files: (name, bytes).
///
/// # Errors
/// `Config` for a coder that the format cannot hold.
pub fn write(coder: &ExportedCoder) -> Result<Files> {
    let CoderDims { d, f, out, .. } = coder.dims;
    // what this program alone reads back
    let ours = matches!(coder.architecture, Architecture::GroupMax { .. }) && !coder.transcodes;
    let Some(architecture) = coder.saelens_name().or_else(|| ours.then(|| coder.architecture.name())) else {
        return Err(Error::config(format!("SAELens has no form of this coder ({})", coder.kind())));
    };
    let site = coder.metadata.get("hook_name").and_then(Value::as_str).unwrap_or_default();
    let one_head = coder.metadata.get("hook_head_index").is_some_and(|head| !head.is_null());
    let mut config = json!({
        "architecture": architecture,
        "d_in": d,
        "d_sae": f,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": coder.apply_b_dec_to_input,
        "normalize_activations": coder.rows.name(),
        "reshape_activations": if site.ends_with(Z_SITE) && !one_head { "hook_z" } else { "none" },
        "metadata": coder.metadata,
    });
    if let Architecture::Topk { k } | Architecture::GroupMax { groups: k } = coder.architecture {
        config["k"] = json!(k);
        config["rescale_acts_by_decoder_norm"] = json!(false);
    }
    if coder.transcodes {
        config["d_out"] = json!(out);
    }
    let config = serde_json::to_vec_pretty(&config).or_kind(ErrorKind::Internal, || format!("write {CONFIG_FILE}"))?;
    let PerParam { w_enc, b_enc, w_dec, b_dec, extra } = &coder.params;
    let w_enc = transposed(w_enc, f, d);
    let mut all: Vec<(&str, Vec<usize>, &[f32])> = vec![
        ("W_enc", vec![d, f], &w_enc),
        (bias(coder.architecture), vec![f], b_enc),
        ("W_dec", vec![f, out], w_dec),
        ("b_dec", vec![out], b_dec),
    ];
    all.extend(extra.iter().map(|(name, values)| match *name {
        W_SKIP => ("W_skip", vec![out, d], values.as_slice()),
        name => (name, vec![f], values.as_slice()),
    }));
    let weights = tensors::file(WEIGHTS_FILE, &all)?;
    Ok(vec![(CONFIG_FILE.to_owned(), config), (WEIGHTS_FILE.to_owned(), weights)])
}

/// Its name of the encoder's bias.
fn bias(architecture: Architecture) -> &'static str {
    if architecture == Architecture::Gated { "b_gate" } else { "b_enc" }
}

/// Read a folder's files: what [`write`] wrote, or SAELens.
///
/// # Errors
/// `Data`, naming what is missing, damaged or not known.
pub fn read(files: &[(String, Vec<u8>)]) -> Result<ExportedCoder> {
    let value = parse(files, CONFIG_FILE)?;
    let config = Config { file: CONFIG_FILE, value: &value };
    let scale = scale(files, &value)?;
    let rows = match (value.get("normalize_activations"), scale) {
        (None, _) | (_, Some(_)) => RowScaling::None,
        (Some(found), None) => found.as_str().and_then(RowScaling::named).ok_or_else(|| {
            let known = "only \"none\", \"constant_norm_rescale\" and \"layer_norm\" can be read";
            Error::data(format!("{CONFIG_FILE}: `normalize_activations` is {found}: {known}"))
        })?,
    };
    let Named { architecture, in_training, transcodes, skips } = architecture(&config)?;
    if transcodes && (rows != RowScaling::None || scale.is_some()) {
        let rule = "must be \"none\" of a transcoder: what it reconstructs has another scale";
        return Err(Error::data(format!("{CONFIG_FILE}: `normalize_activations` {rule}")));
    }
    let (d, f) = (config.positive("d_in")?, config.positive("d_sae")?);
    let out = if transcodes { config.positive("d_out")? } else { d };
    let dims = CoderDims { d, f, out, groups: 1 };
    architecture.check(f)?;
    let tensors = Tensors::open(WEIGHTS_FILE, find(files, WEIGHTS_FILE)?)?;
    let mut params = PerParam {
        w_enc: transposed(&tensors.floats("W_enc", &[d, f])?, d, f),
        b_enc: tensors.floats(bias(architecture), &[f])?,
        w_dec: tensors.floats("W_dec", &[f, out])?,
        b_dec: tensors.floats("b_dec", &[out])?,
        extra: match architecture {
            Architecture::Standard | Architecture::Topk { .. } | Architecture::GroupMax { .. } => Vec::new(),
            Architecture::Jumprelu => vec![("threshold", threshold(&tensors, in_training, f)?)],
            Architecture::Gated => {
                vec![("r_mag", tensors.floats("r_mag", &[f])?), ("b_mag", tensors.floats("b_mag", &[f])?)]
            }
        },
    };
    if skips {
        params.extra.push((W_SKIP, tensors.floats("W_skip", &[out, d])?));
    }
    let apply_b_dec_to_input =
        !transcodes && value.get("apply_b_dec_to_input").and_then(Value::as_bool).unwrap_or(true);
    let metadata = value.get("metadata").and_then(Value::as_object).cloned().unwrap_or_default();
    let coder = ExportedCoder { dims, architecture, apply_b_dec_to_input, rows, transcodes, params, metadata };
    let ranked = ranked(&value, in_training)?;
    let coder = if ranked { ranked_by_norm(coder, in_training) } else { coder };
    Ok(match scale {
        // decoder rows for unscaled rows are longer, and SAELens multiplies what is ranked by their norms
        Some(scale) if ranked => coder.of_unscaled(scale).with_unit_decoder(),
        Some(scale) => coder.of_unscaled(scale),
        None => coder,
    })
}

/// What the name of an architecture says.
struct Named {
    architecture: Architecture,
    /// Whether SAELens has it in training only.
    in_training: bool,
    transcodes: bool,
    skips: bool,
}

fn architecture(config: &Config<'_>) -> Result<Named> {
    let found = config.value.get("architecture").cloned().unwrap_or(Value::Null);
    let of = |architecture| Named { architecture, in_training: false, transcodes: false, skips: false };
    let transcoder = |architecture, skips| Named { transcodes: true, skips, ..of(architecture) };
    Ok(match found.as_str() {
        Some("standard") => of(Architecture::Standard),
        Some("topk") => of(Architecture::Topk { k: config.positive("k")? }),
        // what this program alone writes so
        Some("groupmax") => of(Architecture::GroupMax { groups: config.positive("k")? }),
        Some("jumprelu") => of(Architecture::Jumprelu),
        Some("gated") => of(Architecture::Gated),
        Some("batchtopk" | "matryoshka_batchtopk") => Named { in_training: true, ..of(Architecture::Jumprelu) },
        Some("transcoder") => transcoder(Architecture::Standard, false),
        Some("skip_transcoder") => transcoder(Architecture::Standard, true),
        Some("jumprelu_transcoder") => transcoder(Architecture::Jumprelu, false),
        Some("jumprelu_skip_transcoder") => transcoder(Architecture::Jumprelu, true),
        _ => {
            let known = "only standard, topk, jumprelu, gated, batchtopk, matryoshka_batchtopk and the transcoders \
                         (transcoder, skip_transcoder, jumprelu_transcoder, jumprelu_skip_transcoder) can be read";
            return Err(Error::data(format!("{CONFIG_FILE}: `architecture` is {found}: {known}")));
        }
    })
}

/// What pre-activations must exceed. Values below 0 are 0 to its ReLU.
fn threshold(tensors: &Tensors<'_>, in_training: bool, f: usize) -> Result<Vec<f32>> {
    let values = if in_training {
        vec![tensors.floats("topk_threshold", &[])?[0]; f]
    } else if tensors.has("log_threshold") {
        tensors.floats("log_threshold", &[f])?.into_iter().map(f32::exp).collect()
    } else {
        tensors.floats("threshold", &[f])?
    };
    Ok(values.into_iter().map(|t| t.max(0.0)).collect())
}

/// Whether latents are multiplied by the norms of their decoder rows.
fn ranked(config: &Value, in_training: bool) -> Result<bool> {
    let key = "rescale_acts_by_decoder_norm";
    match config.get(key) {
        // a coder in training says nothing only if it is of an old release, which ranked
        None => Ok(in_training),
        Some(Value::Bool(ranked)) => Ok(*ranked),
        Some(found) => Err(Error::data(format!("{CONFIG_FILE}: `{key}` is {found}: expected true or false"))),
    }
}

/// The coder whose values are those that were ranked; the threshold of one in training is of them already.
fn ranked_by_norm(mut coder: ExportedCoder, in_training: bool) -> ExportedCoder {
    let threshold = in_training.then(|| coder.params.extra.clone());
    let d = coder.dims.d;
    for (i, _) in coder.decoder_norms().iter().enumerate().filter(|(_, norm)| **norm == 0.0) {
        // nothing times anything is never among the largest
        coder.params.w_enc[i * d..][..d].fill(0.0);
        coder.params.b_enc[i] = 0.0;
    }
    let mut coder = coder.with_unit_decoder();
    if let Some(threshold) = threshold {
        coder.params.extra = threshold;
    }
    coder
}

/// The input's scale, where it is beside the weights and not in them.
fn scale(files: &[(String, Vec<u8>)], config: &Value) -> Result<Option<f64>> {
    let name = "expected_average_only_in";
    if config.get("normalize_activations").and_then(Value::as_str) != Some(name) {
        return Ok(None);
    }
    if !files.iter().any(|(file, _)| file == SCALER_FILE) {
        return Err(Error::data(format!(
            "{CONFIG_FILE}: `normalize_activations` is \"{name}\": there must be {SCALER_FILE} with the factor, or the \
             factor folded into the weights (SAELens' fold_activation_norm_scaling_factor)"
        )));
    }
    let scaler = parse(files, SCALER_FILE)?;
    let scale = scaler.get("scaling_factor").and_then(Value::as_f64).filter(|s| s.is_finite() && *s > 0.0);
    scale.map(Some).ok_or_else(|| Error::data(format!("{SCALER_FILE}: `scaling_factor` is not a positive number")))
}
