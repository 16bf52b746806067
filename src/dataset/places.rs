//! Where rows must lie: in the order of their sequences, or shuffled.

use serde::{Deserialize, Serialize};

use crate::dataset::decoder::ShardRows;

/// An order of rows other than that of their sequences.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowOrder {
    /// A global shuffle of another dataset's rows.
    Shuffled(Shuffled),
}

/// How rows were shuffled. A row's place is a function of the seed and of what the row is, so it can be checked.
///
/// Row `(unit, seq, pos)` of the source has a hash of 64 bits; the dataset's unit that holds it is the high bits of the hash,
/// and within that unit rows grow in `(hash, unit, seq, pos)`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shuffled {
    /// Seed of the hash.
    pub seed: u64,
    /// Where the source was, for people.
    pub source: String,
    /// A hash of what was committed in the source when it was shuffled.
    pub snapshot: String,
    /// Rows of the source.
    pub rows: u64,
    /// Units of this dataset: a power of two.
    pub buckets: u32,
}

impl Shuffled {
    /// The hash of a row: xxh3 of its unit, sequence and position (12 bytes, little-endian), with the seed.
    pub fn hash(&self, unit: u32, seq: u32, pos: u32) -> u64 {
        let mut key = [0; 12];
        key[..4].copy_from_slice(&unit.to_le_bytes());
        key[4..8].copy_from_slice(&seq.to_le_bytes());
        key[8..].copy_from_slice(&pos.to_le_bytes());
        xxhash_rust::xxh3::xxh3_64_with_seed(&key, self.seed)
    }

    /// The unit of a row with this hash.
    pub fn bucket(&self, hash: u64) -> u32 {
        let bits = self.buckets.max(1).ilog2();
        // a shift by all 64 bits would be an overflow
        if bits == 0 { 0 } else { (hash >> (64 - bits)) as u32 }
    }
}

/// Checks, row group after row group of a shard, that rows lie where they must and that none is there twice.
#[derive(Clone, Debug)]
pub struct PlaceCheck<'a> {
    order: Option<&'a RowOrder>,
    unit: u32,
    sequences: [u32; 2],
    last: Option<(u64, u32, u32, u32)>,
}

impl<'a> PlaceCheck<'a> {
    /// For a shard of `unit` whose commit covers `sequences`, in a dataset with this order.
    pub fn new(order: Option<&'a RowOrder>, unit: u32, sequences: [u32; 2]) -> Self {
        Self { order, unit, sequences, last: None }
    }

    /// What is wrong with the next rows, if something is.
    pub fn problem(&mut self, rows: &ShardRows) -> Option<String> {
        let [from, to] = self.sequences;
        for ((&unit, &seq), &pos) in rows.unit.iter().zip(&rows.seq).zip(&rows.pos) {
            let (hash, here) = match self.order {
                None => (0, unit == self.unit && (from..to).contains(&seq)),
                Some(RowOrder::Shuffled(shuffled)) => {
                    let hash = shuffled.hash(unit, seq, pos);
                    (hash, shuffled.bucket(hash) == self.unit)
                }
            };
            if !here {
                return Some(format!("holds a row of unit {unit} sequence {seq}, outside what its commit covers"));
            }
            if self.last.is_some_and(|last| (hash, unit, seq, pos) <= last) {
                return Some(format!("holds unit {unit} sequence {seq} position {pos} twice or out of order"));
            }
            self.last = Some((hash, unit, seq, pos));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(places: &[(u32, u32, u32)]) -> ShardRows {
        ShardRows {
            unit: places.iter().map(|p| p.0).collect(),
            seq: places.iter().map(|p| p.1).collect(),
            pos: places.iter().map(|p| p.2).collect(),
            ..ShardRows::default()
        }
    }

    fn shuffled(buckets: u32) -> Shuffled {
        Shuffled { seed: 5, source: String::new(), snapshot: String::new(), rows: 0, buckets }
    }

    #[test]
    fn sequences_grow_within_their_unit() {
        let problem = |places: &[(u32, u32, u32)]| PlaceCheck::new(None, 3, [2, 5]).problem(&rows(places));
        assert_eq!(problem(&[(3, 2, 0), (3, 2, 1), (3, 4, 0)]), None);
        assert!(problem(&[(3, 5, 0)]).unwrap().contains("outside"));
        assert!(problem(&[(2, 2, 0)]).unwrap().contains("outside"));
        assert!(problem(&[(3, 2, 1), (3, 2, 1)]).unwrap().contains("twice"));
    }

    #[test]
    fn shuffled_rows_grow_in_their_hash() {
        let order = shuffled(4);
        let mut places: Vec<(u32, u32, u32)> = (0..200).map(|i| (i % 3, i / 7, i)).collect();
        places.sort_by_key(|&(u, s, p)| (order.hash(u, s, p), u, s, p));
        for bucket in 0..4 {
            let of: Vec<_> =
                places.iter().copied().filter(|&(u, s, p)| order.bucket(order.hash(u, s, p)) == bucket).collect();
            assert!(of.len() > 20);
            let order = RowOrder::Shuffled(order.clone());
            let problem = |unit, places: &[_]| PlaceCheck::new(Some(&order), unit, [0, 0]).problem(&rows(places));
            assert_eq!(problem(bucket, &of), None);
            assert!(problem((bucket + 1) % 4, &of).unwrap().contains("outside"));
            let mut swapped = of.clone();
            swapped.swap(3, 4);
            assert!(problem(bucket, &swapped).unwrap().contains("out of order"));
        }
        assert_eq!(shuffled(1).bucket(u64::MAX), 0);
    }

    #[test]
    fn the_hash_never_changes() {
        // stored datasets depend on it
        assert_eq!(
            shuffled(1).hash(1, 2, 3),
            xxhash_rust::xxh3::xxh3_64_with_seed(&[1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0], 5)
        );
    }
}
