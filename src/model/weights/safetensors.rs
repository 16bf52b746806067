//! The header of a safetensors file, read without trusting it.
//!
//! Eight bytes: the length of the header. Then JSON: for each tensor its type, shape, and the bytes of the data section that
//! are its values. The data section is covered without holes and without overlaps.

use std::collections::BTreeSet;
use std::fmt;
use std::io::Read;

use serde::Deserialize;
use serde::de::{self, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::model::weights::encoding::Encoding;

/// Bytes of the longest header, as in the format's own library.
const HEADER_BYTES_MAX: u64 = 100_000_000;
/// Dimensions of a tensor, at most.
const DIMENSIONS_MAX: usize = 8;

/// Types of the format, with their bits.
const TYPES: [(&str, u64); 21] = [
    ("F4", 4),
    ("F6_E2M3", 6),
    ("F6_E3M2", 6),
    ("BOOL", 8),
    ("U8", 8),
    ("I8", 8),
    ("F8_E5M2", 8),
    ("F8_E4M3", 8),
    ("F8_E8M0", 8),
    ("F8_E4M3FNUZ", 8),
    ("F8_E5M2FNUZ", 8),
    ("I16", 16),
    ("U16", 16),
    ("F16", 16),
    ("BF16", 16),
    ("I32", 32),
    ("U32", 32),
    ("F32", 32),
    ("F64", 64),
    ("I64", 64),
    ("U64", 64),
];

/// A tensor of the file.
#[derive(Debug, PartialEq, Eq)]
pub struct Info {
    /// Its name.
    pub name: String,
    /// Its type, as the file names it.
    pub dtype: String,
    /// Row-major.
    pub shape: Vec<usize>,
    /// Offset of its first byte in the file.
    pub offset: u64,
}

impl Info {
    /// How its values are stored; `None` for types that no weight has.
    pub fn encoding(&self) -> Option<Encoding> {
        match self.dtype.as_str() {
            "F32" => Some(Encoding::F32),
            "F16" => Some(Encoding::F16),
            "BF16" => Some(Encoding::Bf16),
            "F8_E4M3" => Some(Encoding::F8E4M3),
            _ => None,
        }
    }
}

/// The tensors of a file of `len` bytes, whose first byte is `file`'s next. All of them lie in the file.
pub fn read_header(file: &mut impl Read, len: u64) -> Result<Vec<Info>> {
    let mut length = [0; 8];
    file.read_exact(&mut length).or_kind(ErrorKind::Data, || "the file ends before its header".to_owned())?;
    let length = u64::from_le_bytes(length);
    if length > HEADER_BYTES_MAX || length > len.saturating_sub(8) {
        return Err(Error::data(format!("the file of {len} bytes says that its header has {length} bytes")));
    }
    let mut text = Vec::new();
    let read = file.take(length).read_to_end(&mut text).or_kind(ErrorKind::Unavailable, || "read".to_owned())?;
    if read as u64 != length {
        return Err(Error::data("the file ends in its header"));
    }
    let header: Header = serde_json::from_slice(&text).or_kind(ErrorKind::Data, || "parse the header".to_owned())?;
    check(header.0, 8 + length, len)
}

/// Sizes are those of the types and shapes, and the data section is covered.
fn check(mut tensors: Vec<(String, RawInfo)>, data: u64, len: u64) -> Result<Vec<Info>> {
    tensors.sort_by_key(|(_, info)| info.data_offsets);
    let mut covered = 0;
    let mut infos = Vec::with_capacity(tensors.len());
    for (name, info) in tensors {
        let wrong = |what: String| Error::data(format!("tensor `{name}`: {what}"));
        let (begin, end) = info.data_offsets;
        if begin != covered || end < begin {
            return Err(wrong(format!(
                "its bytes {begin}..{end} do not follow those before it, which end at {covered}"
            )));
        }
        let bits = TYPES.iter().find(|(dtype, _)| *dtype == info.dtype).map(|(_, bits)| *bits);
        let bits = bits.ok_or_else(|| wrong(format!("type `{}` is unknown", info.dtype)))?;
        let values = info.shape.0.iter().try_fold(1u64, |values, &n| values.checked_mul(n as u64));
        let wanted = values.and_then(|values| values.checked_mul(bits));
        if wanted.is_none() || wanted != (end - begin).checked_mul(8) {
            return Err(wrong(format!("{} bytes for {} {:?}", end - begin, info.dtype, info.shape.0)));
        }
        covered = end;
        infos.push(Info { name, dtype: info.dtype, shape: info.shape.0, offset: data + begin });
    }
    if data.checked_add(covered) != Some(len) {
        return Err(Error::data(format!("the file has {len} bytes where its header describes {data} + {covered}")));
    }
    Ok(infos)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawInfo {
    dtype: String,
    shape: Shape,
    data_offsets: (u64, u64),
}

struct Header(Vec<(String, RawInfo)>);

/// A map with each name once; `__metadata__` is not read.
impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Header, A::Error> {
                let (mut names, mut tensors) = (BTreeSet::new(), Vec::new());
                while let Some(name) = map.next_key::<String>()? {
                    if !names.insert(name.clone()) {
                        return Err(de::Error::custom(format!("`{name}` is there twice")));
                    }
                    if name == "__metadata__" {
                        map.next_value::<IgnoredAny>()?;
                    } else {
                        tensors.push((name, map.next_value()?));
                    }
                }
                Ok(Header(tensors))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// Few dimensions: a header of 100 MB must not become a vector of 400.
struct Shape(Vec<usize>);

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Dimensions;
        impl<'de> Visitor<'de> for Dimensions {
            type Value = Shape;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of dimensions")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> std::result::Result<Shape, A::Error> {
                let mut shape = Vec::new();
                while let Some(n) = items.next_element()? {
                    if shape.len() == DIMENSIONS_MAX {
                        return Err(de::Error::custom("a tensor has too many dimensions"));
                    }
                    shape.push(n);
                }
                Ok(Shape(shape))
            }
        }
        deserializer.deserialize_seq(Dimensions)
    }
}
