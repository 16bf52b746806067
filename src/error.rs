//! The one error type that crosses folders, and the only mapping from what happened to what to do about it.
//!
//! Modules keep their own `thiserror` enums where a caller distinguishes cases; at a folder's border they become
//! an [`Error`] whose [`ErrorKind`] alone decides retry, exit code, alert and metric label.

use std::fmt;

/// Result with the crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a caller can do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The pipeline file or command line is wrong: change it. Exit 78.
    Config,
    /// A file, model or dataset holds something that cannot be used: mend or replace it. Exit 65.
    Data,
    /// A store or server did not answer: try again later. Exit 69.
    Unavailable,
    /// The compute device failed. Exit 69.
    Device,
    /// The other side of a queue is gone because the run is ending. Exit 70 if it surfaces.
    Closed,
    /// A bug. Exit 70.
    Internal,
    /// A limit on storage is reached: raise it, or make room. Exit 73.
    Full,
}

impl ErrorKind {
    /// All kinds, in the order of their discriminants.
    pub const ALL: [Self; 7] =
        [Self::Config, Self::Data, Self::Unavailable, Self::Device, Self::Closed, Self::Internal, Self::Full];

    /// Exit code by `sysexits.h`.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Config => 78,
            Self::Data => 65,
            Self::Unavailable | Self::Device => 69,
            Self::Closed | Self::Internal => 70,
            Self::Full => 73,
        }
    }

    /// Whether the same call may succeed later without anybody changing anything.
    pub fn retryable(self) -> bool {
        match self {
            Self::Unavailable => true,
            Self::Config | Self::Data | Self::Device | Self::Closed | Self::Internal | Self::Full => false,
        }
    }

    /// Label value in metrics and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Data => "data",
            Self::Unavailable => "unavailable",
            Self::Device => "device",
            Self::Closed => "closed",
            Self::Internal => "internal",
            Self::Full => "full",
        }
    }
}

/// An error: its kind, what was being done to what, and the cause.
///
/// Messages are lowercase without a final stop, name the thing (path, URL, key) and what to do where that is known.
pub struct Error {
    kind: ErrorKind,
    message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error without a deeper cause.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    /// An error with its cause.
    pub fn with_source(
        kind: ErrorKind,
        message: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { kind, message: message.into(), source: Some(source.into()) }
    }

    /// [`ErrorKind::Config`] error.
    pub fn config(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Config, message)
    }

    /// [`ErrorKind::Data`] error.
    pub fn data(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Data, message)
    }

    /// [`ErrorKind::Internal`] error.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    /// The other end of a queue is gone.
    pub fn closed(what: &str) -> Self {
        Self::new(ErrorKind::Closed, format!("{what} is gone"))
    }

    /// A local file operation failed: `verb` is what was tried ("open", "write").
    pub fn io(verb: &str, path: impl AsRef<std::path::Path>, source: std::io::Error) -> Self {
        let kind = match source.kind() {
            std::io::ErrorKind::NotFound | std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof => {
                ErrorKind::Data
            }
            _ => ErrorKind::Unavailable,
        };
        Self::with_source(kind, format!("cannot {verb} `{}`", path.as_ref().display()), source)
    }

    /// Say what was being done when this happened: "read shard `x`". The old message becomes the cause.
    pub fn context(self, message: impl Into<String>) -> Self {
        Self { kind: self.kind, message: message.into(), source: Some(Box::new(self)) }
    }

    /// What a caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The operating system's answer, if one is at the bottom of this.
    pub fn io_kind(&self) -> Option<std::io::ErrorKind> {
        let mut cause: &(dyn std::error::Error + 'static) = self.source.as_deref()?;
        loop {
            if let Some(error) = cause.downcast_ref::<Self>() {
                return error.io_kind();
            }
            match (cause.source(), cause.downcast_ref::<std::io::Error>()) {
                (Some(deeper), _) => cause = deeper,
                (None, io) => return io.map(std::io::Error::kind),
            }
        }
    }
}

/// `a: b: c`, from the outermost message to the deepest cause.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(source) = &self.source {
            // an `Error` prints its own chain
            write!(f, ": {source}")?;
            if !source.is::<Error>() {
                let mut next = source.source();
                while let Some(cause) = next {
                    write!(f, ": {cause}")?;
                    next = cause.source();
                }
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}] {self}", self.kind.as_str())
    }
}

/// The chain is already in `Display`, so `source` stays silent: printers that follow it would repeat themselves.
impl std::error::Error for Error {}

/// Adds kind and context to foreign results.
pub trait ResultExt<T> {
    /// Turn a foreign error into an [`Error`] of `kind` with a message.
    fn or_kind(self, kind: ErrorKind, message: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<Box<dyn std::error::Error + Send + Sync>>> ResultExt<T> for std::result::Result<T, E> {
    fn or_kind(self, kind: ErrorKind, message: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| Error::with_source(kind, message(), e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_chain_is_printed_once() {
        let io = std::io::Error::other("disk on fire");
        let e = Error::io("read", "/x", io).context("open shard `a`");
        assert_eq!(e.to_string(), "open shard `a`: cannot read `/x`: disk on fire");
        assert_eq!(e.kind(), ErrorKind::Unavailable);
    }
}
