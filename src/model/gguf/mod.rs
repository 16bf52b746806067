//! GGUF files: models with their configuration and tokenizer in one file, as llama.cpp stores them.
//!
//! [`Gguf::read`] reads the head of a file, [`Gguf::config`] says what Hugging Face's `config.json` of the model would say,
//! [`Gguf::tensors`] gives its tensors Hugging Face's names and layouts, and [`Gguf::tokenizer_json`] is its tokenizer as a
//! `tokenizer.json`. What has no counterpart there is an error that names it. Files are not trusted.

mod config;
mod header;
mod metadata;
mod names;
mod pre_tokenizer;
pub mod quants;
mod rope;
mod tokenizer;

use std::io::Read;

use serde_json::Value as Json;

use crate::error::Result;
pub use crate::model::gguf::header::TensorInfo;
pub use crate::model::gguf::metadata::{Metadata, Value};
use crate::model::weights::{DataFile, Tensor};

/// The first bytes of each GGUF file.
const MAGIC: [u8; 4] = *b"GGUF";

/// The head of a GGUF file.
#[derive(Clone, Debug)]
pub struct Gguf {
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    /// What each rotary frequency is divided by, if the file says so.
    rope_factors: Option<Vec<f32>>,
}

/// Whether `file` is a GGUF file.
pub fn is_gguf(file: &DataFile) -> Result<bool> {
    let mut magic = [0; 4];
    if file.len() < magic.len() as u64 {
        return Ok(false);
    }
    file.read_at(0, &mut magic)?;
    Ok(magic == MAGIC)
}

impl Gguf {
    /// The head of `file`.
    pub fn read(file: &DataFile) -> Result<Self> {
        let context = |e: crate::error::Error| e.context(format!("cannot read `{}`", file.path().display()));
        let mut gguf = Self::read_from(file.reader(), file.len()).map_err(context)?;
        gguf.rope_factors = rope::read_factors(&gguf, file).map_err(context)?;
        Ok(gguf)
    }

    /// The head of a file of `len` bytes that `reader` begins with; factors of rotary frequencies are not read.
    pub fn read_from(reader: impl Read, len: u64) -> Result<Self> {
        header::read(reader, len)
    }

    /// Key-value pairs.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Tensors as they are stored, in the order of the file.
    pub fn infos(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// What `config.json` would hold.
    pub fn config(&self) -> Result<Json> {
        config::config(self)
    }

    /// Tensors by Hugging Face's names; the file will be number `file`.
    pub fn tensors(&self, file: usize) -> Result<Vec<(String, Tensor)>> {
        names::tensors(self, file)
    }

    /// What `tokenizer.json` would hold.
    pub fn tokenizer_json(&self) -> Result<Json> {
        tokenizer::tokenizer(self)
    }

    /// What matters of `tokenizer_config.json`: the texts of special tokens, whether BOS and EOS are added, and the chat
    /// template.
    pub fn tokenizer_config(&self) -> Result<Json> {
        tokenizer::tokenizer_config(self)
    }

    /// The chat template, if there is one.
    pub fn chat_template(&self) -> Result<Option<&str>> {
        self.metadata.text("tokenizer.chat_template")
    }

    /// llama.cpp's name of the architecture.
    fn architecture(&self) -> Result<&str> {
        let name = self.metadata.text("general.architecture")?;
        name.ok_or_else(|| crate::error::Error::data("metadata `general.architecture` is missing"))
    }

    /// The tensor that is stored as `name`.
    fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }
}

#[cfg(test)]
mod tests;
