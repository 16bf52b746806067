//! How values are stored, and what they are as f32.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::model::gguf::quants;

/// How a tensor's values are stored: blocks of values in blocks of bytes, little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// IEEE single.
    F32,
    /// IEEE half.
    F16,
    /// The upper half of a single.
    Bf16,
    /// One sign, four exponent and three mantissa bits; no infinities. Means nothing without its scales.
    F8E4M3,
    /// 32 values: scale, 8 bits each.
    Q8_0,
    /// 32 values: scale, 4 bits each.
    Q4_0,
    /// 32 values: scale and offset, 4 bits each.
    Q4_1,
    /// 32 values: scale, 5 bits each.
    Q5_0,
    /// 32 values: scale and offset, 5 bits each.
    Q5_1,
    /// 256 values: 8 scales and offsets of 6 bits, 4 bits each.
    Q4K,
    /// 256 values: 8 scales and offsets of 6 bits, 5 bits each.
    Q5K,
    /// 256 values: 16 scales of 8 bits, 6 bits each.
    Q6K,
}

impl Encoding {
    /// Values and bytes of a block.
    pub fn block(self) -> (usize, usize) {
        match self {
            Self::F32 => (1, 4),
            Self::F16 | Self::Bf16 => (1, 2),
            Self::F8E4M3 => (1, 1),
            Self::Q8_0 => (32, 34),
            Self::Q4_0 => (32, 18),
            Self::Q4_1 => (32, 20),
            Self::Q5_0 => (32, 22),
            Self::Q5_1 => (32, 24),
            Self::Q4K => (256, 144),
            Self::Q5K => (256, 176),
            Self::Q6K => (256, 210),
        }
    }

    /// Bytes of a row of `values`; `None` if it is not whole blocks, or too large to count.
    pub fn bytes(self, values: u64) -> Option<u64> {
        let (block, bytes) = self.block();
        let whole = values.is_multiple_of(block as u64);
        whole.then(|| (values / block as u64).checked_mul(bytes as u64)).flatten()
    }

    /// Whole blocks of `bytes` as f32; `to` has their number of values.
    pub fn decode(self, bytes: &[u8], to: &mut [f32]) {
        let (block, block_bytes) = self.block();
        assert_eq!(bytes.len() / block_bytes * block, to.len(), "values for the blocks given");
        match self {
            Self::F32 => each(bytes, to, f32::from_le_bytes),
            Self::F16 => widened(bytes, to, f16::from_bits, |from, to| from.convert_to_f32_slice(to)),
            Self::Bf16 => widened(bytes, to, bf16::from_bits, |from, to| from.convert_to_f32_slice(to)),
            Self::F8E4M3 => each(bytes, to, |[byte]| f8_e4m3(byte)),
            Self::Q8_0 => quants::blocks(bytes, to, quants::q8_0),
            Self::Q4_0 => quants::blocks(bytes, to, quants::q4_0),
            Self::Q4_1 => quants::blocks(bytes, to, quants::q4_1),
            Self::Q5_0 => quants::blocks(bytes, to, quants::q5_0),
            Self::Q5_1 => quants::blocks(bytes, to, quants::q5_1),
            Self::Q4K => quants::blocks(bytes, to, quants::q4_k),
            Self::Q5K => quants::blocks(bytes, to, quants::q5_k),
            Self::Q6K => quants::blocks(bytes, to, quants::q6_k),
        }
    }
}

/// One value from each `N` bytes.
fn each<const N: usize>(bytes: &[u8], to: &mut [f32], read: impl Fn([u8; N]) -> f32) {
    for (value, bytes) in to.iter_mut().zip(bytes.as_chunks().0) {
        *value = read(*bytes);
    }
}

/// 16-bit floats to f32, in pieces that stay in the cache (the bytes may be unaligned).
fn widened<T: Copy + Default>(
    bytes: &[u8],
    to: &mut [f32],
    read: impl Fn(u16) -> T,
    convert: impl Fn(&[T], &mut [f32]),
) {
    const PIECE: usize = 4096;
    let mut piece = [T::default(); PIECE];
    for (to, from) in to.chunks_mut(PIECE).zip(bytes.chunks(2 * PIECE)) {
        let piece = &mut piece[..to.len()];
        for (value, bytes) in piece.iter_mut().zip(from.as_chunks().0) {
            *value = read(u16::from_le_bytes(*bytes));
        }
        convert(piece, to);
    }
}

/// The value of an `e4m3fn` byte: bias 7, subnormals, one NaN for each sign.
fn f8_e4m3(byte: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(byte >> 3 & 15), f32::from(byte & 7));
    let size = match (exponent, byte & 7) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa / 512.0,
        _ => (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 7),
    };
    if byte >> 7 == 1 { -size } else { size }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_bit_floats_are_those_of_the_format() {
        let value = |byte: u8| {
            let mut to = [0.0];
            Encoding::F8E4M3.decode(&[byte], &mut to);
            to[0]
        };
        // the format's corners: smallest subnormal, largest subnormal, smallest normal, one, largest
        for (byte, wanted) in [
            (0x00, 0.0),
            (0x01, 2f32.powi(-9)),
            (0x07, 0.875 * 2f32.powi(-6)),
            (0x08, 2f32.powi(-6)),
            (0x38, 1.0),
            (0x3a, 1.25),
            (0x7e, 448.0),
            (0xfe, -448.0),
            (0xb8, -1.0),
        ] {
            assert_eq!(value(byte), wanted, "{byte:#x}");
        }
        assert!(value(0x7f).is_nan() && value(0xff).is_nan());
        assert!(value(0x80) == 0.0 && value(0x80).is_sign_negative());
        let finite: Vec<f32> = (0..0x7f).map(value).collect();
        assert!(finite.is_sorted_by(|a, b| a < b), "larger codes are larger values");
    }

    #[test]
    fn rows_are_whole_blocks() {
        assert_eq!(Encoding::Q4K.bytes(512), Some(288));
        assert_eq!(Encoding::Q4K.bytes(300), None);
        assert_eq!(Encoding::F32.bytes(u64::MAX), None);
    }
}
