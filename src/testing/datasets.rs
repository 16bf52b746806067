//! Small stored datasets.

use std::collections::BTreeMap;

use crate::activation::ActivationBatch;
use crate::catalog::Catalog;
use crate::dataset::config::{CompressionConfig, Layout, StoredDtype};
use crate::dataset::header::{DatasetHeader, FORMAT, Fingerprints, ModelHeader};
use crate::dataset::schema::{ShardSpec, SiteColumn};
use crate::error::Result;
use crate::hooks::{HookPoint, Site};
use crate::sink::{CommittedShard, ParquetSink, SinkOptions};
use crate::store::Location;
use crate::testing::SyntheticUnit;
use crate::units::Percent;

/// Two sites, small shards of small row groups.
pub fn small_spec(dtype: StoredDtype, layout: Layout, compression: CompressionConfig) -> ShardSpec {
    ShardSpec {
        sites: vec![
            SiteColumn { point: HookPoint::block(1, Site::ResidPost), width: 24 },
            SiteColumn { point: HookPoint::block(0, Site::MlpOut), width: 5 },
        ],
        dtype,
        layout,
        compression,
        rows_per_shard: 40,
        rows_per_group: 16,
        sample: Percent::from_share(1.0),
    }
}

/// A header for shards of `spec`.
pub fn header(spec: &ShardSpec, units: u32) -> DatasetHeader {
    DatasetHeader {
        format: FORMAT,
        column_group: None,
        run_id: "test".into(),
        pipeline: serde_json::json!({"name": "test"}),
        model: ModelHeader::default(),
        fingerprints: Fingerprints { model: "model".into(), tokenizer: "tokenizer".into(), corpus: "corpus".into() },
        special_tokens: None,
        sites: spec.site_headers(|point| format!("made-up values of {point}")),
        tokens: serde_json::json!({"context_length": 32}),
        units,
        follows: false,
        norm_limits: BTreeMap::new(),
        sample: spec.sample,
        shards: spec.rule(),
        order: None,
    }
}

/// Units with these sequence lengths and the sites of `spec`.
pub fn units(spec: &ShardSpec, lengths: &[&[u32]]) -> Vec<SyntheticUnit> {
    let sites: Vec<_> = spec.sites.iter().map(|site| (site.point, site.width)).collect();
    let unit = |(unit, lengths): (usize, &&[u32])| SyntheticUnit {
        unit: unit as u32,
        lengths: lengths.to_vec(),
        sites: sites.clone(),
    };
    lengths.iter().enumerate().map(unit).collect()
}

/// All batches of `units`, one of each in turn, `sizes` sequences at a time.
pub fn interleaved(units: &[SyntheticUnit], sizes: &[usize]) -> Vec<ActivationBatch> {
    let mut open: Vec<_> = units.iter().map(|unit| unit.batches(sizes).into_iter()).collect();
    let mut batches = Vec::new();
    while !open.is_empty() {
        open.retain_mut(|unit| unit.next().map(|batch| batches.push(batch)).is_some());
    }
    batches
}

/// Write `batches` to the dataset at `location` until they end, continuing what is committed.
pub async fn write(
    location: &Location,
    spec: &ShardSpec,
    units: u32,
    batches: &[ActivationBatch],
    options: SinkOptions,
) -> Result<(Catalog, Vec<CommittedShard>)> {
    let catalog = Catalog::create_or_open(location.clone(), header(spec, units)).await?;
    let progress = catalog.progress().await?;
    let mut sink = ParquetSink::with_options(catalog.clone(), spec.clone(), progress, options).await?;
    let mut committed = Vec::new();
    for batch in batches {
        match sink.write(batch).await {
            Ok(shards) => committed.extend(shards),
            Err(error) => {
                sink.abort().await?;
                return Err(error);
            }
        }
    }
    committed.extend(sink.finish().await?);
    Ok((catalog, committed))
}
