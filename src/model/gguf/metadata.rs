//! The key-value pairs of a GGUF file.
//!
//! Values are read without trusting them: a length is believed only as far as bytes follow, and arrays of numbers stay
//! bytes, so that what is kept is never much larger than the file.

use std::collections::BTreeMap;
use std::io::Read;

use crate::error::{Error, ErrorKind, Result, ResultExt};

/// Bytes of metadata and tensor descriptions, at most. The largest vocabularies have about 20 MB.
const HEADER_BYTES_MAX: u64 = 96 << 20;
/// Bytes of a key or of a tensor's name, at most (the format says 65535 and 64).
const NAME_BYTES_MAX: u64 = 65_535;
/// Arrays in arrays, at most.
const DEPTH_MAX: u32 = 4;

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Integers of all widths.
    Integer(i128),
    /// `float32` as its shortest decimal, so that 1e-5 is 1e-5; `float64`.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// Text.
    Text(String),
    /// A list of texts.
    Texts(Vec<String>),
    /// A list of numbers or truth values.
    Numbers(Numbers),
    /// A list of lists.
    Lists(Vec<Value>),
}

/// A list of numbers, as the file stores them.
#[derive(Clone, Debug, PartialEq)]
pub struct Numbers {
    kind: Kind,
    bytes: Vec<u8>,
}

impl Numbers {
    /// The elements.
    pub fn iter(&self) -> impl Iterator<Item = Value> + '_ {
        self.bytes.chunks_exact(self.kind.bytes()).map(|bytes| self.kind.value(bytes))
    }
}

/// A type with a fixed width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    U64,
    I64,
    F64,
}

impl Kind {
    fn from_code(code: u32) -> Option<Self> {
        Some(match code {
            0 => Self::U8,
            1 => Self::I8,
            2 => Self::U16,
            3 => Self::I16,
            4 => Self::U32,
            5 => Self::I32,
            6 => Self::F32,
            7 => Self::Bool,
            10 => Self::U64,
            11 => Self::I64,
            12 => Self::F64,
            _ => return None,
        })
    }

    fn bytes(self) -> usize {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }

    /// The value of as many bytes as the type has.
    fn value(self, bytes: &[u8]) -> Value {
        let mut word = [0; 8];
        word[..bytes.len()].copy_from_slice(bytes);
        let unsigned = u64::from_le_bytes(word);
        // shifted up and down again, the sign fills the upper bytes
        let empty = 64 - 8 * bytes.len() as u32;
        let signed = (unsigned << empty).cast_signed() >> empty;
        match self {
            Self::U8 | Self::U16 | Self::U32 | Self::U64 => Value::Integer(unsigned.into()),
            Self::I8 | Self::I16 | Self::I32 | Self::I64 => Value::Integer(signed.into()),
            Self::F32 => Value::Float(shortest(f32::from_bits(unsigned as u32))),
            Self::F64 => Value::Float(f64::from_bits(unsigned)),
            Self::Bool => Value::Bool(unsigned != 0),
        }
    }
}

/// The double that is nearest to the shortest decimal that means `x`.
fn shortest(x: f32) -> f64 {
    x.to_string().parse().unwrap_or_else(|_| x.into())
}

/// All pairs.
#[derive(Clone, Debug, Default)]
pub struct Metadata {
    values: BTreeMap<String, Value>,
}

impl Metadata {
    /// Read `n` pairs.
    pub(super) fn read(cursor: &mut Cursor<impl Read>, n: u64) -> Result<Self> {
        let mut values = BTreeMap::new();
        for _ in 0..n {
            let key = cursor.name()?;
            let code = cursor.u32()?;
            let value = cursor.value(code, 0).map_err(|e| e.context(format!("metadata `{key}`")))?;
            if values.insert(key.clone(), value).is_some() {
                return Err(Error::data(format!("metadata `{key}` is there twice")));
            }
        }
        Ok(Self { values })
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(key)
    }

    /// All keys, ascending.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }

    /// A text, if `key` is there.
    pub fn text(&self, key: &str) -> Result<Option<&str>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(other) => Err(wrong(key, "a text", other)),
        }
    }

    /// A truth value, if `key` is there.
    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => Err(wrong(key, "true or false", other)),
        }
    }

    /// A count or an id, if `key` is there. A list of equal numbers, one for each layer, counts as that number.
    pub fn count(&self, key: &str) -> Result<Option<u64>> {
        let single = |value: &Value| match value {
            Value::Integer(n) => u64::try_from(*n).ok(),
            _ => None,
        };
        let Some(value) = self.get(key) else { return Ok(None) };
        let count = match value {
            Value::Numbers(list) => {
                let first = list.iter().next();
                first.filter(|first| list.iter().all(|other| other == *first)).as_ref().and_then(single)
            }
            other => single(other),
        };
        count.map(Some).ok_or_else(|| wrong(key, "a whole number (the same one for all layers)", value))
    }

    /// A number, if `key` is there.
    pub fn number(&self, key: &str) -> Result<Option<f64>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Float(x)) => Ok(Some(*x)),
            Some(Value::Integer(n)) => Ok(Some(*n as f64)),
            Some(other) => Err(wrong(key, "a number", other)),
        }
    }

    /// A list of texts, if `key` is there.
    pub fn texts(&self, key: &str) -> Result<Option<&[String]>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Texts(texts)) => Ok(Some(texts)),
            Some(other) => Err(wrong(key, "a list of texts", other)),
        }
    }

    /// A list of numbers, if `key` is there.
    pub fn numbers(&self, key: &str) -> Result<Option<&Numbers>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Numbers(numbers)) => Ok(Some(numbers)),
            Some(other) => Err(wrong(key, "a list of numbers", other)),
        }
    }
}

fn wrong(key: &str, wanted: &str, found: &Value) -> Error {
    let mut found = format!("{found:?}");
    if let Some((end, _)) = found.char_indices().nth(60) {
        found.truncate(end);
        found.push_str("...");
    }
    Error::data(format!("metadata `{key}` must be {wanted}, not {found}"))
}

/// Reads a header, counts where it is, and never goes past the file's end or the longest header.
pub(super) struct Cursor<R> {
    reader: R,
    at: u64,
    end: u64,
}

impl<R: Read> Cursor<R> {
    /// At the start of a file of `len` bytes.
    pub(super) fn new(reader: R, len: u64) -> Self {
        Self { reader, at: 0, end: len.min(HEADER_BYTES_MAX) }
    }

    /// Bytes read so far.
    pub(super) fn position(&self) -> u64 {
        self.at
    }

    /// Check that `n` items of at least `bytes` may follow.
    pub(super) fn expect(&self, n: u64, bytes: u64, what: &str) -> Result<()> {
        let fits = n.checked_mul(bytes).is_some_and(|bytes| bytes <= self.end - self.at);
        if fits { Ok(()) } else { Err(Error::data(format!("the header is too short for {n} {what}"))) }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        self.expect(N as u64, 1, "bytes")?;
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes).or_kind(ErrorKind::Data, || "the file ends in its header".to_owned())?;
        self.at += N as u64;
        Ok(bytes)
    }

    /// The next `n` bytes, which are there.
    fn bytes(&mut self, n: u64) -> Result<Vec<u8>> {
        self.expect(n, 1, "bytes")?;
        let mut bytes = Vec::new();
        let read = (&mut self.reader).take(n).read_to_end(&mut bytes);
        let read = read.or_kind(ErrorKind::Unavailable, || "read".to_owned())?;
        if read as u64 != n {
            return Err(Error::data("the file ends in its header"));
        }
        self.at += n;
        Ok(bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn text(&mut self, bytes_max: u64) -> Result<String> {
        let len = self.u64()?;
        if len > bytes_max {
            return Err(Error::data(format!("a name of {len} bytes is too long")));
        }
        let bytes = self.bytes(len)?;
        String::from_utf8(bytes).or_kind(ErrorKind::Data, || "a text is not UTF-8".to_owned())
    }

    /// A key or the name of a tensor.
    pub(super) fn name(&mut self) -> Result<String> {
        self.text(NAME_BYTES_MAX)
    }

    fn value(&mut self, code: u32, depth: u32) -> Result<Value> {
        if let Some(kind) = Kind::from_code(code) {
            let bytes = self.bytes(kind.bytes() as u64)?;
            return Ok(kind.value(&bytes));
        }
        match code {
            8 => Ok(Value::Text(self.text(u64::MAX)?)),
            9 if depth < DEPTH_MAX => self.list(depth + 1),
            9 => Err(Error::data(format!("lists are nested more than {DEPTH_MAX} deep"))),
            _ => Err(Error::data(format!("value type {code} is unknown"))),
        }
    }

    fn list(&mut self, depth: u32) -> Result<Value> {
        let code = self.u32()?;
        let n = self.u64()?;
        if let Some(kind) = Kind::from_code(code) {
            self.expect(n, kind.bytes() as u64, "numbers")?;
            return Ok(Value::Numbers(Numbers { kind, bytes: self.bytes(n * kind.bytes() as u64)? }));
        }
        if code == 8 {
            self.expect(n, 8, "texts")?;
            return (0..n).map(|_| self.text(u64::MAX)).collect::<Result<_>>().map(Value::Texts);
        }
        self.expect(n, 12, "lists")?;
        (0..n).map(|_| self.value(code, depth)).collect::<Result<_>>().map(Value::Lists)
    }
}
