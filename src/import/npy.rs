//! `.npy` files: a magic, a header that is a Python dictionary, an array. Read, never evaluated.

use crate::dataset::config::StoredDtype;
use crate::error::{Error, Result};
use crate::import::dense::{Array, Dense, Number};
use crate::import::{IdNames, ImportOptions, Place};

/// Bytes of a header, at most; numpy's own limit for files that are not trusted.
const HEADER_BYTES_MAX: usize = 10_000;

/// The array of a file.
pub(super) fn open(file: Place, options: &ImportOptions) -> Result<Dense> {
    if options.values.is_some() || options.ids != IdNames::default() {
        return Err(Error::config("a .npy file is one array without names: leave --values and --ids out"));
    }
    let start = file.at(0, 10)?;
    if &start[..6] != b"\x93NUMPY" {
        return Err(Error::data("it is not a .npy file: it does not begin with numpy's magic"));
    }
    let (at, length) = match start[6] {
        1 => (10, usize::from(u16::from_le_bytes([start[8], start[9]]))),
        2 | 3 => {
            let more = file.at(8, 4)?;
            (12, u32::from_le_bytes([more[0], more[1], more[2], more[3]]) as usize)
        }
        version => return Err(Error::data(format!("version {version} of .npy is not known"))),
    };
    if length > HEADER_BYTES_MAX {
        return Err(Error::data(format!("its header has {length} bytes, which cannot be")));
    }
    let header = file.at(at, length)?;
    let header = std::str::from_utf8(&header).map_err(|_| Error::data("its header is not text"))?;
    let array = array(header, at + length as u64, options.raw_dtype)?;
    Dense::new(file, array, [None, None, None])
}

/// The array that `header` describes, which begins at `offset`.
fn array(header: &str, offset: u64, raw: Option<StoredDtype>) -> Result<Array> {
    let missing = |key: &str| Error::data(format!("its header has no readable `{key}`: {header:.200}"));
    let value = |key: &str| {
        let (_, rest) = header.split_once(&format!("'{key}'"))?;
        Some(rest.trim_start().strip_prefix(':')?.trim_start())
    };
    let descr = value("descr").and_then(|rest| rest.strip_prefix('\'')?.split_once('\''));
    let (descr, _) = descr.ok_or_else(|| missing("descr"))?;
    let number = match (descr, raw) {
        ("<f2", _) => Number::F16,
        ("<f4", _) => Number::F32,
        ("<f8", _) => Number::F64,
        // numpy has no name for bfloat16 and others that two bytes may be
        ("<V2" | "|V2", Some(dtype @ (StoredDtype::Bfloat16 | StoredDtype::Float16))) => Number::of(dtype),
        ("<V2" | "|V2", _) => {
            return Err(Error::data("its numbers have two bytes of no named format: say --input-dtype bfloat16"));
        }
        (object, _) if object.starts_with('|') || object.starts_with('O') => {
            return Err(Error::data(format!("its numbers are `{object}`: only f16, f32, f64 and bfloat16 are read")));
        }
        (other, _) => {
            let problem = format!("its numbers are `{other}`: write it as little-endian f16, f32 or f64");
            return Err(Error::data(problem));
        }
    };
    let order = value("fortran_order").ok_or_else(|| missing("fortran_order"))?;
    if !order.starts_with("False") {
        return Err(Error::data("it is in Fortran's order: save `numpy.ascontiguousarray(x)`"));
    }
    let shape = value("shape").and_then(|rest| rest.strip_prefix('(')?.split_once(')'));
    let (shape, _) = shape.ok_or_else(|| missing("shape"))?;
    let dims = shape.split(',').map(str::trim).filter(|dim| !dim.is_empty());
    let shape = dims.map(|dim| dim.parse().ok()).collect::<Option<Vec<u64>>>().ok_or_else(|| missing("shape"))?;
    Ok(Array { name: "the array".to_owned(), number, shape, offset })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_numpy_are_read() {
        let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }      \n";
        let found = array(header, 128, None).unwrap();
        assert_eq!((found.number, found.shape, found.offset), (Number::F32, vec![3, 4], 128));
        let shape = |shape: &str| {
            array(&format!("{{'descr': '<f2', 'fortran_order': False, 'shape': {shape}}}"), 0, None).map(|a| a.shape)
        };
        assert_eq!(shape("(7,)").unwrap(), [7]);
        assert_eq!(shape("(2, 3, 4)").unwrap(), [2, 3, 4]);
        for wrong in ["(a, 3)", "(-1, 3)", "3, 4", "(3, 4", "(99999999999999999999999, 2)"] {
            assert!(shape(wrong).is_err(), "{wrong}");
        }
        for (header, says) in [
            ("{'descr': '|O', 'fortran_order': False, 'shape': (3, 4)}", "only f16"),
            ("{'descr': '>f4', 'fortran_order': False, 'shape': (3, 4)}", "little-endian"),
            ("{'descr': '<f4', 'fortran_order': True, 'shape': (3, 4)}", "Fortran"),
            ("{'descr': '|V2', 'fortran_order': False, 'shape': (3, 4)}", "--input-dtype bfloat16"),
            ("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (3, 4)}", "`descr`"),
            ("", "`descr`"),
        ] {
            let error = array(header, 0, None).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
        let raw = "{'descr': '|V2', 'fortran_order': False, 'shape': (3, 4)}";
        assert_eq!(array(raw, 0, Some(StoredDtype::Bfloat16)).unwrap().number, Number::Bf16);
    }
}
