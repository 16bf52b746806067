//! `--set path=value`: put values into the tree before it is checked, so that they obey the same rules as the file.

use super::document::{Data, Entry, Node, Origin, Path, Step, parse};
use super::problems::{Place, Problem, Severity};
use crate::store::redact;

/// Apply `--set` arguments in their order.
pub(crate) fn apply(tree: &mut Node, arguments: &[String], problems: &mut Vec<Problem>) {
    for argument in arguments {
        if let Err(found) = apply_one(tree, argument) {
            problems.extend(found);
        }
    }
}

fn apply_one(tree: &mut Node, argument: &str) -> Result<(), Vec<Problem>> {
    let place = Place::Set(redact(argument));
    let problem = |path: &str, rule: String| {
        vec![Problem {
            severity: Severity::Error,
            place: place.clone(),
            path: path.to_owned(),
            value: None,
            rule,
            hint: None,
        }]
    };
    let parts = argument.split_once('=').and_then(|(path, value)| Some((Path::parse(path.trim())?, value)));
    let Some((path, text)) = parts else {
        return Err(problem("", "must be path=value, such as trainers.0.rows=1M".to_owned()));
    };
    let value = parse(text, Origin::Set(redact(argument)))?;
    let value = Node { place: place.clone(), ..value };
    put(tree, &path.0, value, &place).map_err(|rule| problem(&path.to_string(), rule))
}

/// Put `value` at `steps` below `node`. Missing sections are made; list items must exist or be the next one.
pub(super) fn put(node: &mut Node, steps: &[Step], value: Node, place: &Place) -> Result<(), String> {
    let Some((step, rest)) = steps.split_first() else {
        *node = value;
        return Ok(());
    };
    if node.data == Data::Null {
        node.data = match step {
            Step::Key(_) => Data::Map(Vec::new()),
            Step::Index(_) => Data::List(Vec::new()),
        };
        node.place = place.clone();
    }
    let empty = || Node::new(place.clone(), Data::Null);
    match (step, &mut node.data) {
        (Step::Key(key), Data::Map(entries)) => {
            let at = entries.iter().position(|e| e.key == *key).unwrap_or_else(|| {
                entries.push(Entry { key: key.clone(), place: place.clone(), value: empty() });
                entries.len() - 1
            });
            if rest.is_empty() {
                entries[at].place = place.clone();
            }
            put(&mut entries[at].value, rest, value, place)
        }
        (Step::Index(index), Data::List(items)) => {
            if *index == items.len() {
                items.push(empty());
            }
            let n = items.len();
            match items.get_mut(*index) {
                Some(item) => put(item, rest, value, place),
                None => Err(format!("there is no item {index}: the list has {n}, counted from 0")),
            }
        }
        (Step::Key(key), Data::List(_)) => Err(format!("`{key}` is not an item's number: this is a list")),
        (Step::Index(index), Data::Map(_)) => Err(format!("`{index}` is not a key: this is a section")),
        _ => Err("leads through a value that is neither a section nor a list".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(file: &str, arguments: &[&str]) -> Result<serde_json::Value, Vec<String>> {
        let mut tree = parse(file, Origin::File).unwrap();
        let mut problems = Vec::new();
        let arguments: Vec<String> = arguments.iter().map(|a| (*a).to_owned()).collect();
        apply(&mut tree, &arguments, &mut problems);
        if problems.is_empty() {
            return Ok(tree.to_value());
        }
        Err(problems.iter().map(|p| p.line("f")).collect())
    }

    #[test]
    fn values_replace_are_added_and_are_yaml() {
        let file = "a: {b: [{c: 1}, {c: 2}]}\n";
        let value = set(file, &["a.b.1.c=5", "a.b[0].c=x=y", "a.d.e=[1, two]", "a.b.2={c: 3}", "n="]).unwrap();
        let expected =
            serde_json::json!({"a": {"b": [{"c": "x=y"}, {"c": 5}, {"c": 3}], "d": {"e": [1, "two"]}}, "n": null});
        assert_eq!(value, expected);
        assert_eq!(set(file, &["a=[]"]).unwrap(), serde_json::json!({"a": []}));
    }

    #[test]
    fn wrong_arguments_are_problems() {
        let found = set("a: {b: [1]}\n", &["nonsense", "a.b.7=1", "a.b.x=1", "a.b.0.c=1", "a.b=[1", "a.3=1"]);
        let found = found.unwrap_err();
        assert_eq!(found.len(), 6, "{found:#?}");
        assert!(found[0].starts_with("--set nonsense: must be path=value"));
        assert!(found[1].contains("a.b[7]") && found[1].contains("the list has 1"), "{}", found[1]);
        assert!(found[2].contains("this is a list"));
        assert!(found[3].contains("neither a section nor a list"));
        assert!(found[4].contains("is not YAML"));
        assert!(found[5].contains("this is a section"));
    }
}
