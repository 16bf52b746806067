//! Activation batches out of thin air: every value is a function of its unit, sequence, position, site and column, so the
//! same rows come out however they are cut into batches.

use crate::accounting::{DropCounts, DropReason};
use crate::activation::{ActivationBatch, SiteRows};
use crate::corpus::cursor::SourceCursor;
use crate::hooks::HookPoint;

/// A work unit with made-up activations.
#[derive(Clone, Debug)]
pub struct SyntheticUnit {
    /// The unit.
    pub unit: u32,
    /// `[n_sequences]` kept rows of each sequence; each also drops one special token.
    pub lengths: Vec<u32>,
    /// Points and widths.
    pub sites: Vec<(HookPoint, usize)>,
}

impl SyntheticUnit {
    /// All batches of the unit; the first holds `sizes[0]` sequences and so on, over again from the start.
    pub fn batches(&self, sizes: &[usize]) -> Vec<ActivationBatch> {
        let mut batches = Vec::new();
        let mut from = 0;
        let mut sizes = sizes.iter().cycle();
        loop {
            let size = sizes.next().copied().unwrap_or(1).max(1);
            let to = (from + size).min(self.lengths.len());
            batches.push(self.batch(batches.len() as u32, from..to));
            from = to;
            if from == self.lengths.len() {
                return batches;
            }
        }
    }

    /// Batch `index`, of these sequences.
    fn batch(&self, index: u32, sequences: std::ops::Range<usize>) -> ActivationBatch {
        let ends_unit = sequences.end == self.lengths.len();
        let (mut seq, mut pos, mut seq_starts) = (Vec::new(), Vec::new(), vec![0]);
        for sequence in sequences.clone() {
            for row in 0..self.lengths[sequence] {
                seq.push(sequence as u32);
                pos.push(1 + row + row / 5); // after a BOS, with holes
            }
            seq_starts.push(seq.len() as u32);
        }
        let places: Vec<(u32, u32)> = seq.iter().copied().zip(pos.iter().copied()).collect();
        let sites = self.sites.iter().enumerate().map(|(site, &(point, width))| SiteRows {
            point,
            width,
            data: places
                .iter()
                .flat_map(|&(seq, pos)| (0..width).map(move |c| (seq, pos, c)))
                .map(|(s, p, c)| self.value(site, s, p, c))
                .collect(),
        });
        let sites = if sequences.is_empty() { Vec::new() } else { sites.collect() };
        ActivationBatch {
            index: u64::from(index),
            unit: self.unit,
            batch_in_unit: index,
            first_seq: sequences.start as u32,
            sites,
            doc_id: seq.iter().map(|&s| hash([self.unit, s, 0, 0])).collect(),
            token_id: places.iter().map(|&(s, p)| (hash([self.unit, s, p, 1]) % 50_257) as u32).collect(),
            n_tokens: seq.len() as u32 + sequences.len() as u32,
            documents: sequences.len() as u32,
            dropped: vec![one(DropReason::SpecialToken); sequences.len()],
            dropped_at_end: if ends_unit { one(DropReason::EmptyDocument) } else { DropCounts::new() },
            seq,
            pos,
            seq_starts,
            ends_unit,
            cursor_after: SourceCursor::default(),
        }
    }

    /// About normal, with a scale of its own for each column.
    fn value(&self, site: usize, seq: u32, pos: u32, column: usize) -> f32 {
        let bits = hash([self.unit, seq, pos, (site as u32) << 20 | column as u32]);
        let sum: i32 = bits.to_le_bytes().iter().map(|&b| i32::from(b) - 127).sum();
        sum as f32 / 209.0 * (1.0 + (column % 7) as f32)
    }
}

fn hash(key: [u32; 4]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(bytemuck::bytes_of(&key))
}

fn one(reason: DropReason) -> DropCounts {
    let mut counts = DropCounts::new();
    counts.add(reason, 1);
    counts
}
