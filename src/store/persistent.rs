//! A remote store that does not give up at once: every request is tried again under the store's budget ([`Retries`]), reads
//! go on from the byte where a body broke off, listings from the last name.
//!
//! Only "write if absent" is passed on as it is: whether a lost answer was a yes is for [`crate::store::objects::create`]
//! to find out.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{
    CopyMode, CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload,
    OBJECT_STORE_COALESCE_DEFAULT, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions,
    PutPayload, PutResult, RenameOptions, Result, UploadPart, coalesce_ranges,
};

use crate::store::is_missing_bucket;
use crate::store::retries::Retries;

/// Names that are deleted by one request, where a store can.
const DELETED_AT_A_TIME: usize = 1000;

/// A store that takes objects in parts.
pub(super) trait Multipart: MultipartStore + fmt::Debug {}

impl<S: MultipartStore + fmt::Debug> Multipart for S {}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Persistent {
    pub(super) inner: Arc<dyn ObjectStore>,
    /// The same store, for uploads in parts.
    pub(super) multipart: Option<Arc<dyn Multipart>>,
    pub(super) retries: Arc<Retries>,
}

impl fmt::Display for Persistent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

/// A body that is being read.
struct Body {
    store: Persistent,
    path: Path,
    options: GetOptions,
    meta: ObjectMeta,
    /// What is still to come.
    left: Range<u64>,
    open: Option<BoxStream<'static, Result<Bytes>>>,
}

impl Body {
    /// The next bytes; `None` at the end. Opens the body anew where it broke off.
    async fn next(&mut self) -> Result<Option<Bytes>> {
        let retries = Arc::clone(&self.store.retries);
        let mut trial = retries.begin();
        while !self.left.is_empty() {
            let error = match self.attempt().await {
                Ok(bytes) => {
                    trial.progressed();
                    self.left.start += bytes.len() as u64;
                    return Ok(Some(bytes));
                }
                Err(error) => error,
            };
            self.open = None;
            trial.failed(error).await?;
        }
        Ok(None)
    }

    async fn attempt(&mut self) -> Result<Bytes> {
        let body = match &mut self.open {
            Some(body) => body,
            None => {
                let options = GetOptions { range: Some(self.left.clone().into()), ..self.options.clone() };
                let answer = self.store.inner.get_opts(&self.path, options).await?;
                if (answer.meta.size, &answer.meta.e_tag) != (self.meta.size, &self.meta.e_tag) {
                    let source = "it has changed while it was read".into();
                    return Err(Error::Precondition { path: self.path.to_string(), source });
                }
                self.open.insert(answer.into_stream())
            }
        };
        match body.next().await {
            Some(Ok(bytes)) if bytes.len() as u64 <= self.left.end - self.left.start => Ok(bytes),
            Some(Ok(_)) => Err(broken("the body is longer than it was said to be")),
            Some(Err(error)) => Err(error),
            None => Err(broken("the body ended early")),
        }
    }
}

fn broken(what: &'static str) -> Error {
    Error::Generic { store: "body", source: what.into() }
}

impl Persistent {
    fn resuming(&self, path: &Path, options: GetOptions, answer: GetResult) -> GetResult {
        let GetResult { payload: GetResultPayload::Stream(open), meta, range, attributes, extensions } = answer else {
            return answer;
        };
        let body = Body {
            store: self.clone(),
            path: path.clone(),
            options,
            meta: meta.clone(),
            left: range.clone(),
            open: Some(open),
        };
        let chunks = stream::try_unfold(body, |mut body| async move { Ok(body.next().await?.map(|b| (b, body))) });
        GetResult { payload: GetResultPayload::Stream(chunks.boxed()), meta, range, attributes, extensions }
    }

    /// All objects below `prefix` after `offset`, in order.
    fn listed(&self, prefix: Option<&Path>, offset: Option<Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (store, prefix) = (self.clone(), prefix.cloned());
        let listing = Listing { store, prefix, last: offset, open: None };
        stream::try_unfold(listing, |mut listing| async move { Ok(listing.next().await?.map(|o| (o, listing))) })
            .boxed()
    }

    async fn delete_all(self, paths: Vec<Path>) -> Result<Vec<Path>> {
        self.retries
            .persist(|| async {
                let names = stream::iter(paths.clone()).map(Ok).boxed();
                let done = self.inner.delete_stream(names).map(|answer| match answer {
                    // gone is what was asked for
                    Err(error @ Error::NotFound { .. }) if !is_missing_bucket(&error) => Ok(()),
                    answer => answer.map(drop),
                });
                done.try_collect::<()>().await
            })
            .await?;
        Ok(paths)
    }
}

/// A listing that is being read.
struct Listing {
    store: Persistent,
    prefix: Option<Path>,
    last: Option<Path>,
    open: Option<BoxStream<'static, Result<ObjectMeta>>>,
}

impl Listing {
    async fn next(&mut self) -> Result<Option<ObjectMeta>> {
        let retries = Arc::clone(&self.store.retries);
        let mut trial = retries.begin();
        loop {
            let open = self.open.get_or_insert_with(|| match &self.last {
                Some(last) => self.store.inner.list_with_offset(self.prefix.as_ref(), last),
                None => self.store.inner.list(self.prefix.as_ref()),
            });
            match open.next().await {
                None => return Ok(None),
                Some(Ok(object)) => {
                    retries.answered();
                    self.last = Some(object.location.clone());
                    return Ok(Some(object));
                }
                Some(Err(error)) => {
                    self.open = None;
                    trial.failed(error).await?;
                }
            }
        }
    }
}

#[async_trait::async_trait]
#[deny(clippy::missing_trait_methods)] // a default method would go around the inner store's own
impl ObjectStore for Persistent {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        match opts.mode {
            PutMode::Overwrite => {
                self.retries.persist(|| self.inner.put_opts(location, payload.clone(), opts.clone())).await
            }
            PutMode::Create | PutMode::Update(_) => self.inner.put_opts(location, payload, opts).await,
        }
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let Some(multipart) = &self.multipart else { return self.inner.put_multipart_opts(location, opts).await };
        let id = self.retries.persist(|| multipart.create_multipart(location)).await?;
        let upload = Parts {
            store: Arc::clone(multipart),
            retries: Arc::clone(&self.retries),
            path: location.clone(),
            id,
            next: 0,
            sent: Arc::default(),
        };
        Ok(Box::new(upload))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let answer = self.retries.persist(|| self.inner.get_opts(location, options.clone())).await?;
        if options.head { Ok(answer) } else { Ok(self.resuming(location, options, answer)) }
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        coalesce_ranges(ranges, |range| self.get_range(location, range), OBJECT_STORE_COALESCE_DEFAULT).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        let chunks = locations.try_chunks(DELETED_AT_A_TIME).map_err(|error| error.1);
        let deleted = chunks.and_then(move |paths| store.clone().delete_all(paths));
        deleted.map_ok(|paths| stream::iter(paths).map(Ok)).try_flatten().boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listed(prefix, None)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listed(prefix, Some(offset.clone()))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.retries.persist(|| self.inner.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        match options.mode {
            CopyMode::Overwrite => self.retries.persist(|| self.inner.copy_opts(from, to, options.clone())).await,
            CopyMode::Create => self.inner.copy_opts(from, to, options).await,
        }
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        // remote stores rename by copying and deleting, each of which is tried again
        self.inner.rename_opts(from, to, options).await
    }
}

/// An upload in parts, each of which is tried again, and so is its end.
#[derive(Debug)]
struct Parts {
    store: Arc<dyn Multipart>,
    retries: Arc<Retries>,
    path: Path,
    id: String,
    next: usize,
    sent: Arc<std::sync::Mutex<Vec<(usize, PartId)>>>,
}

impl Parts {
    fn sent(&self) -> Result<Vec<PartId>> {
        let mut sent = self.sent.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        sent.sort_unstable_by_key(|(index, _)| *index);
        match sent.len() == self.next {
            true => Ok(sent.into_iter().map(|(_, id)| id).collect()),
            false => Err(Error::Generic { store: "upload", source: "a part was not sent".into() }),
        }
    }
}

#[async_trait::async_trait]
impl MultipartUpload for Parts {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let index = self.next;
        self.next += 1;
        let (store, retries, sent) = (Arc::clone(&self.store), Arc::clone(&self.retries), Arc::clone(&self.sent));
        let (path, id) = (self.path.clone(), self.id.clone());
        Box::pin(async move {
            let part = retries.persist(|| store.put_part(&path, &id, index, data.clone())).await?;
            sent.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((index, part));
            Ok(())
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let parts = self.sent()?;
        self.retries.persist(|| self.store.complete_multipart(&self.path, &self.id, parts.clone())).await
    }

    async fn abort(&mut self) -> Result<()> {
        let aborted = self.retries.persist(|| self.store.abort_multipart(&self.path, &self.id)).await;
        match aborted {
            // the answer to an earlier try was lost
            Err(Error::NotFound { .. }) => Ok(()),
            aborted => aborted,
        }
    }
}
