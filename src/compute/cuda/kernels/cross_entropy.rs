//! `cross_entropy`: the loss of each row of logits; a block a row.

use super::{Bf16, Entry, In, Launch, Out, Source, arguments};

/// The file.
pub const SOURCE: Source = Source { name: "ce", text: include_str!("ce.cu"), entries: &[CROSS_ENTROPY] };
const CROSS_ENTROPY: Entry = Entry { name: "cross_entropy", threads: 256, registers: 32 };

arguments! {
    /// `lse[i] = log sum_j exp(l[i, j])`, `loss[i] = lse[i] - l[i, targets[i]]`, with `l = cap tanh(logits / cap)` under a cap.
    pub struct CrossEntropy = "CrossEntropyArgs" {
        /// `[n, stride]`.
        pub logits: In<Bf16>,
        /// `[n]` columns.
        pub targets: In<u32>,
        /// `[n]`.
        pub loss: Out<f32>,
        /// `[n]`, or none.
        pub lse: Out<f32>,
        /// Columns that count.
        pub vocabulary: i32,
        /// Numbers from a row to the next.
        pub stride: i32,
        /// Cap of logits; 0: none.
        pub softcap: f32,
    }
}

impl CrossEntropy {
    /// Its launch over `n` rows.
    pub fn launch(&self, n: usize) -> Launch<'_> {
        assert!(self.vocabulary > 0 && self.vocabulary <= self.stride);
        Launch::new(CROSS_ENTROPY, [n, 1], 0, self)
    }
}
