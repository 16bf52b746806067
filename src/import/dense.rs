//! An array of numbers at an offset of a file: `[rows, width]` or `[samples, positions, width]`, row-major.

use half::{bf16, f16};

use crate::dataset::config::StoredDtype;
use crate::error::{Error, Result};
use crate::import::{Chunk, Place, Sequences, plausible};

/// Numbers that a value may have.
pub(super) const WIDTH_MAX: u64 = 1 << 20;
/// Values of one sequence.
const SEQUENCE_VALUES_MAX: u64 = 1 << 30;

/// A number format of a file, little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Number {
    F16,
    Bf16,
    F32,
    F64,
    I8,
    U8,
    I16,
    U16,
    I32,
    U32,
    I64,
    U64,
}

impl Number {
    pub(super) fn bytes(self) -> usize {
        match self {
            Self::I8 | Self::U8 => 1,
            Self::F16 | Self::Bf16 | Self::I16 | Self::U16 => 2,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F64 | Self::I64 | Self::U64 => 8,
        }
    }

    /// The number format that keeps its values; none for whole numbers.
    pub(super) fn stored(self) -> Option<StoredDtype> {
        match self {
            Self::F16 => Some(StoredDtype::Float16),
            Self::Bf16 => Some(StoredDtype::Bfloat16),
            Self::F32 | Self::F64 => Some(StoredDtype::Float32),
            _ => None,
        }
    }

    /// What raw bytes of `dtype` are.
    pub(super) fn of(dtype: StoredDtype) -> Self {
        match dtype {
            StoredDtype::Float16 => Self::F16,
            StoredDtype::Float32 => Self::F32,
            StoredDtype::Bfloat16 => Self::Bf16,
        }
    }

    /// Append the numbers in `bytes` as f32.
    pub(super) fn widen(self, bytes: &[u8], out: &mut Vec<f32>) {
        let each = bytes.chunks_exact(self.bytes());
        match self {
            Self::F16 => out.extend(each.map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32())),
            Self::Bf16 => out.extend(each.map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32())),
            Self::F32 => out.extend(each.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))),
            Self::F64 => out.extend(each.map(|b| f64::from_le_bytes(eight(b)) as f32)),
            _ => out.extend(each.map(|b| self.whole(b) as f32)),
        }
    }

    /// A whole number as the bits of a u64; negative ones keep their sign there.
    pub(super) fn whole(self, b: &[u8]) -> u64 {
        match self {
            Self::I8 => i64::from(i8::from_le_bytes([b[0]])).cast_unsigned(),
            Self::U8 => u64::from(b[0]),
            Self::I16 => i64::from(i16::from_le_bytes([b[0], b[1]])).cast_unsigned(),
            Self::U16 => u64::from(u16::from_le_bytes([b[0], b[1]])),
            Self::I32 => i64::from(i32::from_le_bytes([b[0], b[1], b[2], b[3]])).cast_unsigned(),
            Self::U32 => u64::from(u32::from_le_bytes([b[0], b[1], b[2], b[3]])),
            _ => u64::from_le_bytes(eight(b)),
        }
    }
}

fn eight(b: &[u8]) -> [u8; 8] {
    [b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]
}

/// Whole numbers that must be small, such as token ids and positions.
pub(super) fn small(what: &str, n: u64) -> Result<u32> {
    u32::try_from(n)
        .map_err(|_| Error::data(format!("`{what}` holds {}, which is not from 0 to 2^32", n.cast_signed())))
}

/// An array in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Array {
    pub(super) name: String,
    pub(super) number: Number,
    pub(super) shape: Vec<u64>,
    pub(super) offset: u64,
}

/// An array with values, and arrays that say what its rows are.
pub(super) struct Dense {
    file: Place,
    values: Array,
    dtype: StoredDtype,
    sequences: u64,
    /// Rows of a sequence.
    rows: usize,
    width: usize,
    /// Token ids, documents, positions; each has a number a row.
    ids: [Option<Array>; 3],
    /// Whether documents have a number a sequence instead.
    a_document_a_sequence: bool,
    next: u64,
}

impl Dense {
    /// Check the shapes and the sizes against the file.
    pub(super) fn new(file: Place, values: Array, ids: [Option<Array>; 3]) -> Result<Self> {
        let name = &values.name;
        let dtype = values.number.stored().ok_or_else(|| Error::data(format!("`{name}` holds whole numbers")))?;
        let (sequences, rows, width) = match values.shape.as_slice() {
            &[n, width] => (n, 1, width),
            &[n, rows, width] => (n, rows, width),
            other => {
                let problem =
                    format!("`{name}` has shape {other:?}: it must be [rows, width] or [samples, positions, width]");
                return Err(Error::data(problem));
            }
        };
        plausible("the number of sequences", sequences, u64::from(u32::MAX) - 1)?;
        let width = plausible("the width of a row", width, WIDTH_MAX)?;
        plausible("the size of a sequence", rows.saturating_mul(width as u64), SEQUENCE_VALUES_MAX)?;
        if width == 0 || rows == 0 {
            let what = if width == 0 { "rows without values" } else { "samples without positions" };
            return Err(Error::data(format!("`{name}` has {what}")));
        }
        let n_rows = sequences * rows;
        fits(&file, &values, n_rows.checked_mul(width as u64))?;
        let numbers = |id: &Array| id.shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d));
        let a_document_a_sequence = ids[1].as_ref().is_some_and(|id| numbers(id) == Some(sequences));
        for (i, id) in ids.iter().enumerate().filter_map(|(i, id)| Some((i, id.as_ref()?))) {
            let n = numbers(id);
            let fits_rows = n == Some(n_rows) || (i == 1 && a_document_a_sequence);
            if !fits_rows || id.number.stored().is_some() {
                let problem =
                    format!("`{}` of shape {:?} is not one whole number a row of `{name}`", id.name, id.shape);
                return Err(Error::data(problem));
            }
            fits(&file, id, n)?;
        }
        Ok(Self { file, values, dtype, sequences, rows: rows as usize, width, ids, a_document_a_sequence, next: 0 })
    }

    fn bytes_of(&self, array: &Array, from: u64, rows: usize, numbers_a_row: usize) -> Result<bytes::Bytes> {
        let row_bytes = numbers_a_row * array.number.bytes();
        self.file.at(array.offset + from * row_bytes as u64, rows * row_bytes)
    }

    fn ids(&self, array: &Array, from: u64, rows: usize) -> Result<Vec<u64>> {
        let bytes = self.bytes_of(array, from, rows, 1)?;
        Ok(bytes.chunks_exact(array.number.bytes()).map(|b| array.number.whole(b)).collect())
    }
}

/// An array must lie within its file.
fn fits(file: &Place, array: &Array, numbers: Option<u64>) -> Result<()> {
    let bytes = numbers.and_then(|n| n.checked_mul(array.number.bytes() as u64));
    let end = bytes.and_then(|bytes| array.offset.checked_add(bytes));
    match end.filter(|&end| end <= file.size()) {
        Some(_) => Ok(()),
        None => Err(Error::data(format!(
            "`{}` of shape {:?} does not fit into the file's {} bytes: it is cut off",
            array.name,
            array.shape,
            file.size()
        ))),
    }
}

impl Sequences for Dense {
    fn width(&self) -> usize {
        self.width
    }

    fn dtype(&self) -> StoredDtype {
        self.dtype
    }

    fn seek(&mut self, sequence: u32) -> Result<()> {
        self.next = u64::from(sequence).min(self.sequences);
        Ok(())
    }

    fn rows(&self) -> usize {
        self.rows
    }

    fn next(&mut self, n: usize) -> Result<Option<Chunk>> {
        let n = n.min((self.sequences - self.next) as usize);
        if n == 0 {
            return Ok(None);
        }
        let (from, rows) = (self.next * self.rows as u64, n * self.rows);
        let mut values = Vec::with_capacity(rows * self.width);
        self.values.number.widen(&self.bytes_of(&self.values, from, rows, self.width)?, &mut values);
        let mut chunk = Chunk { lengths: vec![self.rows as u32; n], values, ..Chunk::default() };
        let narrow = |array: &Array| -> Result<Vec<u32>> {
            self.ids(array, from, rows)?.into_iter().map(|id| small(&array.name, id)).collect()
        };
        let [token_id, doc_id, pos] = &self.ids;
        chunk.token_id = token_id.as_ref().map(narrow).transpose()?;
        chunk.pos = pos.as_ref().map(narrow).transpose()?;
        chunk.doc_id = match doc_id {
            Some(array) if self.a_document_a_sequence => {
                let each = self.ids(array, self.next, n)?;
                Some(each.into_iter().flat_map(|id| std::iter::repeat_n(id, self.rows)).collect())
            }
            array => array.as_ref().map(|array| self.ids(array, from, rows)).transpose()?,
        };
        self.next += n as u64;
        Ok(Some(chunk))
    }
}
