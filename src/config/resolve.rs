//! From the tree to a [`Pipeline`]: the schema's checks, the rules across sections, then the structs.
//!
//! Values that the schema accepts are judged by the rules even where others are broken, so that one run of `validate`
//! shows everything.

use std::net::SocketAddr;
use std::time::Duration;

use super::document::{Data, Node};
use super::problems::{Problem, Severity};
use super::raw::RawPipeline;
use super::rules::Purpose;
use super::{check, rules, schema};
use crate::corpus::config::CorpusConfig;
use crate::dataset::config::DatasetConfig;
use crate::error::{Error, Result};
use crate::model::config::ModelConfig;
use crate::replay::ReplayConfig;
use crate::runtime::rng::Seed;
use crate::store::config::StoreConfig;
use crate::store::prices::PricesConfig;
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
    /// Where rows come from.
    pub input: Input,
    /// The dataset to write, if one is written.
    pub dataset: Option<DatasetConfig>,
    /// The coders to train.
    pub trainers: Vec<TrainerConfig>,
    /// Held-out tokens that trained coders are judged on.
    pub evaluate_tokens: u64,
    /// Where the HTTP endpoint listens, if there is one.
    pub admin_listen: Option<SocketAddr>,
    /// How object stores are reached.
    pub stores: Vec<StoreConfig>,
    /// What the stores' provider bills.
    pub prices: Option<PricesConfig>,
    /// Budget of mixing buffers, coders and queues together.
    pub memory_limit: ByteSize,
    /// Bytes that the dataset may have.
    pub store_limit: Option<ByteSize>,
    /// Time to drain, commit and checkpoint after SIGTERM.
    pub grace: Duration,
}

/// Where rows come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// A model reads a corpus.
    Harvest(Box<Harvest>),
    /// They were stored before.
    Replay(ReplayConfig),
}

/// A model that reads a corpus.
#[derive(Clone, Debug, PartialEq)]
pub struct Harvest {
    /// Which model, and how it is computed.
    pub model: ModelConfig,
    /// Where the text comes from.
    pub corpus: CorpusConfig,
    /// How documents become sequences, and which positions are kept.
    pub tokens: TokensConfig,
    /// Patterns of the sites that a dataset stores. Trainers' inputs are captured besides.
    pub capture: Vec<String>,
}

impl Pipeline {
    /// The model and its corpus.
    ///
    /// # Errors
    /// `Config` if rows come from a stored dataset.
    pub fn harvest(&self) -> Result<&Harvest> {
        match &self.input {
            Input::Harvest(harvest) => Ok(harvest),
            Input::Replay(replay) => Err(Error::config(format!(
                "the pipeline `{}` replays `{}`: it has no model and no corpus",
                self.name, replay.url
            ))),
        }
    }

    /// The stored dataset that rows come from, if they do.
    pub fn replay(&self) -> Option<&ReplayConfig> {
        match &self.input {
            Input::Harvest(_) => None,
            Input::Replay(replay) => Some(replay),
        }
    }
}

/// Check `tree` and make a pipeline of it, unless one of `problems`, old or new, stops it.
pub(crate) fn resolve(
    tree: &mut Node,
    problems: &mut Vec<Problem>,
    purpose: Purpose,
) -> Option<(RawPipeline, Pipeline)> {
    if tree.data == Data::Null {
        problems.push(Problem::file("is empty").hint("`harvestd schema --markdown` lists what a pipeline holds"));
        return None;
    }
    let schema = schema::schema();
    problems.extend(check::check(tree, &schema));
    rules::check(tree, &schema, purpose, problems);
    if problems.iter().any(|p| p.severity == Severity::Error) {
        return None;
    }
    match serde_json::from_value::<RawPipeline>(tree.to_value()) {
        Ok(raw) => Some((raw.clone(), pipeline(raw)?)),
        Err(e) => {
            // the schema is generated from these structs, so only values beyond its vocabulary come here
            problems.push(Problem::file(e.to_string()));
            None
        }
    }
}

/// Defaults filled in, units taken off. The rules have been checked; `None` for what they refuse.
fn pipeline(raw: RawPipeline) -> Option<Pipeline> {
    let input = match raw.replay {
        Some(replay) => Input::Replay(replay),
        None => {
            let (model, corpus, tokens, capture) = (raw.model?, raw.corpus?, raw.tokens, raw.capture);
            Input::Harvest(Box::new(Harvest { model, corpus, tokens, capture }))
        }
    };
    Some(Pipeline {
        name: raw.name,
        seed: Seed(raw.seed),
        input,
        dataset: raw.dataset,
        trainers: raw.trainers,
        evaluate_tokens: raw.evaluate.tokens.0,
        admin_listen: raw.admin.and_then(|a| a.listen.parse().ok()),
        stores: raw.stores,
        prices: raw.prices,
        memory_limit: raw.limits.memory,
        store_limit: raw.limits.store_bytes,
        grace: raw.shutdown.grace.0,
    })
}
