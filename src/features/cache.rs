//! Every activation of a text, for tools that choose examples themselves. Not bounded by itself: whoever feeds it asks
//! [`Cache::bytes`].

use half::f16;

use crate::sae::codes::Codes;
use crate::tokens::TokenBatch;

/// Activations that are smaller are left out. (delphi)
const SMALLEST: f32 = 1e-5;
/// Files that a coder's latents are divided into. (delphi's default)
pub const SPLITS: usize = 5;

/// All activations of the sequences of full length, by ranges of latents.
#[derive(Clone, Debug)]
pub struct Cache {
    context: usize,
    /// `[sequences, context]` token ids.
    ids: Vec<u32>,
    splits: Vec<Split>,
    /// Sequences that are shorter, and not here.
    short: u64,
    /// Activations that half precision cannot hold, brought to the largest that it can.
    clamped: u64,
}

/// The activations of a range of latents, in the order of the text.
#[derive(Clone, Debug, Default)]
pub struct Split {
    /// Its first latent.
    pub first: u32,
    /// The one after its last.
    pub end: u32,
    /// Sequence, position in it, and latent after the first.
    pub locations: Vec<[u32; 3]>,
    /// The activations there.
    pub activations: Vec<f16>,
}

impl Cache {
    /// Nothing yet, of `f` latents on sequences of `context` tokens.
    pub fn new(f: usize, context: usize) -> Self {
        let bound = |i: usize| (i * f / SPLITS) as u32;
        let splits = (0..SPLITS).map(|i| Split { first: bound(i), end: bound(i + 1), ..Split::default() });
        let splits = splits.filter(|split| split.first < split.end).collect();
        Self { context, ids: Vec::new(), splits, short: 0, clamped: 0 }
    }

    /// Tokens of a sequence.
    pub fn context(&self) -> usize {
        self.context
    }

    /// `[sequences, context]` token ids.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Sequences.
    pub fn n_sequences(&self) -> usize {
        self.ids.len() / self.context.max(1)
    }

    /// The activations.
    pub fn splits(&self) -> &[Split] {
        &self.splits
    }

    /// Sequences that are shorter, and not here.
    pub fn short(&self) -> u64 {
        self.short
    }

    /// Activations that half precision cannot hold, brought to the largest that it can.
    pub fn clamped(&self) -> u64 {
        self.clamped
    }

    /// Memory held.
    pub fn bytes(&self) -> u64 {
        let entries: usize = self.splits.iter().map(|split| split.locations.capacity()).sum();
        (entries * 14 + self.ids.capacity() * 4) as u64
    }

    /// Add a batch: `codes` are those of its `rows`, which ascend.
    pub fn add(&mut self, batch: &TokenBatch, rows: &[u32], codes: &Codes) {
        let mut next = 0;
        for sequence in 0..batch.n_sequences() {
            let range = batch.sequence_rows(sequence);
            let first = next + rows[next..].iter().take_while(|row| (**row as usize) < range.start).count();
            next = first + rows[first..].iter().take_while(|row| (**row as usize) < range.end).count();
            if range.len() != self.context {
                self.short += 1;
                continue;
            }
            let number = self.n_sequences() as u32;
            self.ids.extend_from_slice(&batch.ids[range.clone()]);
            for (row, i) in rows[first..next].iter().zip(first..) {
                let position = row - range.start as u32;
                let (latents, values) = codes.row(i);
                for (&latent, &value) in latents.iter().zip(values).filter(|(_, value)| value.abs() > SMALLEST) {
                    self.push(number, position, latent, value);
                }
            }
        }
    }

    fn push(&mut self, sequence: u32, position: u32, latent: u32, value: f32) {
        let largest = f16::MAX.to_f32();
        self.clamped += u64::from(value.abs() > largest);
        let at = self.splits.partition_point(|split| split.end <= latent);
        if let Some(split) = self.splits.get_mut(at) {
            split.locations.push([sequence, position, latent - split.first]);
            split.activations.push(f16::from_f32(value.clamp(-largest, largest)));
        }
    }
}
