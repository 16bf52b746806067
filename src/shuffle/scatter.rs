//! The first pass: one slice of a source shard becomes one piece.

use object_store::ObjectStoreExt;

use crate::error::{Error, Result};
use crate::shuffle::piece::Piece;
use crate::shuffle::plan::{Plan, Slice};
use crate::store::upload::Upload;
use crate::store::{self, Location, objects};
use crate::testing::failpoint;

/// Bytes that are handed to the upload at a time.
const CHUNK_BYTES: usize = 4 << 20;
/// Chunks that wait for the upload.
const CHUNKS_WAITING: usize = 2;

/// Write the piece of `slice`, unless it is there.
pub(super) async fn scatter(plan: &Plan, slice: &Slice) -> Result<()> {
    let index_place = plan.scratch().child(&format!("{}.index", slice.name));
    if exists(&index_place).await? {
        return Ok(());
    }
    let shard = plan.reader.open(slice.part);
    let rows = slice.groups.clone().map(|group| plan.reader.group_rows(slice.part, group)).sum::<u64>();
    let mut piece = Piece::new(plan.order.clone(), plan.sites(), plan.row_bytes, rows as usize);
    for group in slice.groups.clone() {
        let rows = shard.group(group).await?;
        piece = blocking(move || {
            piece.push(&rows);
            piece
        })
        .await?;
    }
    let (give, mut chunks) = tokio::sync::mpsc::channel(CHUNKS_WAITING);
    let sorting = tokio::task::spawn_blocking(move || {
        // an upload that failed has dropped its end, and says why
        piece.finish(CHUNK_BYTES, |chunk| drop(give.blocking_send(chunk)))
    });
    let mut upload = Upload::new(plan.scratch().child(&format!("{}.rows", slice.name)), plan.upload);
    while let Some(chunk) = chunks.recv().await {
        if let Err(error) = upload.write(chunk).await {
            upload.abort().await;
            return Err(error);
        }
    }
    let index = sorting.await.map_err(|e| Error::internal(format!("sorting a slice failed: {e}")))?;
    upload.finish().await?;
    failpoint("piece_written");
    // somebody else who was as quick has written the same bytes
    objects::create(&index_place, index.into()).await?;
    failpoint("piece_indexed");
    Ok(())
}

/// Whether there is such an object.
pub(super) async fn exists(place: &Location) -> Result<bool> {
    match place.store.head(&place.path).await {
        Ok(_) => Ok(true),
        Err(object_store::Error::NotFound { .. }) => Ok(false),
        Err(error) => Err(store::error("look for", &place.shown, error)),
    }
}

/// Arithmetic, away from the threads that wait for the store.
pub(super) async fn blocking<R: Send + 'static>(work: impl FnOnce() -> R + Send + 'static) -> Result<R> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Error::internal(format!("a shuffle's worker died: {e}")))
}
