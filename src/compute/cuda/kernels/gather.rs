//! `batch_gather`: a training batch out of the ring; a warp a row.

use super::{Bf16, Entry, In, Launch, Out, Source, arguments, assert_vectors, size};

/// The file.
pub const SOURCE: Source = Source { name: "gather", text: include_str!("gather.cu"), entries: &[BATCH_GATHER] };
const BATCH_GATHER: Entry = Entry { name: "batch_gather", threads: 256, registers: 40 };

arguments! {
    /// `x[i] = scale * ring[slots[i]]`, `centered[i] = scale * ring[slots[i]] - shift`, `squares[i] = |scale * ring[slots[i]]|^2`.
    pub struct Gather = "GatherArgs" {
        /// `[_, d]`.
        pub ring: In<Bf16>,
        /// `[n]` rows of the ring.
        pub slots: In<u32>,
        /// `[d]`; needed for `centered`.
        pub shift: In<f32>,
        /// `[n, d]`, or none.
        pub x: Out<Bf16>,
        /// `[n, d]`, or none.
        pub centered: Out<Bf16>,
        /// `[n]`, or none.
        pub squares: Out<f32>,
        /// Rows.
        pub n: i32,
        /// Columns.
        pub d: i32,
        /// Of the rows.
        pub scale: f32,
    }
}

impl Gather {
    /// Its launch.
    pub fn launch(&self) -> Launch<'_> {
        assert_vectors(self.d);
        assert!(!self.centered.is_given() || self.shift.is_given(), "centred rows need a shift");
        Launch::new(BATCH_GATHER, [size(self.n).div_ceil(8), 1], 0, self)
    }
}
