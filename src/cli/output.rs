//! Standard output for results, standard error for complaints. A reader that went away (`| head`) is not an error.

use std::io::Write;

use serde_json::Value;

/// A line (or lines) of the result.
pub(crate) fn print(text: &str) {
    // a closed pipe has nobody to tell
    drop(writeln!(std::io::stdout().lock(), "{text}"));
}

/// A result for machines.
pub(crate) fn print_json(value: &Value) {
    print(&format!("{value:#}"));
}

/// What went wrong.
pub(crate) fn complain(message: &str) {
    drop(writeln!(std::io::stderr().lock(), "harvestd: {message}"));
}
