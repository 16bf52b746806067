//! Rules that no schema can say: those between keys, and those of this build. None needs the model.
//!
//! A rule asks for the values it compares by their paths and is skipped when one of them is missing or unreadable, which
//! the schema's check has then reported. Every rule has a file in `tests/config/bad/`.

mod coder;
mod evaluation;
mod model;
mod replay;
mod stores;

use std::net::SocketAddr;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::document::{Data, Node, Path};
use super::problems::{Problem, Severity, nearest};
use super::schema::View;
use crate::dataset::config::{Layout, StoredDtype};
use crate::sae::config::CoderConfig;
use crate::trainer::target::TargetConfig;
use crate::units::{ByteSize, Count, HumanDuration, Percent};

/// What a pipeline is read for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To be run.
    Run,
    /// To judge coders of others on what it holds out.
    Judge,
}

/// Check every rule.
pub(crate) fn check(tree: &Node, schema: &Value, purpose: Purpose, problems: &mut Vec<Problem>) {
    let mut rules = Rules { tree, schema: View::new(schema), purpose, problems };
    rules.input();
    rules.work();
    rules.model();
    rules.corpus();
    rules.tokens();
    rules.dataset();
    rules.replay();
    for i in 0..rules.items("trainers") {
        rules.trainer(i);
        rules.optimizer(i);
    }
    rules.trainer_names();
    rules.evaluation();
    rules.places();
    rules.admin();
    rules.stores();
    rules.shared();
    rules.budgets();
}

struct Rules<'a> {
    tree: &'a Node,
    schema: View<'a>,
    purpose: Purpose,
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

    /// The value at `path` if it is written and of type `T`.
    fn written<T: DeserializeOwned>(&self, path: &str) -> Option<T> {
        let (node, _) = self.tree.at(&Path::parse(path)?);
        let node = node.filter(|n| !matches!(n.data, Data::Null | Data::Unreadable))?;
        serde_json::from_value(node.to_value()).ok()
    }

    /// The value at `path`: what is written, or the schema's default.
    fn value<T: DeserializeOwned>(&self, path: &str) -> Option<T> {
        let steps = Path::parse(path)?;
        match self.tree.at(&steps).0 {
            Some(_) => self.written(path),
            None => serde_json::from_value(self.schema.at(&steps)?.get("default")?.clone()).ok(),
        }
    }

    /// Items of the list at `path`.
    fn items(&self, path: &str) -> usize {
        self.written::<Vec<Value>>(path).map_or(0, |items| items.len())
    }

    /// Something must come of a run.
    fn work(&mut self) {
        if self.is_replay() || self.purpose == Purpose::Judge {
            return;
        }
        let dataset = self.written::<Value>("dataset").is_some();
        if !dataset && self.items("trainers") == 0 && self.value::<Vec<Value>>("trainers").is_some() {
            self.broken("", "needs `dataset` (to store activations), `trainers` (to train on them), or both");
        }
        if dataset && self.value::<Vec<Value>>("capture").is_some_and(|c| c.is_empty()) {
            self.broken("capture", "is required with `dataset`: name the sites to store");
        }
    }

    fn corpus(&mut self) {
        let [text, ids, messages] = ["field", "tokens_field", "messages_field"]
            .map(|key| self.written::<String>(&format!("corpus.{key}")).is_some());
        if text && ids {
            self.broken("corpus.tokens_field", "excludes `field`: rows are either text or token ids");
        }
        if messages && (text || ids) {
            self.broken("corpus.messages_field", "excludes `field` and `tokens_field`: rows are conversations");
        }
        if !messages && self.written::<Value>("tokens.chat").is_some() {
            self.broken("tokens.chat", "is for conversations: name their field with corpus.messages_field");
        }
        for (i, path) in self.value::<Vec<String>>("corpus.paths").unwrap_or_default().iter().enumerate() {
            if let Some(hint) = unknown_scheme(path) {
                self.add(Severity::Error, &format!("corpus.paths[{i}]"), SCHEMES.to_owned(), hint);
            }
            let name = path.split('?').next().unwrap_or(path);
            if path.starts_with("http") && name.contains("://") && name.contains(['*', '[', '{']) {
                let rule = "must name one file: web servers do not list their files, so patterns cannot be used there";
                self.broken(&format!("corpus.paths[{i}]"), rule);
            }
        }
        if self.value::<Percent>("corpus.holdout").is_some_and(|h| h.share() >= 1.0) {
            self.broken("corpus.holdout", "must be below 100%: nothing would be harvested");
        }
    }

    fn tokens(&mut self) {
        let Some(context) = self.value::<u32>("tokens.context_length") else { return };
        for i in 0..self.items("tokens.exclude.positions") {
            let path = format!("tokens.exclude.positions[{i}]");
            if self.value::<u32>(&path).is_some_and(|position| position >= context) {
                self.broken(&path, format!("must be below tokens.context_length ({context})"));
            }
        }
        if self.value::<u32>("tokens.batch_tokens").is_some_and(|batch| batch < context) {
            let rule =
                format!("is below tokens.context_length ({context}): a batch is one sequence, of up to that many");
            self.note("tokens.batch_tokens", rule);
        }
    }

    fn dataset(&mut self) {
        if self.written::<Value>("dataset").is_none() {
            return;
        }
        // the default is for large shards; small shards are one group
        if let (Some(Count(group)), Some(Count(shard))) =
            (self.written("dataset.rows_per_group"), self.value("dataset.rows_per_shard"))
            && group > shard
        {
            self.broken("dataset.rows_per_group", format!("must be at most dataset.rows_per_shard ({shard})"));
        }
        if self.value::<Percent>("dataset.sample").is_some_and(|s| s.share() <= 0.0) {
            self.broken("dataset.sample", "must be above 0%");
        }
        let (layout, dtype) = (self.value::<Layout>("dataset.layout"), self.value::<StoredDtype>("dataset.dtype"));
        if layout == Some(Layout::Raw) && dtype.is_some_and(|d| d != StoredDtype::Float16) {
            self.broken("dataset.layout", "`raw` is a layout of float16: leave it out with other dtypes");
        }
        self.writable("dataset.url");
    }

    fn trainer(&mut self, i: usize) {
        let at = |key: &str| format!("trainers[{i}].{key}");
        if let Some(width) = self.value::<u32>(&at("coder.width")) {
            for key in ["coder.k", "coder.aux.k"] {
                if self.written::<u32>(&at(key)).is_some_and(|k| k > width) {
                    self.broken(&at(key), format!("must be at most coder.width ({width})"));
                }
            }
        }
        let target: TargetConfig = self.value(&at("target")).unwrap_or_default();
        let coder = self.written::<CoderConfig>(&at("coder"));
        let input: String = self.value(&at("input")).unwrap_or_default();
        for (key, rule) in target.faults(&input, self.value(&at("normalize")).unwrap_or_default(), coder.as_ref()) {
            self.broken(&at(&key), rule);
        }
        for fault in coder.iter().flat_map(CoderConfig::faults) {
            let path = at(&format!("coder.{}", fault.key));
            // what the schema, or a rule above, has said is not said twice
            if !self.problems.iter().any(|known| known.severity == Severity::Error && known.path == path) {
                self.broken(&path, fault.rule);
            }
        }
        if let Some(coder) = &coder {
            self.coder(i, coder);
        }
        if let (Some(batch), Some(Count(buffer))) =
            (self.value::<u64>(&at("batch_rows")), self.value::<Count>(&at("buffer.rows")))
        {
            if buffer < batch {
                self.broken(&at("buffer.rows"), format!("must be at least batch_rows ({batch})"));
            } else if buffer < 4 * batch {
                self.note(&at("buffer.rows"), format!("holds fewer than 4 batches of {batch}: rows are hardly mixed"));
            }
        }
        if self.value::<HumanDuration>(&at("checkpoint.every")).is_some_and(|every| every.0.is_zero()) {
            self.broken(&at("checkpoint.every"), "must be above 0s");
        }
        self.writable(&at("checkpoint.url"));
        self.trained_coder(&at("start_from"), &at("checkpoint.url"));
        if self.written::<String>(&at("start_from")).is_some()
            && let Some(why) = coder.as_ref().and_then(|coder| target.never_continues(coder))
        {
            self.broken(&at("start_from"), format!("must be left out: {why}"));
        }
        self.trained_coder(&at("target.base"), &at("checkpoint.url"));
    }

    fn optimizer(&mut self, i: usize) {
        let at = |key: &str| format!("trainers[{i}].{key}");
        let (Some(batch), Some(Count(rows))) = (self.value::<u64>(&at("batch_rows")), self.value::<Count>(&at("rows")))
        else {
            return;
        };
        if rows < batch {
            self.broken(&at("rows"), format!("must be at least batch_rows ({batch}): one step"));
        } else if let Some(warmup) = self.value::<u64>(&at("optimizer.warmup_steps"))
            && warmup >= rows / batch.max(1)
        {
            let steps = rows / batch.max(1);
            let rule = format!("the learning rate never reaches its peak: {steps} steps in all (rows / batch_rows)");
            self.note(&at("optimizer.warmup_steps"), rule);
        }
    }

    fn trainer_names(&mut self) {
        let names: Vec<Option<String>> =
            (0..self.items("trainers")).map(|i| self.value(&format!("trainers[{i}].name"))).collect();
        for (i, name) in names.iter().enumerate() {
            if let Some(first) = names[..i].iter().position(|n| n.is_some() && n == name) {
                self.broken(&format!("trainers[{i}].name"), format!("is the name of trainers[{first}] too"));
            }
        }
    }

    /// Everything that is written has its own place.
    fn places(&mut self) {
        let checkpoints = (0..self.items("trainers")).map(|i| format!("trainers[{i}].checkpoint.url"));
        let places: Vec<(String, String)> = ["replay.url", "dataset.url"]
            .map(str::to_owned)
            .into_iter()
            .chain(checkpoints)
            .filter_map(|path| Some((place_of(&self.written::<String>(&path)?), path)))
            .collect();
        for (i, (place, path)) in places.iter().enumerate() {
            for (other, other_path) in &places[..i] {
                let relation = if place == other {
                    "is the same place as"
                } else if is_inside(place, other) {
                    "must not be inside"
                } else if is_inside(other, place) {
                    "must not contain"
                } else {
                    continue;
                };
                self.broken(path, format!("{relation} {other_path}"));
                break;
            }
        }
    }

    fn writable(&mut self, path: &str) {
        let Some(url) = self.written::<String>(path) else { return };
        if let Some(hint) = unknown_scheme(&url) {
            self.add(Severity::Error, path, SCHEMES.to_owned(), hint);
        } else if url.starts_with("http://") || url.starts_with("https://") {
            self.broken(path, "is read only: give a local path or an object store (s3://, gs://, az://)");
        } else if url.contains("://") && !url.starts_with("memory://") && url.contains('#') {
            self.broken(path, "must not hold a `#`: what follows it would be lost (write %23)");
        }
    }

    fn admin(&mut self) {
        let Some(listen) = self.written::<String>("admin.listen") else { return };
        match listen.parse::<SocketAddr>() {
            Err(_) => self.broken("admin.listen", "must be an address and port, such as 127.0.0.1:9464"),
            Ok(address) if !address.ip().is_loopback() => {
                self.broken("admin.listen", "must be a loopback address: the endpoint has no authentication");
            }
            Ok(_) => {}
        }
    }

    fn budgets(&mut self) {
        if self.written::<ByteSize>("limits.store_bytes").is_some() && self.written::<Value>("dataset").is_none() {
            self.broken("limits.store_bytes", "needs a `dataset`: it limits what is stored there");
        }
        if let (Some(limit), Some(keep)) =
            (self.written::<ByteSize>("limits.store_bytes"), self.written::<ByteSize>("dataset.keep.bytes"))
            && keep.0 >= limit.0
        {
            let rule =
                format!("is not above dataset.keep.bytes ({keep}): retention never makes room, so the run stops");
            self.note("limits.store_bytes", rule);
        }
        if self.value::<ByteSize>("limits.memory").is_some_and(|m| m.0 < 1 << 20) {
            self.broken("limits.memory", "must be at least 1MiB");
        }
        if self.value::<HumanDuration>("shutdown.grace").is_some_and(|g| g.0.is_zero()) {
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
