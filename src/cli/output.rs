//! Standard output for results, standard error for complaints. A reader that went away (`| head`) is not an error.

use std::io::Write;

use comfy_table::{Cell, CellAlignment, Table, presets};
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

/// Lines of a name and what there is to say, aligned.
pub(crate) fn fields(lines: &[(&str, String)]) {
    let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, text) in lines {
        print(&format!("{name:<width$}  {text}"));
    }
}

/// A table with a line below its header; columns named in `right` are aligned to the right.
pub(crate) fn table(header: &[&str], right: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header.iter().map(Cell::new));
    for row in rows {
        table.add_row(row);
    }
    for (i, name) in header.iter().enumerate() {
        if let (true, Some(column)) = (right.contains(name), table.column_mut(i)) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}
