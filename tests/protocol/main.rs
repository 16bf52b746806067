//! The dataset as a protocol: formats, manifests, column groups, retention, quotas; with the library and the real binary.

#[path = "../support/mod.rs"]
mod support;

mod book;
mod columns;
mod formats;
mod housekeeping;
mod manifests;
mod quotas;
mod races;

use bytes::Bytes;
use half::f16;
use harvestd::activation::ActivationBatch;
use harvestd::catalog::Catalog;
use harvestd::catalog::columns::View;
use harvestd::dataset::commit::{Checksum, Commit, UnitCursor};
use harvestd::dataset::config::{CompressionConfig, Layout, StoredDtype};
use harvestd::dataset::decoder::{ShardRows, decode_all};
use harvestd::dataset::header::PART_FORMAT;
use harvestd::dataset::schema::ShardSpec;
use harvestd::dataset::stats::SiteStatistics;
use harvestd::sink::SinkOptions;
use harvestd::store::{Location, objects};
use harvestd::testing::datasets::{interleaved, small_spec, units, write};
use sha2::{Digest, Sha256};

/// Sequence lengths; the last unit has no rows, so its only shard is empty.
pub const LENGTHS: [&[u32]; 3] = [&[17, 9, 30, 12, 0, 28, 3, 3, 55, 14], &[40, 1, 39, 2], &[]];

pub fn spec() -> ShardSpec {
    small_spec(StoredDtype::Float16, Layout::Typed, CompressionConfig::None)
}

/// All batches of a small corpus.
pub fn batches() -> Vec<ActivationBatch> {
    interleaved(&units(&spec(), &LENGTHS), &[3])
}

pub fn memory(name: &str) -> Location {
    Location::open(&format!("memory://protocol-{name}/acts")).unwrap()
}

/// A dataset with ten shards and 253 rows.
pub async fn dataset(location: &Location) -> Catalog {
    write(location, &spec(), 3, &batches(), SinkOptions::default()).await.unwrap().0
}

pub async fn bytes_of(location: &Location, name: &str) -> Option<Bytes> {
    objects::read(&location.child(name)).await.unwrap()
}

/// Names of the objects of a folder of a dataset, without the folder.
pub async fn names(location: &Location, folder: &str) -> Vec<String> {
    let listed = objects::list(&location.child(folder)).await.unwrap();
    listed.iter().map(|object| object.location.filename().unwrap().to_owned()).collect()
}

/// The rows of all live parts with all sites of the dataset and its groups, in order of unit and part.
pub async fn joined(location: &Location) -> (Vec<String>, ShardRows) {
    let view = View::open(location.clone()).await.unwrap();
    let sources: Vec<usize> = (0..).take(1 + view.sites().iter().map(|s| s.source).max().unwrap()).collect();
    let names: Vec<String> = view.sites().iter().map(|s| s.site.name.clone()).collect();
    let mut all = ShardRows { sites: vec![Vec::new(); names.len()], ..ShardRows::default() };
    for part in view.parts(&sources).await.unwrap() {
        for &source in &sources {
            let place = view.source(source).location().child(&part.commit(source).object);
            let (footer, rows) = decode_all(&objects::read(&place).await.unwrap().unwrap()).unwrap();
            assert_eq!(rows.seq.len() as u64, part.rows);
            if source == 0 {
                all.doc_id.extend(&rows.doc_id);
                all.unit.extend(&rows.unit);
                all.seq.extend(&rows.seq);
                all.pos.extend(&rows.pos);
                all.token_id.extend(&rows.token_id);
            }
            for (site, values) in footer.sites().iter().zip(&rows.sites) {
                all.sites[names.iter().position(|name| *name == site.name).unwrap()].extend(values);
            }
        }
    }
    (names, all)
}

/// Float16 values as they are stored.
pub fn half_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect()
}

/// SHA-256 in hexadecimal.
pub fn sum(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// A commit of a shard that does not exist.
pub fn made_up_commit(catalog: &Catalog, unit: u32, part: u32, last: bool) -> Commit {
    let statistics =
        SiteStatistics { count: 10, mean_norm: 1.0, max_norm: 2.0, sum_squares: 3.0, ..SiteStatistics::default() };
    let sites = catalog.header().sites.iter();
    Commit {
        format: PART_FORMAT,
        unit,
        part,
        object: format!("shards/{unit:06}-{part:05}.parquet"),
        rows: 10,
        bytes: 1000,
        checksum: Checksum::sha256(sum(format!("{unit} {part}").as_bytes())),
        sequences: [part * 4, part * 4 + 4],
        documents: 2,
        tokens: 12,
        dropped: Default::default(),
        cursor: UnitCursor {
            next_seq: part * 4 + 4,
            next_batch: part + 1,
            done: last,
            batches: last.then_some(part + 1),
        },
        sites: sites
            .map(|s| (s.name.clone(), SiteStatistics { mean: vec![0.5; s.width], ..statistics.clone() }))
            .collect(),
    }
}
