//! Tensors of a model's files, read when they are asked for.
//!
//! Opening reads headers only; each tensor is then read by position and widened to f32 piece by piece, so memory holds
//! what was asked for and a piece. Names are compared without the prefix (`model.`, `transformer.`) by which a language
//! model names its base model. A GGUF file's tensors go by Hugging Face's names and layouts.
//!
//! A loader asks for every tensor it knows with the shape it expects; [`Weights::finish`] then reports what was missing,
//! misshapen or never asked for, all at once. A tensor that nobody reads means another architecture than we believe.
//! Files are not trusted: sizes, offsets and types are checked before anything is allocated by them.

pub mod encoding;
mod file;
mod fp8;
mod layout;
pub mod safetensors;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::model::gguf::{self, Gguf};
use encoding::Encoding;
pub use file::DataFile;
use fp8::Scales;
pub use fp8::check_quantization;
pub use layout::Layout;

/// Problems listed in one message, at most.
const SHOWN: usize = 8;

/// The tensors of a model's files.
pub struct Weights {
    files: Vec<DataFile>,
    tensors: BTreeMap<String, Tensor>,
    problems: Vec<String>,
    /// The first tensor that could not be read though its file said it was there.
    failure: Option<Error>,
}

/// Where a tensor is, and how.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Index of its file.
    pub file: usize,
    /// Hugging Face's shape.
    pub shape: Vec<usize>,
    /// How its values are stored; or a type that cannot be read.
    pub encoding: std::result::Result<Encoding, String>,
    /// Of its first byte in the file.
    pub offset: u64,
    /// The order of its rows.
    pub layout: Layout,
    /// Whether one was added to its values (Gemma's norms in GGUF).
    pub plus_one: bool,
    /// Factors, where the values alone mean nothing.
    pub scale: Option<Box<Tensor>>,
    /// Whether somebody has asked for it.
    pub taken: bool,
}

/// How many numbers a model's weights hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WeightCount {
    /// In matrices.
    pub matrices: u64,
    /// In vectors.
    pub vectors: u64,
}

impl WeightCount {
    /// All of them.
    pub fn values(self) -> u64 {
        self.matrices + self.vectors
    }

    /// What they take in memory, in bytes, if a number of a matrix takes `matrix_value` bytes; vectors are kept as f32.
    pub fn bytes(self, matrix_value: u64) -> u64 {
        matrix_value.saturating_mul(self.matrices).saturating_add(self.vectors.saturating_mul(4))
    }
}

impl Weights {
    /// Open `files`, safetensors or GGUF, and read their headers.
    pub fn open(files: &[PathBuf]) -> Result<Self> {
        let mut weights = Self { files: Vec::new(), tensors: BTreeMap::new(), problems: Vec::new(), failure: None };
        for path in files {
            let file = DataFile::open(path)?;
            let tensors = if gguf::is_gguf(&file)? {
                Gguf::read(&file)?.tensors(weights.files.len())?
            } else {
                safetensors_of(&file, weights.files.len())?
            };
            for (name, tensor) in tensors {
                if weights.tensors.insert(base_name(&name).to_owned(), tensor).is_some() {
                    return Err(Error::data(format!("tensor `{name}` of `{}` is there twice", path.display())));
                }
            }
            weights.files.push(file);
        }
        fp8::attach_scales(&mut weights.tensors);
        Ok(weights)
    }

    /// The numbers of all tensors but those that are `harmless`, as [`Weights::finish`] has it. Headers say it; no values
    /// are read.
    pub fn count(&self, harmless: impl Fn(&str) -> bool) -> WeightCount {
        let mut count = WeightCount::default();
        for (_, tensor) in self.tensors.iter().filter(|(name, _)| !harmless(name)) {
            let values = tensor.shape.iter().fold(1u64, |n, &len| n.saturating_mul(len as u64));
            let sum = if tensor.shape.len() > 1 { &mut count.matrices } else { &mut count.vectors };
            *sum = sum.saturating_add(values);
        }
        count
    }

    /// Whether there is a tensor `name`.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(base_name(name))
    }

    /// The values of tensor `name`, row-major. Empty if it cannot be had: then [`Weights::finish`] says why.
    pub fn tensor(&mut self, name: &str, shape: &[usize]) -> Vec<f32> {
        self.take(name, shape).and_then(|tensor| self.read(&tensor, name)).unwrap_or_default()
    }

    /// As [`Weights::tensor`], of a tensor stored as `[columns, rows]`: its transpose, `[rows, columns]`.
    pub fn transposed(&mut self, name: &str, rows: usize, columns: usize) -> Vec<f32> {
        let Some(mut tensor) = self.take(name, &[columns, rows]) else { return Vec::new() };
        if tensor.layout == Layout::Transposed {
            tensor.layout = Layout::Same;
            return self.read(&tensor, name).unwrap_or_default();
        }
        self.read(&tensor, name).map(|stored| layout::transposed(&stored, rows, columns)).unwrap_or_default()
    }

    /// The tensor `name` if it has `shape` and can be read.
    fn take(&mut self, name: &str, shape: &[usize]) -> Option<Tensor> {
        let Some(tensor) = self.tensors.get_mut(base_name(name)) else {
            self.problems.push(format!("`{name}` {shape:?} is missing"));
            return None;
        };
        tensor.taken = true;
        if tensor.shape != shape {
            let found = &tensor.shape;
            self.problems.push(format!("`{name}` has shape {found:?} where the configuration says {shape:?}"));
            return None;
        }
        if let Err(stored) = &tensor.encoding {
            let path = self.files[tensor.file].path().display();
            self.problems.push(format!("`{name}` in `{path}` has dtype {stored}, which is not supported"));
            return None;
        }
        Some(tensor.clone())
    }

    /// The values of `tensor`. A failure is kept for [`Weights::finish`].
    fn read(&mut self, tensor: &Tensor, name: &str) -> Option<Vec<f32>> {
        match self.try_read(tensor) {
            Ok(values) => Some(values),
            Err(e) => {
                self.failure.get_or_insert(e.context(format!("read tensor `{name}`")));
                None
            }
        }
    }

    fn try_read(&self, tensor: &Tensor) -> Result<Vec<f32>> {
        let encoding = tensor.encoding.clone().map_err(|stored| Error::data(format!("dtype {stored}")))?;
        let scales = match &tensor.scale {
            Some(scale) => Scales::new(&tensor.shape, &scale.shape, self.try_read(scale)?),
            None => None,
        };
        let (block, block_bytes) = encoding.block();
        let mut values = vec![0.0; tensor.shape.iter().product()];
        let units = values.len() / block;
        self.files[tensor.file].read_pieces(tensor.offset, units, block_bytes, |first, bytes| {
            let first = first * block;
            let to = &mut values[first..][..bytes.len() / block_bytes * block];
            encoding.decode(bytes, to);
            if let Some(scales) = &scales {
                scales.apply(first, to);
            }
            if tensor.plus_one {
                to.iter_mut().for_each(|value| *value -= 1.0);
            }
        })?;
        Ok(tensor.layout.restore(values, &tensor.shape))
    }

    /// Check that every tensor asked for was there, and that every tensor there was asked for or is `harmless` (by its name
    /// without prefix).
    pub fn finish(mut self, harmless: impl Fn(&str) -> bool) -> Result<()> {
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        for (name, tensor) in &self.tensors {
            if !tensor.taken && !harmless(name) {
                self.problems.push(format!("`{name}` {:?} is not part of this architecture", tensor.shape));
            }
        }
        if self.problems.is_empty() {
            return Ok(());
        }
        let more = match self.problems.len().saturating_sub(SHOWN) {
            0 => String::new(),
            n => format!("; and {n} more"),
        };
        let path = self.files.first().map_or(Path::new(""), DataFile::path);
        self.problems.truncate(SHOWN);
        Err(Error::data(format!(
            "weights at `{}` do not fit config.json: {}{more}",
            path.display(),
            self.problems.join("; ")
        )))
    }
}

/// The tensors of a safetensors file, which will be number `index`.
fn safetensors_of(file: &DataFile, index: usize) -> Result<Vec<(String, Tensor)>> {
    let header = safetensors::read_header(&mut file.reader(), file.len())
        .map_err(|e| e.context(format!("cannot read the safetensors header of `{}`", file.path().display())))?;
    let tensors = header.into_iter().map(|info| {
        let encoding = info.encoding().ok_or_else(|| info.dtype.clone());
        (info.name, Tensor::new(index, info.shape, encoding, info.offset))
    });
    Ok(tensors.collect())
}

impl Tensor {
    /// A tensor that is stored as Hugging Face does.
    pub fn new(file: usize, shape: Vec<usize>, encoding: std::result::Result<Encoding, String>, offset: u64) -> Self {
        Self { file, shape, encoding, offset, layout: Layout::Same, plus_one: false, scale: None, taken: false }
    }
}

/// Without the prefix of the base model.
fn base_name(name: &str) -> &str {
    let prefixes = ["model.", "transformer.", "gpt_neox."];
    prefixes.iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name)
}

#[cfg(test)]
mod tests;
