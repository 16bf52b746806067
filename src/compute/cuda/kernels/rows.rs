//! `row_op`, `blend`, `center`, `split_rows`, `squares`, `take_rows`, `adam_update`: rows and buffers of f32 in the training of a coder.

use super::{Bf16, Entry, In, Launch, Out, Source, arguments, assert_vectors, size};

/// The file.
pub const SOURCE: Source = Source {
    name: "rows",
    text: include_str!("rows.cu"),
    entries: &[ROW_OP, BLEND, CENTER, SPLIT_ROWS, SQUARES, TAKE_ROWS, ADAM],
};
const ROW_OP: Entry = Entry { name: "row_op", threads: 256, registers: 40 };
const BLEND: Entry = Entry { name: "blend", threads: 256, registers: 16 };
const CENTER: Entry = Entry { name: "center", threads: 256, registers: 24 };
const SPLIT_ROWS: Entry = Entry { name: "split_rows", threads: 256, registers: 24 };
const SQUARES: Entry = Entry { name: "squares", threads: 256, registers: 32 };
const TAKE_ROWS: Entry = Entry { name: "take_rows", threads: 256, registers: 24 };
const ADAM: Entry = Entry { name: "adam_update", threads: 256, registers: 24 };

/// Blocks of sums whose parts are added on the host, at most.
pub const PARTS: usize = 512;
/// Numbers of a part, at least.
const A_PART: usize = 1 << 14;

/// Parts of a sum over `len` numbers, which `partial` has room for: the same for the same length.
pub fn parts(len: u64) -> usize {
    (len as usize).div_ceil(A_PART).clamp(1, PARTS)
}

/// [`RowOp::kind`]: `out[i] = |a[i]|`.
pub const NORM: i32 = 0;
/// [`RowOp::kind`]: `out[i] = |a[i] - b|`.
pub const DISTANCE: i32 = 1;
/// [`RowOp::kind`]: `out[i] = <a[i], b[i]>`.
pub const DOT: i32 = 2;
/// [`RowOp::kind`]: `out[i] -= <out[i], a[i]> a[i]`.
pub const PROJECT: i32 = 3;
/// [`RowOp::kind`]: `out[i] /= max(|out[i]|, 1e-8)`.
pub const NORMALIZE: i32 = 4;
/// [`RowOp::kind`]: `out[i] *= scale[i]`.
pub const SCALE: i32 = 5;
/// [`RowOp::kind`]: `out[i] += scale[i] a[i]`.
pub const ADD_SCALED: i32 = 6;

arguments! {
    /// A sum over each row, or what is done to the row.
    pub struct RowOp = "RowArgs" {
        /// `[n, d]`.
        pub a: In<f32>,
        /// `[n, d]`, or `[d]` of [`DISTANCE`].
        pub b: In<f32>,
        /// `[n]`.
        pub scale: In<f32>,
        /// `[n]` of the first three kinds, else `[n, d]`.
        pub out: Out<f32>,
        /// Rows.
        pub n: i32,
        /// Columns.
        pub d: i32,
        /// One of the kinds above.
        pub kind: i32,
    }
}

arguments! {
    /// `y = a x + b y`, `y = x y` or `y = max(y, a)`, as `kind` is 0, 1 or 2.
    pub struct Blend = "BlendArgs" {
        /// `[len]`.
        pub x: In<f32>,
        /// `[len]`.
        pub y: Out<f32>,
        /// Numbers.
        pub len: u64,
        /// Of `x`, or the bound.
        pub a: f32,
        /// Of `y`; 0: it does not matter what that held.
        pub b: f32,
        /// See above.
        pub kind: i32,
    }
}

arguments! {
    /// `c[i, p] = scale * x[i, p] - shift[p]`.
    pub struct Center = "CenterArgs" {
        /// `[n, d]`.
        pub x: In<f32>,
        /// `[d]`.
        pub shift: In<f32>,
        /// `[n, d]`.
        pub c: Out<f32>,
        /// Numbers of `x`.
        pub len: u64,
        /// Columns.
        pub d: i32,
        /// Of `x`.
        pub scale: f32,
    }
}

arguments! {
    /// Rows of f32 as bfloat16 for a product: rounded (`parts` 1), or as sums of two (`parts` 3, the factor on one side laid out so that
    /// it meets that of the other).
    pub struct Split = "SplitArgs" {
        /// `[rows, d]`.
        pub x: In<f32>,
        /// `[rows, parts * d]`.
        pub y: Out<Bf16>,
        /// Rows.
        pub rows: u64,
        /// Columns.
        pub d: i32,
        /// 1 or 3.
        pub parts: i32,
        /// 1: the left factor.
        pub is_left: i32,
    }
}

arguments! {
    /// `partial[j]`: sum of `(x - shift)^2` over the range of part `j`.
    pub struct Squares = "SquaresArgs" {
        /// `[len]`, rows of `d`.
        pub x: In<f32>,
        /// `[d]`, or none.
        pub shift: In<f32>,
        /// `[parts(len)]`.
        pub partial: Out<f64>,
        /// Numbers.
        pub len: u64,
        /// Columns.
        pub d: i32,
    }
}

arguments! {
    /// `out[i] = x[rows[i]]`.
    pub struct Take = "TakeArgs" {
        /// `[_, d]`.
        pub x: In<f32>,
        /// Which rows.
        pub rows: In<u32>,
        /// As many rows.
        pub out: Out<f32>,
        /// Numbers of `out`.
        pub len: u64,
        /// Columns.
        pub d: i32,
    }
}

arguments! {
    /// As [`crate::compute::CoderOps::adam`].
    pub struct AdamUpdate = "AdamArgs" {
        /// `[len]`.
        pub w: Out<f32>,
        /// `[len]`.
        pub g: In<f32>,
        /// `[len]`.
        pub m: Out<f32>,
        /// `[len]`.
        pub v: Out<f32>,
        /// Numbers.
        pub len: u64,
        /// Learning rate.
        pub learning_rate: f32,
        /// Of the first moment.
        pub beta_1: f32,
        /// Of the second moment.
        pub beta_2: f32,
        /// Added to the denominator.
        pub epsilon: f32,
        /// What weights are multiplied by first.
        pub decay: f32,
        /// Of the first moment.
        pub correct_1: f32,
        /// Of the second moment.
        pub correct_2: f32,
        /// Of gradients.
        pub gradient_scale: f32,
    }
}

/// Blocks of 256 threads for `len` numbers.
fn blocks(len: u64) -> [usize; 2] {
    [(len as usize).div_ceil(256), 1]
}

impl RowOp {
    /// Its launch.
    pub fn launch(&self) -> Launch<'_> {
        assert!((NORM..=ADD_SCALED).contains(&self.kind));
        assert!(self.a.is_given() || [NORMALIZE, SCALE].contains(&self.kind), "rows to read");
        assert!(self.b.is_given() == [DISTANCE, DOT].contains(&self.kind), "the other factor");
        assert!(self.scale.is_given() == (self.kind >= SCALE), "a scale for each row");
        Launch::new(ROW_OP, [size(self.n).div_ceil(8), 1], 0, self)
    }
}

impl Blend {
    /// Its launch.
    pub fn launch(&self) -> Launch<'_> {
        assert!((0..3).contains(&self.kind) && (self.x.is_given() || self.kind == 2));
        Launch::new(BLEND, blocks(self.len), 0, self)
    }
}

impl Center {
    /// Its launch.
    pub fn launch(&self) -> Launch<'_> {
        assert!(self.d > 0);
        Launch::new(CENTER, blocks(self.len), 0, self)
    }
}

impl Split {
    /// Its launch.
    pub fn launch(&self) -> Launch<'_> {
        assert_vectors(self.d);
        assert!([1, 3].contains(&self.parts));
        Launch::new(SPLIT_ROWS, blocks(self.rows * size(self.d) as u64), 0, self)
    }
}

impl Squares {
    /// Its launch.
    pub fn launch(&self) -> Launch<'_> {
        assert!(self.len > 0 && self.d > 0);
        Launch::new(SQUARES, [parts(self.len), 1], 0, self)
    }
}

impl Take {
    /// Its launch.
    pub fn launch(&self) -> Launch<'_> {
        assert!(self.d > 0);
        Launch::new(TAKE_ROWS, blocks(self.len), 0, self)
    }
}

impl AdamUpdate {
    /// Its launch.
    pub fn launch(&self) -> Launch<'_> {
        Launch::new(ADAM, blocks(self.len), 0, self)
    }
}
