//! `embed`: rows of the embedding tables, a warp a row.

use super::{Bf16, Entry, In, Launch, Out, Source, arguments, assert_vectors, size};

/// The file.
pub const SOURCE: Source = Source { name: "embed", text: include_str!("embed.cu"), entries: &[EMBED] };
const EMBED: Entry = Entry { name: "embed", threads: 256, registers: 40 };

arguments! {
    /// `y[i] = scale * tokens[ids[i]] + places[positions[i]]`.
    pub struct Embed = "EmbedArgs" {
        /// `[n]` rows of `tokens`.
        pub ids: In<u32>,
        /// `[n]` rows of `places`; needed where that is given.
        pub positions: In<u32>,
        /// `[vocabulary, d]`.
        pub tokens: In<Bf16>,
        /// `[context, d]`, or none.
        pub places: In<Bf16>,
        /// `[n, d]`.
        pub y: Out<Bf16>,
        /// Rows.
        pub n: i32,
        /// Columns.
        pub d: i32,
        /// Of the tokens' rows.
        pub scale: f32,
    }
}

impl Embed {
    /// Its launch.
    pub fn launch(&self) -> Launch<'_> {
        assert_vectors(self.d);
        assert!(!self.places.is_given() || self.positions.is_given(), "places need positions");
        Launch::new(EMBED, [size(self.n).div_ceil(8), 1], 0, self)
    }
}
