//! One chat template, rendered as `transformers` renders it with Jinja2.
//!
//! The same settings: `trim_blocks`, `lstrip_blocks`, loop controls, Python's methods of strings and dictionaries,
//! `raise_exception`, a `tojson` that escapes no HTML, values printed as Python prints them. `{% generation %}` becomes a
//! `{% call %}` of a function that puts marks around its body; the marks are taken out of the text and become ranges.
//! Templates come from strangers: steps, depth and the size of the text are limited.

use std::io::{self, Write};
use std::ops::Range;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value};
use minijinja::{AutoEscape, Environment, Error as TemplateError, ErrorKind as TemplateErrorKind, State};
use serde_json::Map;

use super::{Rendered, python};
use crate::error::{Error, ErrorKind, Result, ResultExt};

/// Steps that rendering may take: a long conversation takes thousands.
const STEPS_MAX: u64 = 20_000_000;
/// Size of a rendered text. Documents themselves are at most 16 MiB.
const TEXT_BYTES_MAX: usize = 64 << 20;
/// Depth of macros that call each other.
const DEPTH_MAX: usize = 100;
/// Stand around what was generated while a template is rendered. Unicode keeps these code points for such internal use,
/// so no text has them.
const MARKS: (char, char) = ('\u{fdd0}', '\u{fdd1}');

/// A compiled template.
#[derive(Debug)]
pub(crate) struct Template {
    environment: Environment<'static>,
    marks_generation: bool,
}

impl Template {
    /// Compile `source`.
    pub(crate) fn new(source: &str) -> Result<Self> {
        let (source, marks_generation) = without_generation_tags(source);
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.or_kind(ErrorKind::Internal, || "set the syntax of templates".to_owned())?);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_fuel(Some(STEPS_MAX));
        environment.set_recursion_limit(DEPTH_MAX);
        environment.set_unknown_method_callback(python::method);
        environment.set_formatter(python::print);
        environment.add_filter("tojson", python::tojson);
        environment.add_filter("string", python::string);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("_generation", generation);
        environment
            .add_template_owned("chat", source)
            .or_kind(ErrorKind::Config, || "the chat template cannot be read".to_owned())?;
        Ok(Self { environment, marks_generation })
    }

    /// Whether it says itself what is generated.
    pub(crate) fn marks_generation(&self) -> bool {
        self.marks_generation
    }

    /// Render it with the given variables.
    pub(crate) fn render(&self, context: Map<String, serde_json::Value>) -> Result<Rendered> {
        let refused = || "the chat template refuses the conversation".to_owned();
        let template = self.environment.get_template("chat").or_kind(ErrorKind::Internal, refused)?;
        let mut out = Limited(Vec::new());
        template.render_captured_to(Serde(context), &mut out).or_kind(ErrorKind::Data, refused)?;
        let text = String::from_utf8(out.0).or_kind(ErrorKind::Internal, refused)?;
        if !self.marks_generation {
            return Ok(Rendered { text, assistant: Vec::new() });
        }
        let (text, assistant) =
            unmarked(&text).ok_or_else(|| Error::data("the marks of generated text do not match"))?;
        Ok(Rendered { text, assistant })
    }
}

/// The template with `{% generation %}` as calls, and whether it has any.
fn without_generation_tags(source: &str) -> (String, bool) {
    let tag = |name: &str| regex::Regex::new(&format!(r"\{{%([-+]?)\s*{name}\s*([-+]?)%\}}")).expect("a valid pattern");
    let (begin, end) = (tag("generation"), tag("endgeneration"));
    let marks = begin.is_match(source);
    let source = begin.replace_all(source, "{%${1} call _generation() ${2}%}");
    (end.replace_all(&source, "{%${1} endcall ${2}%}").into_owned(), marks)
}

fn raise_exception(message: String) -> Result<Value, TemplateError> {
    Err(TemplateError::new(TemplateErrorKind::InvalidOperation, message))
}

fn generation(state: &mut State, kwargs: Kwargs) -> Result<String, TemplateError> {
    let body: Value = kwargs.get("caller")?;
    let body = body.call(state, &[])?;
    Ok(format!("{}{body}{}", MARKS.0, MARKS.1))
}

/// The text without marks, and the ranges that they enclosed.
fn unmarked(text: &str) -> Option<(String, Vec<Range<usize>>)> {
    let (mut out, mut ranges, mut open) = (String::with_capacity(text.len()), Vec::new(), None);
    for c in text.chars() {
        match (c == MARKS.0, c == MARKS.1, open) {
            (true, _, None) => open = Some(out.len()),
            (_, true, Some(start)) => {
                ranges.push(start..out.len());
                open = None;
            }
            (false, false, _) => out.push(c),
            _ => return None,
        }
    }
    open.is_none().then_some((out, ranges))
}

/// Takes a limited number of bytes.
struct Limited(Vec<u8>);

impl Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > TEXT_BYTES_MAX {
            return Err(io::Error::other("the text is larger than 64 MiB"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
