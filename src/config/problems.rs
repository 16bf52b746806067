//! What is wrong with a pipeline, said so that it can be mended: where it stands, what stands there, the rule it breaks,
//! and what was probably meant. Problems are collected, never thrown one at a time.

use std::fmt;

use serde::Serialize;

use crate::error::{Error, ErrorKind};

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the file, at a line counted from 1.
    Line(u32),
    /// In a `--set` argument, as given.
    Set(String),
    /// In a trainer of this name that was added while the pipeline ran.
    Added(String),
    /// Nowhere: the whole file.
    File,
}

/// Whether a problem stops the pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// It does.
    Error,
    /// It does not, but the reader should know.
    Note,
}

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Whether it stops the pipeline.
    pub severity: Severity,
    /// Where it was written.
    pub place: Place,
    /// The key, such as `trainers[0].coder.k`; empty for the whole file.
    pub path: String,
    /// What stands there, shortened, with variables unexpanded; none where nothing stands there.
    pub value: Option<String>,
    /// The rule it breaks: "must be at least 1".
    pub rule: String,
    /// What was probably meant, or what to do: "did you mean `width`?".
    pub hint: Option<String>,
}

impl Problem {
    /// A problem with the whole file.
    pub fn file(rule: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            place: Place::File,
            path: String::new(),
            value: None,
            rule: rule.into(),
            hint: None,
        }
    }

    /// The same with a hint.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The problem as one line: `file:12: trainers[0].coder.k: 5000: must be at most coder.width (4608)`.
    pub fn line(&self, source: &str) -> String {
        let mut text = match &self.place {
            Place::Line(line) => format!("{source}:{line}: "),
            Place::Set(argument) => format!("--set {argument}: "),
            Place::Added(name) => format!("{source}: added trainer `{name}`: "),
            Place::File => format!("{source}: "),
        };
        if self.severity == Severity::Note {
            text.push_str("note: ");
        }
        for part in [Some(self.path.as_str()).filter(|p| !p.is_empty()), self.value.as_deref()].into_iter().flatten() {
            text.push_str(part);
            text.push_str(": ");
        }
        text.push_str(&self.rule);
        if let Some(hint) = &self.hint {
            text.push_str("; ");
            text.push_str(hint);
        }
        text
    }

    /// The problem as JSON: `{severity, source, line, set, path, value, rule, hint}`, absent parts `null`.
    pub fn to_json(&self, source: &str) -> serde_json::Value {
        let (line, set) = match &self.place {
            Place::Line(line) => (Some(*line), None),
            Place::Set(argument) => (None, Some(argument)),
            Place::Added(_) | Place::File => (None, None),
        };
        serde_json::json!({
            "severity": self.severity,
            "source": source,
            "line": line,
            "set": set,
            "path": self.path,
            "value": self.value,
            "rule": self.rule,
            "hint": self.hint,
        })
    }
}

/// All problems of one pipeline; at least one stops it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems {
    /// The file, as it was named.
    pub source: String,
    /// The problems, in the order of the file.
    pub problems: Vec<Problem>,
}

impl Problems {
    /// Problems of the file `source`, in its order: by line, then `--set` arguments and added trainers, then the file as a whole.
    pub fn new(source: &str, mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(|p| match p.place {
            Place::Line(line) => (0, line),
            Place::Set(_) | Place::Added(_) => (1, 0),
            Place::File => (2, 0),
        });
        Self { source: source.to_owned(), problems }
    }

    /// One problem with the whole file.
    pub fn file(source: &str, rule: impl Into<String>) -> Self {
        Self::new(source, vec![Problem::file(rule)])
    }

    /// JSON list of [`Problem::to_json`].
    pub fn to_json(&self) -> serde_json::Value {
        self.problems.iter().map(|p| p.to_json(&self.source)).collect()
    }
}

/// One bullet a problem.
impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "- {}", problem.line(&self.source))?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

impl From<Problems> for Error {
    fn from(problems: Problems) -> Self {
        let stops = problems.problems.iter().filter(|p| p.severity == Severity::Error).count();
        let noun = if stops == 1 { "problem" } else { "problems" };
        Self::new(ErrorKind::Config, format!("{stops} {noun} in `{}`:\n{problems}", problems.source))
    }
}

/// The name in `known` that `name` was probably meant to be.
pub(crate) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = name.to_lowercase();
    known
        .into_iter()
        .map(|k| (strsim::normalized_damerau_levenshtein(&lower, &k.to_lowercase()), k))
        .filter(|(similarity, _)| *similarity >= 0.55)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, k)| k)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_one_line() {
        let problem = Problem {
            severity: Severity::Error,
            place: Place::Line(12),
            path: "trainers[0].coder.k".into(),
            value: Some("5000".into()),
            rule: "must be at most coder.width (4608)".into(),
            hint: None,
        };
        assert_eq!(
            problem.line("p/x.yaml"),
            "p/x.yaml:12: trainers[0].coder.k: 5000: must be at most coder.width (4608)"
        );
        let set = Problem { place: Place::Set("name=a b".into()), ..problem.hint("did you mean it?") };
        assert!(set.line("x").starts_with("--set name=a b: trainers[0].coder.k: "));
        assert!(set.line("x").ends_with("(4608); did you mean it?"));
    }

    #[test]
    fn nearest_names() {
        assert_eq!(nearest("learning_rat", ["learning_rate", "betas"]), Some("learning_rate"));
        assert_eq!(nearest("TopK", ["topk", "relu"]), Some("topk"));
        assert_eq!(nearest("banana", ["learning_rate", "betas"]), None);
    }
}
