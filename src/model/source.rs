//! Where a model comes from: a folder in Hugging Face's layout, or a GGUF file.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::hooks::PointShape;
use crate::model::gguf::{self, Gguf};
use crate::model::weights::{DataFile, check_quantization};
use crate::model::{ModelSpec, pair};
use crate::tokens::special::ModelFiles;
use crate::tokens::{SpecialIds, Tokenizer};

/// Bytes of a JSON file beside the weights, at most: an index of 100 000 tensors has 10 MB.
const JSON_BYTES_MAX: u64 = 64 << 20;

/// A model's files, opened: its configuration is read and checked, weight files are found, nothing is hashed yet.
#[derive(Debug)]
pub struct ModelSource {
    folder: PathBuf,
    /// The head of the GGUF file, if it is one.
    gguf: Option<Gguf>,
    spec: ModelSpec,
    weight_files: Vec<PathBuf>,
    fingerprint: OnceLock<Fingerprint>,
    /// Another model that runs on the same tokens.
    second: Option<Box<Self>>,
}

/// SHA-256 digests, in hexadecimal, of the files that decide what a model computes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    /// Of `config.json`; of a GGUF file, which holds everything, here and below.
    pub config: String,
    /// Of the weights: of the file if there is one, else of the lines `DIGEST  NAME` of all files in the order of names (what
    /// `sha256sum *.safetensors | sha256sum` prints).
    pub weights: String,
    /// Of `tokenizer.json`, if there is one.
    pub tokenizer: Option<String>,
}

impl ModelSource {
    /// Open the folder or the GGUF file that `source` names.
    pub fn open(source: &str) -> Result<Self> {
        if source.starts_with("hf://") {
            return Err(Error::config(format!(
                "model source `{source}` names a repository: fetch it first and give its folder \
                 (config.json, *.safetensors, tokenizer.json)"
            )));
        }
        let path = PathBuf::from(source);
        if path.is_file() {
            return Self::open_gguf(path).map_err(|e| e.context(format!("read model `{source}`")));
        }
        if !path.is_dir() {
            return Err(Error::config(format!("model source `{source}` is neither a folder nor a GGUF file")));
        }
        let mut config = read_json(&path.join("config.json"))?;
        let spec = specification(&mut config).map_err(|e| e.context(format!("read model `{source}`")))?;
        let weight_files = find_weights(&path)?;
        Ok(Self { folder: path, gguf: None, spec, weight_files, fingerprint: OnceLock::new(), second: None })
    }

    fn open_gguf(path: PathBuf) -> Result<Self> {
        let file = DataFile::open(&path)?;
        if !gguf::is_gguf(&file)? {
            return Err(Error::config(
                "a model is a folder with config.json and safetensors, or a GGUF file: this is neither",
            ));
        }
        let gguf = Gguf::read(&file)?;
        let spec = ModelSpec::parse(&gguf.config()?)?;
        let weight_files = vec![path.clone()];
        Ok(Self { folder: path, gguf: Some(gguf), spec, weight_files, fingerprint: OnceLock::new(), second: None })
    }

    /// This model, and another that runs on the same tokens.
    ///
    /// # Errors
    /// `Config` if that has fewer embeddings: there may be tokens that it does not know.
    pub fn with_second(self, second: Self) -> Result<Self> {
        let (own, other) = (self.spec.vocab_size, second.spec.vocab_size);
        if other < own {
            return Err(Error::config(format!(
                "the second model has {other} embeddings, the first {own}: they must be of one vocabulary"
            )));
        }
        if let (Some(own), Some(other)) = (&self.fingerprint()?.tokenizer, &second.fingerprint()?.tokenizer)
            && own != other
        {
            tracing::warn!(
                "the tokenizer of the second model is another file than the first's, which is used for both"
            );
        }
        Ok(Self { second: Some(Box::new(second)), ..self })
    }

    /// The model that runs on the same tokens, if there is one.
    pub fn second(&self) -> Option<&Self> {
        self.second.as_deref()
    }

    /// The points of the model, and those of a second one after them.
    pub fn points(&self, context_length: usize) -> Vec<PointShape> {
        let first = self.spec.points(context_length);
        match &self.second {
            Some(second) => pair::both(&first, &second.spec.points(context_length)),
            None => first,
        }
    }

    /// The folder, or the GGUF file.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What the model computes.
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// The safetensors files, in the order of their names; or the GGUF file.
    pub fn weight_files(&self) -> &[PathBuf] {
        &self.weight_files
    }

    /// `tokenizer.json`, if the folder has one.
    pub fn tokenizer_file(&self) -> Option<PathBuf> {
        Some(self.folder.join("tokenizer.json")).filter(|path| path.is_file())
    }

    /// The ids that the configuration names, and the number of embeddings. A model that has several EOS writes the first.
    fn special_ids(&self) -> Result<(SpecialIds, u32)> {
        let spec = &self.spec;
        let vocab = u32::try_from(spec.vocab_size)
            .map_err(|_| Error::data(format!("a vocabulary of {} is not supported", spec.vocab_size)))?;
        Ok((SpecialIds { bos: spec.bos, eos: spec.eos.first().copied(), pad: spec.pad }, vocab))
    }

    /// What stands for a tokenizer where the corpus is token ids.
    pub fn tokenizer_for_ids(&self) -> Result<Tokenizer> {
        let (ids, vocab) = self.special_ids()?;
        Tokenizer::none(ids, vocab)
    }

    /// The model's tokenizer, if it has one.
    pub fn tokenizer(&self) -> Result<Option<Tokenizer>> {
        let (ids, vocab) = self.special_ids()?;
        if let Some(gguf) = &self.gguf {
            let context = |e: Error| e.context(format!("read the tokenizer of `{}`", self.folder.display()));
            let json = gguf.tokenizer_json().map_err(context)?.to_string();
            let files = self.token_files()?;
            return Tokenizer::from_json(json.as_bytes(), &files, ids, vocab).map_err(context).map(Some);
        }
        self.tokenizer_file().map(|file| Tokenizer::load(&file, ids, vocab)).transpose()
    }

    /// Bytes of `tokenizer.json`, or of what it would be.
    pub fn tokenizer_bytes(&self) -> u64 {
        match &self.gguf {
            Some(gguf) => gguf.tokenizer_json().map_or(0, |json| json.to_string().len() as u64),
            None => self.tokenizer_file().and_then(|file| file.metadata().ok()).map_or(0, |file| file.len()),
        }
    }

    /// What the model's files say of tokens; a GGUF file says what its folder's files would.
    pub fn token_files(&self) -> Result<ModelFiles> {
        let Some(gguf) = &self.gguf else { return ModelFiles::read(&self.folder) };
        let object = |json: Value| json.as_object().cloned().unwrap_or_default();
        let (config, tokenizer) = (object(gguf.config()?), object(gguf.tokenizer_config()?));
        Ok(ModelFiles { config, tokenizer, ..ModelFiles::default() })
    }

    /// Digests of the model's files. The first call reads all weights.
    pub fn fingerprint(&self) -> Result<&Fingerprint> {
        if let Some(fingerprint) = self.fingerprint.get() {
            return Ok(fingerprint);
        }
        if self.gguf.is_some() {
            let digest = sha256_of(&self.folder)?;
            let fingerprint = Fingerprint { config: digest.clone(), weights: digest.clone(), tokenizer: Some(digest) };
            return Ok(self.fingerprint.get_or_init(|| fingerprint));
        }
        let fingerprint = Fingerprint {
            config: sha256_of(&self.folder.join("config.json"))?,
            weights: sha256_of_files(&self.weight_files)?,
            tokenizer: self.tokenizer_file().map(|path| sha256_of(&path)).transpose()?,
        };
        Ok(self.fingerprint.get_or_init(|| fingerprint))
    }
}

/// What `config.json` says. How the weights are stored is checked here and is no part of it.
fn specification(config: &mut Value) -> Result<ModelSpec> {
    let stored = config.as_object_mut().and_then(|config| config.remove("quantization_config"));
    if let Some(stored) = stored.filter(|stored| !stored.is_null()) {
        check_quantization(&stored)?;
    }
    ModelSpec::parse(config)
}

/// `model.safetensors`, or the files that `model.safetensors.index.json` names, or the only `*.safetensors` there is.
fn find_weights(folder: &Path) -> Result<Vec<PathBuf>> {
    let single = folder.join("model.safetensors");
    if single.is_file() {
        return Ok(vec![single]);
    }
    let index = folder.join("model.safetensors.index.json");
    if index.is_file() {
        return indexed_weights(folder, &index);
    }
    let entries = std::fs::read_dir(folder).map_err(|e| Error::io("list", folder, e))?;
    let mut found: Vec<PathBuf> = Vec::new();
    for entry in entries {
        let path = entry.map_err(|e| Error::io("list", folder, e))?.path();
        if path.extension().is_some_and(|extension| extension == "safetensors") {
            found.push(path);
        }
    }
    match found.len() {
        1 => Ok(found),
        0 => Err(Error::data(format!(
            "model folder `{}` has no *.safetensors file: convert other formats to safetensors first",
            folder.display()
        ))),
        n => Err(Error::data(format!(
            "model folder `{}` has {n} *.safetensors files but no model.safetensors.index.json to say which belong together",
            folder.display()
        ))),
    }
}

fn indexed_weights(folder: &Path, index: &Path) -> Result<Vec<PathBuf>> {
    let wrong = || Error::data(format!("`{}` has no usable `weight_map`", index.display()));
    let json = read_json(index)?;
    let map = json.get("weight_map").and_then(Value::as_object).ok_or_else(wrong)?;
    let names: Option<BTreeSet<&str>> = map.values().map(Value::as_str).collect();
    let names = names.filter(|names| !names.is_empty()).ok_or_else(wrong)?;
    let mut files = Vec::new();
    for name in names {
        if Path::new(name).file_name().is_none_or(|file| file != name) {
            return Err(Error::data(format!("`{}` names `{name}`, which is not a plain file name", index.display())));
        }
        if !folder.join(name).is_file() {
            return Err(Error::data(format!("`{}` names `{name}`, which is not there", index.display())));
        }
        files.push(folder.join(name));
    }
    Ok(files)
}

fn read_json(path: &Path) -> Result<Value> {
    let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
    let mut text = Vec::new();
    file.take(JSON_BYTES_MAX + 1).read_to_end(&mut text).map_err(|e| Error::io("read", path, e))?;
    if text.len() as u64 > JSON_BYTES_MAX {
        return Err(Error::data(format!("`{}` has more than {JSON_BYTES_MAX} bytes", path.display())));
    }
    serde_json::from_slice(&text).or_kind(ErrorKind::Data, || format!("cannot parse `{}`", path.display()))
}

fn sha256_of(path: &Path) -> Result<String> {
    let mut file = File::open(path).map_err(|e| Error::io("open", path, e))?;
    let mut hasher = Sha256::new();
    std::io::copy(&mut file, &mut hasher).map_err(|e| Error::io("read", path, e))?;
    Ok(hex(&hasher.finalize()))
}

fn sha256_of_files(files: &[PathBuf]) -> Result<String> {
    if let [file] = files {
        return sha256_of(file);
    }
    let mut lines = Sha256::new();
    for file in files {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        lines.update(format!("{}  {name}\n", sha256_of(file)?));
    }
    Ok(hex(&lines.finalize()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str =
        r#"{"model_type": "gpt2", "n_embd": 8, "n_head": 2, "n_layer": 1, "vocab_size": 9, "n_positions": 4}"#;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        folder
    }

    fn open(folder: &tempfile::TempDir) -> Result<ModelSource> {
        ModelSource::open(folder.path().to_str().unwrap())
    }

    fn file_names(source: &ModelSource) -> Vec<String> {
        source.weight_files().iter().map(|p| p.file_name().unwrap().to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn a_hub_name_or_missing_folder_is_a_config_error_that_says_what_to_do() {
        let e = ModelSource::open("hf://gpt2").unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Config);
        assert!(e.to_string().contains("give its folder"), "{e}");
        assert_eq!(ModelSource::open("/no/such/folder").unwrap_err().kind(), ErrorKind::Config);
    }

    #[test]
    fn weights_are_one_file_or_those_of_the_index() {
        let single = folder(&[("config.json", CONFIG), ("model.safetensors", ""), ("other.safetensors", "")]);
        assert_eq!(file_names(&open(&single).unwrap()), ["model.safetensors"]);
        let index = r#"{"weight_map": {"a": "m-2.safetensors", "b": "m-1.safetensors", "c": "m-2.safetensors"}}"#;
        let sharded = folder(&[
            ("config.json", CONFIG),
            ("model.safetensors.index.json", index),
            ("m-1.safetensors", ""),
            ("m-2.safetensors", ""),
        ]);
        assert_eq!(file_names(&open(&sharded).unwrap()), ["m-1.safetensors", "m-2.safetensors"]);
        let odd_name = folder(&[("config.json", CONFIG), ("weights.safetensors", "")]);
        assert_eq!(file_names(&open(&odd_name).unwrap()), ["weights.safetensors"]);
    }

    #[test]
    fn unclear_or_unsafe_weights_are_refused() {
        for (files, word) in [
            (vec![("config.json", CONFIG)], "no *.safetensors"),
            (vec![("config.json", CONFIG), ("a.safetensors", ""), ("b.safetensors", "")], "belong together"),
            (
                vec![("config.json", CONFIG), ("model.safetensors.index.json", r#"{"weight_map": {"a": "../x"}}"#)],
                "plain file name",
            ),
            (vec![("config.json", CONFIG), ("model.safetensors.index.json", r#"{"weight_map": {}}"#)], "weight_map"),
            (
                vec![("config.json", CONFIG), ("model.safetensors.index.json", r#"{"weight_map": {"a": "gone"}}"#)],
                "`gone`, which is not there",
            ),
            (vec![("config.json", "{")], "parse"),
            (vec![], "config.json"),
        ] {
            let e = open(&folder(&files)).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Data);
            assert!(e.to_string().contains(word), "{e}");
        }
    }

    #[test]
    fn fingerprints_are_what_sha256sum_prints() {
        let single = folder(&[("config.json", CONFIG), ("model.safetensors", "abc"), ("tokenizer.json", "")]);
        let source = open(&single).unwrap();
        let fingerprint = source.fingerprint().unwrap();
        assert_eq!(fingerprint.weights, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(fingerprint.tokenizer.as_deref(), Some(empty));

        let index = r#"{"weight_map": {"a": "a.safetensors", "b": "b.safetensors"}}"#;
        let files = [
            ("config.json", CONFIG),
            ("model.safetensors.index.json", index),
            ("a.safetensors", ""),
            ("b.safetensors", ""),
        ];
        let gone = folder(&files);
        let source = open(&gone).unwrap();
        drop(gone);
        assert_eq!(source.fingerprint().unwrap_err().kind(), ErrorKind::Data, "the folder is gone");
        let kept = folder(&files);
        let weights = open(&kept).unwrap().fingerprint().unwrap().weights.clone();
        assert_eq!(weights, hex(&Sha256::digest(format!("{empty}  a.safetensors\n{empty}  b.safetensors\n"))));
    }
}
