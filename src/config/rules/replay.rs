//! Rules of pipelines that replay a stored dataset, and of what stands in its place.

use serde_json::Value;

use super::{Purpose, Rules, SCHEMES, unknown_scheme};
use crate::config::document::{Data, Path};
use crate::config::problems::Severity;
use crate::replay::Order;
use crate::units::Percent;

impl Rules<'_> {
    pub(super) fn is_replay(&self) -> bool {
        self.written::<Value>("replay").is_some()
    }

    /// Rows come from a model that reads a corpus, or from a stored dataset.
    pub(super) fn input(&mut self) {
        if self.is_replay() {
            for key in ["model", "corpus", "tokens", "capture", "dataset"] {
                if self.written::<Value>(key).is_some() {
                    self.broken(key, "excludes `replay`: rows come from the stored dataset as they are");
                }
            }
            return;
        }
        for (key, what) in [("model", "which model, and how it is computed"), ("corpus", "where the text comes from")] {
            if self.tree.at(&Path::parse(key).unwrap_or_default()).0.is_none_or(|node| node.data == Data::Null) {
                self.add(Severity::Error, key, "is required".to_owned(), Some(what.to_owned()));
            }
        }
    }

    pub(super) fn replay(&mut self) {
        if !self.is_replay() {
            return;
        }
        let runs = self.purpose == Purpose::Run;
        if runs && self.items("trainers") == 0 && self.value::<Vec<Value>>("trainers").is_some() {
            self.broken("", "needs `trainers`: a replay does nothing but train");
        }
        if runs && self.value::<Percent>("replay.holdout").is_some_and(|h| h.share() >= 1.0) {
            self.broken("replay.holdout", "must be below 100%: nothing would be trained on");
        }
        if self.value::<Order>("replay.order") == Some(Order::Stream) {
            for key in ["replay.open_shards", "replay.shuffle_rows"] {
                if self.written::<Value>(key).is_some() {
                    self.note(key, "is of `order: shuffled`, and does nothing with `order: stream`");
                }
            }
        }
        let Some(url) = self.written::<String>("replay.url") else { return };
        if let Some(hint) = unknown_scheme(&url) {
            self.add(Severity::Error, "replay.url", SCHEMES.to_owned(), hint);
        } else if url.starts_with("http://") || url.starts_with("https://") {
            self.broken("replay.url", "cannot be listed: give a local path or an object store (s3://, gs://, az://)");
        }
    }
}
