//! Environment variables in pipelines: `${NAME}` and `${NAME:-default}` in any text value; `$${` writes `${`.
//!
//! The only place that reads the environment on a pipeline's behalf. Values are put in after the YAML is read, so a
//! variable cannot add keys; nodes remember their text from before, and only that text is ever shown or stored.

use std::path::{Path as FilePath, PathBuf};

use super::document::{Data, Node, Path, Step};
use super::problems::{Problem, Severity};
use crate::compute::cpu::Cpu;
use crate::compute::cuda::Libraries;
use crate::error::{Error, Result};

/// Where variables come from.
pub(crate) type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The process's environment. A variable that is not UTF-8 is none.
#[allow(clippy::disallowed_methods)] // this is where it is read
pub fn of_process(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// The CPU with `threads` compute threads (0: one for each core), and with no more instructions than `HARVESTD_ISA` names:
/// `baseline`, `avx2`, `avx512` or `avx512bf16`. Training from stored rows gives the same bytes with any.
///
/// # Errors
/// `Config` if the variable names none, or one that the machine does not have; as [`Cpu::new`] otherwise.
pub fn cpu(threads: usize) -> Result<Cpu> {
    match of_process("HARVESTD_ISA").filter(|name| !name.is_empty()) {
        Some(name) => name.parse().and_then(|isa| Cpu::with_isa(threads, isa)).map_err(|e| e.context("`HARVESTD_ISA`")),
        None => Cpu::new(threads),
    }
}

/// Where CUDA's libraries are looked for: the folders of `HARVESTD_CUDA_LIBRARIES` (separated by `:`), `CUDA_HOME`, the Python environment
/// of `VIRTUAL_ENV`, and the usual ones.
pub fn cuda_libraries() -> Libraries {
    let folders = of_process("HARVESTD_CUDA_LIBRARIES").unwrap_or_default();
    let folders = folders.split(':').filter(|folder| !folder.is_empty()).map(PathBuf::from).collect();
    let (toolkit, python) = (of_process("CUDA_HOME"), of_process("VIRTUAL_ENV"));
    Libraries::new(folders, toolkit.as_deref().map(FilePath::new), python.as_deref().map(FilePath::new))
}

/// Where compiled kernels are kept: `HARVESTD_KERNEL_CACHE`, else `harvestd/kernels` in the user's folder of caches.
///
/// # Errors
/// `Config` if there is no such folder to be known.
pub fn kernel_cache() -> Result<PathBuf> {
    let given = |name: &str| of_process(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let below = |caches: PathBuf| caches.join("harvestd/kernels");
    given("HARVESTD_KERNEL_CACHE")
        .or_else(|| given("XDG_CACHE_HOME").map(below))
        .or_else(|| given("HOME").map(|home| below(home.join(".cache"))))
        .ok_or_else(|| Error::config("compiled kernels need a folder: set HARVESTD_KERNEL_CACHE (or HOME)"))
}

/// Put variables into every text of the tree.
pub(crate) fn expand(tree: &mut Node, lookup: Lookup<'_>, problems: &mut Vec<Problem>) {
    expand_below(tree, &Path::default(), lookup, problems);
}

fn expand_below(node: &mut Node, path: &Path, lookup: Lookup<'_>, problems: &mut Vec<Problem>) {
    match &mut node.data {
        Data::Text { text, .. } if text.contains("${") => {
            let written = text.clone();
            match expanded(&written, lookup) {
                Ok(value) => *text = value,
                Err(rule) => {
                    problems.push(Problem {
                        severity: Severity::Error,
                        place: node.place.clone(),
                        path: path.to_string(),
                        value: Some(written.clone()),
                        rule,
                        hint: None,
                    });
                    node.data = Data::Unreadable;
                }
            }
            node.written = Some(written);
        }
        Data::List(items) => {
            items.iter_mut().enumerate().for_each(|(i, n)| expand_below(n, &path.index(i), lookup, problems));
        }
        Data::Map(entries) => {
            entries.iter_mut().for_each(|e| expand_below(&mut e.value, &path.key(&e.key), lookup, problems));
        }
        _ => {}
    }
}

/// `text` with its variables put in, or the rule that it breaks.
fn expanded(text: &str, lookup: Lookup<'_>) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, from) = rest.split_at(at);
        if let Some(before) = before.strip_suffix('$') {
            out.push_str(before);
            out.push_str("${");
            rest = &from[2..];
            continue;
        }
        out.push_str(before);
        let end = from.find('}').ok_or("has `${` without `}`; write `$${` for the characters themselves")?;
        out.push_str(&variable(&from[2..end], lookup)?);
        rest = &from[end + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

/// The value of `NAME` or `NAME:-default`.
fn variable(body: &str, lookup: Lookup<'_>) -> Result<String, String> {
    let (name, default) = match body.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (body, None),
    };
    let valid = !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !valid {
        return Err(format!("`${{{body}}}` names no variable: write `${{NAME}}` or `${{NAME:-default}}`"));
    }
    match (lookup(name).filter(|v| default.is_none() || !v.is_empty()), default) {
        (Some(value), _) => Ok(value),
        (None, Some(default)) => Ok(default.to_owned()),
        (None, None) => {
            Err(format!("environment variable `{name}` is not set; set it or write `${{{name}:-default}}`"))
        }
    }
}

/// Put the text from before expansion back into `value`, which has the shape of `tree` or more: what may be stored.
pub(crate) fn conceal(tree: &Node, value: &mut serde_json::Value) {
    tree.walk(&Path::default(), &mut |path, node| {
        let Some(written) = &node.written else { return };
        let place = path.0.iter().try_fold(&mut *value, |v, step| match step {
            Step::Key(key) => v.get_mut(key),
            Step::Index(i) => v.get_mut(i),
        });
        if let Some(place) = place {
            *place = serde_json::Value::String(written.clone());
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(name: &str) -> Option<String> {
        match name {
            "BUCKET" => Some("acts".into()),
            "EMPTY" => Some(String::new()),
            "NESTED" => Some("${BUCKET}".into()),
            _ => None,
        }
    }

    #[test]
    fn variables_defaults_and_escapes() {
        let ok = |text| expanded(text, &lookup).unwrap();
        assert_eq!(ok("s3://${BUCKET}/x"), "s3://acts/x");
        assert_eq!(ok("${MISSING:-local}/${BUCKET}"), "local/acts");
        assert_eq!(ok("${EMPTY:-d}${EMPTY}"), "d");
        assert_eq!(ok("$${BUCKET} costs $5"), "${BUCKET} costs $5");
        assert_eq!(ok("${NESTED}"), "${BUCKET}", "values are not expanded again");
    }

    #[test]
    fn what_is_wrong_is_said() {
        let rule = |text| expanded(text, &lookup).unwrap_err();
        assert!(rule("${MISSING}").contains("`MISSING` is not set"));
        assert!(rule("${BUCKET").contains("without `}`"));
        assert!(rule("${}").contains("names no variable"));
        assert!(rule("${A B}").contains("names no variable"));
    }
}
