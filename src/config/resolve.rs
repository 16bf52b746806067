//! From the tree to a [`Pipeline`]: the schema's checks, the rules across sections, then the structs.
//!
//! Sections that the schema accepts are judged by the rules even where others are broken, so that one run of `validate`
//! shows everything.

use std::net::SocketAddr;
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::document::{Node, Path};
use super::problems::{Problem, Severity};
use super::raw::{AdminConfig, EvaluateConfig, LimitsConfig, RawPipeline, ShutdownConfig};
use super::{check, rules, schema};
use crate::corpus::config::CorpusConfig;
use crate::dataset::config::DatasetConfig;
use crate::model::config::ModelConfig;
use crate::runtime::rng::Seed;
use crate::tokens::config::TokensConfig;
use crate::trainer::config::TrainerConfig;
use crate::units::ByteSize;

/// A checked pipeline: every default filled in, variables expanded.
#[derive(Clone, Debug, PartialEq)]
pub struct Pipeline {
    /// Name in metrics, logs and datasets.
    pub name: String,
    /// Seed of everything random.
    pub seed: Seed,
    /// Which model, and how it is computed.
    pub model: ModelConfig,
    /// Where the text comes from.
    pub corpus: CorpusConfig,
    /// How documents become sequences, and which positions are kept.
    pub tokens: TokensConfig,
    /// Patterns of the sites that a dataset stores. Trainers' inputs are captured besides.
    pub capture: Vec<String>,
    /// The dataset to write, if one is written.
    pub dataset: Option<DatasetConfig>,
    /// The coders to train.
    pub trainers: Vec<TrainerConfig>,
    /// Held-out tokens that trained coders are judged on.
    pub evaluate_tokens: u64,
    /// Where the HTTP endpoint listens, if there is one.
    pub admin_listen: Option<SocketAddr>,
    /// Budget of mixing buffers, coders and queues together.
    pub memory_limit: ByteSize,
    /// Time to drain, commit and checkpoint after SIGTERM.
    pub grace: Duration,
}

/// The sections that the schema accepts, whatever became of the others.
pub(crate) struct Sections {
    pub(crate) model: Option<ModelConfig>,
    pub(crate) corpus: Option<CorpusConfig>,
    pub(crate) tokens: Option<TokensConfig>,
    pub(crate) capture: Option<Vec<String>>,
    pub(crate) dataset: Option<DatasetConfig>,
    /// With their place in the list.
    pub(crate) trainers: Vec<(usize, TrainerConfig)>,
    pub(crate) evaluate: Option<EvaluateConfig>,
    pub(crate) admin: Option<AdminConfig>,
    pub(crate) limits: Option<LimitsConfig>,
    pub(crate) shutdown: Option<ShutdownConfig>,
}

impl Sections {
    fn of(tree: &Node) -> Self {
        let n_trainers = match tree.get("trainers").map(|e| &e.value.data) {
            Some(super::document::Data::List(items)) => items.len(),
            _ => 0,
        };
        Self {
            model: section(tree, "model"),
            corpus: section(tree, "corpus"),
            tokens: section(tree, "tokens").or_else(|| absent(tree, "tokens")),
            capture: section(tree, "capture").or_else(|| absent(tree, "capture")),
            dataset: section(tree, "dataset"),
            trainers: (0..n_trainers).filter_map(|i| Some((i, section(tree, &format!("trainers[{i}]"))?))).collect(),
            evaluate: section(tree, "evaluate").or_else(|| absent(tree, "evaluate")),
            admin: section(tree, "admin"),
            limits: section(tree, "limits").or_else(|| absent(tree, "limits")),
            shutdown: section(tree, "shutdown").or_else(|| absent(tree, "shutdown")),
        }
    }
}

/// The section at `path`, if it is there and whole.
fn section<T: DeserializeOwned>(tree: &Node, path: &str) -> Option<T> {
    let (node, _) = tree.at(&Path::parse(path)?);
    serde_json::from_value(node?.to_value()).ok()
}

/// The default of a section that is left out.
fn absent<T: Default>(tree: &Node, key: &str) -> Option<T> {
    tree.get(key).is_none().then(T::default)
}

/// What came of checking a tree.
pub(crate) struct Resolved {
    /// The structs as read and the pipeline, if nothing stops it.
    pub(crate) pipeline: Option<(RawPipeline, Pipeline)>,
    /// Everything to say, notes included.
    pub(crate) problems: Vec<Problem>,
}

/// Check `tree` and make a pipeline of it.
pub(crate) fn resolve(tree: &mut Node) -> Resolved {
    let mut problems = check::check(tree, &schema::schema());
    rules::check(tree, &Sections::of(tree), &mut problems);
    if problems.iter().any(|p| p.severity == Severity::Error) {
        return Resolved { pipeline: None, problems };
    }
    match serde_json::from_value::<RawPipeline>(tree.to_value()) {
        Ok(raw) => Resolved { pipeline: Some((raw.clone(), pipeline(raw))), problems },
        Err(e) => {
            // the schema is generated from these structs, so only values beyond its vocabulary come here
            problems.push(Problem::file(e.to_string()));
            Resolved { pipeline: None, problems }
        }
    }
}

/// Defaults filled in, units taken off. The rules have been checked.
fn pipeline(raw: RawPipeline) -> Pipeline {
    Pipeline {
        name: raw.name,
        seed: Seed(raw.seed),
        model: raw.model,
        corpus: raw.corpus,
        tokens: raw.tokens,
        capture: raw.capture,
        dataset: raw.dataset,
        trainers: raw.trainers,
        evaluate_tokens: raw.evaluate.tokens.0,
        admin_listen: raw.admin.and_then(|a| a.listen.parse().ok()),
        memory_limit: raw.limits.memory,
        grace: raw.shutdown.grace.0,
    }
}
