//! Activations that others computed, into a dataset: arrays and tables of numbers become units of rows.
//!
//! ```text
//! files -> one unit each, in the order of their names -> sequences of rows -> ParquetSink -> shards, commits
//! ```
//!
//! A file is read in pieces of bounded size, and what is committed is not read again. An array `[samples, positions, width]`
//! has one sequence a sample; an array `[rows, width]` and a table have one sequence a row. What a row is, where the file
//! does not say: `doc_id` is a hash of the file's path (below the folder that all files are in) and the sequence, `pos` counts
//! within the sequence, `token_id` is 0. Rows with NaN or an infinity are left out and counted, like those of a model. Nothing here runs what a file says: pickles (`.pt`, `.pkl`, object arrays) are refused.

mod arrow_file;
mod batch;
mod dense;
mod files;
mod npy;
mod ranges;
mod safetensors;
mod tables;

use std::sync::Arc;

use serde::Serialize;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::accounting::DropCounts;
use crate::catalog::{Catalog, Totals};
use crate::dataset::config::{DatasetConfig, StoredDtype};
use crate::dataset::encoder::hex;
use crate::dataset::header::{DatasetHeader, FORMAT, Fingerprints, ModelHeader};
use crate::dataset::schema::ShardSpec;
use crate::error::{Error, Result};
use crate::hooks::HookPoint;
use crate::import::batch::{BatchPlace, Shape, batch};
use crate::import::files::InputFile;
use crate::sink::{ParquetSink, WriterLock};
use crate::store::{Location, objects};

pub use files::PassedOver;

/// Rows' values that are held at a time, in bytes (but for a single longer sequence).
const CHUNK_BYTES: usize = 8 << 20;
/// Sequences that are held at a time.
const SEQUENCES_MAX: usize = 4096;

/// What is imported.
#[derive(Clone, Debug)]
pub struct ImportOptions {
    /// Name of the site.
    pub point: HookPoint,
    /// The tensor or column that holds the values; `None`: the only one that can be meant.
    pub values: Option<String>,
    /// Number format of raw bytes: of fixed-size binary columns and of arrays whose format numpy has no name for.
    pub raw_dtype: Option<StoredDtype>,
    /// Names of the tensors or columns with token ids, documents and positions; `None`: the usual names, where they are.
    pub ids: IdNames,
    /// How it is stored. The number format counts only with `keep_dtype` unset.
    pub dataset: DatasetConfig,
    /// Store in the number format of the files (of f64: as f32).
    pub keep_dtype: bool,
    /// What becomes of rows with NaN or an infinity.
    pub non_finite: NonFinite,
}

/// What becomes of rows with NaN or an infinity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NonFinite {
    /// They are left out, and counted as [`DropReason::NonFinite`](crate::accounting::DropReason::NonFinite).
    #[default]
    Drop,
    /// They end the import.
    Fail,
}

/// What an import ended with.
#[derive(Clone, Debug, Serialize)]
pub struct Imported {
    /// The dataset.
    pub totals: Totals,
    /// Files that are in it.
    pub files: usize,
    /// Rows that are not, by reason.
    pub dropped: DropCounts,
    /// What else was in the folders.
    pub passed_over: PassedOver,
}

/// Names of columns; an empty name: none, whatever the file has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdNames {
    /// Token ids.
    pub token_id: Option<String>,
    /// Hashes (or numbers) of documents.
    pub doc_id: Option<String>,
    /// Positions in the sequence.
    pub pos: Option<String>,
}

/// Consecutive whole sequences of a file.
#[derive(Debug, Default)]
struct Chunk {
    /// Rows of each sequence.
    lengths: Vec<u32>,
    /// `[rows, width]`.
    values: Vec<f32>,
    token_id: Option<Vec<u32>>,
    doc_id: Option<Vec<u64>>,
    pos: Option<Vec<u32>>,
}

/// A file's rows, sequence after sequence. Blocks the thread.
trait Sequences: Send {
    /// Values a row; 0 if there is no row that would say it.
    fn width(&self) -> usize;

    /// The number format of the values.
    fn dtype(&self) -> StoredDtype;

    /// Pass sequences until `sequence` is next.
    fn seek(&mut self, sequence: u32) -> Result<()>;

    /// Rows of a sequence.
    fn rows(&self) -> usize;

    /// Some of the next sequences, at least one and at most `n`; `None` at the end.
    fn next(&mut self, n: usize) -> Result<Option<Chunk>>;

    /// The next `n` sequences; fewer only at the end, `None` if there are none.
    fn exactly(&mut self, n: usize) -> Result<Option<Chunk>> {
        let Some(mut chunk) = self.next(n)? else { return Ok(None) };
        while chunk.lengths.len() < n
            && let Some(more) = self.next(n - chunk.lengths.len())?
        {
            chunk.append(more);
        }
        Ok(Some(chunk))
    }
}

impl Chunk {
    fn append(&mut self, more: Self) {
        self.lengths.extend(more.lengths);
        self.values.extend(more.values);
        let ids = [(&mut self.token_id, more.token_id), (&mut self.pos, more.pos)];
        for (all, more) in ids {
            all.iter_mut().zip(more).for_each(|(all, more)| all.extend(more));
        }
        self.doc_id.iter_mut().zip(more.doc_id).for_each(|(all, more)| all.extend(more));
    }
}

/// Import `sources` (files, or folders of files) into the dataset at `destination`, or go on with it. `imported` is told
/// after each file how many are done, and of how many.
///
/// # Errors
/// `Data` for files that cannot be used, naming them and what to do; `Config` if the dataset is one of other files, which are
/// told apart by path, size and a checksum of pieces; `Unavailable` if another process writes to it.
pub async fn import(
    sources: &[Location],
    destination: Location,
    options: &ImportOptions,
    mut imported: impl FnMut(usize, usize),
) -> Result<Imported> {
    let (files, passed_over) = files::find(sources).await?;
    if passed_over.files > 0 {
        tracing::warn!(
            files = passed_over.files,
            first = passed_over.names.join(", "),
            "files of no format that is read were passed over"
        );
    }
    let (width, found) = shape_of_rows(&files, options).await?;
    let mut config = options.dataset.clone();
    if options.keep_dtype {
        config.dtype = found;
    }
    let spec = ShardSpec::new(&config, &[(options.point, width)]);
    let header = header(&files, options, &spec);
    let lock = WriterLock::take(&destination, false)?;
    let catalog = Catalog::create_or_open(destination, header).await?;
    let progress = catalog.progress().await?;
    let mut sink = ParquetSink::new(catalog.clone(), spec, progress.clone()).await?.holding(lock);
    for (unit, file) in files.iter().enumerate() {
        let unit = unit as u32;
        let at = progress.get(&unit).copied().unwrap_or_default();
        if !at.done {
            let result = import_file(&mut sink, file, unit, at.next_seq, width, options).await;
            if let Err(error) = result {
                sink.abort().await?;
                return Err(error.context(format!("import `{}`", file.place.shown)));
            }
        }
        imported(unit as usize + 1, files.len());
    }
    sink.finish().await?;
    // of a start that was killed with the header half-written
    objects::sweep_staging(catalog.location(), None)?;
    let mut dropped = DropCounts::new();
    catalog.commits().await?.iter().for_each(|commit| dropped.merge(&commit.dropped));
    Ok(Imported { totals: catalog.totals().await?, files: files.len(), dropped, passed_over })
}

/// Values a row and their format, of the first file that says it: writers of tables leave parts without rows.
async fn shape_of_rows(files: &[InputFile], options: &ImportOptions) -> Result<(usize, StoredDtype)> {
    for file in files {
        let opened = open(file, options).await?;
        if opened.width() > 0 {
            return Ok((opened.width(), opened.dtype()));
        }
    }
    Err(Error::data("there is nothing to import: no file has a row"))
}

async fn open(file: &InputFile, options: &ImportOptions) -> Result<Box<dyn Sequences>> {
    let (shown, file, options) = (file.place.shown.clone(), file.clone(), options.clone());
    let opened = blocking(move || file.open(&options)).await.and_then(|opened| opened);
    opened.map_err(|e| e.context(format!("import `{shown}`")))
}

async fn import_file(
    sink: &mut ParquetSink,
    file: &InputFile,
    unit: u32,
    first: u32,
    width: usize,
    options: &ImportOptions,
) -> Result<()> {
    let mut rows = open(file, options).await?;
    let shape = Shape { name: &file.name, point: options.point, width, non_finite: options.non_finite };
    if ![0, width].contains(&rows.width()) {
        return Err(Error::data(format!("its rows have {} values, and those of the first file {width}", rows.width())));
    }
    // batches begin at the same sequences whenever the import begins: commits count them
    let each = (CHUNK_BYTES / (4 * width * rows.rows()).max(1)).clamp(1, SEQUENCES_MAX);
    let next = move |mut rows: Box<dyn Sequences>| blocking(move || rows.exactly(each).map(|chunk| (rows, chunk)));
    let mut index = first / each as u32;
    let mut seq = index * each as u32;
    rows = blocking(move || rows.seek(seq).map(|()| rows)).await??;
    let (mut rows, mut chunk) = next(rows).await??;
    loop {
        // one chunk more than is written tells which is the last
        let (rest, following) = match &chunk {
            Some(_) => next(rows).await??,
            None => (rows, None),
        };
        rows = rest;
        let ends = following.is_none();
        let n = chunk.as_ref().map_or(0, |chunk| chunk.lengths.len() as u32);
        let about = BatchPlace { unit, index, first_seq: seq, ends };
        sink.write(&batch(chunk.unwrap_or_default(), &about, &shape)?).await?;
        if ends {
            return Ok(());
        }
        seq += n;
        index += 1;
        chunk = following;
    }
}

fn header(files: &[InputFile], options: &ImportOptions, spec: &ShardSpec) -> DatasetHeader {
    let mut digest = Sha256::new();
    for file in files {
        digest.update(format!("{:?} {} {:032x}\n", file.name, file.bytes, file.checksum));
    }
    let corpus = hex(&digest.finalize());
    let ids = json!({
        "token_id": options.ids.token_id, "doc_id": options.ids.doc_id, "pos": options.ids.pos,
    });
    DatasetHeader {
        format: FORMAT,
        run_id: corpus[..16].to_owned(),
        pipeline: json!({"import": {"files": files.len(), "first": files.first().map(|file| &file.name)}}),
        model: ModelHeader::default(),
        fingerprints: Fingerprints { corpus, ..Fingerprints::default() },
        special_tokens: None,
        sites: spec.site_headers(HookPoint::definition),
        tokens: json!({"import": {"values": options.values, "ids": ids}}),
        units: files.len() as u32,
        follows: false,
        norm_limits: Default::default(),
        sample: spec.sample,
        shards: spec.rule(),
        order: None,
        column_group: None,
    }
}

/// Reading that blocks, away from the threads that wait for the store. The libraries that read Parquet and Arrow panic at
/// some damage instead of saying so: then it is an error like any other.
async fn blocking<R: Send + 'static>(work: impl FnOnce() -> R + Send + 'static) -> Result<R> {
    tokio::task::spawn_blocking(work).await.map_err(|e| match e.is_panic() {
        true => Error::data("it cannot be read: it is damaged"),
        false => Error::internal(format!("an import's reader died: {e}")),
    })
}

/// For a number that the file states: an error instead of an allocation.
fn plausible(what: &str, n: u64, most: u64) -> Result<usize> {
    let refused = || Error::data(format!("{what} is {n}, which cannot be: at most {most}"));
    usize::try_from(n).ok().filter(|_| n <= most).ok_or_else(refused)
}

/// What all readers of a file share.
type Place = Arc<ranges::RangeReader>;
