//! Rules that no schema can say: those between keys, and those of this build. None needs the model.

use std::net::SocketAddr;

use super::document::{Node, Path};
use super::problems::{Problem, Severity, nearest};
use super::resolve::Sections;
use crate::compute::device;
use crate::corpus::config::CorpusConfig;
use crate::dataset::config::{DatasetConfig, Layout, StoredDtype};
use crate::model::config::ModelConfig;
use crate::sae::config::{CoderConfig, OptimizerConfig};
use crate::tokens::config::TokensConfig;
use crate::trainer::config::TrainerConfig;

/// Check every rule on the sections that are whole.
pub(crate) fn check(tree: &Node, sections: &Sections, problems: &mut Vec<Problem>) {
    let mut rules = Rules { tree, problems };
    rules.work(sections);
    if let Some(model) = &sections.model {
        rules.model(model);
    }
    if let Some(corpus) = &sections.corpus {
        rules.corpus(corpus);
    }
    if let Some(tokens) = &sections.tokens {
        rules.tokens(tokens);
    }
    if let Some(dataset) = &sections.dataset {
        rules.dataset(dataset);
    }
    for (i, trainer) in &sections.trainers {
        rules.trainer(*i, trainer);
    }
    rules.trainer_names(&sections.trainers);
    rules.evaluation(sections);
    rules.places(sections);
    rules.admin(sections);
    rules.budgets(sections);
}

struct Rules<'a> {
    tree: &'a Node,
    problems: &'a mut Vec<Problem>,
}

impl Rules<'_> {
    fn add(&mut self, severity: Severity, path: &str, rule: String, hint: Option<String>) {
        self.problems.push(located(self.tree, severity, path, rule, hint));
    }

    fn broken(&mut self, path: &str, rule: impl Into<String>) {
        self.add(Severity::Error, path, rule.into(), None);
    }

    fn note(&mut self, path: &str, rule: impl Into<String>) {
        self.add(Severity::Note, path, rule.into(), None);
    }

    /// Something must come of a run.
    fn work(&mut self, sections: &Sections) {
        let given = |key| self.tree.get(key).is_some_and(|e| !matches!(e.value.shown().as_str(), "null" | "[]"));
        let (dataset, trainers) = (given("dataset"), given("trainers"));
        if !dataset && !trainers {
            self.broken("", "needs `dataset` (to store activations), `trainers` (to train on them), or both");
        }
        if dataset && sections.capture.as_ref().is_some_and(Vec::is_empty) {
            self.broken("capture", "is required with `dataset`: name the sites to store");
        }
    }

    fn model(&mut self, model: &ModelConfig) {
        let source = model.source.as_str();
        if source.contains("://") {
            let hint = "download it and give the folder with config.json, *.safetensors and tokenizer.json";
            let rule = "must be a local folder: this build does not download models";
            self.add(Severity::Error, "model.source", rule.to_owned(), Some(hint.to_owned()));
        } else if source.ends_with(".gguf") {
            self.broken("model.source", "must be a folder with safetensors: this build does not read GGUF files");
        }
        match model.device.as_str() {
            "auto" if device::cuda_driver_present() => {
                self.note("model.device", "there is a CUDA driver here, but this build computes on the CPU");
            }
            device if device.starts_with("cuda") => {
                self.broken("model.device", "this build computes on the CPU: write `auto` or `cpu`");
            }
            _ => {}
        }
        if model.threads > 1024 {
            self.broken("model.threads", "must be at most 1024");
        }
    }

    fn corpus(&mut self, corpus: &CorpusConfig) {
        if let CorpusConfig::Jsonl { field, tokens_field, .. } | CorpusConfig::Parquet { field, tokens_field, .. } =
            corpus
            && field.is_some()
            && tokens_field.is_some()
        {
            self.broken("corpus.tokens_field", "excludes `field`: rows are either text or token ids");
        }
        for (i, path) in corpus.paths().iter().enumerate() {
            if let Some(hint) = unknown_scheme(path) {
                self.add(Severity::Error, &format!("corpus.paths[{i}]"), SCHEMES.to_owned(), hint);
            }
        }
        if corpus.holdout().share() >= 1.0 {
            self.broken("corpus.holdout", "must be below 100%: nothing would be harvested");
        }
    }

    fn tokens(&mut self, tokens: &TokensConfig) {
        for (i, position) in tokens.exclude.positions.iter().enumerate() {
            if *position >= tokens.context_length {
                let rule = format!("must be below tokens.context_length ({})", tokens.context_length);
                self.broken(&format!("tokens.exclude.positions[{i}]"), rule);
            }
        }
        if tokens.batch_tokens < tokens.context_length {
            let rule = format!(
                "is below tokens.context_length ({}): a batch is then one sequence, which may be longer than this",
                tokens.context_length
            );
            self.note("tokens.batch_tokens", rule);
        }
    }

    fn dataset(&mut self, dataset: &DatasetConfig) {
        if dataset.rows_per_group > dataset.rows_per_shard {
            let rule = format!("must be at most dataset.rows_per_shard ({})", dataset.rows_per_shard);
            // the key that was written is the one to name
            let written = |key: &str| self.tree.get("dataset").is_some_and(|e| e.value.get(key).is_some());
            if written("rows_per_group") || !written("rows_per_shard") {
                self.broken("dataset.rows_per_group", rule);
            } else {
                let rule = format!("must be at least dataset.rows_per_group ({})", dataset.rows_per_group);
                self.broken("dataset.rows_per_shard", rule);
            }
        }
        if dataset.sample.share() <= 0.0 {
            self.broken("dataset.sample", "must be above 0%");
        }
        if dataset.layout == Layout::Raw && dataset.dtype != StoredDtype::Float16 {
            self.broken("dataset.layout", "`raw` is a layout of float16: leave it out with other dtypes");
        }
        self.writable("dataset.url", &dataset.url);
    }

    fn trainer(&mut self, i: usize, trainer: &TrainerConfig) {
        let at = |key: &str| format!("trainers[{i}].{key}");
        let CoderConfig::Topk { width, k, aux_k, .. } = &trainer.coder;
        if k > width {
            self.broken(&at("coder.k"), format!("must be at most coder.width ({width})"));
        }
        if let Some(aux_k) = aux_k
            && aux_k > width
        {
            self.broken(&at("coder.aux_k"), format!("must be at most coder.width ({width})"));
        }
        let batch = u64::from(trainer.batch_rows);
        if trainer.buffer.rows.0 < batch {
            self.broken(&at("buffer.rows"), format!("must be at least batch_rows ({batch})"));
        } else if trainer.buffer.rows.0 < 4 * batch {
            self.note(&at("buffer.rows"), format!("holds fewer than 4 batches of {batch}: rows are hardly mixed"));
        }
        let steps = trainer.rows.0 / batch.max(1);
        if steps == 0 {
            self.broken(&at("rows"), format!("must be at least batch_rows ({batch}): one step"));
        }
        let OptimizerConfig::Adam { warmup_steps, .. } = &trainer.optimizer;
        if steps > 0 && *warmup_steps >= steps {
            let rule = format!("the learning rate never reaches its peak: {steps} steps in all (rows / batch_rows)");
            self.note(&at("optimizer.warmup_steps"), rule);
        }
        if trainer.checkpoint.every.0.is_zero() {
            self.broken(&at("checkpoint.every"), "must be above 0s");
        }
        self.writable(&at("checkpoint.url"), &trainer.checkpoint.url);
    }

    fn trainer_names(&mut self, trainers: &[(usize, TrainerConfig)]) {
        for (at, (i, trainer)) in trainers.iter().enumerate() {
            if let Some((first, _)) = trainers[..at].iter().find(|(_, t)| t.name == trainer.name) {
                self.broken(&format!("trainers[{i}].name"), format!("is the name of trainers[{first}] too"));
            }
        }
    }

    fn evaluation(&mut self, sections: &Sections) {
        let (Some(corpus), Some(evaluate)) = (&sections.corpus, &sections.evaluate) else { return };
        if !sections.trainers.is_empty() && evaluate.tokens.0 > 0 && corpus.holdout().share() == 0.0 {
            self.note("corpus.holdout", "no text is held out, so trained coders are not judged at the end");
        }
    }

    /// Everything that is written has its own place.
    fn places(&mut self, sections: &Sections) {
        let dataset = sections.dataset.iter().map(|d| ("dataset.url".to_owned(), place_of(&d.url)));
        let checkpoints = sections
            .trainers
            .iter()
            .map(|(i, t)| (format!("trainers[{i}].checkpoint.url"), place_of(&t.checkpoint.url)));
        let places: Vec<(String, String)> = dataset.chain(checkpoints).collect();
        for (at, (path, place)) in places.iter().enumerate() {
            for (other_path, other) in &places[..at] {
                if place == other {
                    self.broken(path, format!("is the same place as {other_path}"));
                } else if is_inside(place, other) {
                    self.broken(path, format!("must not be inside {other_path}"));
                } else if is_inside(other, place) {
                    self.broken(path, format!("must not contain {other_path}"));
                }
            }
        }
    }

    fn writable(&mut self, path: &str, url: &str) {
        if let Some(hint) = unknown_scheme(url) {
            self.add(Severity::Error, path, SCHEMES.to_owned(), hint);
        } else if url.starts_with("http://") || url.starts_with("https://") {
            self.broken(path, "is read only: give a local path or an object store (s3://, gs://, az://)");
        }
    }

    fn admin(&mut self, sections: &Sections) {
        let Some(admin) = &sections.admin else { return };
        match admin.listen.parse::<SocketAddr>() {
            Err(_) => self.broken("admin.listen", "must be an address and port, such as 127.0.0.1:9464"),
            Ok(address) if !address.ip().is_loopback() => {
                self.broken("admin.listen", "must be a loopback address: the endpoint has no authentication");
            }
            Ok(_) => {}
        }
    }

    fn budgets(&mut self, sections: &Sections) {
        if sections.limits.as_ref().is_some_and(|l| l.memory.0 < 1 << 20) {
            self.broken("limits.memory", "must be at least 1MiB");
        }
        if sections.shutdown.as_ref().is_some_and(|s| s.grace.0.is_zero()) {
            self.broken("shutdown.grace", "must be above 0s: checkpoints are written in this time");
        }
    }
}

/// A problem at `path` of `tree`, with the value that stands there.
pub(crate) fn located(tree: &Node, severity: Severity, path: &str, rule: String, hint: Option<String>) -> Problem {
    let steps = Path::parse(path).unwrap_or_default();
    let (node, place) = tree.at(&steps);
    Problem {
        severity,
        place,
        path: path.to_owned(),
        value: node.filter(|_| !path.is_empty()).map(Node::shown),
        rule,
        hint,
    }
}

/// Schemes of [`crate::store`].
const KNOWN_SCHEMES: [&str; 12] =
    ["file", "s3", "s3a", "gs", "az", "adl", "abfs", "abfss", "azure", "http", "https", "memory"];
const SCHEMES: &str = "must be a local path or a URL with s3://, gs://, az://, https:// or file://";

/// For a URL whose scheme no store has: perhaps the scheme that was meant.
fn unknown_scheme(text: &str) -> Option<Option<String>> {
    let (scheme, _) = text.split_once("://")?;
    if KNOWN_SCHEMES.contains(&scheme) {
        return None;
    }
    Some(nearest(scheme, KNOWN_SCHEMES).map(|near| format!("did you mean `{near}://`?")))
}

/// One spelling a place, for comparison.
fn place_of(url: &str) -> String {
    let text = url.strip_prefix("file://").unwrap_or(url);
    let (prefix, path) = match text.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest.to_owned()),
        None => {
            let absolute = std::path::absolute(text).unwrap_or_else(|_| text.into());
            ("/".to_owned(), absolute.to_string_lossy().into_owned())
        }
    };
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => _ = parts.pop(),
            part => parts.push(part),
        }
    }
    format!("{prefix}{}", parts.join("/"))
}

fn is_inside(place: &str, other: &str) -> bool {
    place.strip_prefix(other).is_some_and(|rest| rest.starts_with('/') || other.ends_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_have_one_spelling() {
        let here = std::env::current_dir().unwrap();
        assert_eq!(place_of("a/../b/./c/"), format!("{}/b/c", here.display()));
        assert_eq!(place_of("file:///x/y/"), "/x/y");
        assert_eq!(place_of("s3://bucket//a/b/"), "s3://bucket/a/b");
        assert!(is_inside("/x/y", "/x") && is_inside("/x", "/") && !is_inside("/xy", "/x") && !is_inside("/x", "/x"));
    }

    #[test]
    fn schemes() {
        assert_eq!(unknown_scheme("data/acts"), None);
        assert_eq!(unknown_scheme("s3://b/x"), None);
        assert_eq!(unknown_scheme("ss3://b/x"), Some(Some("did you mean `s3://`?".into())));
        assert_eq!(unknown_scheme("carrier-pigeon://b"), Some(None));
    }
}
