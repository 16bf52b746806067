//! `attention_*`: causal attention by tiles with a running softmax; a block 64 query rows of a head, on tensor cores.

use super::{Bf16, Entry, In, Launch, Out, Source, arguments, assert_vectors, size};

/// The file.
pub const SOURCE: Source = Source {
    name: "attention",
    text: include_str!("attention.cu"),
    entries: &[
        Entry { name: "attention_32", threads: 128, registers: 112 },
        Entry { name: "attention_64", threads: 128, registers: 136 },
        Entry { name: "attention_128", threads: 128, registers: 136 },
        Entry { name: "attention_256", threads: 128, registers: 232 },
    ],
};

/// Head widths of the variants and the keys of a tile, in the order of the entries.
const VARIANTS: [(usize, usize); 4] = [(32, 64), (64, 64), (128, 32), (256, 32)];
/// Query rows of a block.
const ROWS: usize = 64;
/// Numbers behind each row of a tile, which keep its columns in different banks.
const PADDING: usize = 8;

arguments! {
    /// As [`crate::compute::ModelOps::attention`] without its sides: row `i` sees the rows `max(starts[i], i - window + 1) ..= i`.
    pub struct Attention = "AttentionArgs" {
        /// `[n, q_stride]`, from the first head on.
        pub q: In<Bf16>,
        /// `[n, kv_stride]`, from the first head on.
        pub k: In<Bf16>,
        /// `[n, kv_stride]`, from the first head on.
        pub v: In<Bf16>,
        /// `[n, heads, e]`.
        pub z: Out<Bf16>,
        /// `[n, heads]` logarithms of the sums that scores were divided by, from which patterns can be had again; or none.
        pub lse: Out<f32>,
        /// `[n]` the first row of each row's context; they do not decrease.
        pub starts: In<u32>,
        /// Rows.
        pub n: i32,
        /// Query heads, a multiple of `kv_heads`.
        pub heads: i32,
        /// Key/value heads.
        pub kv_heads: i32,
        /// Head width: a multiple of 8, at most 256.
        pub e: i32,
        /// Numbers from a row of `q` to the next: a multiple of 8.
        pub q_stride: i32,
        /// The same of `k` and `v`.
        pub kv_stride: i32,
        /// Factor of scores.
        pub scale: f32,
        /// Cap of scores; 0: none.
        pub softcap: f32,
        /// Rows that a row sees; 0: all before it.
        pub window: i32,
    }
}

impl Attention {
    /// Its launch, by the narrowest variant that has room for the heads.
    pub fn launch(&self) -> Launch<'_> {
        for width in [self.e, self.q_stride, self.kv_stride] {
            assert_vectors(width);
        }
        assert!(self.kv_heads > 0 && self.heads % self.kv_heads == 0);
        let variant =
            VARIANTS.iter().position(|&(width, _)| size(self.e) <= width).expect("heads are at most 256 wide");
        let (width, keys) = VARIANTS[variant];
        let shared = (ROWS + 2 * keys) * (width + PADDING) * size_of::<Bf16>();
        Launch::new(SOURCE.entries[variant], [size(self.n).div_ceil(ROWS), size(self.heads)], shared, self)
    }
}
