//! Models from a hub: a server on this machine speaks the public hub's paths, and fails in every way that we know of.

#[path = "../support/mod.rs"]
mod support;

mod cli;
mod python;
mod refusals;
mod server;
mod transfers;

use std::path::{Path, PathBuf};
use std::time::Duration;

use harvestd::error::{Error, Result};
use harvestd::hub::{HubName, Progress, Settings, Snapshot, Token, fetch};
use harvestd::runtime::retry::RetryPolicy;
use harvestd::runtime::shutdown::Shutdown;

use server::{Hub, REPO};

/// A model's weights, large enough to break in the middle.
fn weights() -> Vec<u8> {
    (0..400_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

/// Files of a model.
fn model(weights: &[u8]) -> Vec<(&'static str, &[u8])> {
    vec![
        ("config.json", br#"{"model_type": "llama"}"#),
        ("tokenizer.json", b"{}"),
        ("README.md", b"not needed"),
        ("pytorch_model.bin", b"never read"),
        ("model.safetensors", weights),
    ]
}

/// A cache folder, and settings that use it and do not wait long.
struct Place {
    folder: tempfile::TempDir,
    settings: Settings,
}

impl Place {
    fn new(hub: &Hub) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings {
            endpoint: url::Url::parse(&hub.url).unwrap(),
            token: None,
            cache: folder.path().join("hub"),
            offline: false,
            timeout: Duration::from_secs(2),
            retry: RetryPolicy {
                first_wait: Duration::from_millis(10),
                longest_wait: Duration::from_millis(50),
                budget: Duration::from_secs(4),
            },
        };
        Self { folder, settings }
    }

    fn with_token(mut self, token: &str) -> Self {
        self.settings.token = Token::new(token, "test").unwrap();
        self
    }

    async fn fetch(&self, source: &str) -> Result<Snapshot> {
        self.fetch_counting(source, &Progress::default()).await
    }

    async fn fetch_counting(&self, source: &str, progress: &Progress) -> Result<Snapshot> {
        fetch(&HubName::parse(source)?, &self.settings, &Shutdown::new(Duration::ZERO), progress).await
    }

    async fn fetch_main(&self) -> Result<Snapshot> {
        self.fetch(&format!("hf://{REPO}")).await
    }

    async fn refusal(&self) -> Error {
        self.fetch_main().await.expect_err("this must be refused")
    }

    fn repo(&self) -> PathBuf {
        self.settings.cache.join("models--owner--tiny")
    }
}

/// Names below `folder`, sorted; none if it is not there.
fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
