//! Values as Python prints them: `True`, `None`, `{'a': 1}`, and JSON with a space after `,` and `:`.

use std::fmt::Write;
use std::sync::LazyLock;

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Error, ErrorKind, Output, State};

/// Print a value into the text.
pub(super) fn print(out: &mut Output, _: &mut State, value: &Value) -> Result<(), Error> {
    out.write_str(&text(value)).map_err(Error::from)
}

/// The filter `string`.
pub(super) fn string(value: &Value) -> String {
    text(value)
}

/// Python's methods of strings, lists and dictionaries.
pub(super) fn method(state: &mut State, value: &Value, name: &str, arguments: &[Value]) -> Result<Value, Error> {
    match (name, value.as_str(), arguments) {
        // the crate's begins words at white space only
        ("title", Some(text), []) => Ok(Value::from(title(text))),
        _ => minijinja_contrib::pycompat::unknown_method_callback(state, value, name, arguments),
    }
}

/// `str.title()`: a letter is large unless a letter stands before it.
fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut inside = false;
    for c in text.chars() {
        if inside {
            out.extend(c.to_lowercase())
        } else {
            out.extend(c.to_uppercase())
        }
        inside = c.is_lowercase() || c.is_uppercase();
    }
    out
}

/// The filter `tojson`: what `json.dumps(value, ensure_ascii=False)` gives, with the options that templates use.
pub(super) fn tojson(value: &Value, options: Kwargs) -> Result<String, Error> {
    let indent: Option<Value> = options.get("indent")?;
    let indent = indent.filter(|value| !value.is_none()).map(usize::try_from).transpose()?;
    let ascii: bool = options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    let sorted: bool = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    let separators: Option<Vec<String>> = options.get("separators")?;
    options.assert_all_used()?;
    let [item, key] = match separators.as_deref() {
        Some([item, key]) => [item.clone(), key.clone()],
        Some(_) => return Err(Error::new(ErrorKind::InvalidOperation, "separators must be two strings")),
        None if indent.is_some() => [",".to_owned(), ": ".to_owned()],
        None => [", ".to_owned(), ": ".to_owned()],
    };
    let json = serde_json::to_value(value)
        .map_err(|e| Error::new(ErrorKind::BadSerialization, "cannot serialise to JSON").with_source(e))?;
    // more than anybody indents by, and no way to fill the memory
    let style = Style { indent: indent.map(|n| n.min(64)), ascii, sorted, item, key };
    let mut out = String::new();
    dump(&mut out, &json, &style, 0);
    Ok(out)
}

struct Style {
    indent: Option<usize>,
    ascii: bool,
    sorted: bool,
    item: String,
    key: String,
}

fn dump(out: &mut String, value: &serde_json::Value, style: &Style, depth: usize) {
    use serde_json::Value as Json;
    let line = |out: &mut String, depth: usize| {
        if let Some(indent) = style.indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent * depth));
        }
    };
    match value {
        Json::Array(items) if !items.is_empty() => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                out.push_str(if i > 0 { &style.item } else { "" });
                line(out, depth + 1);
                dump(out, item, style, depth + 1);
            }
            line(out, depth);
            out.push(']');
        }
        Json::Object(fields) if !fields.is_empty() => {
            let mut fields: Vec<_> = fields.iter().collect();
            if style.sorted {
                fields.sort_by_key(|(name, _)| *name);
            }
            out.push('{');
            for (i, (name, value)) in fields.into_iter().enumerate() {
                out.push_str(if i > 0 { &style.item } else { "" });
                line(out, depth + 1);
                quoted(out, name, style.ascii);
                out.push_str(&style.key);
                dump(out, value, style, depth + 1);
            }
            line(out, depth);
            out.push('}');
        }
        Json::String(text) => quoted(out, text, style.ascii),
        other => out.push_str(&other.to_string()),
    }
}

fn quoted(out: &mut String, text: &str, ascii: bool) {
    out.push('"');
    for c in text.chars() {
        // writing to a string cannot fail
        _ = match c {
            '"' => out.write_str("\\\""),
            '\\' => out.write_str("\\\\"),
            '\n' => out.write_str("\\n"),
            '\r' => out.write_str("\\r"),
            '\t' => out.write_str("\\t"),
            '\u{8}' => out.write_str("\\b"),
            '\u{c}' => out.write_str("\\f"),
            c if u32::from(c) < 0x20 => write!(out, "\\u{:04x}", u32::from(c)),
            c if ascii && !c.is_ascii() => {
                c.encode_utf16(&mut [0; 2]).iter().try_for_each(|unit| write!(out, "\\u{unit:04x}"))
            }
            c => out.write_char(c),
        };
    }
    out.push('"');
}

/// `str(value)`.
fn text(value: &Value) -> String {
    match value.kind() {
        ValueKind::String => value.as_str().unwrap_or_default().to_owned(),
        ValueKind::Undefined => String::new(),
        _ => repr(value, 0),
    }
}

/// `repr(value)`, of values that JSON has.
fn repr(value: &Value, depth: usize) -> String {
    /// Deeper values come from no JSON that is read.
    const DEPTH_MAX: usize = 128;
    let items = || value.try_iter().into_iter().flatten();
    match value.kind() {
        _ if depth > DEPTH_MAX => "...".to_owned(),
        ValueKind::None => "None".to_owned(),
        ValueKind::Bool => if value.is_true() { "True" } else { "False" }.to_owned(),
        ValueKind::String => repr_of_text(value.as_str().unwrap_or_default()),
        ValueKind::Seq | ValueKind::Iterable => {
            let items: Vec<String> = items().map(|item| repr(&item, depth + 1)).collect();
            format!("[{}]", items.join(", "))
        }
        ValueKind::Map => {
            let field = |key: Value| {
                let inner = value.get_item(&key).unwrap_or_default();
                format!("{}: {}", repr(&key, depth + 1), repr(&inner, depth + 1))
            };
            format!("{{{}}}", items().map(field).collect::<Vec<_>>().join(", "))
        }
        _ => value.to_string(),
    }
}

/// What Python escapes: controls, formats, private use, unassigned, and all spaces but the plain one.
static UNPRINTABLE: LazyLock<regex::Regex> =
    LazyLock::new(|| regex::Regex::new(r"[\p{C}\p{Z}]").expect("a valid pattern"));

fn repr_of_text(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::from(quote);
    for c in text.chars() {
        _ = match c {
            '\\' => out.write_str("\\\\"),
            '\n' => out.write_str("\\n"),
            '\r' => out.write_str("\\r"),
            '\t' => out.write_str("\\t"),
            c if c == quote => write!(out, "\\{c}"),
            ' ' => out.write_char(' '),
            c if UNPRINTABLE.is_match(c.encode_utf8(&mut [0; 4])) => match u32::from(c) {
                code @ ..0x100 => write!(out, "\\x{code:02x}"),
                code @ ..0x1_0000 => write!(out, "\\u{code:04x}"),
                code => write!(out, "\\U{code:08x}"),
            },
            c => out.write_char(c),
        };
    }
    out.push(quote);
    out
}
