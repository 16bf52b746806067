//! The log: human-readable or JSON lines on standard error, beside progress bars.
//!
//! Standard output belongs to results. Progress bars draw on standard error too, so whoever draws them hands a
//! `suspend` function to [`ProgressGuard`]; each log line is then written while the bars are away.

use std::io::{self, Write};
use std::sync::{Arc, PoisonError, RwLock};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::error::{Error, Result};
use crate::telemetry::events::{RecentEvents, Recorder};

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people: time, level, message, fields.
    #[default]
    Human,
    /// One JSON object a line.
    Json,
}

/// Runs a closure while progress bars are hidden (`MultiProgress::suspend`).
pub type Suspend = Arc<dyn Fn(&mut dyn FnMut()) + Send + Sync>;

/// Where the bars that share the terminal with the log can be set. Clones share it.
#[derive(Clone, Default)]
pub struct ProgressGuard(Arc<RwLock<Option<Suspend>>>);

impl ProgressGuard {
    /// From now on, write each line inside `suspend`; `None` when the bars are gone.
    pub fn set(&self, suspend: Option<Suspend>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = suspend;
    }

    fn while_suspended(&self, act: &mut dyn FnMut()) {
        // cloned, so that the lock is not held while bars are redrawn
        let suspend = self.0.read().unwrap_or_else(PoisonError::into_inner).clone();
        match suspend {
            Some(suspend) => suspend(act),
            None => act(),
        }
    }
}

/// Start logging for the process. `filter` is a level (`info`) or a list such as `info,harvestd::store=debug`.
///
/// What is logged is kept in `events` too, with the time that `now` says. Called once by the command line; a wrong filter or a
/// second call is a [`crate::error::ErrorKind::Config`] error.
pub fn init(format: LogFormat, filter: &str, events: RecentEvents, now: fn() -> f64) -> Result<ProgressGuard> {
    let guard = ProgressGuard::default();
    let recorder = Recorder { events, now };
    let subscriber = subscriber(format, filter, StderrBesideBars(guard.clone()), recorder)?;
    subscriber.try_init().map_err(|e| Error::config(format!("cannot start logging: {e}")))?;
    Ok(guard)
}

fn subscriber<W>(
    format: LogFormat,
    filter: &str,
    writer: W,
    recorder: Recorder,
) -> Result<Box<dyn tracing::Subscriber + Send + Sync>>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = EnvFilter::builder()
        .parse(filter)
        .map_err(|e| Error::config(format!("`{filter}` is not a log level or filter: {e}")))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    Ok(match format {
        LogFormat::Human => Box::new(builder.with_target(false).with_ansi(false).finish().with(recorder)),
        LogFormat::Json => {
            Box::new(builder.json().flatten_event(true).with_current_span(false).finish().with(recorder))
        }
    })
}

/// Makes writers that collect one line and write it to standard error at once.
struct StderrBesideBars(ProgressGuard);

/// One log line.
struct Line<'a> {
    guard: &'a ProgressGuard,
    bytes: Vec<u8>,
}

impl<'a> MakeWriter<'a> for StderrBesideBars {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        Line { guard: &self.0, bytes: Vec::new() }
    }
}

impl Write for Line<'_> {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(part);
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        // a log that cannot be written has nobody to tell
        self.guard.while_suspended(&mut || drop(io::stderr().write_all(&bytes)));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::error::ErrorKind;

    /// A writer into memory.
    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Write for Captured {
        fn write(&mut self, part: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(part);
            Ok(part.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn recorder() -> Recorder {
        Recorder { events: RecentEvents::default(), now: || 0.0 }
    }

    fn log_with(format: LogFormat, filter: &str) -> String {
        let captured = Captured::default();
        let writer = captured.clone();
        let subscriber = subscriber(format, filter, move || writer.clone(), recorder()).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(attempt = 3, "shard upload failed, retrying");
            tracing::debug!("details");
        });
        let bytes = captured.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn json_lines_are_flat_objects() {
        let text = log_with(LogFormat::Json, "info");
        assert_eq!(text.lines().count(), 1, "{text}");
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["message"], "shard upload failed, retrying");
        assert_eq!((&line["attempt"], &line["level"]), (&serde_json::json!(3), &serde_json::json!("WARN")));
    }

    #[test]
    fn the_filter_decides_what_is_written() {
        assert_eq!(log_with(LogFormat::Human, "error"), "");
        let text = log_with(LogFormat::Human, "error,harvestd::telemetry=debug");
        assert!(text.contains("attempt=3") && text.contains("details"), "{text}");
        let bad = subscriber(LogFormat::Human, "harvestd=loud", io::sink, recorder()).err().unwrap();
        assert_eq!(bad.kind(), ErrorKind::Config);
    }

    #[test]
    fn lines_are_written_while_the_bars_are_away() {
        let (guard, calls) = (ProgressGuard::default(), Arc::new(Mutex::new(0)));
        let seen = Arc::clone(&calls);
        guard.set(Some(Arc::new(move |act| {
            *seen.lock().unwrap() += 1;
            act();
        })));
        let maker = StderrBesideBars(guard.clone());
        drop(maker.make_writer());
        assert_eq!(*calls.lock().unwrap(), 1);
        guard.set(None);
        drop(maker.make_writer());
        assert_eq!(*calls.lock().unwrap(), 1);
    }
}
