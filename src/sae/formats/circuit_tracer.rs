//! circuit-tracer's folders of transcoders: `config.yaml` and weights by layer, as bytes. It builds attribution graphs from
//! a transcoder for every layer of a model, or from one across all of them.
//!
//! | kind | files |
//! |---|---|
//! | `transcoder_set` | `layer_{i}.safetensors`: `W_enc` `[f, d]`, `b_enc`, `W_dec` `[f, d]`, `b_dec`, and, where there are, `activation_function.threshold` `[f]` and `W_skip` `[d, d]` |
//! | `cross_layer_transcoder` | `W_enc_{i}.safetensors`: `W_enc_{i}` `[f, d]`, `b_enc_{i}`, `b_dec_{i}`, perhaps `threshold_{i}`; `W_dec_{i}.safetensors`: `W_dec_{i}` `[f, layers - i, d]` |
//!
//! It keeps what is positive or above thresholds, and knows one width for what is read and what is reconstructed. Layers are
//! numbered by files alone, so a folder must have all from the first.

use serde_json::{Value, json};

use super::Files;
use super::tensors;
use crate::compute::coder_ops::CoderDims;
use crate::error::{Error, Result};
use crate::sae::export::{Architecture, ExportedCoder, HOOK_NAMES, HOOK_NAMES_OUT, W_SKIP};
use crate::sae::rows::RowScaling;

/// What an MLP reads, which circuit-tracer has a hook of its own for.
const MLP_READS: &str = "ln2.hook_out";
/// Name of the configuration file.
pub const CONFIG_FILE: &str = "config.yaml";

/// The folder of a cross-layer transcoder, or of the transcoders of a model's layers, in any order: (name, bytes), the
/// configuration last. `None` for coders that the format cannot hold.
///
/// # Errors
/// `Config`, naming what does not make a set of layers.
pub fn write(coders: &[ExportedCoder]) -> Result<Option<Files>> {
    match coders {
        [] => Ok(None),
        [coder] if coder.dims.groups > 1 => across_layers(coder),
        _ => set(coders),
    }
}

/// Whether a layer of the format can be this coder, or the layers of it.
fn holds(coder: &ExportedCoder) -> bool {
    let kept = matches!(coder.architecture, Architecture::Standard | Architecture::Jumprelu);
    let one_width = coder.dims.out == coder.dims.d * coder.dims.groups;
    coder.transcodes && kept && one_width && coder.rows == RowScaling::None
}

fn set(coders: &[ExportedCoder]) -> Result<Option<Files>> {
    if !coders.iter().all(|coder| holds(coder) && coder.dims.groups == 1) {
        return Ok(None);
    }
    let mut layers = Vec::new();
    for coder in coders {
        layers.push((Sites::of(coder)?, coder));
    }
    layers.sort_by_key(|(sites, _)| sites.first);
    let numbers: Vec<usize> = layers.iter().map(|(sites, _)| sites.first).collect();
    if numbers.iter().enumerate().any(|(i, layer)| i != *layer) {
        return Err(Error::config(format!(
            "circuit-tracer takes transcoders of all layers from 0, each once; these are of {numbers:?}"
        )));
    }
    let (sites, first) = &layers[0];
    for (other, coder) in &layers[1..] {
        if (&other.input, &other.output) != (&sites.input, &sites.output) {
            return Err(Error::config(format!(
                "transcoders of a set must read and reconstruct the same sites of their layers: layer 0 has {} and {}, \
                 layer {} {} and {}",
                sites.input, sites.output, other.first, other.input, other.output
            )));
        }
        let skips = |coder: &ExportedCoder| coder.params.find(W_SKIP).is_some();
        if coder.dims != first.dims || skips(coder) != skips(first) {
            return Err(Error::config(format!(
                "transcoders of a set must have one width and as many latents, and all or none of them a skip connection: \
                 layers 0 and {} differ",
                other.first
            )));
        }
    }
    let mut files = Vec::new();
    for (i, (_, coder)) in layers.iter().enumerate() {
        let name = format!("layer_{i}.safetensors");
        files.push((name.clone(), layer(&name, coder)?));
    }
    files.push(config("transcoder_set", sites, first));
    Ok(Some(files))
}

fn layer(name: &str, coder: &ExportedCoder) -> Result<Vec<u8>> {
    let CoderDims { d, f, .. } = coder.dims;
    let params = &coder.params;
    let mut all: Vec<(&str, Vec<usize>, &[f32])> = vec![
        ("W_enc", vec![f, d], &params.w_enc),
        ("b_enc", vec![f], &params.b_enc),
        ("W_dec", vec![f, d], &params.w_dec),
        ("b_dec", vec![d], &params.b_dec),
    ];
    if let Some(threshold) = params.find("threshold") {
        all.push(("activation_function.threshold", vec![f], threshold));
    }
    if let Some(w_skip) = params.find(W_SKIP) {
        all.push(("W_skip", vec![d, d], w_skip));
    }
    tensors::file(name, &all)
}

fn across_layers(coder: &ExportedCoder) -> Result<Option<Files>> {
    // its loader knows no skip connections of these
    if !holds(coder) || coder.params.find(W_SKIP).is_some() {
        return Ok(None);
    }
    let sites = Sites::of(coder)?;
    let CoderDims { d, f, out, groups: layers } = coder.dims;
    let (f, params) = (f / layers, &coder.params);
    let mut files = Vec::new();
    for i in 0..layers {
        let latents = i * f..(i + 1) * f;
        let names = ["W_enc", "b_enc", "b_dec", "threshold"].map(|name| format!("{name}_{i}"));
        let mut all: Vec<(&str, Vec<usize>, &[f32])> = vec![
            (&names[0], vec![f, d], &params.w_enc[latents.start * d..latents.end * d]),
            (&names[1], vec![f], &params.b_enc[latents.clone()]),
            (&names[2], vec![d], &params.b_dec[i * d..][..d]),
        ];
        if let Some(threshold) = params.find("threshold") {
            all.push((&names[3], vec![f], &threshold[latents.clone()]));
        }
        let name = format!("W_enc_{i}.safetensors");
        files.push((name.clone(), tensors::file(&name, &all)?));
        // what latents say to earlier layers is nothing
        let rows = params.w_dec[latents.start * out..latents.end * out].chunks_exact(out);
        let w_dec: Vec<f32> = rows.flat_map(|row| &row[i * d..]).copied().collect();
        let (name, tensor) = (format!("W_dec_{i}.safetensors"), format!("W_dec_{i}"));
        files.push((name.clone(), tensors::file(&name, &[(&tensor, vec![f, layers - i, d], &w_dec)])?));
    }
    files.push(config("cross_layer_transcoder", &sites, coder));
    Ok(Some(files))
}

/// JSON texts are YAML texts.
fn config(kind: &str, sites: &Sites, coder: &ExportedCoder) -> (String, Vec<u8>) {
    let lines = [
        ("model_kind", json!(kind)),
        ("model_name", coder.metadata.get("model_name").cloned().unwrap_or(Value::Null)),
        ("feature_input_hook", json!(sites.input)),
        ("feature_output_hook", json!(sites.output)),
        // which pictures of latents belong to it
        ("scan", Value::Null),
    ];
    let text: String = lines.iter().map(|(key, value)| format!("{key}: {value}\n")).collect();
    (CONFIG_FILE.to_owned(), text.into_bytes())
}

/// Where transcoders read and what they reconstruct.
struct Sites {
    /// The first of their layers.
    first: usize,
    /// Names without their layers.
    input: String,
    output: String,
}

impl Sites {
    fn of(coder: &ExportedCoder) -> Result<Self> {
        let about = &coder.metadata;
        if about.get("hook_head_index").is_some_and(|head| !head.is_null()) {
            return Err(Error::config("circuit-tracer has no transcoders of single heads"));
        }
        let names = |list: &str, one: &str| match about.get(list).and_then(Value::as_array) {
            Some(names) => names.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            None => about.get(one).and_then(Value::as_str).map(str::to_owned).into_iter().collect::<Vec<_>>(),
        };
        let (reads, writes) = (names(HOOK_NAMES, "hook_name"), names(HOOK_NAMES_OUT, "hook_name_out"));
        let (first, input) = one_site(&reads, coder.dims.groups)?;
        let (first_out, output) = one_site(&writes, coder.dims.groups)?;
        if first != first_out || (coder.dims.groups > 1 && first != 0) {
            return Err(Error::config(format!(
                "circuit-tracer's transcoders reconstruct sites of the layers that they read, from layer 0 where they have \
                 several; this one reads {reads:?} and reconstructs {writes:?}"
            )));
        }
        let input = if input == MLP_READS { "mlp.hook_in".to_owned() } else { input };
        Ok(Self { first, input, output })
    }
}

/// The layer of the first of the sites, and what follows the layer in all of their names: they are of `n` layers in a row.
fn one_site(names: &[String], n: usize) -> Result<(usize, String)> {
    let wrong = || {
        Error::config(format!(
            "circuit-tracer's transcoders are of one site in a row of layers (blocks.N.SITE); this one has {names:?}"
        ))
    };
    let split = |name: &String| {
        let (layer, site) = name.strip_prefix("blocks.")?.split_once('.')?;
        (!site.contains('[')).then_some((layer.parse::<usize>().ok()?, site.to_owned()))
    };
    let sites: Vec<(usize, String)> = names.iter().map(split).collect::<Option<_>>().ok_or_else(wrong)?;
    let (first, site) = sites.first().cloned().filter(|_| sites.len() == n).ok_or_else(wrong)?;
    let in_a_row = sites.iter().enumerate().all(|(i, other)| *other == (first.saturating_add(i), site.clone()));
    if in_a_row { Ok((first, site)) } else { Err(wrong()) }
}
