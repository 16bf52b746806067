//! The pipeline reference in Markdown, written from the JSON Schema.

use std::fmt::Write as _;

use serde_json::Value;

use super::schema::{Section, Shape, View, schema};

/// The whole reference: one table a section, in the order of the file.
pub fn markdown() -> String {
    let schema = schema();
    let root = View::new(&schema);
    let mut out = String::from(
        "# Pipeline reference\n\n\
         Every key of a pipeline file (`version: 1`). Written by `harvestd schema --markdown` from the structs that are\n\
         read, and checked by a test, so it is never out of date. `harvestd schema` prints the same as JSON Schema, for\n\
         editors.\n\n\
         Text values may contain `${NAME}` or `${NAME:-default}`, which read the environment; `$${` writes `${`. Sizes\n\
         are written `64MiB`, counts `4096` or `10M`, durations `30s` or `10min`, shares `1%`. Relative paths are\n\
         relative to the working directory. `--set path=value` overrides any key: `--set trainers.0.rows=1M`.\n",
    );
    describe(&mut out, "", root);
    out
}

/// The section at `path` and every section below it.
fn describe(out: &mut String, path: &str, view: View<'_>) {
    match view.shape() {
        Shape::Optional(inner) => describe(out, path, inner),
        Shape::List(items) => describe(out, &format!("{path}[]"), items),
        Shape::Section(section) => {
            let title = if path.is_empty() { "The file".to_owned() } else { format!("`{path}`") };
            heading(out, &title, view.type_description());
            table(out, &section);
            below(out, path, &section);
        }
        Shape::Variants(variants) => {
            for variant in &variants {
                heading(out, &format!("`{path}` with `type: {}`", variant.name), variant.description);
                table(out, &variant.section);
                below(out, path, &variant.section);
            }
        }
        Shape::Choice(_) | Shape::Scalar(_) => {}
    }
}

fn below(out: &mut String, path: &str, section: &Section<'_>) {
    for (key, view) in &section.keys {
        describe(out, &if path.is_empty() { (*key).to_owned() } else { format!("{path}.{key}") }, *view);
    }
}

// writing to a string cannot fail, so the results of `write!` are dropped below
fn heading(out: &mut String, title: &str, description: &str) {
    _ = write!(out, "\n## {title}\n\n{}\n", one_line(description));
}

fn table(out: &mut String, section: &Section<'_>) {
    out.push_str("\n| key | value | default | meaning |\n|---|---|---|---|\n");
    for (key, view) in &section.keys {
        let default = match view.get("default") {
            Some(Value::Object(_)) => "see below".to_owned(),
            Some(Value::String(text)) => format!("`{text}`"),
            Some(value) => format!("`{value}`"),
            None if section.required.contains(key) => "required".to_owned(),
            None => "none".to_owned(),
        };
        let (value, words) = kind(*view);
        let meaning = one_line(&format!("{} {words}", view.text("description")));
        _ = writeln!(out, "| `{key}` | {value} | {default} | {} |", meaning.trim().replace('|', "\\|"));
    }
}

/// What a key holds, and what each word of a choice means.
fn kind(view: View<'_>) -> (String, String) {
    match view.shape() {
        Shape::Optional(inner) => kind(inner),
        Shape::Section(_) | Shape::Variants(_) => ("section".to_owned(), String::new()),
        Shape::List(items) => (format!("list of {}", kind(items).0), String::new()),
        Shape::Choice(words) => {
            let names: Vec<String> = words.iter().map(|(word, _)| format!("`{word}`")).collect();
            let meanings: Vec<String> = words.iter().map(|(word, meaning)| format!("`{word}`: {meaning}")).collect();
            (names.join(", "), meanings.join(" "))
        }
        Shape::Scalar(types) => (scalar(view, &types), String::new()),
    }
}

fn scalar(view: View<'_>, types: &[&str]) -> String {
    if let Some(word) = view.get("const").and_then(Value::as_str) {
        return format!("`{word}`");
    }
    let name = match view.text("format") {
        "byte-size" => "size",
        "count" => "count",
        "duration" => "duration",
        "percent" => "share",
        _ => match types.first() {
            Some(&"integer") => "whole number",
            Some(&"number") => "number",
            Some(&"object") => "section of lists",
            Some(&"boolean") if types.len() > 1 && view.text("x-rule").contains("time") => "`true`, `false`, duration",
            Some(&"boolean") if types.len() > 1 => "`auto`, `true`, `false`",
            Some(&"boolean") => "`true`, `false`",
            _ => "text",
        },
    };
    let bound = |keyword: &str, sign: &str| {
        let value = view.get(keyword).and_then(Value::as_f64)?;
        (keyword != "minimum" || value != 0.0).then(|| format!("{sign} {value}"))
    };
    if let (Some(least), true) = (view.get("minimum"), view.get("minimum") == view.get("maximum")) {
        return format!("`{least}`");
    }
    let bounds: Vec<String> =
        [bound("minimum", "≥"), bound("maximum", "≤"), bound("exclusiveMinimum", ">")].into_iter().flatten().collect();
    [name.to_owned()].into_iter().chain(bounds).collect::<Vec<_>>().join(", ")
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
