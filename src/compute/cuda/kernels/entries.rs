//! `sparse_rows`, `entry_dots`, `term_gradients`, `latent_sums`, `place_op`, `rename_entries`: the entries of a code in f32.

use super::rows::parts;
use super::{Entry, In, Launch, Out, Source, arguments, size};

/// The file.
pub const SOURCE: Source = Source {
    name: "entries",
    text: include_str!("entries.cu"),
    entries: &[SPARSE_ROWS, ENTRY_DOTS, TERM_GRADIENTS, LATENT_SUMS, PLACE_OP, RENAME],
};
const SPARSE_ROWS: Entry = Entry { name: "sparse_rows", threads: 256, registers: 24 };
const ENTRY_DOTS: Entry = Entry { name: "entry_dots", threads: 256, registers: 40 };
const TERM_GRADIENTS: Entry = Entry { name: "term_gradients", threads: 256, registers: 48 };
const LATENT_SUMS: Entry = Entry { name: "latent_sums", threads: 256, registers: 48 };
const PLACE_OP: Entry = Entry { name: "place_op", threads: 256, registers: 32 };
const RENAME: Entry = Entry { name: "rename_entries", threads: 256, registers: 16 };

/// [`PlaceOp::kind`]: `out *= weight[latent]`.
pub const SCALE_ENTRIES: i32 = 0;
/// [`PlaceOp::kind`]: the least `value * weight[latent]`.
pub const LEAST: i32 = 1;
/// [`PlaceOp::kind`]: the sum of `value * weight[latent]`, `out += scale * weight[latent]`, `side = scale * value`.
pub const PENALIZE: i32 = 2;

arguments! {
    /// `out[b] = base + factor * sum of value * w[latent]` over the entries of latents from `first` to before `end`.
    pub struct SparseRows = "SparseArgs" {
        /// `[n, k]` of a code.
        pub latents: In<u32>,
        /// `[n, k]`.
        pub values: In<f32>,
        /// `[f, d]`.
        pub w: In<f32>,
        /// `[n, d]`, or `[d]` if `is_bias`.
        pub base: In<f32>,
        /// `[n, d]`.
        pub out: Out<f32>,
        /// Rows.
        pub n: i32,
        /// Columns.
        pub d: i32,
        /// Places a row.
        pub k: i32,
        /// 1: one base for all rows.
        pub is_bias: i32,
        /// Of the sum.
        pub factor: f32,
        /// The first latent that counts.
        pub first: u32,
        /// The first after it that does not.
        pub end: u32,
    }
}

arguments! {
    /// `out[place] = scale * <rows[b], w[latent]>` at the entries of latents from `first` to before `end`.
    pub struct EntryDots = "DotsArgs" {
        /// `[n, k]` of a code.
        pub latents: In<u32>,
        /// `[f, d]`.
        pub w: In<f32>,
        /// `[n, d]`.
        pub rows: In<f32>,
        /// `[n, k]`.
        pub out: Out<f32>,
        /// Places of the code.
        pub places: u64,
        /// Columns.
        pub d: i32,
        /// Places a row.
        pub k: i32,
        /// Of the products.
        pub scale: f32,
        /// The first latent that counts.
        pub first: u32,
        /// The first after it that does not.
        pub end: u32,
    }
}

arguments! {
    /// One term of [`crate::compute::CoderOps::latent_gradients`].
    pub struct TermGradients = "GradientArgs" {
        /// `[f + 1]`.
        pub starts: In<u32>,
        /// Places of the entries by latent.
        pub places: In<u32>,
        /// `[n, k]`.
        pub values: In<f32>,
        /// `[n, k]`.
        pub g: In<f32>,
        /// `[n, out]`; not looked at where `scale` is 0.
        pub residual: In<f32>,
        /// `[n, d]`.
        pub c: In<f32>,
        /// `[f, d]`.
        pub w_enc: Out<f32>,
        /// `[f]`.
        pub b_enc: Out<f32>,
        /// `[f, out]`.
        pub w_dec: Out<f32>,
        /// Input width.
        pub d: i32,
        /// Output width.
        pub out: i32,
        /// Places a row.
        pub k: i32,
        /// The gradient with respect to the reconstruction is this times the residual.
        pub scale: f32,
        /// The first latent that counts.
        pub first: u32,
        /// The first after it that does not.
        pub end: u32,
        /// 1: added to what is there.
        pub accumulate: i32,
    }
}

arguments! {
    /// `out[i]`: the sum of `a[place] * b[place]` over the entries of a latent, or the least `a[place]` (`kind` 1).
    pub struct LatentSums = "LatentSumArgs" {
        /// `[f + 1]`.
        pub starts: In<u32>,
        /// Places of the entries by latent.
        pub places: In<u32>,
        /// At the places.
        pub a: In<f32>,
        /// At the places, or none.
        pub b: In<f32>,
        /// `[f]`.
        pub out: Out<f32>,
        /// Latents.
        pub f: i32,
        /// See above.
        pub kind: i32,
    }
}

arguments! {
    /// Something at every place of a code, by one of the kinds above.
    pub struct PlaceOp = "PlaceArgs" {
        /// `[places]` of a code.
        pub latents: In<u32>,
        /// `[places]`.
        pub values: In<f32>,
        /// `[f]`, or none.
        pub weight: In<f32>,
        /// `[places]`.
        pub out: Out<f32>,
        /// `[places]`, or none.
        pub side: Out<f32>,
        /// `[parts(places)]` what each block found.
        pub partial: Out<f64>,
        /// Places of the code.
        pub places: u64,
        /// Of gradients.
        pub scale: f32,
        /// One of the kinds above.
        pub kind: i32,
    }
}

arguments! {
    /// `latent = names[latent]` at the entries.
    pub struct Rename = "RenameArgs" {
        /// `[places]` of a code.
        pub latents: Out<u32>,
        /// `[_]` ascending.
        pub names: In<u32>,
        /// Places of the code.
        pub places: u64,
    }
}

impl SparseRows {
    /// Its launch: a block a row.
    pub fn launch(&self) -> Launch<'_> {
        Launch::new(SPARSE_ROWS, [size(self.n), 1], 0, self)
    }
}

impl EntryDots {
    /// Its launch: a warp a place.
    pub fn launch(&self) -> Launch<'_> {
        assert!(self.k > 0);
        Launch::new(ENTRY_DOTS, [(self.places as usize).div_ceil(8), 1], 0, self)
    }
}

impl TermGradients {
    /// Its launch over `f` latents.
    pub fn launch(&self, f: usize) -> Launch<'_> {
        assert!(self.k > 0);
        Launch::new(TERM_GRADIENTS, [f, 1], 0, self)
    }
}

impl LatentSums {
    /// Its launch.
    pub fn launch(&self) -> Launch<'_> {
        Launch::new(LATENT_SUMS, [size(self.f).div_ceil(256), 1], 0, self)
    }
}

impl PlaceOp {
    /// Its launch.
    pub fn launch(&self) -> Launch<'_> {
        assert!((SCALE_ENTRIES..=PENALIZE).contains(&self.kind) && self.places > 0);
        assert!(self.partial.is_given() || self.kind == SCALE_ENTRIES, "room for what blocks find");
        Launch::new(PLACE_OP, [parts(self.places), 1], 0, self)
    }
}

impl Rename {
    /// Its launch.
    pub fn launch(&self) -> Launch<'_> {
        Launch::new(RENAME, [(self.places as usize).div_ceil(256), 1], 0, self)
    }
}
