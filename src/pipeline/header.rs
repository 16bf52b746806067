//! A pipeline as a dataset's header: what its rows are, and what must not change while it grows.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::activation::KeepRule;
use crate::activation::keep::has_norm_limit;
use crate::config::{Input, Loaded};
use crate::corpus::Corpus;
use crate::dataset::config::DatasetConfig;
use crate::dataset::header::{DatasetHeader, FORMAT, Fingerprints, ModelHeader, SpecialTokens};
use crate::dataset::schema::ShardSpec;
use crate::error::Result;
use crate::hooks::{HookPoint, SiteWidth};
use crate::hub::HubName;
use crate::model::ModelSource;
use crate::pipeline::columns::Division;
use crate::pipeline::locate::Located;
use crate::sae::export::ExportMetadata;
use crate::store::redact;
use crate::tokens::config::{PrependBos, Separator, TokensConfig};
use crate::tokens::tokenizer::Tokenizer;

/// What the rows of a run are: whatever changes it makes another stream.
#[derive(Clone, Debug)]
pub struct Stream {
    /// The model's files.
    pub model: ModelHeader,
    /// What the rows are computed from.
    pub fingerprints: Fingerprints,
    /// How documents become sequences and which rows are kept.
    pub tokens: Value,
}

impl Stream {
    /// The stream of a pipeline.
    pub fn of(
        loaded: &Loaded,
        located: &Located,
        source: &ModelSource,
        judged: &[SiteWidth],
        tokenizer: &Tokenizer,
        corpus: &Corpus,
    ) -> Result<Self> {
        let pipeline = &loaded.pipeline;
        let harvest = pipeline.harvest()?;
        let files = source.fingerprint()?;
        let model = ModelHeader {
            source: loaded.published["model"]["source"].as_str().unwrap_or_default().to_owned(),
            commit: located.commit().map(str::to_owned),
            config_sha256: files.config.clone(),
            weights_sha256: files.weights.clone(),
            tokenizer_sha256: files.tokenizer.clone(),
        };
        let dtype = format!("{:?}", harvest.model.dtype);
        let fingerprints = Fingerprints {
            model: match source.second().map(ModelSource::fingerprint).transpose()? {
                None => digest(&[&files.config, &files.weights, &dtype]),
                Some(second) => digest(&[&files.config, &files.weights, &dtype, &second.config, &second.weights]),
            },
            tokenizer: tokenizer.fingerprint().to_owned(),
            corpus: corpus.fingerprint().to_owned(),
        };
        let tokens = json!({
            "seed": pipeline.seed,
            "holdout": harvest.corpus.holdout(),
            "unit_bytes": harvest.corpus.unit_bytes(),
            "policy": harvest.tokens,
            // a row is dropped when any of these sites rejects it, so the rows depend on what is captured besides
            "judged_sites": judged.iter().map(|(point, _)| point.to_string()).collect::<Vec<_>>(),
        });
        Ok(Self { model, fingerprints, tokens })
    }

    /// As stored with checkpoints and evaluations: what the rows are, wherever the model lay.
    pub fn to_json(&self) -> Value {
        json!({ "fingerprints": self.fingerprints, "tokens": self.tokens })
    }
}

/// The pipeline with what `auto` means for its tokenizer, and that for people and headers.
///
/// # Errors
/// `Config` for a pipeline that replays.
pub fn decided(loaded: &Loaded, tokenizer: &Tokenizer) -> Result<(Loaded, SpecialTokens)> {
    let mut loaded = loaded.clone();
    let mut harvest = loaded.pipeline.harvest()?.clone();
    let (tokens, because) = tokenizer.decided(&harvest.tokens, harvest.corpus.pre_tokenised());
    let ids = tokenizer.ids();
    let prepend_bos = tokens.prepend_bos == PrependBos::Yes;
    harvest.tokens = tokens;
    loaded.pipeline.input = Input::Harvest(Box::new(harvest));
    Ok((loaded, SpecialTokens { bos: ids.bos, eos: ids.eos, pad: ids.pad, prepend_bos, because }))
}

/// The header of the dataset that a pipeline writes.
pub fn describe(
    loaded: &Loaded,
    config: &DatasetConfig,
    stream: &Stream,
    division: &Division,
    corpus: &Corpus,
    keep: &KeepRule,
) -> DatasetHeader {
    let spec = ShardSpec::new(config, &division.base);
    let Stream { model, fingerprints, tokens } = stream.clone();
    let name = &loaded.pipeline.name;
    let limits = division.judged.iter().filter_map(|&(point, _)| Some((point.to_string(), keep.norm_limit(point)?)));
    DatasetHeader {
        format: FORMAT,
        column_group: None,
        run_id: digest(&[name, &fingerprints.model, &fingerprints.corpus, &tokens.to_string()])[..16].to_owned(),
        pipeline: loaded.published.clone(),
        model,
        fingerprints,
        special_tokens: None,
        sites: spec.site_headers(HookPoint::definition),
        tokens,
        // of a corpus that grows, what was written down of its files says it
        units: if corpus.follows() { 0 } else { corpus.n_units() },
        follows: corpus.follows(),
        norm_limits: limits.collect::<BTreeMap<String, f32>>(),
        sample: config.sample,
        shards: spec.rule(),
        order: None,
    }
}

/// The norm limits that a dataset's header stores, if it has one for each of `sites` that should have one.
pub fn stored_limits(header: &DatasetHeader, sites: &[SiteWidth]) -> Option<Vec<(HookPoint, f32)>> {
    let judged = sites.iter().map(|&(point, _)| point).filter(|&point| has_norm_limit(point));
    judged.map(|point| Some((point, *header.norm_limits.get(&point.to_string())?))).collect()
}

/// What an exported coder says of where its rows came from.
pub fn about(model: &str, corpus: &str, tokens: &TokensConfig) -> ExportMetadata {
    ExportMetadata {
        model_name: HubName::model_name(model),
        dataset_path: redact(corpus).replace(' ', ","),
        context_size: tokens.context_length,
        prepend_bos: tokens.prepend_bos == PrependBos::Yes,
        separator: match tokens.separator {
            Separator::Eos => Some("eos".to_owned()),
            Separator::Bos => Some("bos".to_owned()),
            Separator::None => None,
        },
        exclude_special_tokens: tokens.exclude.special,
        extra: serde_json::Map::new(),
    }
}

/// SHA-256 of the parts, each with its length.
fn digest(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
