//! The JSON Schema of the pipeline file, generated from [`RawPipeline`], and a reader's view of it.
//!
//! The view knows the shapes that our structs produce and no others: sections, sections chosen by `type`, choices of
//! words, lists, optional sections and scalars. A test fails when a struct produces something else.

use serde_json::{Map, Value};

use super::document::{Path, Step};
use super::raw::RawPipeline;

/// JSON Schema (draft 2020-12) of a pipeline file.
pub fn schema() -> Value {
    schemars::schema_for!(RawPipeline).to_value()
}

/// A schema with its `$ref` followed: keywords beside the reference win over those of its target.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View<'s> {
    root: &'s Value,
    own: &'s Value,
    target: Option<&'s Value>,
}

/// What a schema describes.
#[derive(Debug)]
pub(crate) enum Shape<'s> {
    /// A mapping with fixed keys.
    Section(Section<'s>),
    /// A mapping whose keys depend on its `type`: (type, keys, description).
    Variants(Vec<Variant<'s>>),
    /// One word of a few: (word, description).
    Choice(Vec<(&'s str, &'s str)>),
    /// `null` or another shape.
    Optional(View<'s>),
    /// A list of items.
    List(View<'s>),
    /// Text, number, boolean or null: JSON Schema's names of the types allowed.
    Scalar(Vec<&'s str>),
}

/// The keys of a mapping.
#[derive(Debug)]
pub(crate) struct Section<'s> {
    /// Keys and what they hold, in the order of the struct.
    pub(crate) keys: Vec<(&'s str, View<'s>)>,
    /// Keys that must be there.
    pub(crate) required: Vec<&'s str>,
}

/// One of the mappings that a `type` chooses from.
#[derive(Debug)]
pub(crate) struct Variant<'s> {
    /// The value of `type`.
    pub(crate) name: &'s str,
    /// Its keys, `type` included.
    pub(crate) section: Section<'s>,
    /// What it is.
    pub(crate) description: &'s str,
}

impl<'s> View<'s> {
    /// The whole schema.
    pub(crate) fn new(root: &'s Value) -> Self {
        Self { root, own: root, target: None }
    }

    /// The schema `own` inside this one.
    fn inner(&self, own: &'s Value) -> Self {
        let target = own
            .get("$ref")
            .and_then(Value::as_str)
            .and_then(|reference| self.root.pointer(reference.strip_prefix('#').unwrap_or(reference)));
        Self { root: self.root, own, target }
    }

    /// A keyword.
    pub(crate) fn get(&self, keyword: &str) -> Option<&'s Value> {
        self.own.get(keyword).or_else(|| self.target.and_then(|t| t.get(keyword)))
    }

    /// A keyword that holds text; empty if absent.
    pub(crate) fn text(&self, keyword: &str) -> &'s str {
        self.get(keyword).and_then(Value::as_str).unwrap_or_default()
    }

    /// What the referenced type says of itself, or this schema where there is no reference.
    pub(crate) fn type_description(&self) -> &'s str {
        self.target.unwrap_or(self.own).get("description").and_then(Value::as_str).unwrap_or_default()
    }

    /// What this schema describes.
    pub(crate) fn shape(&self) -> Shape<'s> {
        if let Some(alternatives) = self.get("anyOf").and_then(Value::as_array) {
            let other = alternatives.iter().find(|a| a.get("type").and_then(Value::as_str) != Some("null"));
            return Shape::Optional(self.inner(other.unwrap_or(&Value::Null)));
        }
        if let Some(alternatives) = self.get("oneOf").and_then(Value::as_array) {
            let sections = alternatives.iter().filter(|a| a.get("properties").is_some());
            let variants: Vec<_> = sections.map(|a| self.variant(a)).collect();
            if !variants.is_empty() {
                return Shape::Variants(variants);
            }
            return Shape::Choice(alternatives.iter().flat_map(words).collect());
        }
        if self.get("enum").is_some() {
            return Shape::Choice(words(self.target.unwrap_or(self.own)));
        }
        if let Some(items) = self.get("items") {
            return Shape::List(self.inner(items));
        }
        if self.get("properties").is_some() {
            return Shape::Section(self.section(self.target.unwrap_or(self.own)));
        }
        Shape::Scalar(match self.get("type") {
            Some(Value::String(one)) => vec![one],
            Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        })
    }

    /// What the key `key` of this section holds; of the first variant that has it where there are several.
    pub(crate) fn entry(&self, key: &str) -> Option<Self> {
        let of = |section: Section<'s>| section.keys.into_iter().find(|(k, _)| *k == key).map(|(_, view)| view);
        match self.shape() {
            Shape::Section(section) => of(section),
            Shape::Variants(variants) => variants.into_iter().find_map(|v| of(v.section)),
            Shape::Optional(inner) => inner.entry(key),
            _ => None,
        }
    }

    /// What the value at `path` below this schema holds.
    pub(crate) fn at(&self, path: &Path) -> Option<Self> {
        path.0.iter().try_fold(*self, |view, step| match (step, view.shape()) {
            (Step::Key(key), _) => view.entry(key),
            (Step::Index(_), Shape::List(items)) => Some(items),
            (Step::Index(_), _) => None,
        })
    }

    fn section(&self, schema: &'s Value) -> Section<'s> {
        let properties = schema.get("properties").and_then(Value::as_object).into_iter().flat_map(Map::iter);
        let required = schema.get("required").and_then(Value::as_array).into_iter().flatten();
        Section {
            keys: properties.map(|(key, value)| (key.as_str(), self.inner(value))).collect(),
            required: required.filter_map(Value::as_str).collect(),
        }
    }

    fn variant(&self, schema: &'s Value) -> Variant<'s> {
        Variant {
            name: schema.pointer("/properties/type/const").and_then(Value::as_str).unwrap_or_default(),
            section: self.section(schema),
            description: schema.get("description").and_then(Value::as_str).unwrap_or_default(),
        }
    }
}

/// The words that a `const` or `enum` schema allows, each with the schema's description.
fn words(schema: &Value) -> Vec<(&str, &str)> {
    let description = schema.get("description").and_then(Value::as_str).unwrap_or_default();
    let one = schema.get("const").into_iter();
    let several = schema.get("enum").and_then(Value::as_array).into_iter().flatten();
    one.chain(several).filter_map(Value::as_str).map(|word| (word, description)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keywords that [`View`], the checker and the reference understand.
    const KNOWN: [&str; 24] = [
        "$schema",
        "$defs",
        "$ref",
        "title",
        "description",
        "default",
        "type",
        "properties",
        "required",
        "additionalProperties",
        "items",
        "minItems",
        "maxItems",
        "minLength",
        "pattern",
        "x-rule",
        "format",
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "oneOf",
        "anyOf",
        "enum",
        "const",
    ];

    fn visit(schema: &Value, at: &str) {
        let Some(keywords) = schema.as_object() else { panic!("{at} is not an object") };
        for (keyword, value) in keywords {
            let here = format!("{at}/{keyword}");
            assert!(KNOWN.contains(&keyword.as_str()), "{here}: the checker does not know this keyword");
            match (keyword.as_str(), value) {
                ("properties" | "$defs", Value::Object(inner)) => {
                    inner.iter().for_each(|(k, v)| visit(v, &format!("{here}/{k}")));
                }
                ("items", inner) => visit(inner, &here),
                ("oneOf" | "anyOf", Value::Array(inner)) => inner.iter().for_each(|v| visit(v, &here)),
                ("format", Value::String(format)) => {
                    let ours = crate::units::check_format(format, "").is_some();
                    assert!(ours || ["uint32", "uint64", "double"].contains(&format.as_str()), "{here}: {format}");
                }
                ("additionalProperties", value) => assert_eq!(value, false, "{here}"),
                _ => {}
            }
        }
        let open = keywords.contains_key("properties") && !keywords.contains_key("additionalProperties");
        assert!(!open, "{at} would let unknown keys pass: add deny_unknown_fields");
        if let Some(alternatives) = keywords.get("anyOf").and_then(Value::as_array) {
            assert!(alternatives.len() == 2 && alternatives[1]["type"] == "null", "{at}: anyOf that is not optional");
        }
    }

    #[test]
    fn the_schema_holds_only_what_the_checker_understands() {
        visit(&schema(), "#");
    }

    #[test]
    fn every_key_is_documented() {
        fn undocumented(view: View<'_>, at: &str, found: &mut Vec<String>) {
            let mut section = |section: Section<'_>| {
                for (key, inner) in section.keys {
                    let here = format!("{at}.{key}");
                    if inner.text("description").is_empty() && key != "type" {
                        found.push(here.clone());
                    }
                    undocumented(inner, &here, found);
                }
            };
            match view.shape() {
                Shape::Section(keys) => section(keys),
                Shape::Variants(variants) => variants.into_iter().for_each(|v| section(v.section)),
                Shape::Optional(inner) | Shape::List(inner) => undocumented(inner, at, found),
                Shape::Choice(words) => {
                    found.extend(words.iter().filter(|w| w.1.is_empty()).map(|w| format!("{at}={}", w.0)));
                }
                Shape::Scalar(types) => assert!(!types.is_empty(), "{at} has no type"),
            }
        }
        let (schema, mut found) = (schema(), Vec::new());
        undocumented(View::new(&schema), "", &mut found);
        assert!(found.is_empty(), "without a doc comment: {found:#?}");
    }
}
