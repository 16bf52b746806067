//! `add_norm`: the residual stream takes what a block adds, and is normed for what comes next; a block a row.

use super::{Bf16, Entry, In, Launch, Out, Source, arguments, assert_vectors, size};

/// The file.
pub const SOURCE: Source = Source { name: "add_norm", text: include_str!("add_norm.cu"), entries: &[ADD_NORM] };
const ADD_NORM: Entry = Entry { name: "add_norm", threads: 256, registers: 48 };

arguments! {
    /// `residual += post_norm(delta_a) + delta_b`, then `y_a` and `y_b` are norms of it, each with its own weights. What is not
    /// given is left out: a delta, the norm of the first delta, a weight (1), a bias (0), an output.
    ///
    /// A norm is `(x - mean) / sqrt(square + eps) * (weight + weight_offset) + bias`, of the stream as it was rounded.
    pub struct AddNorm = "AddNormArgs" {
        /// `[n, d]`, changed where a delta is given.
        pub residual: Out<Bf16>,
        /// `[n, d]` first addend.
        pub delta_a: In<Bf16>,
        /// `[n, d]` second addend.
        pub delta_b: In<Bf16>,
        /// `[d]` weight of an RMS norm of the first addend by itself (Gemma).
        pub post_weight: In<f32>,
        /// `[d]`.
        pub weight_a: In<f32>,
        /// `[d]`.
        pub bias_a: In<f32>,
        /// `[n, d]`.
        pub y_a: Out<Bf16>,
        /// `[d]`.
        pub weight_b: In<f32>,
        /// `[d]`.
        pub bias_b: In<f32>,
        /// `[n, d]`.
        pub y_b: Out<Bf16>,
        /// `[n]` what the rows were divided by.
        pub scale: Out<f32>,
        /// Columns.
        pub d: i32,
        /// Under the root.
        pub eps: f32,
        /// 1: the mean is taken off first.
        pub is_layer: i32,
        /// Added to weights: 1 for Gemma.
        pub weight_offset: f32,
    }
}

impl AddNorm {
    /// Its launch over `n` rows.
    pub fn launch(&self, n: usize) -> Launch<'_> {
        assert_vectors(self.d);
        assert!(self.delta_a.is_given() || !self.post_weight.is_given(), "nothing to norm before it is added");
        Launch::new(ADD_NORM, [n, 1], size(self.d) * 4, self)
    }
}
