//! Coders as folders of other tools: SAELens, sparsify, dictionary_learning, circuit-tracer.
//!
//! One file a format, each between [`ExportedCoder`] (raw space, f32) and bytes of files. Nothing here touches a disk.

pub mod circuit_tracer;
pub mod dictionary_learning;
mod fold;
pub mod saelens;
pub mod sparsify;
pub mod tensors;

use serde_json::Value;

use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::sae::export::ExportedCoder;

/// Files of a folder: (name, bytes).
pub type Files = Vec<(String, Vec<u8>)>;

/// A format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `sae_lens.SAE.load_from_disk` reads it.
    Saelens,
    /// `sparsify.SparseCoder.load_from_disk` reads it.
    Sparsify,
    /// `dictionary_learning` reads it after a script that is in the folder has run.
    DictionaryLearning,
    /// circuit-tracer reads it: a transcoder across layers, or one for every layer ([`circuit_tracer::write`]).
    CircuitTracer,
}

/// Files that [`read`] wants of a folder, as far as they are there.
pub const READ_FILES: [&str; 4] =
    [saelens::CONFIG_FILE, saelens::WEIGHTS_FILE, saelens::SCALER_FILE, sparsify::WEIGHTS_FILE];

impl Format {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Saelens, Self::Sparsify, Self::DictionaryLearning, Self::CircuitTracer];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Saelens => "SAELens",
            Self::Sparsify => "sparsify",
            Self::DictionaryLearning => "dictionary_learning",
            Self::CircuitTracer => "circuit-tracer",
        }
    }

    /// The files of a coder, its configuration among them; `None` for a coder that the format cannot hold.
    ///
    /// # Errors
    /// `Config` for a coder whose sites the format cannot name.
    pub fn write(self, coder: &ExportedCoder) -> Result<Option<Files>> {
        match self {
            Self::Saelens if coder.saelens_name().is_none() => Ok(None),
            Self::Saelens => saelens::write(coder).map(Some),
            Self::Sparsify => sparsify::write(coder),
            Self::DictionaryLearning => dictionary_learning::write(coder),
            Self::CircuitTracer => circuit_tracer::write(std::slice::from_ref(coder)),
        }
    }
}

/// Read a folder of SAELens or sparsify, told apart by its weights: of [`READ_FILES`], those that it has.
///
/// # Errors
/// `Data`, naming what is missing, damaged or not known.
pub fn read(files: &[(String, Vec<u8>)]) -> Result<ExportedCoder> {
    if files.iter().any(|(name, _)| name == sparsify::WEIGHTS_FILE) {
        return sparsify::read(files);
    }
    saelens::read(files)
}

/// The file `name`.
fn find<'a>(files: &'a [(String, Vec<u8>)], name: &str) -> Result<&'a [u8]> {
    let file = files.iter().find(|(n, _)| n == name);
    file.map(|(_, bytes)| bytes.as_slice()).ok_or_else(|| Error::data(format!("the coder has no {name}")))
}

/// A folder's configuration.
struct Config<'a> {
    file: &'static str,
    value: &'a Value,
}

impl Config<'_> {
    /// A number that must be above 0.
    fn positive(&self, key: &str) -> Result<usize> {
        let found = self.value.get(key).and_then(Value::as_u64).filter(|&n| n > 0);
        let found = found.and_then(|n| usize::try_from(n).ok());
        found.ok_or_else(|| Error::data(format!("{}: `{key}` is not a positive number", self.file)))
    }
}

fn parse(files: &[(String, Vec<u8>)], name: &'static str) -> Result<Value> {
    serde_json::from_slice(find(files, name)?).or_kind(ErrorKind::Data, || format!("read {name}"))
}

#[cfg(test)]
mod tests;
