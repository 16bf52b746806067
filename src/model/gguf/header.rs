//! The head of a GGUF file: metadata, then the description of each tensor, then aligned data.

use std::io::Read;

use crate::error::{Error, Result};
use crate::model::gguf::Gguf;
use crate::model::gguf::metadata::{Cursor, Metadata};
use crate::model::weights::encoding::Encoding;

/// Dimensions of a tensor, at most.
const DIMENSIONS_MAX: u32 = 4;
/// Alignment of tensors where the file does not say.
const ALIGNMENT: u64 = 32;

/// ggml's types: code, name, values and bytes of a block. Those without an [`Encoding`] are named in messages.
const TYPES: [(u32, &str, u64, u64, Option<Encoding>); 34] = [
    (0, "F32", 1, 4, Some(Encoding::F32)),
    (1, "F16", 1, 2, Some(Encoding::F16)),
    (2, "Q4_0", 32, 18, Some(Encoding::Q4_0)),
    (3, "Q4_1", 32, 20, Some(Encoding::Q4_1)),
    (6, "Q5_0", 32, 22, Some(Encoding::Q5_0)),
    (7, "Q5_1", 32, 24, Some(Encoding::Q5_1)),
    (8, "Q8_0", 32, 34, Some(Encoding::Q8_0)),
    (9, "Q8_1", 32, 40, None),
    (10, "Q2_K", 256, 84, None),
    (11, "Q3_K", 256, 110, None),
    (12, "Q4_K", 256, 144, Some(Encoding::Q4K)),
    (13, "Q5_K", 256, 176, Some(Encoding::Q5K)),
    (14, "Q6_K", 256, 210, Some(Encoding::Q6K)),
    (15, "Q8_K", 256, 292, None),
    (16, "IQ2_XXS", 256, 66, None),
    (17, "IQ2_XS", 256, 74, None),
    (18, "IQ3_XXS", 256, 98, None),
    (19, "IQ1_S", 256, 50, None),
    (20, "IQ4_NL", 32, 18, None),
    (21, "IQ3_S", 256, 110, None),
    (22, "IQ2_S", 256, 82, None),
    (23, "IQ4_XS", 256, 136, None),
    (24, "I8", 1, 1, None),
    (25, "I16", 1, 2, None),
    (26, "I32", 1, 4, None),
    (27, "I64", 1, 8, None),
    (28, "F64", 1, 8, None),
    (29, "IQ1_M", 256, 56, None),
    (30, "BF16", 1, 2, Some(Encoding::Bf16)),
    (34, "TQ1_0", 256, 54, None),
    (35, "TQ2_0", 256, 66, None),
    (39, "MXFP4", 32, 17, None),
    (40, "NVFP4", 64, 36, None),
    (41, "Q1_0", 128, 18, None),
];

/// A tensor of the file.
#[derive(Clone, Debug)]
pub struct TensorInfo {
    /// Its name.
    pub name: String,
    /// Row-major: the last dimension is contiguous.
    pub shape: Vec<usize>,
    /// How its values are stored, or the type's name if it cannot be read.
    pub encoding: std::result::Result<Encoding, String>,
    /// Offset of its first byte in the file.
    pub offset: u64,
    /// Its bytes.
    pub bytes: u64,
}

/// Read the head of a file of `len` bytes. All tensors lie in the file, aligned and apart.
pub(super) fn read(reader: impl Read, len: u64) -> Result<Gguf> {
    let mut cursor = Cursor::new(reader, len);
    if cursor.u32()?.to_le_bytes() != super::MAGIC {
        return Err(Error::data("this is not a GGUF file"));
    }
    match cursor.u32()? {
        2 | 3 => {}
        version if version.swap_bytes() <= 3 => return Err(Error::data("big-endian GGUF files are not supported")),
        version => return Err(Error::data(format!("GGUF version {version} is not supported: there are 2 and 3"))),
    }
    let n_tensors = cursor.u64()?;
    let n_pairs = cursor.u64()?;
    cursor.expect(n_pairs, 13, "metadata pairs")?;
    let metadata = Metadata::read(&mut cursor, n_pairs)?;
    cursor.expect(n_tensors, 24, "tensors")?;
    let mut tensors = (0..n_tensors).map(|_| tensor(&mut cursor)).collect::<Result<Vec<_>>>()?;
    let alignment = metadata.count("general.alignment")?.unwrap_or(ALIGNMENT);
    if !alignment.is_power_of_two() || alignment > 1 << 20 {
        return Err(Error::data(format!("an alignment of {alignment} bytes is not supported")));
    }
    place(&mut tensors, cursor.position().next_multiple_of(alignment), alignment, len)?;
    Ok(Gguf { metadata, tensors, rope_factors: None })
}

fn tensor(cursor: &mut Cursor<impl Read>) -> Result<TensorInfo> {
    let name = cursor.name()?;
    let wrong = |what: String| Error::data(format!("tensor `{name}`: {what}"));
    let n_dimensions = cursor.u32()?;
    if n_dimensions > DIMENSIONS_MAX {
        return Err(wrong(format!("{n_dimensions} dimensions are too many")));
    }
    let mut shape = (0..n_dimensions).map(|_| cursor.u64()).collect::<Result<Vec<_>>>()?;
    let code = cursor.u32()?;
    let offset = cursor.u64()?;
    let found = TYPES.iter().find(|(known, ..)| *known == code);
    let &(_, dtype, block, block_bytes, encoding) = found.ok_or_else(|| wrong(format!("type {code} is unknown")))?;
    if shape.contains(&0) {
        return Err(wrong(format!("it is empty: {shape:?}")));
    }
    // ggml's first dimension is the contiguous one
    if !shape.first().copied().unwrap_or(1).is_multiple_of(block) {
        return Err(wrong(format!("rows of {shape:?} are not whole blocks of {dtype}")));
    }
    let values = shape.iter().try_fold(1u64, |values, &n| values.checked_mul(n));
    let bytes = values.and_then(|values| (values / block).checked_mul(block_bytes));
    let bytes = bytes.ok_or_else(|| wrong(format!("{shape:?} is too large")))?;
    shape.reverse();
    let shape = shape.into_iter().map(|n| usize::try_from(n).ok()).collect::<Option<_>>();
    let shape = shape.ok_or_else(|| wrong("its shape is too large".to_owned()))?;
    Ok(TensorInfo { shape, encoding: encoding.ok_or_else(|| dtype.to_owned()), offset, bytes, name })
}

/// Offsets from the start of the file; each tensor lies in it, aligned, and none lies on another.
fn place(tensors: &mut [TensorInfo], data: u64, alignment: u64, len: u64) -> Result<()> {
    tensors.sort_by_key(|tensor| tensor.offset);
    let mut free = data;
    for tensor in tensors {
        let wrong = |what: &str| Error::data(format!("tensor `{}` {what}", tensor.name));
        if !tensor.offset.is_multiple_of(alignment) {
            return Err(wrong("is not aligned"));
        }
        let begin = data.checked_add(tensor.offset).ok_or_else(|| wrong("begins after the file's end"))?;
        let end = begin.checked_add(tensor.bytes).filter(|&end| end <= len);
        let end = end.ok_or_else(|| wrong("ends after the file's end"))?;
        if begin < free {
            return Err(wrong("lies on another tensor"));
        }
        tensor.offset = begin;
        free = end;
    }
    Ok(())
}
