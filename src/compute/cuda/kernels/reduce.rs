//! `column_*`, `stats`, `idle_latents`: sums in a fixed order.

use super::{Bf16, Entry, In, Launch, Out, Source, arguments, size};

/// The file.
pub const SOURCE: Source = Source {
    name: "reduce",
    text: include_str!("reduce.cu"),
    entries: &[COLUMN_PARTIALS, COLUMN_FINISH, STATS, IDLE_LATENTS],
};
const COLUMN_PARTIALS: Entry = Entry { name: "column_partials", threads: 128, registers: 48 };
const COLUMN_FINISH: Entry = Entry { name: "column_finish", threads: 128, registers: 40 };
const STATS: Entry = Entry { name: "stats", threads: 256, registers: 48 };
const IDLE_LATENTS: Entry = Entry { name: "idle_latents", threads: 256, registers: 16 };

arguments! {
    /// `partial[j, p] = sum of weight[i] * x[i, p]` over the rows `i` of range `j`.
    pub struct Columns = "ColumnsArgs" {
        /// `[n, d]`, or none: then `rows_float`.
        pub rows_bf16: In<Bf16>,
        /// `[n, d]`, or none.
        pub rows_float: In<f32>,
        /// `[n]`; none: 1.
        pub weight: In<f32>,
        /// `[parts, d]`.
        pub partial: Out<f32>,
        /// Rows.
        pub n: i32,
        /// Columns.
        pub d: i32,
        /// Rows of a range.
        pub rows_a_block: i32,
    }
}

arguments! {
    /// `out[p] = keep * out[p] + scale * sum_j partial[j, p]`.
    pub struct Finish = "FinishArgs" {
        /// `[parts, d]`.
        pub partial: In<f32>,
        /// `[d]`.
        pub out: Out<f32>,
        /// Ranges.
        pub parts: i32,
        /// Columns.
        pub d: i32,
        /// Of what was there; 0: it does not matter what that was.
        pub keep: f32,
        /// Of the sum.
        pub scale: f32,
    }
}

arguments! {
    /// `out = [sum of loss, sum of squares, entries]`.
    pub struct Stats = "StatsArgs" {
        /// `[n]`.
        pub loss: In<f32>,
        /// `[n]`, or none.
        pub squares: In<f32>,
        /// `[places]` of a code.
        pub latents: In<u32>,
        /// `[3]`.
        pub out: Out<f64>,
        /// Places of the code.
        pub places: u64,
        /// Rows.
        pub n: i32,
    }
}

arguments! {
    /// `is_idle[i] = idle[i] > limit`, and how many are.
    pub struct Idle = "IdleArgs" {
        /// `[f]` rows since each latent's last entry.
        pub idle: In<u32>,
        /// `[f]`: what [`super::select::TopK::among`] takes.
        pub is_idle: Out<u8>,
        /// `[1]` zero before.
        pub count: Out<u32>,
        /// Latents.
        pub f: i32,
        /// Rows.
        pub limit: u32,
    }
}

impl Columns {
    /// Ranges of rows, which `partial` has room for.
    pub fn parts(&self) -> usize {
        size(self.n).div_ceil(size(self.rows_a_block))
    }

    /// Its launch.
    pub fn launch(&self) -> Launch<'_> {
        assert!(self.rows_bf16.is_given() != self.rows_float.is_given(), "rows of one kind");
        Launch::new(COLUMN_PARTIALS, [size(self.d).div_ceil(128), self.parts()], 0, self)
    }
}

impl Finish {
    /// Its launch.
    pub fn launch(&self) -> Launch<'_> {
        Launch::new(COLUMN_FINISH, [size(self.d).div_ceil(128), 1], 0, self)
    }
}

impl Stats {
    /// Its launch: one block.
    pub fn launch(&self) -> Launch<'_> {
        Launch::new(STATS, [1, 1], 0, self)
    }
}

impl Idle {
    /// Its launch.
    pub fn launch(&self) -> Launch<'_> {
        Launch::new(IDLE_LATENTS, [size(self.f).div_ceil(256), 1], 0, self)
    }
}
