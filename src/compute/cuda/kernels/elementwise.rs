//! `combine`, `attention_maps`: sums of buffers, and the scores and patterns of attention for those who look at them.

use super::{Bf16, Entry, In, Launch, Out, Source, VECTOR, arguments, assert_vectors, size};

/// The file.
pub const SOURCE: Source =
    Source { name: "elementwise", text: include_str!("elementwise.cu"), entries: &[COMBINE, ATTENTION_MAPS] };
const COMBINE: Entry = Entry { name: "combine", threads: 256, registers: 32 };
const ATTENTION_MAPS: Entry = Entry { name: "attention_maps", threads: 256, registers: 48 };

arguments! {
    /// `x[i] = factor * x[i] + y[i]`, without `y` `factor * x[i]`.
    pub struct Combine = "CombineArgs" {
        /// `[len]`.
        pub x: Out<Bf16>,
        /// `[len]`, or none.
        pub y: In<Bf16>,
        /// Numbers: a multiple of 8.
        pub len: u64,
        /// Of `x`.
        pub factor: f32,
    }
}

arguments! {
    /// The sides of [`crate::compute::ModelOps::attention`], from queries, keys and what [`super::attention::Attention`] left.
    pub struct AttentionMaps = "AttentionMapsArgs" {
        /// `[n, heads, e]`.
        pub q: In<Bf16>,
        /// `[n, kv_heads, e]`.
        pub k: In<Bf16>,
        /// `[n, heads]`.
        pub lse: In<f32>,
        /// `[n]` the first row of each row's context.
        pub starts: In<u32>,
        /// `[n]` the column of that row's key.
        pub columns: In<u32>,
        /// `[n, heads, context]`, or none.
        pub scores: Out<Bf16>,
        /// `[n, heads, context]`, or none.
        pub pattern: Out<Bf16>,
        /// Rows.
        pub n: i32,
        /// Query heads.
        pub heads: i32,
        /// Key/value heads.
        pub kv_heads: i32,
        /// Head width: a multiple of 8.
        pub e: i32,
        /// Columns of a head.
        pub context: i32,
        /// Factor of scores.
        pub scale: f32,
        /// Cap of scores; 0: none.
        pub softcap: f32,
        /// Rows that a row sees; 0: all before it.
        pub window: i32,
    }
}

impl Combine {
    /// Its launch.
    pub fn launch(&self) -> Launch<'_> {
        assert!(
            self.len > 0 && self.len.is_multiple_of(VECTOR as u64),
            "{} numbers cannot be read in vectors",
            self.len
        );
        Launch::new(COMBINE, [(self.len as usize / VECTOR).div_ceil(256), 1], 0, self)
    }
}

impl AttentionMaps {
    /// Its launch: a warp a head of a row.
    pub fn launch(&self) -> Launch<'_> {
        assert_vectors(self.e);
        assert!(self.kv_heads > 0 && self.heads % self.kv_heads == 0);
        Launch::new(ATTENTION_MAPS, [(size(self.n) * size(self.heads)).div_ceil(8), 1], 0, self)
    }
}
