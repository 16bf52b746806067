//! Whether "write only if absent" holds in a store, seen before anything rests on it.
//!
//! Commits are exclusive because a store refuses to write an object that is there. Some S3-compatible servers ignore the
//! condition and answer yes to everybody: there two writers would each believe that theirs is the commit.

use bytes::Bytes;
use object_store::Error::{AlreadyExists, NotImplemented, NotSupported, Precondition};
use object_store::{ObjectStoreExt, PutMode, PutOptions};

use crate::error::{Error, Result};
use crate::runtime::clock::Clock;
use crate::store::config::ConditionalPut;
use crate::store::{self, Kind, Location, objects};

/// Folder of the objects that are written for this, below the place.
const FOLDER: &str = "probe";

/// See that the store of `location` refuses to write what is there: two small writes of one object, which is then deleted.
/// Asked once a store; local and in-memory stores, and those whose option says how it is, are not asked.
///
/// Errors: [`Config`](crate::error::ErrorKind::Config) if the store ignores the condition or does not know it.
pub async fn exclusive_writes(location: &Location) -> Result<()> {
    location.writable()?;
    let backend = &location.backend;
    let is_known =
        matches!(backend.kind, Kind::Local | Kind::Memory) || backend.conditional_put != ConditionalPut::Auto;
    if is_known {
        return Ok(());
    }
    backend.probed.get_or_try_init(|| try_out(location)).await.map(drop)
}

/// See that several writers may share what is written at `location`; `by` says who they are.
///
/// Errors: [`Config`](crate::error::ErrorKind::Config) if the store's option says that its writes are not exclusive.
pub fn may_be_shared(location: &Location, by: &str) -> Result<()> {
    match location.backend.conditional_put {
        ConditionalPut::Auto | ConditionalPut::Etag => Ok(()),
        ConditionalPut::None => Err(Error::config(format!(
            "`{}` cannot be shared ({by}): its store has conditional_put: none, so two could commit the same part",
            location.shown
        ))),
    }
}

async fn try_out(location: &Location) -> Result<()> {
    let name = format!("{FOLDER}/{}-{}", Clock::system().since_epoch().as_nanos(), std::process::id());
    let place = location.child(&name);
    let found = write_twice(&place).await;
    // what is left behind costs a few bytes; it is more important to say what was found
    if let Err(error) = place.store.delete(&place.path).await
        && found.is_ok()
        && !matches!(error, object_store::Error::NotFound { .. })
    {
        tracing::warn!(object = place.shown, %error, "cannot delete an object that was written to try out the store");
    }
    match found? {
        true => Ok(()),
        false => Err(Error::config(format!(
            "the store `{}` writes over objects although it is told to write only what is absent (If-None-Match is \
             ignored), so commits would not be exclusive: use another store or endpoint, or, for a dataset with a single \
             writer, set conditional_put: none in `stores:` (--store conditional_put=none)",
            location.backend.name
        ))),
    }
}

/// Whether the second write of one object was refused.
async fn write_twice(place: &Location) -> Result<bool> {
    // a conflict says nothing of what is there: only once the object is seen, or was taken, a second write can be refused
    objects::create(place, Bytes::from_static(b"first")).await?;
    let mut trial = place.backend.retries.begin();
    let refused = loop {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let put = place.store.put_opts(&place.path, Bytes::from_static(b"second").into(), options).await;
        match put {
            Ok(_) => break false,
            Err(AlreadyExists { .. } | Precondition { .. }) => break true,
            Err(error @ (NotImplemented { .. } | NotSupported { .. })) => {
                return Err(store::error("write only if absent", &place.shown, error));
            }
            Err(error) => trial.failed(error).await.map_err(|e| store::error("write", &place.shown, e))?,
        }
    };
    place.backend.retries.answered();
    Ok(refused)
}
