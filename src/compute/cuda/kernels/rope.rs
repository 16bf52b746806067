//! `rope`: rotary embedding in place, after an optional RMS norm of each head; a warp a head of a row.

use super::{Bf16, Entry, In, Launch, Out, Source, arguments, size};

/// The file.
pub const SOURCE: Source = Source { name: "rope", text: include_str!("rope.cu"), entries: &[ROPE] };
const ROPE: Entry = Entry { name: "rope", threads: 256, registers: 48 };

arguments! {
    /// As [`crate::compute::ModelOps::rope`], on rows of `stride` numbers whose first `heads * e` are rotated: queries and keys may
    /// lie in one buffer.
    pub struct Rope = "RopeArgs" {
        /// `[n, stride]`, from the first head on.
        pub x: Out<Bf16>,
        /// `[n]`.
        pub positions: In<u32>,
        /// `[context, rotary / 2]`.
        pub cos: In<f32>,
        /// `[context, rotary / 2]`.
        pub sin: In<f32>,
        /// `[e]` weight of the norm of each head, or none.
        pub norm_weight: In<Bf16>,
        /// Rows.
        pub n: i32,
        /// Heads.
        pub heads: i32,
        /// Head width.
        pub e: i32,
        /// Channels that are rotated: even, at most `e`.
        pub rotary: i32,
        /// Numbers from a row to the next.
        pub stride: i32,
        /// Under the root of the norm.
        pub eps: f32,
        /// Added to the norm's weight.
        pub weight_offset: f32,
    }
}

impl Rope {
    /// Its launch.
    pub fn launch(&self) -> Launch<'_> {
        assert!(self.rotary % 2 == 0 && self.rotary <= self.e && self.heads * self.e <= self.stride);
        Launch::new(ROPE, [(size(self.n) * size(self.heads)).div_ceil(8), 1], 0, self)
    }
}
