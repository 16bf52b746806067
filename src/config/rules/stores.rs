//! Rules of `stores:`, of what is written there, and of what is read.

use super::{Rules, SCHEMES, is_inside, place_of, unknown_scheme};
use crate::config::problems::Severity;
use crate::store::config::{ConditionalPut, StoreConfig};
use crate::store::{is_below, redact};

/// Those that options of stores are for.
const REMOTE_SCHEMES: [&str; 9] = ["s3", "s3a", "gs", "az", "adl", "azure", "abfs", "abfss", "https"];

impl Rules<'_> {
    /// Writers that share a dataset need a store that refuses the second of two commits.
    pub(super) fn shared(&mut self) {
        if self.written::<bool>("dataset.shared") != Some(true) {
            return;
        }
        let Some(url) = self.written::<String>("dataset.url") else { return };
        let stores: Vec<StoreConfig> =
            (0..self.items("stores")).filter_map(|i| self.written(&format!("stores[{i}]"))).collect();
        let matching = stores.iter().filter(|config| is_below(&url, &config.prefix));
        let config = matching.max_by_key(|config| config.prefix.trim_end_matches('/').len());
        if let Some(config) = config.filter(|config| config.conditional_put == ConditionalPut::None) {
            let prefix = &config.prefix;
            self.broken(
                "dataset.shared",
                format!("needs exclusive writes, but the store `{prefix}` has conditional_put: none"),
            );
        }
    }

    /// Prefixes and endpoints: of remote stores, without secrets, each once.
    pub(super) fn stores(&mut self) {
        let prefixes: Vec<Option<String>> =
            (0..self.items("stores")).map(|i| self.value(&format!("stores[{i}].prefix"))).collect();
        for (i, prefix) in prefixes.iter().enumerate() {
            let Some(prefix) = prefix else { continue };
            let path = format!("stores[{i}].prefix");
            let scheme = prefix.split_once("://").map(|(scheme, _)| scheme);
            if !scheme.is_some_and(|scheme| REMOTE_SCHEMES.contains(&scheme)) {
                self.broken(&path, "must begin with s3://, gs://, az://, abfss:// or https://");
            } else if *prefix != redact(prefix) {
                self.broken(&path, "must hold no credentials and no query: they come from the environment");
            } else if let Some(first) = prefixes[..i].iter().position(|p| p.as_ref() == Some(prefix)) {
                self.broken(&path, format!("is the prefix of stores[{first}] too"));
            }
            let Some(config) = self.written::<StoreConfig>(&format!("stores[{i}]")) else { continue };
            for (key, rule) in config.broken_rules() {
                self.broken(&format!("stores[{i}].{key}"), rule);
            }
        }
    }

    /// A trained coder is read from somewhere, and not from where this trainer writes its own.
    pub(super) fn trained_coder(&mut self, path: &str, own: &str) {
        let Some(url) = self.written::<String>(path) else { return };
        if let Some(hint) = unknown_scheme(&url) {
            self.add(Severity::Error, path, SCHEMES.to_owned(), hint);
            return;
        }
        let own = self.written::<String>(own).map(|own| place_of(&own));
        if own.is_some_and(|own| place_of(&url) == own || is_inside(&place_of(&url), &own)) {
            self.broken(path, "must not be in this trainer's checkpoint.url: it is written there when training ends");
        } else if !url.contains("://") && !std::path::Path::new(&place_of(&url)).exists() {
            self.note(path, "nothing is there yet: the run ends if that is so when it starts");
        }
    }
}
