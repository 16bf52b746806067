//! Checks a tree against the JSON Schema and collects everything that is wrong: unknown and missing keys, types, words,
//! units, bounds, patterns. It knows the schema's shapes and nothing of pipelines.

use serde_json::Value;

use super::document::{Data, Node, Path, plain_scalar};
use super::problems::{Place, Problem, Severity, nearest};
use super::schema::{Section, Shape, Variant, View};
use crate::units::{self, ByteSize, Count};

/// Check `tree`. Text that came out of a variable becomes a number or boolean where the schema wants one.
pub(crate) fn check(tree: &mut Node, schema: &Value) -> Vec<Problem> {
    let mut checker = Checker { problems: Vec::new() };
    let place = tree.place.clone();
    checker.node(tree, &place, &Path::default(), View::new(schema));
    checker.problems
}

struct Checker {
    problems: Vec<Problem>,
}

impl Checker {
    fn problem(
        &mut self,
        place: &Place,
        path: &Path,
        value: Option<String>,
        rule: impl Into<String>,
        hint: Option<String>,
    ) {
        self.problems.push(Problem {
            severity: Severity::Error,
            place: place.clone(),
            path: path.to_string(),
            value,
            rule: rule.into(),
            hint,
        });
    }

    /// The value `node` breaks `rule`.
    fn broken(&mut self, node: &Node, path: &Path, rule: impl Into<String>, hint: Option<String>) {
        self.problem(&node.place, path, Some(node.shown()), rule, hint);
    }

    /// Check `node`, whose key (or the node itself, in lists) stands at `place`.
    fn node(&mut self, node: &mut Node, place: &Place, path: &Path, view: View<'_>) {
        if node.data == Data::Unreadable {
            return;
        }
        match view.shape() {
            Shape::Optional(_) if node.data == Data::Null => {}
            Shape::Optional(inner) => self.node(node, place, path, inner),
            Shape::Section(section) => self.section(node, place, path, &section),
            Shape::Variants(variants) => self.variants(node, place, path, &variants),
            Shape::Choice(words) => self.choice(node, path, &words),
            Shape::List(items) => self.list(node, path, view, items),
            Shape::Scalar(types) => self.scalar(node, path, view, &types),
        }
    }

    fn section(&mut self, node: &mut Node, place: &Place, path: &Path, section: &Section<'_>) {
        let shown = node.shown();
        let Data::Map(entries) = &mut node.data else {
            let keys = names(section.keys.iter().map(|(key, _)| *key));
            self.problem(place, path, Some(shown), "must be a section", Some(format!("its keys are {keys}")));
            return;
        };
        let mut misspelt = Vec::new();
        // an unknown key is reported and dropped, so that the rest of its section can still be judged
        entries.retain_mut(|entry| {
            let here = path.key(&entry.key);
            if let Some((_, view)) = section.keys.iter().find(|(key, _)| *key == entry.key) {
                self.node(&mut entry.value, &entry.place, &here, *view);
                return true;
            }
            misspelt.extend(nearest(&entry.key, section.keys.iter().map(|(key, _)| *key)));
            let hint = unknown_key_hint(&entry.key, section);
            self.problem(&entry.place, &here, None, "is not a known key", Some(hint));
            false
        });
        for key in &section.required {
            if !entries.iter().any(|e| e.key == *key) && !misspelt.contains(key) {
                self.problem(place, &path.key(key), None, "is required", what_it_is(section, key));
            }
        }
    }

    fn variants(&mut self, node: &mut Node, place: &Place, path: &Path, variants: &[Variant<'_>]) {
        let known = || variants.iter().map(|v| v.name);
        let Data::Map(_) = node.data else {
            let hint = format!("such as {{type: {}, ...}}", variants.first().map_or("...", |v| v.name));
            self.problem(place, path, Some(node.shown()), "must be a section with a `type`", Some(hint));
            return;
        };
        let here = path.key("type");
        let Some(entry) = node.get("type") else {
            return self.problem(place, &here, None, "is required", Some(one_of(known())));
        };
        if entry.value.data == Data::Unreadable {
            return;
        }
        let word = match &entry.value.data {
            Data::Text { text, .. } => text.as_str(),
            _ => "",
        };
        match variants.iter().find(|v| v.name == word) {
            Some(variant) => self.section(node, place, path, &variant.section),
            None => {
                let hint = nearest(word, known()).map(did_you_mean);
                let (place, shown) = (entry.value.place.clone(), entry.value.shown());
                self.problem(&place, &here, Some(shown), must_be_one_of(known()), hint);
            }
        }
    }

    fn choice(&mut self, node: &Node, path: &Path, words: &[(&str, &str)]) {
        let known = || words.iter().map(|(word, _)| *word);
        let Data::Text { text, .. } = &node.data else {
            return self.broken(node, path, must_be_one_of(known()), None);
        };
        if !known().any(|word| word == text) {
            self.broken(node, path, must_be_one_of(known()), nearest(text, known()).map(did_you_mean));
        }
    }

    fn list(&mut self, node: &mut Node, path: &Path, view: View<'_>, items: View<'_>) {
        let bound = |keyword| view.get(keyword).and_then(Value::as_u64);
        let (least, most) = (bound("minItems"), bound("maxItems"));
        let Data::List(nodes) = &mut node.data else {
            return self.broken(node, path, "must be a list", Some("write [a, b] or one `- item` a line".to_owned()));
        };
        for (i, item) in nodes.iter_mut().enumerate() {
            let place = item.place.clone();
            self.node(item, &place, &path.index(i), items);
        }
        let n = nodes.len() as u64;
        if least.is_some_and(|least| n < least) || most.is_some_and(|most| n > most) {
            let rule = match (least, most) {
                (Some(1), None) => "must not be empty".to_owned(),
                (Some(least), Some(most)) if least == most => format!("must have {least} items"),
                (Some(least), _) if n < least => format!("must have at least {least} items"),
                (_, most) => format!("must have at most {} items", most.unwrap_or_default()),
            };
            self.broken(node, path, rule, None);
        }
    }

    fn scalar(&mut self, node: &mut Node, path: &Path, view: View<'_>, types: &[&str]) {
        let wants_text = types.contains(&"string");
        if let (Data::Text { text, plain: true }, Some(_), false) = (&node.data, &node.written, wants_text)
            && let Ok(data) = plain_scalar(text)
        {
            node.data = data;
        }
        let fits = match &node.data {
            Data::Null => types.contains(&"null"),
            Data::Bool(_) => types.contains(&"boolean"),
            Data::Number(n) => types.contains(&"number") || (types.contains(&"integer") && !n.is_f64()),
            Data::Text { .. } => wants_text,
            Data::List(_) | Data::Map(_) | Data::Unreadable => false,
        };
        if !fits {
            let hint = match &node.data {
                Data::Number(_) | Data::Bool(_) if wants_text && !is_unit(view) => {
                    Some(format!("write it in quotes: {:?}", node.shown()))
                }
                _ => None,
            };
            return self.broken(node, path, must_be_type(view, types), hint);
        }
        if let Data::Text { text, .. } = &node.data {
            if let Some(Err(_)) = units::check_format(view.text("format"), text) {
                return self.broken(node, path, must_be_type(view, types), None);
            }
            if let Some(rule) = text_rule(view, text) {
                return self.broken(node, path, rule, None);
            }
        }
        if let Some(rule) = quantity(node, view).and_then(|q| bound_rule(view, q)) {
            self.broken(node, path, rule, None);
        }
    }
}

/// The rule on text that `text` breaks.
fn text_rule(view: View<'_>, text: &str) -> Option<String> {
    let least = view.get("minLength").and_then(Value::as_u64).unwrap_or(0);
    if (text.chars().count() as u64) < least {
        return Some(if least == 1 { "must not be empty".to_owned() } else { format!("must have {least} characters") });
    }
    let pattern = view.get("pattern").and_then(Value::as_str)?;
    // patterns are ours: one that does not compile matches nothing, which the pipelines' own tests show
    if regex::Regex::new(pattern).is_ok_and(|r| r.is_match(text)) {
        return None;
    }
    Some(match view.text("x-rule") {
        "" => format!("must match {pattern}"),
        rule => rule.to_owned(),
    })
}

/// The number that a value stands for, units applied.
fn quantity(node: &Node, view: View<'_>) -> Option<f64> {
    match (&node.data, view.text("format")) {
        (Data::Number(n), _) => n.as_f64(),
        (Data::Text { text, .. }, "count") => text.parse().ok().map(|Count(n)| n as f64),
        (Data::Text { text, .. }, "byte-size") => text.parse().ok().map(|ByteSize(n)| n as f64),
        _ => None,
    }
}

/// The bound that `quantity` breaks.
fn bound_rule(view: View<'_>, quantity: f64) -> Option<String> {
    let bound = |keyword| view.get(keyword).and_then(Value::as_f64);
    let format_max = (view.text("format") == "uint32").then_some(f64::from(u32::MAX));
    let (least, most) = (bound("minimum"), bound("maximum").or(format_max));
    match (least, most, bound("exclusiveMinimum")) {
        (Some(least), Some(most), _) if least == most && quantity != least => Some(format!("must be {least}")),
        (Some(least), _, _) if quantity < least => Some(format!("must be at least {least}")),
        (_, Some(most), _) if quantity > most => Some(format!("must be at most {most}")),
        (_, _, Some(above)) if quantity <= above => Some(format!("must be above {above}")),
        _ => None,
    }
}

/// Whether the schema is one of [`crate::units`].
fn is_unit(view: View<'_>) -> bool {
    units::check_format(view.text("format"), "").is_some()
}

fn must_be_type(view: View<'_>, types: &[&str]) -> String {
    if is_unit(view) {
        return format!("must be {}", view.type_description());
    }
    let name = |t: &&str| match *t {
        "integer" => "a whole number",
        "number" => "a number",
        "boolean" => "true or false",
        "string" => "text",
        _ => "null",
    };
    format!("must be {}", types.iter().map(name).collect::<Vec<_>>().join(" or "))
}

fn names<'a>(known: impl Iterator<Item = &'a str>) -> String {
    known.map(|k| format!("`{k}`")).collect::<Vec<_>>().join(", ")
}

fn one_of<'a>(known: impl Iterator<Item = &'a str>) -> String {
    let known: Vec<_> = known.collect();
    match known.as_slice() {
        [one] => format!("`{one}`"),
        _ => format!("one of {}", names(known.into_iter())),
    }
}

fn must_be_one_of<'a>(known: impl Iterator<Item = &'a str>) -> String {
    format!("must be {}", one_of(known))
}

fn did_you_mean(name: &str) -> String {
    format!("did you mean `{name}`?")
}

/// For an unknown key: the nearest known one, or the section below that has it, or all known keys.
fn unknown_key_hint(key: &str, section: &Section<'_>) -> String {
    let known = || section.keys.iter().map(|(k, _)| *k);
    if let Some(near) = nearest(key, known()) {
        return did_you_mean(near);
    }
    match section.keys.iter().find(|(_, view)| view.entry(key).is_some()) {
        Some((below, _)) => format!("it belongs below `{below}`"),
        None => format!("known keys are {}", names(known())),
    }
}

/// The first sentence of a key's documentation.
fn what_it_is(section: &Section<'_>, key: &str) -> Option<String> {
    let (_, view) = section.keys.iter().find(|(k, _)| *k == key)?;
    let description = view.text("description").replace('\n', " ");
    let sentence = description.split(". ").next().unwrap_or_default().trim_end_matches('.');
    let mut rest = sentence.chars();
    let first = rest.next()?;
    Some(first.to_lowercase().chain(rest).collect())
}
