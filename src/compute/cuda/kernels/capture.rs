//! `capture_store` and `splice`: rows of a site out of a batch into a ring, and other rows into a site; a warp a row.

use super::{Bf16, Entry, In, Launch, Out, Source, arguments, assert_vectors, size};

/// The file.
pub const SOURCE: Source =
    Source { name: "capture", text: include_str!("capture.cu"), entries: &[CAPTURE_STORE, SPLICE] };
const CAPTURE_STORE: Entry = Entry { name: "capture_store", threads: 256, registers: 32 };
const SPLICE: Entry = Entry { name: "splice", threads: 256, registers: 24 };

/// The slot of a row that is dropped.
pub const NO_SLOT: u32 = u32::MAX;

arguments! {
    /// `ring[slots[i]] = x[rows[i], column ..][.. width]`, in either or both of two formats, and its squared norm.
    pub struct Capture = "CaptureArgs" {
        /// `[_, stride]`.
        pub x: In<Bf16>,
        /// `[n]` rows of `x`.
        pub rows: In<u32>,
        /// `[n]` rows of the ring, no two alike, or [`NO_SLOT`]; none: row `i` goes to row `i`.
        pub slots: In<u32>,
        /// `[_, width]`, or none.
        pub ring_bf16: Out<Bf16>,
        /// `[_, width]`, or none.
        pub ring_float: Out<f32>,
        /// `[_]` by slot, or none.
        pub squares: Out<f32>,
        /// Rows.
        pub n: i32,
        /// Columns that are kept.
        pub width: i32,
        /// Columns of `x`.
        pub stride: i32,
        /// The first that is kept.
        pub column: i32,
    }
}

arguments! {
    /// `x[rows[i], column ..][.. width] = replacement[i]`, or `fill` for all rows, or zeros.
    pub struct Splice = "SpliceArgs" {
        /// `[_, stride]`.
        pub x: Out<Bf16>,
        /// `[n]` rows of `x`.
        pub rows: In<u32>,
        /// `[n, width]`, or none.
        pub replacement: In<Bf16>,
        /// `[width]`, or none.
        pub fill: In<Bf16>,
        /// Rows.
        pub n: i32,
        /// Columns that are replaced.
        pub width: i32,
        /// Columns of `x`.
        pub stride: i32,
        /// The first that is replaced.
        pub column: i32,
    }
}

/// Panics unless the columns can be read in vectors and are columns of a row.
fn assert_columns(width: i32, stride: i32, column: i32) {
    assert_vectors(width);
    assert_vectors(stride);
    assert!(column >= 0 && column % 8 == 0 && column + width <= stride, "columns {column} and {width} of {stride}");
}

impl Capture {
    /// Its launch.
    pub fn launch(&self) -> Launch<'_> {
        assert_columns(self.width, self.stride, self.column);
        Launch::new(CAPTURE_STORE, [size(self.n).div_ceil(8), 1], 0, self)
    }
}

impl Splice {
    /// Its launch.
    pub fn launch(&self) -> Launch<'_> {
        assert_columns(self.width, self.stride, self.column);
        Launch::new(SPLICE, [size(self.n).div_ceil(8), 1], 0, self)
    }
}
