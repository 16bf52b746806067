//! What a run's sites are to the dataset that it adds to: the dataset's own, those of its column groups, new ones.

use crate::catalog::Catalog;
use crate::catalog::gc::Keeper;
use crate::config::{Loaded, Sites};
use crate::dataset::commit::UnitProgress;
use crate::dataset::config::DatasetConfig;
use crate::dataset::header::{DatasetHeader, SiteHeader};
use crate::dataset::schema::ShardSpec;
use crate::error::{Error, Result};
use crate::hooks::{HookPoint, ModulePaths, PointShape, SiteWidth, selection};
use crate::pipeline::build::Shared;
use crate::runtime::rng::unique_id;
use crate::sink::{ParquetSink, Quota, SinkOptions, WriterLock};
use crate::store::{Location, probe};
use crate::telemetry::traces::PipelineTraces;
use std::collections::HashMap;
use std::sync::Arc;

/// How the sites of a run are divided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Division {
    /// Those that the dataset itself stores; all of them if there is no dataset yet.
    pub base: Vec<SiteWidth>,
    /// Those of each column group that the run continues or begins.
    pub groups: Vec<Vec<SiteWidth>>,
    /// Those whose values decide which rows are kept: of a stored dataset, the ones that it was begun with.
    pub judged: Vec<SiteWidth>,
}

impl Division {
    /// Everything is the dataset's own.
    pub fn whole(sites: &Sites) -> Self {
        Self { base: sites.stored.clone(), groups: Vec::new(), judged: sites.captured.clone() }
    }

    /// Divide the sites of a run that adds to the dataset of `header`, which has `groups`.
    ///
    /// Sites that the dataset does not have become column groups, and then its judged sites decide about rows, captured
    /// or not. If the run leaves out a site of the dataset itself, everything stays as the pipeline says, and the headers'
    /// comparison tells what differs.
    pub fn of(
        header: &DatasetHeader,
        groups: &[DatasetHeader],
        sites: &Sites,
        declared: &[PointShape],
        paths: &ModulePaths,
    ) -> Result<Self> {
        let named = |headers: &[SiteHeader]| -> Option<Vec<SiteWidth>> {
            let one =
                |site: &SiteHeader| sites.stored.iter().find(|(point, _)| point.to_string() == site.name).copied();
            headers.iter().map(one).collect()
        };
        let (Some(base), Some(judged)) = (named(&header.sites), judged(header, declared, paths)) else {
            return Ok(Self::whole(sites));
        };
        let mut rest: Vec<SiteWidth> = sites.stored.iter().filter(|site| !base.contains(site)).copied().collect();
        let mut wanted = Vec::new();
        for group in groups {
            match named(&group.sites) {
                Some(of_group) => {
                    rest.retain(|site| !of_group.contains(site));
                    wanted.push(of_group);
                }
                None => check_apart(group, &rest)?,
            }
        }
        if !rest.is_empty() {
            wanted.push(rest);
        }
        Ok(Self { base, groups: wanted, judged })
    }
}

/// A group is continued whole or not at all.
fn check_apart(group: &DatasetHeader, wanted: &[SiteWidth]) -> Result<()> {
    let names: Vec<&str> = group.sites.iter().map(|site| site.name.as_str()).collect();
    let Some((point, _)) = wanted.iter().find(|(point, _)| names.contains(&point.to_string().as_str())) else {
        return Ok(());
    };
    let group = group.column_group.as_deref().unwrap_or_default();
    Err(Error::config(format!(
        "column group `{group}` of the dataset holds `{point}` together with other sites: capture all of {}, or none",
        names.join(", ")
    )))
}

/// The sites that decide about the rows of a stored dataset; `None` if the model does not have them.
fn judged(header: &DatasetHeader, declared: &[PointShape], paths: &ModulePaths) -> Option<Vec<SiteWidth>> {
    let names = header.tokens.get("judged_sites")?.as_array()?;
    let names: Vec<&str> = names.iter().map(|name| name.as_str()).collect::<Option<_>>()?;
    // names as they are stored, never patterns
    names.iter().all(|name| name.parse::<HookPoint>().is_ok()).then_some(())?;
    selection::resolve(&names, declared, paths).ok()
}

/// What a run stores.
pub struct Storing {
    /// The dataset itself first, then its column groups.
    pub parts: Vec<Stored>,
    /// What tells this run's objects from those of others, if there may be others.
    pub attempt: Option<String>,
    /// The right to write.
    lock: WriterLock,
}

/// The dataset, or a column group of it.
pub struct Stored {
    /// Where it is.
    pub catalog: Catalog,
    /// Its sites.
    pub sites: Vec<SiteWidth>,
    /// What is committed, by unit.
    pub progress: HashMap<u32, UnitProgress>,
}

/// Open or begin the dataset of `header`, which describes its own sites, and the column groups of `division`.
pub fn open(
    location: Location,
    header: DatasetHeader,
    config: &DatasetConfig,
    division: &Division,
    shared: &Shared<'_>,
) -> Result<Storing> {
    shared.io.block_on(async {
        if config.shared {
            probe::may_be_shared(&location, "by several writers: dataset.shared")?;
        }
        probe::exclusive_writes(&location).await?;
        let base = Catalog::create_or_open(location, header.clone()).await?;
        // before the look at what is committed: afterwards only this run, or others that say so, change it
        let lock = WriterLock::take(base.location(), config.shared)?;
        let attempt = config.shared.then(unique_id).transpose()?;
        if let Some(attempt) = &attempt {
            tracing::info!(attempt, "other runs may write this dataset too");
        }
        let mut parts = vec![(base.clone(), division.base.clone())];
        for sites in &division.groups {
            let spec = ShardSpec::new(config, sites);
            let header = DatasetHeader { sites: spec.site_headers(HookPoint::definition), ..header.clone() };
            let group = base.group(header).await?;
            tracing::info!(sites = shown(sites), group = %group.location().shown, "storing a column group");
            parts.push((group.with_base(&base).await?, sites.clone()));
        }
        let mut storing = Storing { parts: Vec::new(), attempt, lock };
        for (catalog, sites) in parts {
            let progress = catalog.progress().await?;
            storing.parts.push(Stored { catalog, sites, progress });
        }
        let done = storing.units_done();
        if storing.parts.iter().any(|stored| !stored.progress.is_empty()) {
            tracing::info!(dataset = %base.location().shown, units_done = done, "continuing a stored dataset");
        }
        shared.status.metrics.run.units_done.set(done as f64);
        Ok(storing)
    })
}

fn shown(sites: &[SiteWidth]) -> String {
    sites.iter().map(|(point, _)| point.to_string()).collect::<Vec<_>>().join(", ")
}

impl Storing {
    /// Units that are committed to their end everywhere.
    fn units_done(&self) -> usize {
        let Some((base, groups)) = self.parts.split_first() else { return 0 };
        let done = |stored: &Stored, unit: &u32| stored.progress.get(unit).is_some_and(|at| at.done);
        base.progress.keys().filter(|unit| done(base, unit) && groups.iter().all(|group| done(group, unit))).count()
    }

    /// Batches of the units that are known to their end.
    pub fn unit_lengths(&self) -> HashMap<u32, u32> {
        let all = self.parts.iter().flat_map(|stored| &stored.progress);
        all.filter_map(|(&unit, at)| Some((unit, at.batches?))).collect()
    }

    /// The sinks, the dataset's own first: a column group's part is compared with the dataset's.
    /// Where the store is limited, `keeper` makes room.
    pub async fn into_sinks(
        self,
        loaded: &Loaded,
        config: &DatasetConfig,
        keeper: Option<Arc<Keeper>>,
        traces: &PipelineTraces,
    ) -> Result<Vec<ParquetSink>> {
        let quota = match (loaded.pipeline.store_limit, self.parts.first()) {
            (Some(limit), Some(base)) => {
                Some(Quota::of(base.catalog.clone(), limit.0, self.attempt.is_some(), keeper).await?)
            }
            _ => None,
        };
        // a column group's part is committed after the dataset's own
        let (attempt, one_by_one) = (self.attempt, self.parts.len() > 1);
        let traces = traces.clone();
        let options = SinkOptions { quota, attempt, one_by_one, traces, ..SinkOptions::default() };
        let (mut sinks, mut lock) = (Vec::new(), Some(self.lock));
        for Stored { catalog, sites, progress } in self.parts {
            let spec = ShardSpec::new(config, &sites);
            let sink = ParquetSink::with_options(catalog, spec, progress, options.clone()).await?;
            sinks.push(match lock.take() {
                Some(lock) => sink.holding(lock),
                None => sink,
            });
        }
        Ok(sinks)
    }
}
