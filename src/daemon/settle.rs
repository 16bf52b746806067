//! What the end of a run means for its pipeline.

use crate::error::{Error, ErrorKind, Result};
use crate::pipeline::summary::RunSummary;
use crate::runtime::shutdown::Shutdown;

/// How a run ended.
#[derive(Debug, PartialEq)]
pub(super) enum Ending {
    /// Everything was done.
    Done,
    /// It was told to end; what it did is saved.
    Drained,
    /// It failed.
    Failed(ErrorKind, String),
}

impl Ending {
    /// Of a run that `shutdown` could end.
    pub(super) fn of(result: Result<RunSummary>, shutdown: &Shutdown) -> Self {
        let summary = match result {
            // it was told to end before there was anything that could be drained
            Err(error) if error.kind() == ErrorKind::Closed && shutdown.is_draining() => return Self::Drained,
            Err(error) => return Self::failed(&error),
            Ok(summary) => summary,
        };
        if let Some(why) = summary.stopped {
            return Self::Failed(ErrorKind::Full, why);
        }
        if shutdown.is_aborting() {
            return Self::Drained;
        }
        let failed = summary.trainers.iter().find_map(|t| Some((t, t.error.as_ref()?)));
        match failed {
            Some((trainer, error)) => {
                let kind = trainer.error_kind.unwrap_or(ErrorKind::Internal);
                Self::Failed(kind, format!("trainer `{}`: {error}", trainer.name))
            }
            None if summary.interrupted => Self::Drained,
            None => Self::Done,
        }
    }

    fn failed(error: &Error) -> Self {
        Self::Failed(error.kind(), error.to_string())
    }
}

/// Whether the same run may succeed later without anybody changing anything. Unlike a request to a store, a run is also
/// tried again after a bug or a fault of a device: the next one begins from what was saved.
pub(super) fn may_pass(kind: ErrorKind) -> bool {
    match kind {
        ErrorKind::Unavailable | ErrorKind::Device | ErrorKind::Internal | ErrorKind::Closed => true,
        ErrorKind::Config | ErrorKind::Data | ErrorKind::Full => false,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn closed() -> Result<RunSummary> {
        Err(Error::closed("the run"))
    }

    #[test]
    fn an_end_of_a_queue_is_a_drain_only_if_one_was_asked_for() {
        let shutdown = Shutdown::new(Duration::ZERO);
        assert!(matches!(Ending::of(closed(), &shutdown), Ending::Failed(ErrorKind::Closed, _)));
        shutdown.drain("paused");
        assert_eq!(Ending::of(closed(), &shutdown), Ending::Drained);
        let data = Err(Error::data("the shard is damaged"));
        assert_eq!(Ending::of(data, &shutdown), Ending::Failed(ErrorKind::Data, "the shard is damaged".to_owned()));
    }

    #[test]
    fn what_must_be_changed_by_somebody_is_not_tried_again() {
        let passing: Vec<&str> = ErrorKind::ALL.into_iter().filter(|&k| may_pass(k)).map(ErrorKind::as_str).collect();
        assert_eq!(passing, ["unavailable", "device", "closed", "internal"]);
    }
}
