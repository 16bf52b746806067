//! One part, open: its footers once, then any row group's chosen columns.

use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::{GetOptions, GetRange, ObjectStoreExt};
use tokio::sync::{OnceCell, Semaphore};

use crate::dataset::commit::Checksum;
use crate::dataset::decoder::{FOOTER_GUESS, Footer, ShardFooter, ShardRows};
use crate::dataset::places::PlaceCheck;
use crate::error::{Error, ErrorKind, Result};
use crate::replay::source::{Object, Part, Source};
use crate::store::{self, Location};

/// What all open shards of a reader share.
#[derive(Debug)]
pub(super) struct Shards {
    pub(super) source: Source,
    /// Whose checksums were compared, by part and object; `None` if none are.
    compared: Option<Vec<Vec<OnceCell<()>>>>,
    /// One permit a core: decoding is arithmetic.
    decoders: Arc<Semaphore>,
}

/// The shards of one part (of the dataset, and of column groups that are read); a footer is read once, by whoever needs it
/// first.
#[derive(Debug)]
pub struct OpenShard {
    shards: Arc<Shards>,
    part: usize,
    footers: Vec<OnceCell<Columns>>,
}

/// Reads row groups of a source one by one, for those who move rows in an order of their own.
#[derive(Debug)]
pub struct ShardReader(Arc<Shards>);

impl ShardReader {
    /// Nothing is read yet. Each shard's checksum is compared before its first row group is used: what is written from
    /// its rows has a right checksum, and would hide the damage.
    pub fn new(source: Source) -> Self {
        Self(Shards::new(source, true))
    }

    /// What is read.
    pub fn source(&self) -> &Source {
        &self.0.source
    }

    /// Shards.
    pub fn shards(&self) -> usize {
        self.0.source.parts.len()
    }

    /// Row groups of a shard.
    pub fn groups(&self, shard: usize) -> u64 {
        self.0.source.parts[shard].groups(self.0.source.rows_per_group())
    }

    /// Rows of a row group.
    pub fn group_rows(&self, shard: usize, group: u64) -> u64 {
        self.0.source.parts[shard].group_rows(group, self.0.source.rows_per_group())
    }

    /// A shard, to read its row groups.
    pub fn open(&self, shard: usize) -> Arc<OpenShard> {
        self.0.open(shard)
    }
}

/// What is read of one object.
#[derive(Clone, Debug)]
struct Columns {
    footer: ShardFooter,
    /// The chosen sites, as the footer counts them.
    stored: Vec<usize>,
    /// The same, as the source counts them.
    wanted: Vec<usize>,
}

impl Shards {
    pub(super) fn new(source: Source, checksums: bool) -> Arc<Self> {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let none_of = |part: &Part| part.objects.iter().map(|_| OnceCell::new()).collect();
        let compared = checksums.then(|| source.parts.iter().map(none_of).collect());
        Arc::new(Self { source, compared, decoders: Arc::new(Semaphore::new(cores)) })
    }

    /// Part `part` of the source. Nothing is read yet.
    pub(super) fn open(self: &Arc<Self>, part: usize) -> Arc<OpenShard> {
        let footers = self.source.parts[part].objects.iter().map(|_| OnceCell::new()).collect();
        Arc::new(OpenShard { shards: Arc::clone(self), part, footers })
    }
}

impl OpenShard {
    /// The chosen columns of row group `group`, every row of it checked to be where the commit says.
    pub async fn group(&self, group: u64) -> Result<ShardRows> {
        let sites = &self.shards.source.sites;
        let mut all: Option<ShardRows> = None;
        for (i, (object, footer)) in self.part().objects.iter().zip(&self.footers).enumerate() {
            let place = self.shards.source.locations[object.group].child(&object.name);
            let read = self.group_of((i, object), footer, &place, group).await;
            let (rows, wanted) = read.map_err(|e| e.context(format!("read `{}`", place.shown)))?;
            let mut values = rows.sites;
            let rows = ShardRows { sites: Vec::new(), ..rows };
            let all = match &mut all {
                None => all.insert(ShardRows { sites: vec![Vec::new(); sites.len()], ..rows }),
                Some(all) if (&all.unit, &all.seq, &all.pos) == (&rows.unit, &rows.seq, &rows.pos) => all,
                Some(_) => {
                    let problem = format!("row group {group} of `{}` has other rows than its dataset", place.shown);
                    return Err(Error::data(problem));
                }
            };
            wanted.iter().zip(values.drain(..)).for_each(|(&site, values)| all.sites[site] = values);
        }
        all.ok_or_else(|| Error::internal("a part without objects"))
    }

    async fn group_of(
        &self,
        (i, object): (usize, &Object),
        footer: &OnceCell<Columns>,
        place: &Location,
        group: u64,
    ) -> Result<(ShardRows, Vec<usize>)> {
        let columns = footer.get_or_try_init(|| self.read_footer((i, object), place)).await?;
        let index = usize::try_from(group).map_err(|_| Error::internal("a row group beyond any shard"))?;
        let ranges = columns.footer.column_ranges(index, &columns.stored)?;
        let read = place.store.get_ranges(&place.path, &ranges).await;
        let bytes = read.map_err(|e| store::error("read", &place.shown, e))?;
        let mut fetched: Vec<(u64, Bytes)> = Vec::with_capacity(ranges.len());
        for (range, bytes) in ranges.into_iter().zip(bytes) {
            if bytes.len() as u64 != range.end - range.start {
                let (got, wanted) = (bytes.len(), range.end - range.start);
                let problem = format!("the store gave {got} bytes instead of {wanted}");
                return Err(Error::new(ErrorKind::Unavailable, problem));
            }
            fetched.push((range.start, bytes));
        }
        let permit = Arc::clone(&self.shards.decoders).acquire_owned().await;
        let Columns { footer, stored, wanted } = columns.clone();
        let decoded = tokio::task::spawn_blocking(move || {
            let rows = footer.decode_columns(index, &stored, fetched);
            drop(permit);
            rows
        });
        let rows = decoded.await.map_err(|e| Error::internal(format!("decoding failed: {e}")))??;
        self.check_places(&rows)?;
        Ok((rows, wanted))
    }

    /// The footer, and where in it the chosen sites are.
    async fn read_footer(&self, (i, object): (usize, &Object), place: &Location) -> Result<Columns> {
        let part = self.part();
        if let Some(compared) = &self.shards.compared {
            compared[self.part][i].get_or_try_init(|| compare_checksum(place, &object.checksum)).await?;
        }
        let footer = footer_of(place, object.bytes).await?;
        if footer.rows() != part.rows {
            return Err(Error::data(format!("it has {} rows, and its commit says {}", footer.rows(), part.rows)));
        }
        let source = &self.shards.source;
        let per_group = source.rows_per_group();
        let groups = part.groups(per_group);
        let as_the_header_says = footer.n_groups() as u64 == groups
            && (0..groups).all(|g| footer.group_rows(g as usize) == part.group_rows(g, per_group));
        if !as_the_header_says {
            return Err(Error::data(format!("its row groups are not of {per_group} rows, as the header says")));
        }
        let (mut stored, mut wanted) = (Vec::new(), Vec::new());
        for (i, site) in source.sites.iter().enumerate().filter(|(_, site)| site.group == object.group) {
            let found = footer.sites().iter().position(|found| found.name == site.header.name);
            let found = found.ok_or_else(|| Error::data(format!("it has no column `{}`", site.header.name)))?;
            let column = &footer.sites()[found];
            if (column.width, column.dtype) != (site.width, site.header.dtype) {
                return Err(Error::data(format!("its column `{}` is not what the header says", column.name)));
            }
            stored.push(found);
            wanted.push(i);
        }
        Ok(Columns { footer, stored, wanted })
    }

    /// Rows must lie where the commit says.
    fn check_places(&self, rows: &ShardRows) -> Result<()> {
        let (part, header) = (self.part(), &self.shards.source.header);
        match PlaceCheck::new(header.order.as_ref(), part.unit, part.sequences).problem(rows) {
            Some(problem) => Err(Error::data(format!("it {problem}"))),
            None => Ok(()),
        }
    }

    pub(super) fn part(&self) -> &Part {
        &self.shards.source.parts[self.part]
    }
}

async fn footer_of(place: &Location, file_bytes: u64) -> Result<ShardFooter> {
    let mut wanted = FOOTER_GUESS.min(file_bytes);
    loop {
        let range = GetRange::Bounded(file_bytes - wanted..file_bytes);
        let options = GetOptions { range: Some(range), ..GetOptions::default() };
        let found = match place.store.get_opts(&place.path, options).await {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => {
                return Err(Error::data("the object that the commit names is missing"));
            }
            Err(error) => return Err(store::error("read", &place.shown, error)),
        };
        if found.meta.size != file_bytes {
            return Err(Error::data(format!("it has {} bytes, and its commit says {file_bytes}", found.meta.size)));
        }
        let tail = found.bytes().await.map_err(|e| store::error("read", &place.shown, e))?;
        match ShardFooter::parse(&tail, file_bytes)? {
            Footer::Found(footer) => return Ok(footer),
            Footer::Needs(more) if more > wanted => wanted = more.min(file_bytes),
            Footer::Needs(_) => return Err(Error::data("the footer is longer than the file")),
        }
    }
}

async fn compare_checksum(place: &Location, committed: &Checksum) -> Result<()> {
    let read = place.store.get(&place.path).await;
    let mut stream = read.map_err(|e| store::error("read", &place.shown, e))?.into_stream();
    let mut sum = committed.hasher();
    while let Some(bytes) = stream.try_next().await.map_err(|e| store::error("read", &place.shown, e))? {
        sum.update(&bytes);
    }
    let sum = sum.finish();
    if sum != *committed {
        return Err(Error::data(format!("its checksum is {sum}, and its commit says {committed}")));
    }
    Ok(())
}
