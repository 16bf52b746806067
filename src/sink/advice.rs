//! What to do when a folder cannot be written to.

use std::io::ErrorKind as Io;

use crate::error::Error;
use crate::store::Location;

/// `error`, with what to do about it where the operating system's answer says that.
pub(super) fn advised(error: Error, dataset: &Location) -> Error {
    let advice = match error.io_kind() {
        Some(Io::StorageFull | Io::QuotaExceeded) => "there is no space left: make room",
        Some(Io::FileTooLarge) => "files may not become this large: raise the limit, or lower `dataset.rows_per_shard`",
        Some(Io::ReadOnlyFilesystem | Io::PermissionDenied) => {
            "it must not be written to: see its permissions and mount"
        }
        _ => return error,
    };
    error.context(format!("store to `{}` ({advice}, then run again: nothing that is committed is lost)", dataset.shown))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn the_operating_systems_answer_decides() {
        let place = Location::open("memory://advice/acts").unwrap();
        let full = Error::io("write", "/data/acts/shards/x", Io::StorageFull.into());
        let full = advised(full, &place);
        assert_eq!(full.kind(), ErrorKind::Unavailable);
        assert!(full.to_string().contains("make room") && full.to_string().contains("/data/acts/shards/x"), "{full}");
        let other = advised(Error::data("x"), &place);
        assert_eq!(other.to_string(), "x");
    }
}
