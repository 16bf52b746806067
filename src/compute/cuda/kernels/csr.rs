//! `csr_*`: a code's entries by latent, in the order of their places, as [`crate::compute::coder_ops::ByLatent`] has them.
//!
//! In this order: [`Count`] into zeros, [`Scan`], [`Scatter`] with zeros as cursors, [`Sort`].

use super::{Entry, In, Launch, Out, Source, arguments, size};

/// The file.
pub const SOURCE: Source =
    Source { name: "csr", text: include_str!("csr.cu"), entries: &[CSR_COUNT, CSR_SCAN, CSR_SCATTER, CSR_SORT] };
const CSR_COUNT: Entry = Entry { name: "csr_count", threads: 256, registers: 16 };
const CSR_SCAN: Entry = Entry { name: "csr_scan", threads: 1024, registers: 32 };
const CSR_SCATTER: Entry = Entry { name: "csr_scatter", threads: 256, registers: 24 };
const CSR_SORT: Entry = Entry { name: "csr_sort", threads: 128, registers: 32 };

arguments! {
    /// `counts[i] +=` the entries of latent `i`.
    pub struct Count = "CountArgs" {
        /// `[places]` of a code.
        pub latents: In<u32>,
        /// `[f]` zeros before.
        pub counts: Out<u32>,
        /// Places of the code.
        pub places: i32,
    }
}

arguments! {
    /// `starts[i] = counts[0] + ... + counts[i - 1]` for `i` up to `n`.
    pub struct Scan = "ScanArgs" {
        /// `[n]`.
        pub counts: In<u32>,
        /// `[n + 1]`.
        pub starts: Out<u32>,
        /// Counts.
        pub n: i32,
    }
}

arguments! {
    /// Each entry's place to its latent, in any order.
    pub struct Scatter = "ScatterArgs" {
        /// `[count]` of a code.
        pub latents: In<u32>,
        /// `[f + 1]`.
        pub starts: In<u32>,
        /// `[f]` zeros before.
        pub cursors: Out<u32>,
        /// As many as there are entries.
        pub places: Out<u32>,
        /// Places of the code.
        pub count: i32,
    }
}

arguments! {
    /// Each latent's places in ascending order.
    pub struct Sort = "SortArgs" {
        /// `[f + 1]`.
        pub starts: In<u32>,
        /// `[rows, k]` of a code.
        pub latents: In<u32>,
        /// As many as there are entries.
        pub places: Out<u32>,
        /// Rows of the code.
        pub rows: i32,
        /// Places a row.
        pub k: i32,
    }
}

impl Count {
    /// Its launch.
    pub fn launch(&self) -> Launch<'_> {
        Launch::new(CSR_COUNT, [size(self.places).div_ceil(256), 1], 0, self)
    }
}

impl Scan {
    /// Its launch: one block.
    pub fn launch(&self) -> Launch<'_> {
        Launch::new(CSR_SCAN, [1, 1], 0, self)
    }
}

impl Scatter {
    /// Its launch.
    pub fn launch(&self) -> Launch<'_> {
        Launch::new(CSR_SCATTER, [size(self.count).div_ceil(256), 1], 0, self)
    }
}

impl Sort {
    /// Its launch over `f` latents, a bit of shared memory a row: 1.3 million rows at most.
    pub fn launch(&self, f: usize) -> Launch<'_> {
        assert!(self.k > 0);
        Launch::new(CSR_SORT, [f, 1], size(self.rows).div_ceil(32) * 4, self)
    }
}
