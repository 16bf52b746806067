//! Objects of unknown length, uploaded while they are being made.
//!
//! What fits into one part is written by a single put; more becomes a multipart upload with parts of equal size (some
//! stores insist) and a bound on the parts in flight. Either way the object appears whole or not at all. Memory held is at
//! most `(parts_in_flight + 1) * part_bytes`, and what [`Upload::write`] is given at once.
//!
//! An upload has ended when the store shows the object in its full size: an answer alone is not believed, neither a yes
//! (stores have lost what they had accepted) nor a no (the yes before it may have been lost on the way).

use std::time::Duration;

use bytes::Bytes;
use object_store::{MultipartUpload, ObjectStoreExt, PutPayload};
use tokio::task::JoinSet;

use crate::error::{Error, ErrorKind, Result};
use crate::runtime::clock::Clock;
use crate::store::{self, Kind, Location};
use crate::testing::failpoint;

/// Stores show what was written at once; one that takes longer is looked at again, after this and twice as long waits.
const FIRST_LOOK: Duration = Duration::from_millis(100);
/// The longest of these waits.
const LAST_LOOK: Duration = Duration::from_secs(2);
/// How far the store's clock may be from what is known of it.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(5);

/// How an object is uploaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UploadOptions {
    /// Size of all parts but the last; S3 wants at least 5 MiB, and at most 10 000 parts.
    pub part_bytes: usize,
    /// Parts that are sent at a time.
    pub parts_in_flight: usize,
}

impl Default for UploadOptions {
    /// Objects of up to 160 GB, 64 MiB held.
    fn default() -> Self {
        let part_bytes = if cfg!(feature = "failpoints") { 64 << 10 } else { 16 << 20 };
        Self { part_bytes, parts_in_flight: 3 }
    }
}

/// An upload that has begun. End it with [`Upload::finish`] or [`Upload::abort`]; one that is merely dropped leaves parts
/// behind that object stores keep (and bill) until a lifecycle rule removes them.
#[derive(Debug)]
pub struct Upload {
    location: Location,
    options: UploadOptions,
    waiting: Vec<Bytes>,
    waiting_bytes: usize,
    /// Bytes of the whole object so far.
    total: u64,
    /// When the upload in parts began, by the store's clock.
    began: Duration,
    multipart: Option<Box<dyn MultipartUpload>>,
    in_flight: JoinSet<object_store::Result<()>>,
}

impl Upload {
    /// Begin. Nothing is sent yet.
    pub fn new(location: Location, options: UploadOptions) -> Self {
        Self {
            location,
            options,
            waiting: Vec::new(),
            waiting_bytes: 0,
            total: 0,
            began: Duration::ZERO,
            multipart: None,
            in_flight: JoinSet::new(),
        }
    }

    /// Append bytes; waits while too many parts are in flight. After an error only [`Upload::abort`] is of use.
    pub async fn write(&mut self, bytes: Bytes) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.waiting_bytes += bytes.len();
        self.total += bytes.len() as u64;
        self.waiting.push(bytes);
        // a part is sent when there is more than it: the last part is never empty
        while self.waiting_bytes > self.options.part_bytes {
            let part = self.take(self.options.part_bytes);
            self.send(part).await?;
        }
        Ok(())
    }

    /// Send the rest and make the object visible. An upload that fails here is aborted.
    pub async fn finish(mut self) -> Result<()> {
        let result = self.complete().await;
        if result.is_err() {
            self.abort().await;
        }
        result
    }

    async fn complete(&mut self) -> Result<()> {
        let rest = self.take(self.waiting_bytes);
        if self.multipart.is_none() {
            self.location.writable()?;
            let put = self.location.store.put(&self.location.path, rest).await;
            put.map_err(|e| self.error(e))?;
            return Self::confirm(self.location.clone(), self.total).await;
        }
        self.send(rest).await?;
        while !self.in_flight.is_empty() {
            self.one_arrives().await?;
        }
        failpoint("upload_parts_arrived");
        let Some(multipart) = &mut self.multipart else { return Ok(()) };
        match multipart.complete().await {
            Ok(_) => Self::confirm(self.location.clone(), self.total).await,
            // it may have ended although the answer was lost; a second try then finds no upload to end
            Err(_) if Self::appeared(self.location.clone(), self.total, self.began).await => Ok(()),
            Err(error) => Err(self.error(error)),
        }
    }

    /// Whether the store shows the object at `location`, of `total` bytes and not written before `began`.
    async fn appeared(location: Location, total: u64, began: Duration) -> bool {
        let Ok(found) = location.store.head(&location.path).await else { return false };
        let written = Duration::from_secs(found.last_modified.timestamp().max(0).cast_unsigned());
        found.size == total && written + CLOCK_TOLERANCE >= began
    }

    /// See that the store has what it said it took.
    async fn confirm(location: Location, total: u64) -> Result<()> {
        let mut wait = FIRST_LOOK;
        loop {
            let found = match location.store.head(&location.path).await {
                Ok(found) if found.size == total => return Ok(()),
                Ok(found) => format!("has {} bytes", found.size),
                Err(object_store::Error::NotFound { .. }) => "is not there".to_owned(),
                Err(error) => return Err(store::error("look for", &location.shown, error)),
            };
            if wait > LAST_LOOK || matches!(location.kind(), Kind::Local | Kind::Memory) {
                return Err(Error::new(
                    ErrorKind::Unavailable,
                    format!(
                        "the store accepted `{}` ({} bytes) but it {found}: nothing is committed; run again, and see                          whether the store loses objects",
                        location.shown, total
                    ),
                ));
            }
            tokio::time::sleep(wait).await;
            wait *= 2;
        }
    }

    /// Give up: the object does not appear, parts that were sent are deleted. A failure to delete them is logged only.
    pub async fn abort(mut self) {
        self.in_flight.shutdown().await;
        if let Some(mut multipart) = self.multipart.take()
            && let Err(error) = multipart.abort().await
        {
            tracing::warn!(object = %self.location.shown, %error, "cannot abort an upload: parts of it may remain");
        }
    }

    /// Hand over one part, once there is room for it.
    async fn send(&mut self, part: PutPayload) -> Result<()> {
        while self.in_flight.len() >= self.options.parts_in_flight.max(1) {
            self.one_arrives().await?;
        }
        let multipart = match &mut self.multipart {
            Some(multipart) => multipart,
            None => {
                self.location.writable()?;
                self.began = self.location.now(&Clock::system());
                let begun = self.location.store.put_multipart(&self.location.path).await;
                let begun = begun.map_err(|e| store::error("write", &self.location.shown, e))?;
                self.multipart.insert(begun)
            }
        };
        failpoint("upload_begun");
        self.in_flight.spawn(multipart.put_part(part));
        failpoint("part_sent");
        Ok(())
    }

    async fn one_arrives(&mut self) -> Result<()> {
        match self.in_flight.join_next().await {
            None | Some(Ok(Ok(()))) => Ok(()),
            Some(Ok(Err(error))) => Err(self.error(error)),
            Some(Err(error)) => Err(Error::internal(format!("an upload task failed: {error}"))),
        }
    }

    /// The first `n` waiting bytes, without copying them.
    fn take(&mut self, n: usize) -> PutPayload {
        let mut taken = Vec::new();
        let mut missing = n;
        while missing > 0 {
            let first = self.waiting.first_mut().expect("n is at most what waits");
            if first.len() > missing {
                taken.push(first.split_to(missing));
                break;
            }
            missing -= first.len();
            taken.push(self.waiting.remove(0));
        }
        self.waiting_bytes -= n;
        taken.into_iter().collect()
    }

    fn error(&self, source: object_store::Error) -> Error {
        store::error("write", &self.location.shown, source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn upload(name: &str, pieces: &[usize], options: UploadOptions) -> (Location, Vec<u8>) {
        let location = Location::open("memory://upload").unwrap().child(name);
        let mut upload = Upload::new(location.clone(), options);
        let mut all = Vec::new();
        for &n in pieces {
            let piece: Vec<u8> = (0..n).map(|i| (all.len() + i) as u8).collect();
            all.extend_from_slice(&piece);
            upload.write(piece.into()).await.unwrap();
        }
        upload.finish().await.unwrap();
        (location, all)
    }

    #[tokio::test]
    async fn pieces_of_any_size_become_one_object() {
        let options = UploadOptions { part_bytes: 10, parts_in_flight: 2 };
        let cases: [&[usize]; 6] = [&[], &[10], &[3, 3, 3], &[11], &[7, 40, 0, 3], &[100]];
        for (i, pieces) in cases.into_iter().enumerate() {
            let (location, all) = upload(&i.to_string(), pieces, options).await;
            let stored = location.store.get(&location.path).await.unwrap().bytes().await.unwrap();
            assert_eq!(stored, all, "{pieces:?}");
        }
    }

    #[tokio::test]
    async fn an_aborted_upload_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let location = Location::open(folder.path().to_str().unwrap()).unwrap().child("x");
        let mut upload = Upload::new(location, UploadOptions { part_bytes: 4, parts_in_flight: 1 });
        upload.write(Bytes::from_static(b"0123456789")).await.unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1); // the staging file
        upload.abort().await;
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
