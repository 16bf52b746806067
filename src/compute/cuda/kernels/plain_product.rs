//! `plain_product`: a matrix product without tensor cores, for shapes that cuBLASLt has no way for, and to compare it with; a
//! thread a result.

use super::{Bf16, Entry, In, Launch, Out, Source, arguments, assert_vectors, size};
use crate::compute::cuda::product::Product;

/// The file.
pub const SOURCE: Source =
    Source { name: "plain_product", text: include_str!("plain_product.cu"), entries: &[PLAIN_PRODUCT] };
const PLAIN_PRODUCT: Entry = Entry { name: "plain_product", threads: 256, registers: 48 };

arguments! {
    /// As [`Product`].
    pub struct PlainProduct = "PlainProductArgs" {
        /// `[n, x_stride]`.
        pub x: In<Bf16>,
        /// `[n_out, w_stride]`.
        pub w: In<Bf16>,
        /// `[n_out]`, or none.
        pub bias_bf16: In<Bf16>,
        /// `[n_out]`, or none.
        pub bias_float: In<f32>,
        /// `[n, y_stride]`, or none.
        pub y_bf16: Out<Bf16>,
        /// `[n, y_stride]`, or none.
        pub y_float: Out<f32>,
        /// Rows.
        pub n: i32,
        /// Columns of `x` and `w`: a multiple of 8.
        pub n_in: i32,
        /// Columns of `y`.
        pub n_out: i32,
        /// Numbers from a row of `x` to the next.
        pub x_stride: i32,
        /// Numbers from a row of `w` to the next.
        pub w_stride: i32,
        /// Numbers from a row of `y` to the next.
        pub y_stride: i32,
        /// 1: added to what `y` holds.
        pub adds: i32,
    }
}

impl PlainProduct {
    /// The argument for a product.
    pub fn of(product: &Product) -> Self {
        let Product { x, w, bias, y, shape } = *product;
        let only_if = |is: bool, address| if is { address } else { 0 };
        Self {
            x: In::at(x),
            w: In::at(w),
            bias_bf16: In::at(only_if(!shape.float_out, bias)),
            bias_float: In::at(only_if(shape.float_out, bias)),
            y_bf16: Out::at(only_if(!shape.float_out, y)),
            y_float: Out::at(only_if(shape.float_out, y)),
            n: shape.n as i32,
            n_in: shape.n_in as i32,
            n_out: shape.n_out as i32,
            x_stride: shape.x_stride as i32,
            w_stride: shape.w_stride as i32,
            y_stride: shape.y_stride as i32,
            adds: i32::from(shape.adds),
        }
    }

    /// Its launch.
    pub fn launch(&self) -> Launch<'_> {
        for width in [self.n_in, self.x_stride, self.w_stride] {
            assert_vectors(width);
        }
        Launch::new(PLAIN_PRODUCT, [(size(self.n) * size(self.n_out)).div_ceil(256), 1], 0, self)
    }
}
