//! A store whose answers get lost.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, RenameOptions, Result,
};

use crate::store::Location;

/// When a failing put fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fails {
    /// Before anything is written.
    Before,
    /// After the object was written: the answer is lost.
    After,
}

/// Passes everything on, but fails chosen puts with an error that looks passing.
#[derive(Debug)]
pub struct FaultyStore {
    inner: Arc<dyn ObjectStore>,
    fails: Fails,
    /// Puts until the failing ones begin.
    puts_left: AtomicI64,
    /// How many fail.
    failures: i64,
}

impl FaultyStore {
    /// `location`, of whose puts and multipart uploads `failures` fail after the first `good` ones.
    pub fn wrap(location: &Location, fails: Fails, good: i64, failures: i64) -> Location {
        let inner = Arc::clone(&location.store);
        let store = Self { inner, fails, puts_left: AtomicI64::new(good), failures };
        Location { store: Arc::new(store), ..location.clone() }
    }

    fn next_fails(&self) -> bool {
        let left = self.puts_left.fetch_sub(1, Ordering::SeqCst);
        left <= 0 && left > -self.failures
    }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "faulty {}", self.inner)
    }
}

fn lost() -> object_store::Error {
    object_store::Error::Generic { store: "faulty", source: "connection reset by peer".into() }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        if !self.next_fails() {
            return self.inner.put_opts(location, payload, opts).await;
        }
        if self.fails == Fails::After {
            self.inner.put_opts(location, payload, opts).await?;
        }
        Err(lost())
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        if self.next_fails() {
            return Err(lost());
        }
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.inner.rename_opts(from, to, options).await
    }
}
