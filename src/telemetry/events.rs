//! What was logged last, kept for whoever looks at the process: a bounded number of lines, warnings and errors apart from the
//! rest, so that what is frequent does not push out what is bad.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

/// Lines that are kept of each kind.
const KEPT: usize = 200;
/// Bytes of a message or a value that are kept.
const TEXT_MAX: usize = 2000;
/// The field of a span, or an event, that says which pipeline it is of.
const PIPELINE: &str = "pipeline";

/// A line of the log.
#[derive(Clone, Debug, PartialEq, Serialize, schemars::JsonSchema)]
pub struct LogEvent {
    /// Counts from 1 in the order in which lines were logged.
    pub number: u64,
    /// Seconds since 1970-01-01 UTC.
    pub at: f64,
    /// `info`, `warn` or `error`.
    pub level: &'static str,
    /// The pipeline that it is of, if it is of one.
    pub pipeline: Option<String>,
    /// The message.
    pub message: String,
    /// Its values, by name.
    pub fields: BTreeMap<String, String>,
}

/// The last lines of the log. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct RecentEvents(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    last: u64,
    bad: VecDeque<LogEvent>,
    others: VecDeque<LogEvent>,
}

impl RecentEvents {
    /// All that are kept, the newest first.
    pub fn all(&self) -> Vec<LogEvent> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<LogEvent> = kept.bad.iter().chain(&kept.others).cloned().collect();
        all.sort_by_key(|event| std::cmp::Reverse(event.number));
        all
    }

    fn push(&self, mut event: LogEvent, is_bad: bool) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.last += 1;
        event.number = kept.last;
        let list = if is_bad { &mut kept.bad } else { &mut kept.others };
        if list.len() == KEPT {
            list.pop_front();
        }
        list.push_back(event);
    }
}

/// Puts what is logged into [`RecentEvents`].
pub(super) struct Recorder {
    pub(super) events: RecentEvents,
    /// Seconds since 1970-01-01 UTC.
    pub(super) now: fn() -> f64,
}

/// The pipeline that a span is of.
struct OfPipeline(String);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Recorder {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut found = Fields::default();
        attributes.record(&mut found);
        if let (Some(name), Some(span)) = (found.values.remove(PIPELINE), context.span(id)) {
            span.extensions_mut().insert(OfPipeline(name));
        }
    }

    fn on_event(&self, event: &tracing::Event<'_>, context: Context<'_, S>) {
        let level = match *event.metadata().level() {
            Level::ERROR => "error",
            Level::WARN => "warn",
            Level::INFO => "info",
            _ => return,
        };
        let mut found = Fields::default();
        event.record(&mut found);
        let of_span = || {
            let mut spans = context.event_scope(event)?;
            spans.find_map(|span| span.extensions().get::<OfPipeline>().map(|of| of.0.clone()))
        };
        let pipeline = found.values.remove(PIPELINE).or_else(of_span);
        let Fields { message, values: fields } = found;
        let event = LogEvent { number: 0, at: (self.now)(), level, pipeline, message, fields };
        self.events.push(event, level != "info");
    }
}

/// The fields of an event or a span as text.
#[derive(Default)]
struct Fields {
    message: String,
    values: BTreeMap<String, String>,
}

impl Fields {
    fn put(&mut self, field: &Field, text: String) {
        let text =
            if text.len() > TEXT_MAX { format!("{}…", &text[..text.floor_char_boundary(TEXT_MAX)]) } else { text };
        match field.name() {
            "message" => self.message = text,
            name => drop(self.values.insert(name.to_owned(), text)),
        }
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    fn logged(log: impl FnOnce()) -> Vec<LogEvent> {
        let events = RecentEvents::default();
        let recorder = Recorder { events: events.clone(), now: || 12.5 };
        tracing::subscriber::with_default(tracing_subscriber::registry().with(recorder), log);
        events.all()
    }

    #[test]
    fn lines_know_their_pipeline_and_their_values() {
        let all = logged(|| {
            tracing::info!(n = 3, "begins");
            let span = tracing::error_span!("pipeline", pipeline = "a");
            span.in_scope(|| tracing::warn!(error = %"no route", "trying again"));
            tracing::error!(pipeline = "b", "failed");
            tracing::debug!("not kept");
        });
        let short: Vec<_> = all.iter().map(|e| (e.level, e.pipeline.as_deref(), e.message.as_str())).collect();
        let expected = [("error", Some("b"), "failed"), ("warn", Some("a"), "trying again"), ("info", None, "begins")];
        assert_eq!(short, expected);
        assert_eq!((all[1].fields["error"].as_str(), all[2].fields["n"].as_str(), all[0].at), ("no route", "3", 12.5));
    }

    #[test]
    fn many_lines_stay_few_and_errors_stay() {
        let all = logged(|| {
            tracing::error!("bad");
            (0..1000).for_each(|i| tracing::info!(i, "fine"));
        });
        assert_eq!(all.len(), KEPT + 1);
        assert_eq!((all[0].number, all[KEPT].message.as_str()), (1001, "bad"));
    }
}
