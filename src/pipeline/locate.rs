//! Where a pipeline's model lies on this machine, and how it gets there.

use std::path::Path;

use crate::config;
use crate::error::{Error, Result};
use crate::hub::{self, HubName, Settings, Snapshot};
use crate::model::ModelSource;
use crate::model::config::ModelConfig;
use crate::runtime::shutdown::Shutdown;

/// A model's files on this machine.
#[derive(Clone, Debug)]
pub struct Located {
    path: String,
    snapshot: Option<Snapshot>,
    second: Option<Box<Self>>,
}

impl Located {
    /// A local path, or what the hub's cache holds; `None` if it is not here. Asks nobody.
    pub fn here(source: &str) -> Result<Option<Self>> {
        if !HubName::is_hub(source) {
            let is_here = Path::new(source).metadata().is_ok();
            return Ok(is_here.then(|| Self { path: source.to_owned(), snapshot: None, second: None }));
        }
        let name = HubName::parse(source)?;
        hub::cached(&name, &settings()?).map(Self::of).transpose()
    }

    /// As [`Located::here`]; what is on a hub is downloaded first, as [`hub::fetch`] says.
    pub async fn fetch(source: &str, shutdown: &Shutdown, progress: &hub::Progress) -> Result<Self> {
        if !HubName::is_hub(source) {
            return Ok(Self { path: source.to_owned(), snapshot: None, second: None });
        }
        let name = HubName::parse(source)?;
        Self::of(hub::fetch(&name, &settings()?, shutdown, progress).await?)
    }

    /// As [`Located::here`], for a pipeline's model and a second one beside it: both, or `None`.
    pub fn model_here(model: &ModelConfig) -> Result<Option<Self>> {
        let Some(first) = Self::here(&model.source)? else { return Ok(None) };
        let Some(second) = &model.second else { return Ok(Some(first)) };
        Ok(Self::here(second)?.map(|second| first.with(second)))
    }

    /// As [`Located::fetch`], for a pipeline's model and a second one beside it.
    pub async fn fetch_model(model: &ModelConfig, shutdown: &Shutdown, progress: &hub::Progress) -> Result<Self> {
        let first = Self::fetch(&model.source, shutdown, progress).await?;
        match &model.second {
            Some(second) => Ok(first.with(Self::fetch(second, shutdown, progress).await?)),
            None => Ok(first),
        }
    }

    fn with(self, second: Self) -> Self {
        Self { second: Some(Box::new(second)), ..self }
    }

    fn of(snapshot: Snapshot) -> Result<Self> {
        let path = snapshot.path().to_str();
        let path = path.ok_or_else(|| Error::config("the path of the hub's cache (HF_HOME) must be UTF-8"))?.to_owned();
        Ok(Self { path, snapshot: Some(snapshot), second: None })
    }

    /// Open it.
    pub fn open(&self) -> Result<ModelSource> {
        let opened = ModelSource::open(&self.path);
        let opened = match &self.snapshot {
            Some(snapshot) => opened.map_err(|e| e.context(format!("open `{}`", snapshot.name)))?,
            None => opened?,
        };
        match &self.second {
            Some(second) => opened.with_second(second.open()?),
            None => Ok(opened),
        }
    }

    /// The commit that was resolved, if it is a hub's.
    pub fn commit(&self) -> Option<&str> {
        self.snapshot.as_ref().map(|snapshot| snapshot.commit.as_str())
    }
}

/// Where the hub is and where its models are kept.
fn settings() -> Result<Settings> {
    Settings::from_env(&config::env::of_process)
}
