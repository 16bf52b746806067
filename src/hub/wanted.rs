//! Which files of a repository a model needs, and whether the cache has them.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::hub::cache::RepoCache;
use crate::hub::name::{HubName, is_plain_path};

/// Without it there is no model.
pub(super) const CONFIG: &str = "config.json";
/// All weights in one file.
const WEIGHTS: &str = "model.safetensors";
/// Names the files that the weights are spread over.
pub(super) const INDEX: &str = "model.safetensors.index.json";
/// Small files that a repository may have.
pub(super) const OPTIONAL: [&str; 6] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
];
/// Endings of weights that are not read: pickles may run code, the others belong to other frameworks.
const OTHER_WEIGHTS: [&str; 6] = [".bin", ".pt", ".pth", ".h5", ".msgpack", ".onnx"];

/// Where a model's weights are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum WeightFiles {
    /// In this file.
    Single(String),
    /// In the files that the index names.
    Indexed,
}

impl WeightFiles {
    /// Find them among `files`, names at the top of the repository included.
    pub(super) fn among<'a>(files: impl Iterator<Item = &'a str>) -> Option<Self> {
        let top: BTreeSet<&str> = files.filter(|file| !file.contains('/') && file.contains(".safetensors")).collect();
        if top.contains(WEIGHTS) {
            return Some(Self::Single(WEIGHTS.to_owned()));
        }
        if top.contains(INDEX) {
            return Some(Self::Indexed);
        }
        let mut single = top.into_iter().filter(|file| file.ends_with(".safetensors"));
        match (single.next(), single.next()) {
            (Some(file), None) => Some(Self::Single(file.to_owned())),
            _ => None,
        }
    }
}

/// Why none of `files` can serve as weights.
pub(super) fn no_weights(name: &HubName, files: &BTreeSet<String>) -> Error {
    let ending = |endings: &[&str]| files.iter().find(|file| endings.iter().any(|e| file.ends_with(e)));
    let ggufs: Vec<&str> = files.iter().filter(|f| f.ends_with(".gguf")).take(4).map(String::as_str).collect();
    if let [first, ..] = ggufs.as_slice() {
        let shown = ggufs.join(", ");
        return Error::config(format!("`{name}` holds GGUF files ({shown}): name one of them, as in `{name}/{first}`"));
    }
    if ending(&[".safetensors"]).is_some() {
        return Error::data(format!(
            "`{name}` has several *.safetensors files and no {INDEX} to say which belong together"
        ));
    }
    match ending(&OTHER_WEIGHTS) {
        Some(file) => Error::data(format!(
            "`{name}` has weights only as `{file}`, which is not read: convert them to safetensors \
             (save_pretrained of transformers does) and give the folder"
        )),
        None => Error::data(format!("`{name}` has no weights: there is no {WEIGHTS} and no {INDEX}")),
    }
}

/// The files that an index names.
pub(super) fn shards(index: &[u8]) -> Result<BTreeSet<String>> {
    let wrong = |why: &str| Error::data(format!("{INDEX} {why}"));
    let json: Value = serde_json::from_slice(index).map_err(|e| wrong(&format!("is not JSON: {e}")))?;
    let map = json.get("weight_map").and_then(Value::as_object).ok_or_else(|| wrong("has no `weight_map`"))?;
    let names: Option<BTreeSet<&str>> = map.values().map(Value::as_str).collect();
    let names = names.filter(|names| !names.is_empty()).ok_or_else(|| wrong("has no usable `weight_map`"))?;
    for name in &names {
        if name.contains('/') || !is_plain_path(name) || !name.ends_with(".safetensors") {
            return Err(wrong(&format!("names `{name}`, which is not a plain name of a safetensors file")));
        }
    }
    Ok(names.into_iter().map(str::to_owned).collect())
}

/// What the cache holds of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// All that the commit has and a model may need.
    All,
    /// A model, but it is not known whether the commit has more.
    Enough,
    /// Not a model: the first file that is missing.
    Lacks(String),
}

/// Look for the files of `name` in the cached `commit`.
pub(super) fn look(cache: &RepoCache, name: &HubName, commit: &str) -> Found {
    let lacks = |file: &str| Found::Lacks(file.to_owned());
    if let Some(file) = &name.file {
        return if cache.has(commit, file) { Found::All } else { lacks(file) };
    }
    if !cache.has(commit, CONFIG) {
        return lacks(CONFIG);
    }
    let folder = cache.snapshot(commit);
    let names: Vec<String> = std::fs::read_dir(&folder)
        .map(|entries| entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect())
        .unwrap_or_default();
    let here = names.iter().map(String::as_str).filter(|file| cache.has(commit, file));
    match WeightFiles::among(here) {
        None => return lacks(WEIGHTS),
        Some(WeightFiles::Single(_)) => {}
        Some(WeightFiles::Indexed) => {
            let index = std::fs::read(folder.join(INDEX)).map_err(|e| Error::io("read", folder.join(INDEX), e));
            let Ok(named) = index.and_then(|bytes| shards(&bytes)) else { return lacks(INDEX) };
            if let Some(absent) = named.iter().find(|file| !cache.has(commit, file)) {
                return lacks(absent);
            }
        }
    }
    let is_known = |file: &&str| cache.has(commit, file) || cache.lacks(commit, file);
    if OPTIONAL.iter().all(is_known) { Found::All } else { Found::Enough }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_one_file_or_those_of_the_index() {
        let among = |files: &[&str]| WeightFiles::among(files.iter().copied());
        let single = |file: &str| Some(WeightFiles::Single(file.to_owned()));
        assert_eq!(among(&["model.safetensors", INDEX, "x.safetensors"]), single("model.safetensors"));
        assert_eq!(among(&[INDEX, "model-1.safetensors", "model-2.safetensors"]), Some(WeightFiles::Indexed));
        assert_eq!(among(&["w.safetensors", "pytorch_model.bin", "onnx/y.safetensors"]), single("w.safetensors"));
        assert_eq!(among(&["a.safetensors", "b.safetensors"]), None);
        assert_eq!(among(&["pytorch_model.bin"]), None);
    }

    #[test]
    fn a_repository_without_usable_weights_says_what_it_has() {
        let name = HubName::parse("hf://a/b").unwrap();
        let message = |files: &[&str]| no_weights(&name, &files.iter().map(|f| (*f).to_owned()).collect()).to_string();
        assert!(message(&["pytorch_model.bin"]).contains("convert them to safetensors"));
        assert!(message(&["q4.gguf", "pytorch_model.bin"]).contains("hf://a/b@main/q4.gguf"));
        assert!(message(&["a.safetensors", "b.safetensors"]).contains("belong together"));
        assert!(message(&["README.md"]).contains("has no weights"));
    }

    #[test]
    fn an_index_may_only_name_plain_files() {
        let named = shards(br#"{"weight_map": {"a": "m-1.safetensors", "b": "m-1.safetensors"}}"#).unwrap();
        assert_eq!(named.into_iter().collect::<Vec<_>>(), ["m-1.safetensors"]);
        for (index, word) in [
            (r#"{"weight_map": {"a": "../../m.safetensors"}}"#, "plain name"),
            (r#"{"weight_map": {"a": "/etc/m.safetensors"}}"#, "plain name"),
            (r#"{"weight_map": {"a": "pickle.bin"}}"#, "plain name"),
            (r#"{"weight_map": {"a": 3}}"#, "usable"),
            (r#"{"weight_map": {}}"#, "usable"),
            ("[]", "weight_map"),
            ("{", "not JSON"),
        ] {
            let e = shards(index.as_bytes()).unwrap_err();
            assert!(e.to_string().contains(word), "{index}: {e}");
        }
    }
}
