//! Text in: listings, work units, and readers that turn bytes into documents.
//!
//! The listing of a corpus is split into *units* (a file, a group of small files, or a part of a large file cut at
//! document borders). A unit is the atom of work, resume and distribution: its documents are the same whoever reads it,
//! in the same order. What cannot be read is counted with a reason and skipped; it never stops a run. A file that is
//! gone, has changed, or that its store does not give after retries is an error.
//!
//! Listing is async; reading runs on plain threads, with the fetching behind it on the runtime that opened the corpus.

mod chat;
pub mod config;
pub mod cursor;
mod document;
mod fetch;
mod follow;
mod jsonl;
mod lines;
mod listing;
mod parquet;
mod parquet_records;
mod plain_text;
mod ranges;
mod reader;
pub mod units;

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use tokio::runtime::Handle;

pub use chat::Chat;
pub use document::{Content, Document, Item, is_holdout};
pub use fetch::ReaderCounters;
pub use follow::{Follow, Followed, Follower, Growth};
pub use listing::{Compression, SourceFile};
pub use reader::UnitReader;
pub use units::Unit;

use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::store::Stores;
use config::{CorpusConfig, TextDocument};
use fetch::Fetcher;
use reader::{Field, FieldKind};
use units::{Cut, FileShape};

/// A line or document beyond this size is dropped and counted, so that memory stays bounded: a tokenizer was measured
/// to need 120 times a document's size for a moment, so 2 GB here.
const DOCUMENT_BYTES_MAX: usize = 16 << 20;
/// Footers of large Parquet files that are read at a time when a corpus is opened.
const FOOTERS_AT_A_TIME: usize = 8;

/// A listed corpus, cut into units.
#[derive(Debug)]
pub struct Corpus {
    config: CorpusConfig,
    field: Field,
    files: Vec<SourceFile>,
    units: Vec<Unit>,
    instalments: Vec<u32>,
    fingerprint: String,
    fetcher: Fetcher,
    document_bytes_max: usize,
}

impl Corpus {
    /// List the files and cut them into units. The calling runtime does the fetching for all readers, so it must be a
    /// multi-threaded one (or be driven) while they read.
    ///
    /// Errors: a path that matches nothing (it is named), a store that does not answer.
    pub async fn open(config: &CorpusConfig) -> Result<Self> {
        Self::open_in(config, &Stores::default()).await
    }

    /// As [`Corpus::open`], with options of stores.
    pub async fn open_in(config: &CorpusConfig, stores: &Stores) -> Result<Self> {
        let files = listing::list(config.paths(), stores).await?;
        warn_of_oversized(config, &files);
        let empty = Self::of(config, Vec::new(), Vec::new())?;
        let shapes = shapes(config, &empty.field, &files, &empty.fetcher).await?;
        let units = units::split(&shapes, config.unit_bytes().0)?;
        Self::of(config, files, units)
    }

    fn of(config: &CorpusConfig, files: Vec<SourceFile>, units: Vec<Unit>) -> Result<Self> {
        let (field, fingerprint) = (field_of(config)?, listing::fingerprint(&files));
        let fetcher = Fetcher { runtime: Handle::current(), counters: Arc::default() };
        let instalments = if units.is_empty() { Vec::new() } else { vec![units.len() as u32] };
        let (config, document_bytes_max) = (config.clone(), DOCUMENT_BYTES_MAX);
        Ok(Self { config, field, files, units, instalments, fingerprint, fetcher, document_bytes_max })
    }

    /// The `corpus:` section it was opened with.
    pub fn config(&self) -> &CorpusConfig {
        &self.config
    }

    /// The files, sorted by name.
    pub fn files(&self) -> &[SourceFile] {
        &self.files
    }

    /// The units; `units()[i].index == i`.
    pub fn units(&self) -> &[Unit] {
        &self.units
    }

    /// Number of units.
    pub fn n_units(&self) -> u32 {
        u32::try_from(self.units.len()).expect("units are counted in u32 when they are cut")
    }

    /// Units of each instalment of files, which are read one after the other: one, unless the corpus is followed.
    pub fn instalments(&self) -> &[u32] {
        &self.instalments
    }

    /// Whether it may grow.
    pub fn follows(&self) -> bool {
        !self.config.follow().is_off()
    }

    /// Bytes of all files as stored.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|f| f.bytes).sum()
    }

    /// sha256 (hex) over the names and sizes of all files; of the first instalment, if the corpus is followed.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// What all readers of this corpus did so far.
    pub fn counters(&self) -> &Arc<ReaderCounters> {
        &self.fetcher.counters
    }

    /// Read a unit from its start. Fetching starts at once; nothing blocks before the first `next`, which must not be
    /// called on an async thread.
    pub fn read_unit(self: &Arc<Self>, unit: u32) -> UnitReader {
        assert!(unit < self.n_units(), "unit {unit} of {}", self.n_units());
        UnitReader::new(Arc::clone(self), unit)
    }

    fn field(&self) -> &Field {
        &self.field
    }

    fn fetcher(&self) -> &Fetcher {
        &self.fetcher
    }

    fn document_bytes_max(&self) -> usize {
        self.document_bytes_max
    }
}

/// A large text file that is to be one document will be dropped; that is better known before than after a run.
fn warn_of_oversized(config: &CorpusConfig, files: &[SourceFile]) {
    if !matches!(config, CorpusConfig::Text { document: TextDocument::File, .. }) {
        return;
    }
    let too_large = |f: &&SourceFile| f.compression() == Compression::None && f.bytes > DOCUMENT_BYTES_MAX as u64;
    if let Some(file) = files.iter().find(too_large) {
        tracing::warn!(
            file = file.location.shown,
            files = files.iter().filter(too_large).count(),
            "text files of more than 16 MiB are too large for one document and will be dropped: \
             set `corpus.document` to paragraph or line"
        );
    }
}

/// Which field of a record is the document (`text` unless something is said). Text files have none.
fn field_of(config: &CorpusConfig) -> Result<Field> {
    let given: Vec<(&String, FieldKind)> = match config {
        CorpusConfig::Jsonl { field, tokens_field, messages_field, .. }
        | CorpusConfig::Parquet { field, tokens_field, messages_field, .. } => {
            let kinds = [FieldKind::Text, FieldKind::Tokens, FieldKind::Messages];
            let fields = [field, tokens_field, messages_field].into_iter().zip(kinds);
            fields.filter_map(|(name, kind)| Some((name.as_ref()?, kind))).collect()
        }
        CorpusConfig::Text { .. } => Vec::new(),
    };
    match given.as_slice() {
        [] => Ok(Field { name: "text".to_owned(), kind: FieldKind::Text }),
        [(name, kind)] => Ok(Field { name: (*name).clone(), kind: *kind }),
        _ => Err(Error::config(
            "give one of `corpus.field`, `corpus.tokens_field` and `corpus.messages_field`, not several",
        )),
    }
}

/// Where each file may be cut.
async fn shapes(
    config: &CorpusConfig,
    field: &Field,
    files: &[SourceFile],
    fetcher: &Fetcher,
) -> Result<Vec<FileShape>> {
    let shapes = files.iter().map(|file| async move {
        let large = file.bytes > config.unit_bytes().0;
        let cut = match config {
            CorpusConfig::Parquet { .. } if large => row_groups(fetcher, file, field).await?,
            CorpusConfig::Jsonl { .. }
            | CorpusConfig::Text { document: TextDocument::Line | TextDocument::Paragraph, .. }
                if file.compression() == Compression::None =>
            {
                Cut::Anywhere
            }
            _ => Cut::Nowhere,
        };
        Ok(FileShape { bytes: file.bytes, cut })
    });
    futures::stream::iter(shapes).buffered(FOOTERS_AT_A_TIME).try_collect().await
}

/// The row groups of a Parquet file, read where blocking is allowed.
async fn row_groups(fetcher: &Fetcher, file: &SourceFile, field: &Field) -> Result<Cut> {
    let (fetcher, file, field) = (fetcher.clone(), file.clone(), field.clone());
    let groups = tokio::task::spawn_blocking(move || parquet::row_group_bytes(&fetcher, &file, &field))
        .await
        .or_kind(ErrorKind::Internal, || "the task that reads Parquet footers ended early".to_owned())??;
    Ok(groups.map_or(Cut::Nowhere, Cut::RowGroups))
}

#[cfg(test)]
mod tests;
