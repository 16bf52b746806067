//! `decode_err`: what a code leaves of its target; a block a row.

use super::{Bf16, Entry, In, Launch, Out, Source, arguments, assert_vectors, size};

/// The file.
pub const SOURCE: Source = Source { name: "decode_err", text: include_str!("decode_err.cu"), entries: &[DECODE_ERR] };
const DECODE_ERR: Entry = Entry { name: "decode_err", threads: 128, registers: 40 };

arguments! {
    /// For each border `g`: `residual[g, b] = target[b] - bias - sum of value * w_dec[latent]` over the entries of latents below
    /// `borders[g]`, and `loss[g, b] = |residual[g, b]|^2` before it was rounded.
    pub struct Decode = "DecodeArgs" {
        /// `[n, k]` of a code.
        pub latents: In<u32>,
        /// `[n, k]`.
        pub values: In<f32>,
        /// `[f, d]`.
        pub w_dec: In<Bf16>,
        /// `[d]`, or none.
        pub bias: In<f32>,
        /// `[n, d]`.
        pub target: In<Bf16>,
        /// `[groups]` ascending, at most `f`.
        pub borders: In<u32>,
        /// `[groups, n, d]`.
        pub residual: Out<Bf16>,
        /// `[groups, n]`.
        pub loss: Out<f32>,
        /// Rows.
        pub n: i32,
        /// Columns.
        pub d: i32,
        /// Places a row.
        pub k: i32,
        /// Borders; 1 for a coder that is not nested.
        pub groups: i32,
    }
}

impl Decode {
    /// Its launch.
    pub fn launch(&self) -> Launch<'_> {
        assert_vectors(self.d);
        assert!(self.groups > 0);
        Launch::new(DECODE_ERR, [size(self.n), 1], 0, self)
    }
}
