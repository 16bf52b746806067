//! The `stores:` section of a pipeline, and `--store KEY=VALUE`: how stores are reached. Secrets are in neither.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::units::HumanDuration;

/// Options of the stores whose URLs begin with a prefix.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StoreConfig {
    /// The URLs that this is for, such as `s3://acts` or `s3://acts/runs`. Of several prefixes the longest one counts.
    #[schemars(length(min = 1))]
    pub prefix: String,
    /// Address of an S3-compatible, Google or Azure endpoint, such as `https://minio.example:9000`; the provider's own if left
    /// out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Region of the bucket (S3); `AWS_REGION` if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Name of the storage account (Azure); `AZURE_STORAGE_ACCOUNT_NAME` if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// Whether the bucket stands in the path (`https://host/bucket/key`) rather than in the host name (S3).
    #[serde(default = "default_path_style")]
    pub path_style: bool,
    /// Whether the endpoint may be reached without encryption, by `http://`.
    #[serde(default)]
    pub allow_http: bool,
    /// Whether requests go unsigned: public buckets need no credentials.
    #[serde(default)]
    pub anonymous: bool,
    /// What "write only if absent" rests on.
    #[serde(default)]
    pub conditional_put: ConditionalPut,
    /// How long a connection may take to come about.
    #[serde(default = "default_connect_timeout")]
    pub connect_timeout: HumanDuration,
    /// How long one request may take, its body included. Reads that are cut off go on where they stood.
    #[serde(default = "default_timeout")]
    pub timeout: HumanDuration,
    /// How failed requests are tried again.
    #[serde(default)]
    pub retry: RetryConfig,
}

/// What "write only if absent" rests on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ConditionalPut {
    /// On the store's conditional requests, which are tried out before the first write.
    #[default]
    Auto,
    /// On the store's conditional requests, without trying them out.
    Etag,
    /// On nothing: look, then write. Only for a dataset with a single writer.
    None,
}

/// How failed requests are tried again: ever longer waits, with jitter.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RetryConfig {
    /// Times that one request is sent, at most.
    #[serde(default = "default_tries")]
    #[schemars(range(min = 1))]
    pub tries: u32,
    /// Time after which nothing is tried again; also for a store as a whole, from its last good answer on.
    #[serde(default = "default_budget")]
    pub budget: HumanDuration,
    /// Wait after the first failure; it doubles with each one.
    #[serde(default = "default_first_wait")]
    pub first_wait: HumanDuration,
    /// Longest single wait.
    #[serde(default = "default_longest_wait")]
    pub longest_wait: HumanDuration,
}

impl Default for RetryConfig {
    fn default() -> Self {
        Self {
            tries: default_tries(),
            budget: default_budget(),
            first_wait: default_first_wait(),
            longest_wait: default_longest_wait(),
        }
    }
}

impl Default for StoreConfig {
    /// For everything that no prefix matches.
    fn default() -> Self {
        Self {
            prefix: String::new(),
            endpoint: None,
            region: None,
            account: None,
            path_style: default_path_style(),
            allow_http: false,
            anonymous: false,
            conditional_put: ConditionalPut::Auto,
            connect_timeout: default_connect_timeout(),
            timeout: default_timeout(),
            retry: RetryConfig::default(),
        }
    }
}

fn default_path_style() -> bool {
    true
}

fn default_connect_timeout() -> HumanDuration {
    HumanDuration(Duration::from_secs(10))
}

fn default_timeout() -> HumanDuration {
    HumanDuration(Duration::from_secs(60))
}

fn default_tries() -> u32 {
    20
}

fn default_budget() -> HumanDuration {
    HumanDuration(Duration::from_secs(180))
}

fn default_first_wait() -> HumanDuration {
    HumanDuration(Duration::from_millis(200))
}

fn default_longest_wait() -> HumanDuration {
    HumanDuration(Duration::from_secs(15))
}

/// Keys that `--store` knows.
const KEYS: [&str; 14] = [
    "endpoint",
    "region",
    "account",
    "path_style",
    "allow_http",
    "anonymous",
    "conditional_put",
    "connect_timeout",
    "timeout",
    "retry.tries",
    "retry.budget",
    "retry.first_wait",
    "retry.longest_wait",
    "prefix",
];

/// `--store KEY=VALUE` arguments: they go over what the pipeline says of any store.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Overrides(Map<String, Value>);

impl Overrides {
    /// From `KEY=VALUE` texts; keys of `retry` are written `retry.budget`.
    pub(super) fn parse(options: &[String]) -> Result<Self> {
        let mut found = Map::new();
        for option in options {
            let (key, value) = option.split_once('=').ok_or_else(|| {
                Error::config(format!("`--store {option}` is not KEY=VALUE, such as region=eu-west-1"))
            })?;
            if key == "prefix" || !KEYS.contains(&key) {
                let known = KEYS.iter().filter(|k| **k != "prefix").copied().collect::<Vec<_>>().join(", ");
                return Err(Error::config(format!("`--store {key}=...`: there is no such option; there are {known}")));
            }
            let value = match value {
                "true" => Value::Bool(true),
                "false" => Value::Bool(false),
                text if key == "retry.tries" => text.parse::<u32>().map_or_else(|_| Value::from(text), Value::from),
                text => Value::from(text),
            };
            match key.split_once('.') {
                None => _ = found.insert(key.to_owned(), value),
                Some((section, key)) => {
                    let section = found.entry(section).or_insert_with(|| Value::Object(Map::new()));
                    section[key] = value;
                }
            }
        }
        let overrides = Self(found);
        overrides.over(&StoreConfig::default())?;
        Ok(overrides)
    }

    /// `config` with these values in the place of its own.
    pub(super) fn over(&self, config: &StoreConfig) -> Result<StoreConfig> {
        if self.0.is_empty() {
            return Ok(config.clone());
        }
        let mut value = serde_json::to_value(config).map_err(|e| Error::internal(e.to_string()))?;
        for (key, new) in &self.0 {
            match new {
                Value::Object(section) => section.iter().for_each(|(k, v)| value[key][k] = v.clone()),
                new => value[key] = new.clone(),
            }
        }
        let config: StoreConfig =
            serde_json::from_value(value).map_err(|e| Error::config(format!("`--store`: {e}")))?;
        match config.broken_rules().first() {
            Some((key, rule)) => Err(Error::config(format!("`--store`: {key} {rule}"))),
            None => Ok(config),
        }
    }
}

impl StoreConfig {
    /// The keys whose values break a rule, each with the rule.
    pub fn broken_rules(&self) -> Vec<(&'static str, &'static str)> {
        let mut broken = Vec::new();
        broken.extend(self.endpoint.as_deref().and_then(|url| self.endpoint_rule(url)).map(|rule| ("endpoint", rule)));
        for (key, value) in [("region", &self.region), ("account", &self.account)] {
            if value.as_ref().is_some_and(|value| value.trim().is_empty()) {
                broken.push((key, "must not be empty: leave it out"));
            }
        }
        for (key, time) in [("connect_timeout", self.connect_timeout), ("timeout", self.timeout)] {
            if time.0.is_zero() {
                broken.push((key, "must be above 0s: nothing is answered at once"));
            }
        }
        if self.retry.tries == 0 {
            broken.push(("retry.tries", "must be at least 1: a request is sent once"));
        }
        broken
    }

    fn endpoint_rule(&self, endpoint: &str) -> Option<&'static str> {
        let Ok(url) = url::Url::parse(endpoint) else {
            return Some("must be a URL, such as https://minio.example:9000");
        };
        if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
            return Some("must not hold credentials: they come from the environment");
        }
        match url.scheme() {
            "https" => None,
            "http" if self.allow_http => None,
            "http" => Some("is not encrypted: write https://, or allow it with allow_http: true"),
            _ => Some("must begin with https:// (or http:// with allow_http: true)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn overrides(options: &[&str]) -> Result<StoreConfig> {
        let options: Vec<String> = options.iter().map(|o| (*o).to_owned()).collect();
        Overrides::parse(&options)?.over(&StoreConfig { region: Some("old".into()), ..StoreConfig::default() })
    }

    #[test]
    fn options_of_the_command_line_replace_those_of_the_file() {
        let config = overrides(&[
            "endpoint=http://127.0.0.1:9000",
            "allow_http=true",
            "retry.budget=3s",
            "retry.tries=4",
            "conditional_put=none",
        ])
        .unwrap();
        assert_eq!(config.endpoint.as_deref(), Some("http://127.0.0.1:9000"));
        assert_eq!((config.retry.tries, config.retry.budget.0), (4, Duration::from_secs(3)));
        assert_eq!((config.conditional_put, config.region.as_deref()), (ConditionalPut::None, Some("old")));
        assert_eq!(config.retry.first_wait, default_first_wait());
    }

    #[test]
    fn what_is_wrong_with_an_option_is_said() {
        for (options, words) in [
            (["regoin=x"].as_slice(), "there is no such option; there are endpoint, region"),
            (&["region"], "is not KEY=VALUE"),
            (&["timeout=soon"], "`--store`"),
            (&["retry.tries=many"], "`--store`"),
            (&["endpoint=http://x"], "allow_http"),
            (&["endpoint=https://key:secret@x"], "must not hold credentials"),
            (&["timeout=0s"], "timeout must be above 0s"),
            (&["connect_timeout=0ms"], "connect_timeout must be above 0s"),
            (&["retry.tries=0"], "retry.tries must be at least 1"),
            (&["region="], "region must not be empty"),
            (&["account= "], "account must not be empty"),
        ] {
            let error = overrides(options).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(error.to_string().contains(words), "{options:?}: {error}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
}
