//! Blocks of quantised values as ggml lays them out, to f32.
//!
//! Each function computes in the order of the format's own definition, so that results are the same bits as those of the
//! `gguf` package. Two halves of a block of 32 lie in the low and the high nibbles of the same bytes.

use half::f16;

/// Apply `decode` to each block.
pub(in crate::model) fn blocks<const BYTES: usize, const VALUES: usize>(
    bytes: &[u8],
    to: &mut [f32],
    decode: impl Fn(&[u8; BYTES], &mut [f32; VALUES]),
) {
    for (block, to) in bytes.as_chunks().0.iter().zip(to.as_chunks_mut().0) {
        decode(block, to);
    }
}

/// The half-precision float at `at`.
fn half(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// scale, 32 x i8
pub(in crate::model) fn q8_0(block: &[u8; 34], to: &mut [f32; 32]) {
    let d = half(block, 0);
    for (value, &q) in to.iter_mut().zip(&block[2..]) {
        *value = f32::from(q.cast_signed()) * d;
    }
}

/// scale, 32 x 4 bits less 8
pub(in crate::model) fn q4_0(block: &[u8; 18], to: &mut [f32; 32]) {
    let d = half(block, 0);
    for (i, &q) in block[2..].iter().enumerate() {
        to[i] = d * f32::from((q & 15).cast_signed() - 8);
        to[i + 16] = d * f32::from((q >> 4).cast_signed() - 8);
    }
}

/// scale, offset, 32 x 4 bits
pub(in crate::model) fn q4_1(block: &[u8; 20], to: &mut [f32; 32]) {
    let (d, m) = (half(block, 0), half(block, 2));
    for (i, &q) in block[4..].iter().enumerate() {
        to[i] = d * f32::from(q & 15) + m;
        to[i + 16] = d * f32::from(q >> 4) + m;
    }
}

/// scale, 32 fifth bits, 32 x 4 bits; less 16
pub(in crate::model) fn q5_0(block: &[u8; 22], to: &mut [f32; 32]) {
    let d = half(block, 0);
    let fifth = u32::from_le_bytes([block[2], block[3], block[4], block[5]]);
    for (i, &q) in block[6..].iter().enumerate() {
        to[i] = d * f32::from((q & 15 | bit(fifth, i) << 4).cast_signed() - 16);
        to[i + 16] = d * f32::from((q >> 4 | bit(fifth, i + 16) << 4).cast_signed() - 16);
    }
}

/// scale, offset, 32 fifth bits, 32 x 4 bits
pub(in crate::model) fn q5_1(block: &[u8; 24], to: &mut [f32; 32]) {
    let (d, m) = (half(block, 0), half(block, 2));
    let fifth = u32::from_le_bytes([block[4], block[5], block[6], block[7]]);
    for (i, &q) in block[8..].iter().enumerate() {
        to[i] = d * f32::from(q & 15 | bit(fifth, i) << 4) + m;
        to[i + 16] = d * f32::from(q >> 4 | bit(fifth, i + 16) << 4) + m;
    }
}

fn bit(bits: u32, i: usize) -> u8 {
    (bits >> i & 1) as u8
}

/// scale, scale of offsets, 8 x (6-bit scale, 6-bit offset), 256 x 4 bits
pub(in crate::model) fn q4_k(block: &[u8; 144], to: &mut [f32; 256]) {
    let groups = groups_of_k(block);
    for (pair, quants) in block[16..].as_chunks::<32>().0.iter().enumerate() {
        let (low, high) = (groups[2 * pair], groups[2 * pair + 1]);
        let to = &mut to[64 * pair..][..64];
        for (i, &q) in quants.iter().enumerate() {
            to[i] = low.0 * f32::from(q & 15) - low.1;
            to[i + 32] = high.0 * f32::from(q >> 4) - high.1;
        }
    }
}

/// As [`q4_k`], with 32 bytes of fifth bits before the quants: bit `g` of byte `i` belongs to value `i` of group `g`
pub(in crate::model) fn q5_k(block: &[u8; 176], to: &mut [f32; 256]) {
    let groups = groups_of_k(block);
    let fifth = &block[16..48];
    for (pair, quants) in block[48..].as_chunks::<32>().0.iter().enumerate() {
        let (low, high) = (groups[2 * pair], groups[2 * pair + 1]);
        let to = &mut to[64 * pair..][..64];
        for (i, &q) in quants.iter().enumerate() {
            let fifth = fifth[i] >> (2 * pair);
            to[i] = low.0 * f32::from(q & 15 | (fifth & 1) << 4) - low.1;
            to[i + 32] = high.0 * f32::from(q >> 4 | (fifth >> 1 & 1) << 4) - high.1;
        }
    }
}

/// Scale and offset of the 8 groups of a 4- or 5-bit super-block. The first four have their six bits in one byte each; the
/// last four have four bits in the third row of bytes and the upper two on top of the first four's.
fn groups_of_k(block: &[u8]) -> [(f32, f32); 8] {
    let (d, d_min) = (half(block, 0), half(block, 2));
    let packed = &block[4..16];
    std::array::from_fn(|i| {
        let (scale, min) = if i < 4 {
            (packed[i] & 63, packed[i + 4] & 63)
        } else {
            let low = packed[i + 4];
            (low & 15 | packed[i - 4] >> 2 & 48, low >> 4 | packed[i] >> 2 & 48)
        };
        (d * f32::from(scale), d_min * f32::from(min))
    })
}

/// 256 x 4 low bits, 256 x 2 high bits, 16 x i8 scale, scale; less 32
pub(in crate::model) fn q6_k(block: &[u8; 210], to: &mut [f32; 256]) {
    let d = half(block, 208);
    let scales = &block[192..208];
    for (group, to) in to.chunks_exact_mut(32).enumerate() {
        // 64 bytes of low bits hold four groups, 32 bytes of high bits as well
        let (part, in_part) = (group / 4, group % 4);
        let low = &block[64 * part + 32 * (in_part % 2)..][..32];
        let high = &block[128 + 32 * part..][..32];
        for (i, value) in to.iter_mut().enumerate() {
            let low = low[i] >> (4 * (in_part / 2)) & 15;
            let high = high[i] >> (2 * in_part) & 3;
            let scale = d * f32::from(scales[2 * group + i / 16].cast_signed());
            *value = scale * f32::from((low | high << 4).cast_signed() - 32);
        }
    }
}
