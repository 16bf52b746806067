//! Which latents fire on the same rows: counted exactly, over as many rows as memory and time allow.
//!
//! The latents of rows are kept, not counts of pairs, of which there may be as many as latents squared. When they are too
//! many, half of the rows are forgotten: those whose hash has the next bit set, and from then on such rows are passed. What is
//! kept is a fair draw of all rows; up to the limit it is all of them.

use crate::features::contexts::mixed;

/// Latents of rows that are kept, at most.
const ENTRIES_MAX: usize = 16 << 20;
/// Pairs that are counted in the end, at most.
const PAIRS_MAX: u64 = 1 << 30;
/// Rows that two latents must share to be named.
const ROWS_MIN: u32 = 2;

/// Latents of rows.
#[derive(Clone, Debug, Default)]
pub(super) struct Pairs {
    seen: u64,
    /// Rows are kept whose hash ends in so many zeros.
    level: u32,
    keys: Vec<u64>,
    ends: Vec<usize>,
    latents: Vec<u32>,
    pairs: u64,
}

/// Latents that fire on the same rows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Coactivation {
    /// Rows with a code.
    pub rows_seen: u64,
    /// Those of them that were counted.
    pub rows_counted: u64,
    /// Of each latent those that fire with it most, by [`Coactive::jaccard`].
    pub by_latent: Vec<Vec<Coactive>>,
}

/// A latent that fires with another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Coactive {
    /// Which.
    pub latent: u32,
    /// Rows, of those counted, on which both fire.
    pub rows: u32,
    /// Rows on which both fire over rows on which either does.
    pub jaccard: f32,
}

impl Pairs {
    /// Add the row of this number, which no other has.
    pub(super) fn add(&mut self, row: u64, latents: impl Iterator<Item = u32>) {
        self.seen += 1;
        let key = mixed(row);
        if !stays(key, self.level) {
            return;
        }
        let first = self.latents.len();
        self.latents.extend(latents);
        self.keys.push(key);
        self.ends.push(self.latents.len());
        self.pairs += ((self.latents.len() - first) as u64).pow(2);
        while self.latents.len() > ENTRIES_MAX || self.pairs > PAIRS_MAX {
            self.halve();
        }
    }

    fn halve(&mut self) {
        self.level += 1;
        let (mut keys, mut ends, mut latents) = (Vec::new(), Vec::new(), Vec::new());
        self.pairs = 0;
        for (i, &key) in self.keys.iter().enumerate().filter(|(_, key)| stays(**key, self.level)) {
            latents.extend_from_slice(self.row(i));
            keys.push(key);
            ends.push(latents.len());
            self.pairs += (self.row(i).len() as u64).pow(2);
        }
        (self.keys, self.ends, self.latents) = (keys, ends, latents);
    }

    fn row(&self, i: usize) -> &[u32] {
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        &self.latents[start..self.ends[i]]
    }

    /// Of each of `f` latents the `n` that fire with it most.
    pub(super) fn finish(&self, f: usize, n: usize) -> Coactivation {
        let mut fired = vec![0u32; f];
        self.latents.iter().for_each(|&latent| fired[latent as usize] += 1);
        let rows_of = self.rows_of(&fired);
        let (mut both, mut touched) = (vec![0u32; f], Vec::new());
        let by_latent = rows_of.iter().enumerate().map(|(latent, rows)| {
            for &row in rows {
                for &other in self.row(row as usize).iter().filter(|other| **other as usize != latent) {
                    if both[other as usize] == 0 {
                        touched.push(other);
                    }
                    both[other as usize] += 1;
                }
            }
            let coactive = touched.drain(..).filter_map(|other| {
                let rows = std::mem::take(&mut both[other as usize]);
                let either = fired[latent] + fired[other as usize] - rows;
                let jaccard = rows as f32 / either as f32;
                (rows >= ROWS_MIN).then_some(Coactive { latent: other, rows, jaccard })
            });
            let mut coactive: Vec<Coactive> = coactive.collect();
            coactive.sort_by(|a, b| b.jaccard.total_cmp(&a.jaccard).then(a.latent.cmp(&b.latent)));
            coactive.truncate(n);
            coactive.shrink_to_fit();
            coactive
        });
        let by_latent = by_latent.collect();
        Coactivation { rows_seen: self.seen, rows_counted: self.keys.len() as u64, by_latent }
    }

    /// The rows of each latent.
    fn rows_of(&self, fired: &[u32]) -> Vec<Vec<u32>> {
        let mut rows: Vec<Vec<u32>> = fired.iter().map(|&n| Vec::with_capacity(n as usize)).collect();
        for i in 0..self.keys.len() {
            self.row(i).iter().for_each(|&latent| rows[latent as usize].push(i as u32));
        }
        rows
    }
}

fn stays(key: u64, level: u32) -> bool {
    key.trailing_zeros() >= level.min(63)
}
