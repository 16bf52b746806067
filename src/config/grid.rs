//! `grid:` of a trainer: one entry of the file becomes a trainer for each combination of its values, before anything is
//! checked, so that every one of them obeys the rules.

use super::document::{Data, Entry, Node, Path, Step};
use super::overrides::put;
use super::problems::{Place, Problem, Severity};

/// Trainers that one entry may become, at most.
const TRAINERS_MAX: usize = 64;
/// Keys that a grid cannot have.
const OWN_KEYS: [&str; 3] = ["name", "checkpoint", "grid"];

/// One key of a grid, and its values.
struct Axis {
    path: Path,
    /// What it is called in names.
    label: String,
    values: Vec<Node>,
}

/// Expand the grids of `tree`'s trainers. Returns whether there was one.
pub(crate) fn expand(tree: &mut Node, problems: &mut Vec<Problem>) -> bool {
    let Data::Map(entries) = &mut tree.data else { return false };
    let Some(trainers) = entries.iter_mut().find(|e| e.key == "trainers") else { return false };
    let Data::List(items) = &mut trainers.value.data else { return false };
    let mut found = false;
    let mut all = Vec::with_capacity(items.len());
    for (i, mut trainer) in std::mem::take(items).into_iter().enumerate() {
        let Some(grid) = take(&mut trainer, "grid") else {
            all.push(trainer);
            continue;
        };
        found = true;
        match axes(&grid, i) {
            Ok(axes) => all.extend(combinations(&trainer, &axes)),
            Err(problem) => {
                problems.push(*problem);
                all.push(trainer);
            }
        }
    }
    *items = all;
    found
}

/// The entry `key` of a section, taken out of it.
fn take(node: &mut Node, key: &str) -> Option<Entry> {
    let Data::Map(entries) = &mut node.data else { return None };
    let at = entries.iter().position(|e| e.key == key)?;
    Some(entries.remove(at))
}

/// The axes of the grid of trainer `i`.
fn axes(grid: &Entry, i: usize) -> Result<Vec<Axis>, Box<Problem>> {
    let problem = |place: &Place, key: &str, rule: String| {
        let path = if key.is_empty() { format!("trainers[{i}].grid") } else { format!("trainers[{i}].grid.{key}") };
        let (severity, value, hint) = (Severity::Error, None, Some("such as {coder.k: [16, 32]}".to_owned()));
        Box::new(Problem { severity, place: place.clone(), path, value, rule, hint })
    };
    let Data::Map(entries) = &grid.value.data else {
        return Err(problem(&grid.place, "", "must be a section of keys with lists of values".to_owned()));
    };
    let mut axes = Vec::new();
    let mut combined = 1usize;
    for entry in entries {
        let wrong = |rule: &str| problem(&entry.place, &entry.key, rule.to_owned());
        let path = Path::parse(&entry.key).filter(|path| path.0.iter().all(|step| matches!(step, Step::Key(_))));
        let path = path.ok_or_else(|| wrong("must be a key of a trainer, such as coder.k"))?;
        let first = entry.key.split('.').next().unwrap_or_default();
        if OWN_KEYS.contains(&first) {
            return Err(wrong("cannot differ in a grid"));
        }
        let Data::List(values) = &entry.value.data else { return Err(wrong("must be a list of values")) };
        let simple = |node: &Node| matches!(node.data, Data::Bool(_) | Data::Number(_) | Data::Text { .. });
        if values.is_empty() || !values.iter().all(simple) {
            return Err(wrong("must be a list of numbers, words or true and false"));
        }
        let words: Vec<String> = values.iter().map(word).collect();
        if (1..words.len()).any(|i| words[..i].contains(&words[i])) {
            return Err(wrong("has a value twice"));
        }
        combined = combined.saturating_mul(values.len());
        let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
        let alone = entries.iter().filter(|other| last(&other.key) == last(&entry.key)).count() == 1;
        let label = if alone { last(&entry.key) } else { entry.key.clone() };
        axes.push(Axis { path, label, values: values.clone() });
    }
    match combined {
        _ if axes.is_empty() => Err(problem(&grid.place, "", "must have a key".to_owned())),
        n if n > TRAINERS_MAX => {
            Err(problem(&grid.place, "", format!("is {n} trainers: at most {TRAINERS_MAX} can be one entry")))
        }
        _ => Ok(axes),
    }
}

/// A value, in a name.
fn word(node: &Node) -> String {
    let text = match &node.data {
        Data::Text { text, .. } => text.clone(),
        data => Node::new(Place::File, data.clone()).to_value().to_string(),
    };
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    text.chars().map(|c| if fits(c) { c } else { '_' }).collect()
}

/// A trainer for each combination, the last key changing fastest.
fn combinations(trainer: &Node, axes: &[Axis]) -> Vec<Node> {
    let n: usize = axes.iter().map(|axis| axis.values.len()).product();
    (0..n)
        .map(|index| {
            let (mut made, mut rest) = (trainer.clone(), index);
            let mut suffix = String::new();
            let mut chosen = Vec::new();
            for axis in axes.iter().rev() {
                chosen.push(&axis.values[rest % axis.values.len()]);
                rest /= axis.values.len();
            }
            for (axis, value) in axes.iter().zip(chosen.into_iter().rev()) {
                let part = format!("-{}{}", axis.label, word(value));
                suffix += &part;
                // what cannot be put there is found again, and reported, by the checks
                drop(put(&mut made, &axis.path.0, value.clone(), &value.place));
            }
            append(&mut made, &["name"], &suffix);
            append(&mut made, &["checkpoint", "url"], &format!("/{}", &suffix[1..]));
            made
        })
        .collect()
}

/// Append to the text at `keys`, to what variables became as to how they were written.
fn append(node: &mut Node, keys: &[&str], more: &str) {
    let Some((key, rest)) = keys.split_first() else {
        if let Data::Text { text, .. } = &mut node.data {
            if more.starts_with('/') {
                text.truncate(text.trim_end_matches('/').len());
            }
            text.push_str(more);
            if let Some(written) = &mut node.written {
                written.push_str(more);
            }
        }
        return;
    };
    if let Data::Map(entries) = &mut node.data
        && let Some(entry) = entries.iter_mut().find(|e| e.key == *key)
    {
        append(&mut entry.value, rest, more);
    }
}

/// The same fault of several trainers that one entry became is one problem.
pub(crate) fn merge(problems: &mut Vec<Problem>) {
    let key = |p: &Problem| {
        let path =
            p.path.strip_prefix("trainers[").and_then(|rest| rest.split_once(']')).map_or(p.path.as_str(), |s| s.1);
        (p.place.clone(), path.to_owned(), p.value.clone(), p.rule.clone())
    };
    let mut seen = Vec::new();
    problems.retain(|p| {
        let key = key(p);
        let new = p.place == Place::File || !seen.contains(&key);
        seen.push(key);
        new
    });
}
