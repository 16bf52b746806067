//! A YAML pipeline file becomes a [`Pipeline`], or a list of everything that is wrong with it.
//!
//! The way: text -> [`document`] (a tree that knows its lines) -> [`overrides`] (`--set`) -> [`env`] (`${VAR}`) ->
//! [`edits`] -> [`grid`] -> [`check`] against the [`schema`] that is generated from [`raw`] -> [`rules`] across sections -> [`resolve`]. The
//! model is not needed for any of it; once it is known, [`Loaded::sites`] resolves site names and checks memory.
//! Nothing below this folder imports it, and nothing here runs anything.

mod check;
mod document;
pub mod edits;
pub mod env;
mod grid;
mod overrides;
pub mod problems;
pub mod raw;
pub mod reference;
mod resolve;
mod rules;
mod schema;
pub mod sites;

use std::path::{Path, PathBuf};

pub use problems::{Place, Problem, Problems, Severity};
pub use resolve::{Harvest, Input, Pipeline};
pub use schema::schema;
pub use sites::Sites;

use crate::store::{Stores, redact};
use document::{Node, Origin};
use edits::Edits;
use rules::Purpose;

/// A pipeline that may be run.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The pipeline, defaults filled in, variables expanded.
    pub pipeline: Pipeline,
    /// The pipeline as it may be stored and shown: defaults filled in, variables as they were written.
    pub published: serde_json::Value,
    /// The file.
    pub source: PathBuf,
    /// Opens what its URLs name.
    pub stores: Stores,
    /// What does not stop it but should be known.
    pub notes: Vec<Problem>,
    tree: Node,
}

impl Loaded {
    /// A problem with the value at `path`, found by whoever looked further than this folder does.
    pub fn problem(&self, severity: Severity, path: &str, rule: impl Into<String>) -> Problem {
        rules::located(&self.tree, severity, path, rule.into(), None)
    }
}

/// Read, override, check and resolve the pipeline file at `path`. `sets` are `--set` arguments, `path=value`.
pub fn load(path: impl AsRef<Path>, sets: &[String]) -> Result<Loaded, Problems> {
    load_with(path, sets, &[])
}

/// As [`load`]; `store_options` are `--store` arguments, `key=value`, which hold for every store of the pipeline.
pub fn load_with(path: impl AsRef<Path>, sets: &[String], store_options: &[String]) -> Result<Loaded, Problems> {
    load_edited(path, sets, store_options, &Edits::default())
}

/// As [`load_with`], where nothing is trained or stored: coders are judged on what is held out, which may be all.
pub fn load_to_judge(path: impl AsRef<Path>, sets: &[String], store_options: &[String]) -> Result<Loaded, Problems> {
    load_for(path, sets, store_options, (&Edits::default(), Purpose::Judge))
}

/// As [`load_with`], with trainers that were added and stopped since the file was written.
pub fn load_edited(
    path: impl AsRef<Path>,
    sets: &[String],
    store_options: &[String],
    edits: &Edits,
) -> Result<Loaded, Problems> {
    load_for(path, sets, store_options, (edits, Purpose::Run))
}

fn load_for(
    path: impl AsRef<Path>,
    sets: &[String],
    store_options: &[String],
    (edits, purpose): (&Edits, Purpose),
) -> Result<Loaded, Problems> {
    let path = path.as_ref();
    let source = path.display().to_string();
    let text = read(path).map_err(|rule| Problems::file(&source, rule))?;
    let (pipeline, published, notes, tree) = load_text(&text, sets, &env::of_process, (edits, purpose))
        .map_err(|problems| Problems::new(&source, problems))?;
    let stores = Stores::new(pipeline.stores.clone(), store_options);
    let stores = stores.map_err(|e| Problems::file(&source, e.to_string()))?;
    Ok(Loaded { pipeline, published, source: path.to_owned(), stores, notes, tree })
}

fn read(path: &Path) -> Result<String, String> {
    let size = std::fs::metadata(path).map_err(|e| format!("cannot be read: {e}"))?.len();
    if size > document::FILE_BYTES_MAX {
        return Err("is larger than 1 MiB: this is no pipeline".to_owned());
    }
    std::fs::read_to_string(path).map_err(|e| format!("cannot be read: {e}"))
}

type LoadedText = (Pipeline, serde_json::Value, Vec<Problem>, Node);

fn load_text(
    text: &str,
    sets: &[String],
    variables: env::Lookup<'_>,
    (edits, purpose): (&Edits, Purpose),
) -> Result<LoadedText, Vec<Problem>> {
    let mut tree = document::parse(text, Origin::File)?;
    let mut problems = Vec::new();
    overrides::apply(&mut tree, sets, &mut problems);
    env::expand(&mut tree, variables, &mut problems);
    edits::add(&mut tree, edits, &mut problems);
    let swept = grid::expand(&mut tree, &mut problems);
    edits::stop(&mut tree, edits);
    let resolved = resolve::resolve(&mut tree, &mut problems, purpose);
    if swept {
        grid::merge(&mut problems);
    }
    let Some((raw, pipeline)) = resolved else { return Err(problems) };
    let mut published = serde_json::to_value(&raw).map_err(|e| vec![Problem::file(e.to_string())])?;
    if let (Some(_), Some(sections)) = (&raw.replay, published.as_object_mut()) {
        // their defaults mean nothing here
        ["tokens", "capture"].iter().for_each(|key| drop(sections.remove(*key)));
    }
    env::conceal(&tree, &mut published);
    redact_urls(&mut published);
    Ok((pipeline, published, problems, tree))
}

/// Take user names, passwords and queries out of every URL: what is published holds no secrets.
fn redact_urls(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::String(text) if text.contains("://") => *text = redact(text),
        serde_json::Value::Array(items) => items.iter_mut().for_each(redact_urls),
        serde_json::Value::Object(entries) => entries.values_mut().for_each(redact_urls),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
