//! Numbers as they are stored, and back: for rows that are moved, not computed.

use half::{bf16, f16};

use crate::dataset::config::StoredDtype;
use crate::dataset::decoder::widen;

/// Append `values` as little-endian numbers of `dtype`. Values that came from that format come out as the same bits.
pub fn to_stored(values: &[f32], dtype: StoredDtype, out: &mut Vec<u8>) {
    match dtype {
        StoredDtype::Float32 => values.iter().for_each(|x| out.extend_from_slice(&x.to_le_bytes())),
        StoredDtype::Float16 => values.iter().for_each(|&x| out.extend_from_slice(&f16::from_f32(x).to_le_bytes())),
        StoredDtype::Bfloat16 => values.iter().for_each(|&x| out.extend_from_slice(&bf16::from_f32(x).to_le_bytes())),
    }
}

/// The little-endian numbers of `dtype` in `bytes`, widened; `out` has as many places.
pub fn from_stored(bytes: &[u8], dtype: StoredDtype, out: &mut [f32]) {
    widen(bytes, dtype, out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_numbers_keep_their_bits() {
        for dtype in [StoredDtype::Float16, StoredDtype::Bfloat16] {
            // every number that is not a NaN
            let all: Vec<u8> = (0..=u16::MAX)
                .filter(|&bits| match dtype {
                    StoredDtype::Float16 => !f16::from_bits(bits).is_nan(),
                    _ => !bf16::from_bits(bits).is_nan(),
                })
                .flat_map(u16::to_le_bytes)
                .collect();
            let mut wide = vec![0.0; all.len() / 2];
            from_stored(&all, dtype, &mut wide);
            let mut back = Vec::new();
            to_stored(&wide, dtype, &mut back);
            assert!(all == back, "{dtype:?}");
        }
        let (mut out, mut back) = (Vec::new(), [0.0; 2]);
        to_stored(&[1.5, -0.0], StoredDtype::Float32, &mut out);
        from_stored(&out, StoredDtype::Float32, &mut back);
        assert_eq!(back.map(f32::to_bits), [1.5f32.to_bits(), (-0.0f32).to_bits()]);
    }
}
