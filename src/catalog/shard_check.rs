//! One committed shard against its object.

use futures::TryStreamExt;
use object_store::{GetOptions, GetRange, ObjectStoreExt};
use xxhash_rust::xxh3::Xxh3;

use crate::dataset::commit::Commit;
use crate::dataset::decoder::{FOOTER_GUESS, Footer, ShardFooter, ShardRows};
use crate::dataset::header::{DatasetHeader, SiteHeader};
use crate::dataset::places::PlaceCheck;
use crate::dataset::stats::{RowSums, SiteStatistics};
use crate::error::{Error, ErrorKind, Result};
use crate::store::{self, Location};

/// Relative difference that statistics may show; they are recomputed from the same values in the same order.
pub(super) const TOLERANCE: f64 = 1e-9;

/// What a shard was found to be.
#[derive(Debug, Default)]
pub(super) struct Checked {
    /// What is wrong with it; nothing if it is whole.
    pub(super) problems: Vec<String>,
    /// A hash of its id columns, if they could be read: column groups have the same.
    pub(super) ids: Option<u128>,
    /// Statistics of the values that it has, in the order of the sites.
    pub(super) statistics: Vec<SiteStatistics>,
}

impl Checked {
    fn broken(problem: String) -> Self {
        Self { problems: vec![problem], ..Self::default() }
    }
}

/// Check the shard that `commit` names. Bytes are read twice: a decoder is only given bytes whose checksum is right.
pub(super) async fn check(dataset: &Location, header: &DatasetHeader, commit: &Commit) -> Result<Checked> {
    let place = dataset.child(&commit.object);
    if let Some(problem) = bytes_as_committed(&place, commit).await? {
        return Ok(Checked::broken(problem));
    }
    match check_rows(&place, header, commit).await {
        Err(error) if error.kind() == ErrorKind::Data => Ok(Checked::broken(error.to_string())),
        checked => checked,
    }
}

/// Whether the object has other bytes than committed.
async fn bytes_as_committed(place: &Location, commit: &Commit) -> Result<Option<String>> {
    let found = match place.store.get(&place.path).await {
        Ok(found) => found,
        Err(object_store::Error::NotFound { .. }) => return Ok(Some("is missing".to_owned())),
        Err(error) => return Err(store::error("read", &place.shown, error)),
    };
    if found.meta.size != commit.bytes {
        return Ok(Some(format!("has {} bytes instead of {}", found.meta.size, commit.bytes)));
    }
    if !commit.checksum.is_known() {
        return Ok(Some(format!("has a checksum of unknown algorithm `{}`", commit.checksum.algorithm)));
    }
    let mut sum = commit.checksum.hasher();
    let mut stream = found.into_stream();
    while let Some(bytes) = stream.try_next().await.map_err(|e| store::error("read", &place.shown, e))? {
        sum.update(&bytes);
    }
    let sum = sum.finish();
    Ok((sum != commit.checksum).then(|| format!("has checksum {sum} instead of {}", commit.checksum)))
}

/// Schema, row count, order and place of every row, statistics.
async fn check_rows(place: &Location, header: &DatasetHeader, commit: &Commit) -> Result<Checked> {
    let sites = &header.sites;
    let footer = read_footer(place, commit.bytes).await?;
    if let Some(problem) = schema_problem(sites, footer.sites()) {
        return Ok(Checked::broken(problem));
    }
    let mut problems = Vec::new();
    if footer.rows() != commit.rows {
        problems.push(format!("has {} rows instead of {}", footer.rows(), commit.rows));
    }
    let mut statistics = vec![SiteStatistics::default(); sites.len()];
    let mut places = PlaceCheck::new(header.order.as_ref(), commit.unit, commit.sequences);
    let mut ids = Xxh3::new();
    for group in 0..footer.n_groups() {
        let range = footer.group_range(group)?;
        let bytes =
            place.store.get_range(&place.path, range).await.map_err(|e| store::error("read", &place.shown, e))?;
        let (decoder, widths) = (footer.clone(), sites.iter().map(|site| site.width).collect::<Vec<_>>());
        // decoding is pure computation: away from the threads that wait for the store
        let decoded = tokio::task::spawn_blocking(move || -> Result<_> {
            let rows = decoder.decode(group, bytes)?;
            let statistics = group_statistics(&rows, &widths);
            Ok((rows, statistics))
        });
        let (rows, of_group) =
            decoded.await.map_err(|e| Error::internal(format!("decoding `{}` failed: {e}", place.shown)))??;
        if let Some(problem) = places.problem(&rows) {
            problems.push(problem);
            break;
        }
        for i in 0..rows.seq.len() {
            ids.update(&rows.doc_id[i].to_le_bytes());
            for id in [rows.unit[i], rows.seq[i], rows.pos[i], rows.token_id[i]] {
                ids.update(&id.to_le_bytes());
            }
        }
        statistics.iter_mut().zip(&of_group).for_each(|(all, group)| all.merge(group));
    }
    for (site, found) in sites.iter().zip(&statistics) {
        problems.extend(statistics_problem(site, found, commit));
    }
    Ok(Checked { problems, ids: Some(ids.digest128()), statistics })
}

/// How the statistics of a shard differ from those committed. Of covered parts the mean row is not known.
fn statistics_problem(site: &SiteHeader, found: &SiteStatistics, commit: &Commit) -> Option<String> {
    let Some(committed) = commit.sites.get(&site.name) else {
        return Some(format!("has no statistics of `{}`", site.name));
    };
    let without_mean;
    let found = if committed.mean.is_empty() {
        without_mean = SiteStatistics { mean: Vec::new(), ..found.clone() };
        &without_mean
    } else {
        found
    };
    committed.difference(found, TOLERANCE).map(|field| format!("has another {field} of `{}` than committed", site.name))
}

async fn read_footer(place: &Location, file_bytes: u64) -> Result<ShardFooter> {
    let mut wanted = FOOTER_GUESS.min(file_bytes);
    loop {
        let options =
            GetOptions { range: Some(GetRange::Bounded(file_bytes - wanted..file_bytes)), ..GetOptions::default() };
        let read = async { place.store.get_opts(&place.path, options).await?.bytes().await };
        let tail = read.await.map_err(|e| store::error("read", &place.shown, e))?;
        match ShardFooter::parse(&tail, file_bytes)? {
            Footer::Found(footer) => return Ok(footer),
            Footer::Needs(more) if more > wanted => wanted = more.min(file_bytes),
            Footer::Needs(_) => return Err(Error::data("the footer is longer than the file")),
        }
    }
}

fn schema_problem(wanted: &[SiteHeader], found: &[SiteHeader]) -> Option<String> {
    let columns = |sites: &[SiteHeader]| -> Vec<String> {
        sites.iter().map(|s| format!("{} ({:?} {:?} x {})", s.name, s.layout, s.dtype, s.width)).collect()
    };
    let (wanted, found) = (columns(wanted), columns(found));
    (wanted != found).then(|| format!("has sites [{}] instead of [{}]", found.join(", "), wanted.join(", ")))
}

fn group_statistics(rows: &ShardRows, widths: &[usize]) -> Vec<SiteStatistics> {
    let of = |(values, &width): (&Vec<f32>, &usize)| {
        let mut sums = RowSums::new(width);
        sums.add(values);
        sums.take()
    };
    rows.sites.iter().zip(widths).map(of).collect()
}
