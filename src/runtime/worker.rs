//! A named thread of its own, outside of any run: what it fails with, panics included, is its result.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::JoinHandle;

use crate::error::{Error, ErrorKind, Result, ResultExt};

/// As the main thread has: what runs there must run here.
const STACK_BYTES: usize = 8 << 20;

/// A thread and what it ends with.
pub struct Worker<T>(JoinHandle<Result<T>>);

impl<T: Send + 'static> Worker<T> {
    /// Run `work` on a thread called `name`.
    ///
    /// # Errors
    /// `Internal` if the system gives no thread.
    pub fn start(name: &str, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<Self> {
        #[allow(clippy::disallowed_methods)] // watched: its end is asked for, and its panics are errors
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || catch(work))
            .or_kind(ErrorKind::Internal, || format!("cannot start the thread `{name}`"))?;
        Ok(Self(thread))
    }

    /// Whether it ended.
    pub fn is_finished(&self) -> bool {
        self.0.is_finished()
    }

    /// Wait, blocking, for what it ends with.
    pub fn join(self) -> Result<T> {
        self.0.join().unwrap_or_else(|panic| Err(panicked(panic)))
    }
}

/// Do `work`; a panic becomes an error, and one whose payload is an [`Error`] that error.
///
/// # Errors
/// Those of `work`; `Internal` for a panic that does not say which.
pub fn catch<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    // what `work` shared is behind locks that forgive a panic, or is not looked at again
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(panicked(panic)))
}

pub(super) fn panicked(payload: Box<dyn Any + Send>) -> Error {
    let payload = match payload.downcast::<Error>() {
        Ok(error) => return *error,
        Err(payload) => payload,
    };
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message");
    Error::internal(format!("panicked: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_and_a_result_a_result() {
        let worker = Worker::<u8>::start("falls", || panic!("over {}", 7)).unwrap();
        let error = worker.join().unwrap_err();
        assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::Internal, "panicked: over 7"));
        let error = catch::<()>(|| std::panic::resume_unwind(Box::new(Error::data("torn")))).unwrap_err();
        assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::Data, "torn"));
        assert_eq!(Worker::start("adds", || Ok(1 + 1)).unwrap().join().unwrap(), 2);
    }
}
