//! One committed shard against its object.

use futures::TryStreamExt;
use object_store::{GetOptions, GetRange, ObjectStoreExt};
use sha2::{Digest, Sha256};

use crate::dataset::commit::Commit;
use crate::dataset::decoder::{FOOTER_GUESS, Footer, ShardFooter, ShardRows};
use crate::dataset::encoder::hex;
use crate::dataset::header::{DatasetHeader, SiteHeader};
use crate::dataset::places::PlaceCheck;
use crate::dataset::stats::{RowSums, SiteStatistics};
use crate::error::{Error, ErrorKind, Result};
use crate::store::{self, Location};

/// Relative difference that statistics may show; they are recomputed from the same values in the same order.
const TOLERANCE: f64 = 1e-9;

/// What is wrong with the shard that `commit` names; nothing if it is whole. Bytes are read twice: a decoder is only
/// given bytes whose checksum is right.
pub(super) async fn check(dataset: &Location, header: &DatasetHeader, commit: &Commit) -> Result<Vec<String>> {
    let place = dataset.child(&commit.object);
    if let Some(problem) = bytes_as_committed(&place, commit).await? {
        return Ok(vec![problem]);
    }
    match check_rows(&place, header, commit).await {
        Err(error) if error.kind() == ErrorKind::Data => Ok(vec![error.to_string()]),
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
    if commit.checksum.algorithm != "sha256" {
        return Ok(Some(format!("has a checksum of unknown algorithm `{}`", commit.checksum.algorithm)));
    }
    let mut digest = Sha256::new();
    let mut stream = found.into_stream();
    while let Some(bytes) = stream.try_next().await.map_err(|e| store::error("read", &place.shown, e))? {
        digest.update(&bytes);
    }
    let sum = hex(&digest.finalize());
    Ok((sum != commit.checksum.value).then(|| format!("has checksum {sum} instead of {}", commit.checksum.value)))
}

/// Schema, row count, order and place of every row, statistics.
async fn check_rows(place: &Location, header: &DatasetHeader, commit: &Commit) -> Result<Vec<String>> {
    let sites = &header.sites;
    let footer = read_footer(place, commit.bytes).await?;
    let mut problems = Vec::new();
    if let Some(problem) = schema_problem(sites, footer.sites()) {
        return Ok(vec![problem]);
    }
    if footer.rows() != commit.rows {
        problems.push(format!("has {} rows instead of {}", footer.rows(), commit.rows));
    }
    let mut statistics = vec![SiteStatistics::default(); sites.len()];
    let mut places = PlaceCheck::new(header.order.as_ref(), commit.unit, commit.sequences);
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
        statistics.iter_mut().zip(&of_group).for_each(|(all, group)| all.merge(group));
    }
    for (site, found) in sites.iter().zip(&statistics) {
        match commit.sites.get(&site.name) {
            None => problems.push(format!("has no statistics of `{}`", site.name)),
            Some(committed) => problems.extend(
                committed
                    .difference(found, TOLERANCE)
                    .map(|f| format!("has another {f} of `{}` than committed", site.name)),
            ),
        }
    }
    Ok(problems)
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
