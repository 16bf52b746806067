//! `act`: an MLP's elementwise function, gated or not; eight numbers a thread.

use super::{Bf16, Entry, In, Launch, Out, Source, VECTOR, arguments, assert_vectors, size};
use crate::compute::model_ops::Activation;

/// The file.
pub const SOURCE: Source = Source { name: "act", text: include_str!("act.cu"), entries: &[ACT] };
const ACT: Entry = Entry { name: "act", threads: 256, registers: 40 };

arguments! {
    /// `y[i] = f(gate[i]) * up[i]`, or without `up` `f(gate[i])`. Gate and up may be halves of the same rows.
    pub struct Act = "ActArgs" {
        /// `[n, stride]`, its first `m` columns.
        pub gate: In<Bf16>,
        /// `[n, stride]`, its first `m` columns; or none.
        pub up: In<Bf16>,
        /// `[n, m]`; may be `gate` where `stride` is `m`.
        pub y: Out<Bf16>,
        /// Rows.
        pub n: i32,
        /// Columns.
        pub m: i32,
        /// Numbers from a row of `gate` and of `up` to the next.
        pub stride: i32,
        /// [`kind`].
        pub kind: i32,
    }
}

/// A function's number.
pub fn kind(f: Activation) -> i32 {
    match f {
        Activation::Silu => 0,
        Activation::GeluTanh => 1,
        Activation::GeluErf => 2,
        Activation::Relu => 3,
    }
}

impl Act {
    /// Its launch.
    pub fn launch(&self) -> Launch<'_> {
        assert_vectors(self.m);
        assert_vectors(self.stride);
        Launch::new(ACT, [(size(self.n) * size(self.m) / VECTOR).div_ceil(256), 1], 0, self)
    }
}
