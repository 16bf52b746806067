//! Tensors of safetensors files, read through memory maps and widened to f32.
//!
//! Names are compared without the prefix (`model.`, `transformer.`, `gpt_neox.`) by which a language model names its base model.
//! A loader asks for every tensor it knows with the shape it expects; [`Weights::finish`] then reports what was missing,
//! misshapen or never asked for, all at once. A tensor that nobody reads means another architecture than we believe.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use half::slice::HalfFloatSliceExt;
use memmap2::Mmap;
use safetensors::tensor::{Dtype, SafeTensors, TensorInfo};

use crate::error::{Error, ErrorKind, Result, ResultExt};

/// Problems listed in one message, at most.
const SHOWN: usize = 8;

/// The tensors of a model's files.
pub struct Weights {
    files: Vec<MappedFile>,
    tensors: BTreeMap<String, Tensor>,
    problems: Vec<String>,
}

struct MappedFile {
    path: PathBuf,
    map: Mmap,
    /// Where tensor data starts.
    data: usize,
}

struct Tensor {
    /// Index into `Weights::files`.
    file: usize,
    info: TensorInfo,
    taken: bool,
}

impl Weights {
    /// Map `files` and read their headers.
    pub fn open(files: &[PathBuf]) -> Result<Self> {
        let mut weights = Self { files: Vec::new(), tensors: BTreeMap::new(), problems: Vec::new() };
        for path in files {
            weights.add_file(path)?;
        }
        Ok(weights)
    }

    fn add_file(&mut self, path: &Path) -> Result<()> {
        let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
        // SAFETY: a map is undefined behaviour if the file is truncated or rewritten while it is read. Weights are not
        // written by this program, and the map lives only while the model loads. Like every reader of safetensors we rely
        // on nobody replacing a file in place; a rename over it is harmless.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io("map", path, e))?;
        let (header, metadata) = SafeTensors::read_metadata(&map)
            .or_kind(ErrorKind::Data, || format!("cannot read the safetensors header of `{}`", path.display()))?;
        for (name, info) in metadata.tensors() {
            let tensor = Tensor { file: self.files.len(), info: info.clone(), taken: false };
            if self.tensors.insert(base_name(&name).to_owned(), tensor).is_some() {
                return Err(Error::data(format!("tensor `{name}` of `{}` is there twice", path.display())));
            }
        }
        self.files.push(MappedFile { path: path.to_owned(), map, data: header + 8 });
        Ok(())
    }

    /// The values of tensor `name`, row-major. Empty if it cannot be had: then [`Weights::finish`] says why.
    pub fn tensor(&mut self, name: &str, shape: &[usize]) -> Vec<f32> {
        let Some(tensor) = self.tensors.get_mut(name) else {
            self.problems.push(format!("`{name}` {shape:?} is missing"));
            return Vec::new();
        };
        tensor.taken = true;
        let info = &tensor.info;
        if info.shape != shape {
            self.problems.push(format!("`{name}` has shape {:?} where the configuration says {shape:?}", info.shape));
            return Vec::new();
        }
        let file = &self.files[tensor.file];
        let bytes = &file.map[file.data + info.data_offsets.0..file.data + info.data_offsets.1];
        match info.dtype {
            Dtype::F32 => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            Dtype::F16 => widened(bytes, half::f16::from_bits, |from, to| from.convert_to_f32_slice(to)),
            Dtype::BF16 => widened(bytes, half::bf16::from_bits, |from, to| from.convert_to_f32_slice(to)),
            other => {
                let path = file.path.display();
                self.problems.push(format!("`{name}` in `{path}` has dtype {other}: there are F32, F16 and BF16"));
                Vec::new()
            }
        }
    }

    /// As [`Weights::tensor`], of a tensor stored as `[columns, rows]`: its transpose, `[rows, columns]`.
    pub fn transposed(&mut self, name: &str, rows: usize, columns: usize) -> Vec<f32> {
        let stored = self.tensor(name, &[columns, rows]);
        if stored.is_empty() {
            return stored;
        }
        (0..rows * columns).map(|at| stored[at % columns * rows + at / columns]).collect()
    }

    /// Check that every tensor asked for was there, and that every tensor there was asked for or is `harmless` (by its name
    /// without prefix).
    pub fn finish(mut self, harmless: impl Fn(&str) -> bool) -> Result<()> {
        for (name, tensor) in &self.tensors {
            if !tensor.taken && !harmless(name) {
                self.problems.push(format!("`{name}` {:?} is not part of this architecture", tensor.info.shape));
            }
        }
        if self.problems.is_empty() {
            return Ok(());
        }
        let more = match self.problems.len().saturating_sub(SHOWN) {
            0 => String::new(),
            n => format!("; and {n} more"),
        };
        let path = self.files.first().map_or(Path::new(""), |file| &file.path);
        self.problems.truncate(SHOWN);
        Err(Error::data(format!(
            "weights at `{}` do not fit config.json: {}{more}",
            path.display(),
            self.problems.join("; ")
        )))
    }
}

/// Without the prefix of the base model.
fn base_name(name: &str) -> &str {
    ["model.", "transformer.", "gpt_neox."].iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name)
}

/// Little-endian 16-bit floats to f32, in blocks that stay in the cache (the bytes may be unaligned).
fn widened<T: Copy + Default>(bytes: &[u8], read: impl Fn(u16) -> T, convert: impl Fn(&[T], &mut [f32])) -> Vec<f32> {
    const BLOCK: usize = 4096;
    let mut block = [T::default(); BLOCK];
    let mut values = vec![0.0; bytes.len() / 2];
    for (to, from) in values.chunks_mut(BLOCK).zip(bytes.chunks(2 * BLOCK)) {
        let block = &mut block[..to.len()];
        for (value, bytes) in block.iter_mut().zip(from.as_chunks().0) {
            *value = read(u16::from_le_bytes(*bytes));
        }
        convert(block, to);
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    use safetensors::tensor::TensorView;

    fn file(folder: &tempfile::TempDir, name: &str, tensors: &[(&str, Dtype, Vec<usize>, Vec<u8>)]) -> PathBuf {
        let path = folder.path().join(name);
        let views = tensors
            .iter()
            .map(|(name, dtype, shape, bytes)| (*name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
        safetensors::serialize_to_file(views, None, &path).unwrap();
        path
    }

    fn f32_bytes(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|x| x.to_le_bytes()).collect()
    }

    #[test]
    fn every_dtype_widens_exactly_and_prefixes_do_not_matter() {
        let folder = tempfile::tempdir().unwrap();
        let n = 5000; // more than one block
        let halves: Vec<u8> = (0..n).flat_map(|i| half::f16::from_f32((i % 2000) as f32 / 8.0).to_le_bytes()).collect();
        let brains: Vec<u8> = (0..n).flat_map(|i| half::bf16::from_f32((i % 256) as f32).to_le_bytes()).collect();
        let a = file(&folder, "a", &[("model.x", Dtype::F32, vec![2, 3], f32_bytes(&[1., 2., 3., 4., 5., 6.]))]);
        let b =
            file(&folder, "b", &[("transformer.y", Dtype::F16, vec![n], halves), ("z", Dtype::BF16, vec![n], brains)]);
        let mut weights = Weights::open(&[a, b]).unwrap();
        assert_eq!(weights.transposed("x", 3, 2), [1., 4., 2., 5., 3., 6.]);
        assert!(weights.tensor("y", &[n]).into_iter().eq((0..n).map(|i| (i % 2000) as f32 / 8.0)));
        assert!(weights.tensor("z", &[n]).into_iter().eq((0..n).map(|i| (i % 256) as f32)));
        weights.finish(|_| false).unwrap();
    }

    #[test]
    fn all_misfits_are_reported_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let one = || f32_bytes(&[1.0]);
        let path = file(
            &folder,
            "w",
            &[
                ("shape", Dtype::F32, vec![1], one()),
                ("dtype", Dtype::I32, vec![1], one()),
                ("extra", Dtype::F32, vec![1], one()),
                ("buffer", Dtype::F32, vec![1], one()),
            ],
        );
        let mut weights = Weights::open(&[path]).unwrap();
        assert!(weights.tensor("shape", &[2]).is_empty());
        assert!(weights.tensor("dtype", &[1]).is_empty());
        assert!(weights.tensor("missing", &[1]).is_empty());
        let e = weights.finish(|name| name == "buffer").unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Data);
        for word in ["`shape` has shape [1]", "I32", "`missing` [1] is missing", "`extra` [1] is not part"] {
            assert!(e.to_string().contains(word), "{word}: {e}");
        }
        assert!(!e.to_string().contains("buffer"), "{e}");
    }

    #[test]
    fn broken_files_are_data_errors() {
        let folder = tempfile::tempdir().unwrap();
        let good = file(&folder, "good", &[("x", Dtype::F32, vec![4], f32_bytes(&[1., 2., 3., 4.]))]);
        let bytes = std::fs::read(&good).unwrap();
        for len in [0, 4, 20, bytes.len() - 1] {
            let path = folder.path().join(format!("cut-{len}"));
            std::fs::write(&path, &bytes[..len]).unwrap();
            let e = Weights::open(&[path]).err().expect("a cut file is refused");
            assert!(e.to_string().contains("cut-"), "{e}");
        }
        let twice = file(&folder, "twice", &[("model.x", Dtype::F32, vec![1], f32_bytes(&[1.0]))]);
        assert!(Weights::open(&[good, twice]).err().unwrap().to_string().contains("twice"));
        assert_eq!(Weights::open(&[folder.path().join("none")]).err().unwrap().kind(), ErrorKind::Data);
    }
}
