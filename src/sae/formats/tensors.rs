//! Tensors of coders' files: read from whatever floats they are, written as f32.

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

use crate::error::{Error, ErrorKind, Result, ResultExt};

/// A safetensors file of coders, opened.
pub(crate) struct Tensors<'a> {
    tensors: SafeTensors<'a>,
}

impl<'a> Tensors<'a> {
    /// Open the bytes of the file `name`.
    ///
    /// # Errors
    /// `Data` if it is damaged.
    pub(crate) fn open(name: &str, bytes: &'a [u8]) -> Result<Self> {
        let tensors = SafeTensors::deserialize(bytes).or_kind(ErrorKind::Data, || format!("read {name}"))?;
        Ok(Self { tensors })
    }

    /// Whether there is a tensor `name`.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.tensors.tensor(name).is_ok()
    }

    /// The values of the tensor `name`, which must be floats of this shape.
    ///
    /// # Errors
    /// `Data` if it is missing, of another shape or no floats.
    pub(crate) fn floats(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let view = self.tensors.tensor(name).or_kind(ErrorKind::Data, || format!("read tensor `{name}`"))?;
        if view.shape() != shape {
            let (dtype, found) = (view.dtype(), view.shape());
            return Err(Error::data(format!("tensor `{name}` is {dtype:?} {found:?}: expected floats {shape:?}")));
        }
        let data = view.data();
        let halves = || data.chunks_exact(2).map(|b| [b[0], b[1]]);
        Ok(match view.dtype() {
            Dtype::F32 => singles(data),
            Dtype::F16 => halves().map(|b| half::f16::from_le_bytes(b).to_f32()).collect(),
            Dtype::BF16 => halves().map(|b| half::bf16::from_le_bytes(b).to_f32()).collect(),
            Dtype::F64 => {
                let doubles = data.chunks_exact(8);
                doubles.map(|b| f64::from_le_bytes(b.try_into().expect("chunks of eight bytes")) as f32).collect()
            }
            other => {
                return Err(Error::data(format!("tensor `{name}` is {other:?}: expected F32, F16, BF16 or F64")));
            }
        })
    }
}

/// The values of an f32 tensor of a given shape.
///
/// # Errors
/// `Data` if it is missing or another.
pub fn f32_tensor(tensors: &SafeTensors<'_>, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
    let view = tensors.tensor(name).or_kind(ErrorKind::Data, || format!("read tensor `{name}`"))?;
    if view.dtype() != Dtype::F32 || view.shape() != shape {
        let (dtype, found) = (view.dtype(), view.shape());
        return Err(Error::data(format!("tensor `{name}` is {dtype:?} {found:?}: expected F32 {shape:?}")));
    }
    Ok(singles(view.data()))
}

fn singles(data: &[u8]) -> Vec<f32> {
    data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// The bytes of the file `name` with f32 tensors.
///
/// # Errors
/// `Internal` only.
pub(crate) fn file(name: &str, tensors: &[(&str, Vec<usize>, &[f32])]) -> Result<Vec<u8>> {
    let views: Result<Vec<_>> = tensors
        .iter()
        .map(|(tensor, shape, values)| {
            let view = TensorView::new(Dtype::F32, shape.clone(), bytemuck::cast_slice(values))
                .or_kind(ErrorKind::Internal, || format!("write tensor `{tensor}`"))?;
            Ok((*tensor, view))
        })
        .collect();
    safetensors::serialize(views?, None).or_kind(ErrorKind::Internal, || format!("write {name}"))
}

/// `[rows, columns]` to `[columns, rows]`, by blocks that stay in cache.
pub(crate) fn transposed(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    const BLOCK: usize = 32;
    let mut out = vec![0.0; values.len()];
    for row0 in (0..rows).step_by(BLOCK) {
        for column0 in (0..columns).step_by(BLOCK) {
            for row in row0..rows.min(row0 + BLOCK) {
                for column in column0..columns.min(column0 + BLOCK) {
                    out[column * rows + row] = values[row * columns + column];
                }
            }
        }
    }
    out
}
