//! A store that counts what it is asked: requests, their time, bytes, errors.
//!
//! An answer that says how things stand (not found, already there, not modified) is no error. Requests are tried again
//! below this: one is counted once, with all the time it took.

use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result, UploadPart,
};

use crate::runtime::clock::Stopwatch;
use crate::store::{Location, error_kind};
use crate::telemetry::metrics::{StoreOperation, StoreStats};

impl Location {
    /// The same place, with everything that is asked of its store counted in `stats`.
    pub fn counted(mut self, stats: StoreStats) -> Self {
        self.store = Arc::new(Counted { inner: self.store, stats });
        self
    }
}

#[derive(Debug)]
struct Counted {
    inner: Arc<dyn ObjectStore>,
    stats: StoreStats,
}

/// A multipart upload whose parts are counted.
#[derive(Debug)]
struct CountedUpload {
    inner: Box<dyn MultipartUpload>,
    stats: StoreStats,
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

async fn counted<T>(
    stats: &StoreStats,
    operation: StoreOperation,
    request: impl Future<Output = Result<T>>,
) -> Result<T> {
    let since = Stopwatch::start();
    let answer = request.await;
    stats.request(operation, since.elapsed());
    if let Err(error) = &answer {
        count_error(stats, error);
    }
    answer
}

fn count_error(stats: &StoreStats, error: &Error) {
    let tells_how_things_stand = matches!(
        error,
        Error::NotFound { .. } | Error::AlreadyExists { .. } | Error::Precondition { .. } | Error::NotModified { .. }
    );
    if !tells_how_things_stand {
        stats.error(error_kind(error));
    }
}

/// Counts one request when the stream ends, and every error on the way.
fn counted_stream<T: 'static>(
    stats: &StoreStats,
    operation: StoreOperation,
    items: BoxStream<'static, Result<T>>,
) -> BoxStream<'static, Result<T>> {
    let (at_items, at_end, since) = (stats.clone(), stats.clone(), Stopwatch::start());
    let end = stream::poll_fn(move |_| {
        at_end.request(operation, since.elapsed());
        Poll::Ready(None)
    });
    let watched = items.inspect(move |item| {
        if let Err(error) = item {
            count_error(&at_items, error);
        }
    });
    watched.chain(end).boxed()
}

#[async_trait::async_trait]
#[deny(clippy::missing_trait_methods)] // a default method would go around the inner store's own
impl ObjectStore for Counted {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let bytes = payload.content_length() as u64;
        let put = self.inner.put_opts(location, payload, opts);
        let answer = counted(&self.stats, StoreOperation::Put, put).await?;
        self.stats.sent_bytes.add(bytes);
        Ok(answer)
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let begin = self.inner.put_multipart_opts(location, opts);
        let inner = counted(&self.stats, StoreOperation::Put, begin).await?;
        Ok(Box::new(CountedUpload { inner, stats: self.stats.clone() }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let operation = if options.head { StoreOperation::Head } else { StoreOperation::Get };
        let answer = counted(&self.stats, operation, self.inner.get_opts(location, options)).await?;
        if operation == StoreOperation::Get {
            self.stats.received_bytes.add(answer.range.end - answer.range.start);
        }
        Ok(answer)
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let answer = counted(&self.stats, StoreOperation::Get, self.inner.get_ranges(location, ranges)).await?;
        self.stats.received_bytes.add(answer.iter().map(|part| part.len() as u64).sum());
        Ok(answer)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        counted_stream(&self.stats, StoreOperation::Delete, self.inner.delete_stream(locations))
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        counted_stream(&self.stats, StoreOperation::List, self.inner.list(prefix))
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        counted_stream(&self.stats, StoreOperation::List, self.inner.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        counted(&self.stats, StoreOperation::List, self.inner.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        counted(&self.stats, StoreOperation::Copy, self.inner.copy_opts(from, to, options)).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        counted(&self.stats, StoreOperation::Copy, self.inner.rename_opts(from, to, options)).await
    }
}

#[async_trait::async_trait]
impl MultipartUpload for CountedUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (bytes, stats) = (data.content_length() as u64, self.stats.clone());
        let part = self.inner.put_part(data);
        Box::pin(async move {
            counted(&stats, StoreOperation::Put, part).await?;
            stats.sent_bytes.add(bytes);
            Ok(())
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        counted(&self.stats, StoreOperation::Put, self.inner.complete()).await
    }

    async fn abort(&mut self) -> Result<()> {
        counted(&self.stats, StoreOperation::Delete, self.inner.abort()).await
    }
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt;
    use futures::executor::block_on;
    use object_store::ObjectStoreExt;

    use super::*;
    use crate::error::ErrorKind;

    fn place() -> (Location, StoreStats) {
        let stats = StoreStats::default();
        let store: Arc<dyn ObjectStore> = Arc::new(object_store::memory::InMemory::new());
        let location = Location { store, ..Location::open("memory://counted/x").unwrap() };
        (location.counted(stats.clone()), stats)
    }

    #[test]
    fn requests_and_bytes_are_counted_by_what_they_are() {
        let (place, stats) = place();
        block_on(async {
            place.store.put(&place.path, PutPayload::from_static(b"twelve bytes")).await.unwrap();
            place.store.get_range(&place.path, 2..5).await.unwrap();
            assert_eq!(place.store.head(&place.path).await.unwrap().size, 12);
            assert_eq!(place.store.list(None).try_collect::<Vec<_>>().await.unwrap().len(), 1);
            let mut upload = place.store.put_multipart(&Path::from("y")).await.unwrap();
            upload.put_part(PutPayload::from_static(b"part")).await.unwrap();
            upload.complete().await.unwrap();
            place.store.delete(&place.path).await.unwrap();
        });
        let requests = StoreOperation::ALL.map(|operation| stats.requests(operation));
        assert_eq!(requests, [1, 1, 1, 4, 1, 0], "get, head, list, put, delete, copy");
        assert_eq!((stats.sent_bytes.get(), stats.received_bytes.get()), (16, 3));
    }

    #[test]
    fn an_absent_object_is_an_answer_and_a_refused_request_an_error() {
        let (place, stats) = place();
        assert!(block_on(place.store.get(&place.path)).is_err());
        assert_eq!(ErrorKind::ALL.map(|kind| stats.errors(kind)), [0; 7]);
        count_error(&stats, &Error::Generic { store: "s3", source: "503 slow down".into() });
        assert_eq!(stats.errors(ErrorKind::Unavailable), 1);
    }

    #[test]
    fn the_rest_of_the_store_still_works_through_it() {
        let (place, stats) = place();
        block_on(async {
            let mut upload = crate::store::upload::Upload::new(place.clone(), Default::default());
            upload.write(Bytes::from_static(b"shard")).await.unwrap();
            upload.finish().await.unwrap();
            assert_eq!(crate::store::objects::read(&place).await.unwrap().unwrap(), "shard");
        });
        assert_eq!((stats.sent_bytes.get(), stats.received_bytes.get()), (5, 5));
    }
}
