//! All stores that a command opens, by URL, with the options that hold for each.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use object_store::ObjectStore;

use crate::error::{Error, Result};
use crate::store::Location;
use crate::store::address::{Address, Kind};
use crate::store::backend::{self, Backend};
use crate::store::config::{Overrides, StoreConfig};
use crate::telemetry::metrics::StoreStats;

/// Opens places in stores. A store that is opened twice is one client with one pool of connections. Clones share all of it.
#[derive(Clone, Debug, Default)]
pub struct Stores {
    configs: Arc<Vec<StoreConfig>>,
    overrides: Arc<Overrides>,
    stats: Option<StoreStats>,
    open: Arc<Mutex<BTreeMap<String, Open>>>,
}

type Open = (Arc<dyn ObjectStore>, Arc<Backend>);

impl Stores {
    /// With the `stores:` of a pipeline, and the `KEY=VALUE`s of the command line, which go over them.
    pub fn new(mut configs: Vec<StoreConfig>, options: &[String]) -> Result<Self> {
        for config in &configs {
            if let Some((key, rule)) = config.broken_rules().first() {
                return Err(Error::config(format!("store `{}`: {key} {rule}", config.prefix)));
            }
        }
        // of several prefixes that match, the longest comes first
        configs.sort_by_key(|config| std::cmp::Reverse(config.prefix.trim_end_matches('/').len()));
        let overrides = Overrides::parse(options)?;
        Ok(Self { configs: Arc::new(configs), overrides: Arc::new(overrides), ..Self::default() })
    }

    /// The same options, with connections of their own whose requests are counted in `stats`.
    pub fn counted(&self, stats: StoreStats) -> Self {
        Self { stats: Some(stats), open: Arc::default(), ..self.clone() }
    }

    /// Open a URL or local path. Relative paths are relative to the working directory. Nothing is read or created.
    pub fn open(&self, text: &str) -> Result<Location> {
        let address = Address::parse(text)?;
        let config = self.config_of(&address)?;
        let key = format!("{}\n{}", address.root, config.prefix);
        let (store, backend) = {
            let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            match open.get(&key) {
                Some(found) => found.clone(),
                None => {
                    let opened = backend::open(&address, &config, self.stats.clone())?;
                    open.insert(key, opened.clone());
                    opened
                }
            }
        };
        let location = Location { store, path: address.path, shown: address.shown, local: address.local, backend };
        Ok(match &self.stats {
            Some(stats) => location.counted(stats.clone()),
            None => location,
        })
    }

    /// The options that hold for a place: those of the longest prefix, then the command line's.
    fn config_of(&self, address: &Address) -> Result<StoreConfig> {
        if matches!(address.kind, Kind::Local | Kind::Memory) {
            return Ok(StoreConfig::default());
        }
        let found = self.configs.iter().find(|config| is_below(&address.shown, &config.prefix));
        self.overrides.over(found.unwrap_or(&StoreConfig::default()))
    }
}

/// Whether `url` is `prefix` or a place below it.
pub fn is_below(url: &str, prefix: &str) -> bool {
    let rest = url.strip_prefix(prefix.trim_end_matches('/'));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn config(prefix: &str, region: &str) -> StoreConfig {
        StoreConfig { prefix: prefix.into(), region: Some(region.into()), ..StoreConfig::default() }
    }

    #[test]
    fn the_longest_prefix_counts_and_the_command_line_goes_over_it() {
        let configs = vec![config("s3://b", "one"), config("s3://b/x/", "two"), config("s3://bb", "three")];
        let region = |stores: &Stores, url| stores.config_of(&Address::parse(url).unwrap()).unwrap().region;
        let stores = Stores::new(configs.clone(), &[]).unwrap();
        assert_eq!(region(&stores, "s3://b/y").as_deref(), Some("one"));
        assert_eq!(region(&stores, "s3://b/x").as_deref(), Some("two"));
        assert_eq!(region(&stores, "s3://b/x/y/z").as_deref(), Some("two"));
        assert_eq!(region(&stores, "s3://b/xy").as_deref(), Some("one"));
        assert_eq!(region(&stores, "s3://bb/x").as_deref(), Some("three"));
        assert_eq!(region(&stores, "gs://b/x"), None);
        let stores = Stores::new(configs, &["region=four".into()]).unwrap();
        assert_eq!(region(&stores, "s3://b/x").as_deref(), Some("four"));
        assert_eq!(region(&stores, "gs://b/x").as_deref(), Some("four"));
    }

    #[test]
    fn one_client_a_store() {
        let stores = Stores::new(vec![config("s3://b/x", "eu")], &[]).unwrap();
        let [a, b, c] = ["s3://b/1", "s3://b/2", "s3://b/x/3"].map(|url| stores.open(url).unwrap());
        assert!(Arc::ptr_eq(&a.store, &b.store) && !Arc::ptr_eq(&a.store, &c.store));
        assert_eq!(c.path.as_ref(), "x/3");
    }

    #[test]
    fn wrong_options_are_refused_before_anything_is_opened() {
        let wrong = StoreConfig { endpoint: Some("http://x".into()), ..config("s3://b", "eu") };
        let error = Stores::new(vec![wrong], &[]).unwrap_err();
        assert!(error.kind() == ErrorKind::Config && error.to_string().contains("store `s3://b`: endpoint"), "{error}");
        let error = Stores::default().open("s5://b/x").unwrap_err();
        assert!(error.kind() == ErrorKind::Config && error.to_string().contains("s3://"), "{error}");
    }
}
