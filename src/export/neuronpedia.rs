//! Features as SAEDashboard (0.8) writes them for Neuronpedia: `batch-N.json` with [`PER_BATCH`] latents each, and
//! `skipped_indexes.json` with those that never fired.
//!
//! What is not known here is empty, as it is in SAEDashboard where a table is switched off: alignment with neurons, correlated
//! neurons and features, weights by head, vectors.

use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::features::{About, Context, Feature, Features};
use crate::tokens::Pieces;

/// Latents of a file. (SAEDashboard's default)
const PER_BATCH: usize = 128;
/// Bins a power of two of the histograms.
const PER_OCTAVE: u32 = 4;

/// The files, made one after the other.
pub fn files<'a>(
    features: &'a Features,
    about: &'a About,
    pieces: &'a Pieces,
) -> impl Iterator<Item = (String, Result<Vec<u8>>)> + 'a {
    let fired = |latent: &usize| features.collector.latent(*latent).sizes.n() > 0;
    let (alive, silent): (Vec<usize>, Vec<usize>) = (0..features.len()).partition(fired);
    let skipped = json!({
        "model_id": about.model, "layer": layer(about).to_string(), "sae_set": about.coder, "log_sparsity": Value::Null,
        "skipped_indexes": silent,
    });
    let batches: Vec<Vec<usize>> = alive.chunks(PER_BATCH).map(<[usize]>::to_vec).collect();
    let batches = batches.into_iter().enumerate().map(move |(i, latents)| {
        let dashboards = latents.iter().map(|&latent| dashboard(&features.feature(latent), about, pieces));
        let batch = json!({
            "model_id": about.model, "layer": layer(about), "sae_set": about.coder, "sae_id_suffix": Value::Null,
            "features": dashboards.collect::<Vec<Value>>(),
        });
        (format!("batch-{i}.json"), bytes(&batch))
    });
    std::iter::once(("skipped_indexes.json".to_owned(), bytes(&skipped))).chain(batches)
}

fn bytes(value: &Value) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|e| Error::internal(e.to_string()))
}

/// The block of the site that is read; 0 outside of blocks.
fn layer(about: &About) -> u32 {
    let block = about.reads.strip_prefix("blocks.").and_then(|rest| rest.split('.').next());
    block.and_then(|layer| layer.parse().ok()).unwrap_or_default()
}

/// Numbers as SAEDashboard rounds them.
fn rounded(values: impl IntoIterator<Item = f32>) -> Vec<f64> {
    values.into_iter().map(|x| (f64::from(x) * 1000.0).round() / 1000.0).collect()
}

fn dashboard(feature: &Feature<'_>, about: &About, pieces: &Pieces) -> Value {
    let (edges, counts) = feature.sizes.histogram(PER_OCTAVE);
    let middles = edges.windows(2).map(|edge| 0.5 * (edge[0] + edge[1]));
    let effects = feature.effects.cloned().unwrap_or_default();
    let shown = |tokens: &[(u32, f32)]| tokens.iter().map(|(id, _)| pieces.shown(*id)).collect::<Vec<_>>();
    let logits = |tokens: &[(u32, f32)]| rounded(tokens.iter().map(|(_, logit)| *logit));
    let top = feature.top.iter().map(|context| (context, (-1.0, feature.sizes.max(), -1.0)));
    let sampled = feature.sampled.iter().map(|(stratum, context)| (*context, interval(feature, *stratum)));
    let activations = top.chain(sampled).map(|(context, interval)| activation(context, interval, pieces));
    let empty = Vec::<f32>::new();
    json!({
        "feature_index": feature.latent,
        "neuron_alignment_indices": empty, "neuron_alignment_values": empty, "neuron_alignment_l1": empty,
        "correlated_neurons_indices": empty, "correlated_neurons_l1": empty, "correlated_neurons_pearson": empty,
        "correlated_features_indices": empty, "correlated_features_l1": empty, "correlated_features_pearson": empty,
        "neg_str": shown(&effects.suppressed), "neg_values": logits(&effects.suppressed),
        "pos_str": shown(&effects.promoted), "pos_values": logits(&effects.promoted),
        "frac_nonzero": feature.density,
        "freq_hist_data_bar_values": rounded(middles), "freq_hist_data_bar_heights": counts,
        "logits_hist_data_bar_heights": effects.histogram, "logits_hist_data_bar_values": rounded(effects.middles()),
        "n_prompts_total": about.tokens / (about.context.0 + about.context.1 + 1) as u64,
        "n_tokens_in_prompt": about.context.0 + about.context.1 + 1,
        "dataset": about.pipeline, "decoder_weights_dist": empty,
        "activations": activations.collect::<Vec<Value>>(), "vector": empty,
    })
}

/// The range of a slice of the sampled contexts, and the share of peaks that it stands for.
fn interval(feature: &Feature<'_>, stratum: u32) -> (f32, f32, f32) {
    let those = || feature.sampled.iter().filter(|(of, _)| *of == stratum).map(|(_, context)| context.activation);
    let (least, most) = (those().fold(f32::INFINITY, f32::min), those().fold(f32::NEG_INFINITY, f32::max));
    (least, most, those().count() as f32 / feature.sampled.len().max(1) as f32)
}

fn activation(context: &Context, (least, most, share): (f32, f32, f32), pieces: &Pieces) -> Value {
    json!({
        "bin_min": least, "bin_max": most, "bin_contains": share,
        "tokens": context.ids.iter().map(|id| pieces.shown(*id)).collect::<Vec<_>>(),
        "values": rounded(context.activations.iter().copied()),
        "qualifying_token_index": context.peak,
    })
}
