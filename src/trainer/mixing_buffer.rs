//! The mixing buffer: rows arrive in the order of the text and leave at random.
//!
//! While it is full, batches of distinct random rows are drawn from it; a row leaves after `reuse` draws. So a batch
//! mixes rows of as many documents as the buffer holds. Everything is a function of the seed and the rows offered: two
//! buffers that were given the same rows, in pieces of any sizes, serve the same batches.

use crate::runtime::rng::Rng;

/// Rows, their documents, and how often each was drawn.
#[derive(Clone, Debug)]
pub struct MixingBuffer {
    width: usize,
    capacity: usize,
    reuse: u8,
    rng: Rng,
    /// The rows held, as slots, in an order that draws shuffle.
    order: Vec<u32>,
    /// Slots without a row.
    free: Vec<u32>,
    /// `[slots, width]`; slots are made as rows arrive, so a short corpus needs little memory.
    rows: Vec<f32>,
    /// `[slots]` document of each row.
    doc_ids: Vec<u64>,
    /// `[slots]` draws of each row.
    draws: Vec<u8>,
}

impl MixingBuffer {
    /// A buffer of `capacity` rows of `width` values, each drawn up to `reuse` times (both at least 1).
    pub fn new(width: usize, capacity: usize, reuse: u8, rng: Rng) -> Self {
        assert!(width > 0 && capacity > 0 && reuse > 0, "an empty mixing buffer");
        let (order, free, rows, doc_ids, draws) = (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { width, capacity, reuse, rng, order, free, rows, doc_ids, draws }
    }

    /// Rows held.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether it holds no rows.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Whether batches may be drawn.
    pub fn is_full(&self) -> bool {
        self.len() == self.capacity
    }

    /// Draws that the rows held have left.
    pub fn draws_left(&self) -> u64 {
        self.order.iter().map(|&slot| u64::from(self.reuse - self.draws[slot as usize])).sum()
    }

    /// Rows it can take until `batches` batches of `batch` rows were drawn, at most. (Each row that leaves was drawn `reuse`
    /// times, and the last draw frees nothing that matters.)
    pub fn rows_until(&self, batches: u64, batch: usize) -> u64 {
        let drawn = self.len() as u64 * u64::from(self.reuse) - self.draws_left();
        let leaving =
            drawn.saturating_add(batches.saturating_sub(1).saturating_mul(batch as u64)) / u64::from(self.reuse);
        if batches == 0 { 0 } else { (self.capacity - self.len()) as u64 + leaving }
    }

    /// Where its random stream stands.
    pub fn rng(&self) -> &Rng {
        &self.rng
    }

    /// Take in rows `[n, width]` of documents `[n]` until it is full; returns how many were taken.
    pub fn fill(&mut self, rows: &[f32], doc_ids: &[u64]) -> usize {
        assert_eq!(rows.len(), doc_ids.len() * self.width, "rows and documents do not match");
        let taken = doc_ids.len().min(self.capacity - self.len());
        for (row, &doc_id) in rows.chunks_exact(self.width).zip(doc_ids).take(taken) {
            self.push(row, doc_id, 0);
        }
        taken
    }

    /// Take in one row that has been drawn before.
    fn push(&mut self, row: &[f32], doc_id: u64, draws: u8) {
        match self.free.pop() {
            Some(slot) => {
                let at = slot as usize;
                self.rows[at * self.width..][..self.width].copy_from_slice(row);
                self.doc_ids[at] = doc_id;
                self.draws[at] = draws;
                self.order.push(slot);
            }
            None => {
                self.order.push(self.draws.len() as u32);
                self.rows.extend_from_slice(row);
                self.doc_ids.push(doc_id);
                self.draws.push(draws);
            }
        }
    }

    /// Draw `batch` distinct rows into `out` `[batch, width]` and return how many documents they come from. There must
    /// be so many rows; whether it must be full is the caller's rule.
    pub fn draw(&mut self, batch: usize, out: &mut Vec<f32>) -> usize {
        assert!(batch <= self.len(), "{batch} rows drawn from {}", self.len());
        out.clear();
        let mut documents = Vec::with_capacity(batch);
        // the first `batch` steps of a Fisher-Yates shuffle
        for i in 0..batch {
            let j = i + self.rng.below((self.order.len() - i) as u64) as usize;
            self.order.swap(i, j);
            let slot = self.order[i] as usize;
            out.extend_from_slice(&self.rows[slot * self.width..][..self.width]);
            documents.push(self.doc_ids[slot]);
            self.draws[slot] += 1;
        }
        // from the back, so that what moves into a gap has been looked at
        for i in (0..batch).rev() {
            let slot = self.order[i];
            if self.draws[slot as usize] == self.reuse {
                self.order.swap_remove(i);
                self.free.push(slot);
            }
        }
        documents.sort_unstable();
        documents.dedup();
        documents.len()
    }

    /// Let all rows go, and their memory.
    pub fn clear(&mut self) {
        *self = Self::new(self.width, self.capacity, self.reuse, self.rng.clone());
    }

    /// The rows held, in order: row, document, draws.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&[f32], u64, u8)> + '_ {
        self.order.iter().map(|&slot| {
            let at = slot as usize;
            (&self.rows[at * self.width..][..self.width], self.doc_ids[at], self.draws[at])
        })
    }

    /// Whether both will serve the same batches, given the same rows.
    pub fn serves_like(&self, other: &Self) -> bool {
        (self.width, self.capacity, self.reuse) == (other.width, other.capacity, other.reuse)
            && self.rng.state() == other.rng.state()
            && self.iter().map(bits).eq(other.iter().map(bits))
    }

    /// Put back what [`MixingBuffer::iter`] gave. `None` if it does not fit this buffer.
    pub fn refill(&mut self, rows: &[f32], doc_ids: &[u64], draws: &[u8]) -> Option<()> {
        let n = doc_ids.len();
        let fits = self.is_empty() && n <= self.capacity && draws.len() == n && rows.len() == n * self.width;
        if !fits || draws.iter().any(|&draws| draws >= self.reuse) {
            return None;
        }
        for ((row, &doc_id), &draws) in rows.chunks_exact(self.width).zip(doc_ids).zip(draws) {
            self.push(row, doc_id, draws);
        }
        Some(())
    }
}

/// A row whose values are compared as they are, those that are no numbers too.
fn bits((row, doc_id, draws): (&[f32], u64, u8)) -> (Bits<'_>, u64, u8) {
    (Bits(row), doc_id, draws)
}

struct Bits<'a>(&'a [f32]);

impl PartialEq for Bits<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.0.len() == other.0.len() && self.0.iter().zip(other.0).all(|(a, b)| a.to_bits() == b.to_bits())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::runtime::rng::Seed;

    /// Offer rows `0..n` in pieces, drawing while full; returns the rows served, in order, and the buffer.
    fn serve(n: usize, piece: usize, capacity: usize, batch: usize, reuse: u8) -> (Vec<u32>, MixingBuffer) {
        let mut buffer = MixingBuffer::new(2, capacity, reuse, Seed(3).stream("buffer"));
        let rows: Vec<f32> = (0..n).flat_map(|i| [i as f32, -(i as f32)]).collect();
        let docs: Vec<u64> = (0..n as u64).map(|i| i / 5).collect();
        let (mut served, mut out) = (Vec::new(), Vec::new());
        for (rows, docs) in rows.chunks(piece * 2).zip(docs.chunks(piece)) {
            let mut at = 0;
            while at < docs.len() {
                at += buffer.fill(&rows[at * 2..], &docs[at..]);
                while buffer.is_full() {
                    buffer.draw(batch, &mut out);
                    served.extend(out.chunks(2).map(|row| {
                        assert_eq!(row[0], -row[1], "a row was torn");
                        row[0] as u32
                    }));
                }
            }
        }
        while buffer.len() >= batch {
            buffer.draw(batch, &mut out);
            served.extend(out.chunks(2).map(|row| row[0] as u32));
        }
        (served, buffer)
    }

    proptest! {
        #[test]
        fn every_row_is_served_reuse_times_or_left(
            n in 1usize..400, piece in 1usize..100, capacity in 8usize..60, batch in 1usize..8, reuse in 1u8..5,
        ) {
            let (served, left) = serve(n, piece, capacity, batch, reuse);
            let mut counts = BTreeMap::<u32, u8>::new();
            for group in served.chunks(batch) {
                let mut distinct = group.to_vec();
                distinct.sort_unstable();
                distinct.dedup();
                prop_assert_eq!(distinct.len(), batch, "a row twice in a batch");
                for &row in group {
                    *counts.entry(row).or_default() += 1;
                }
            }
            prop_assert!(counts.values().all(|&c| c <= reuse));
            prop_assert_eq!(served.len() as u64 + left.draws_left(), n as u64 * u64::from(reuse));
            prop_assert!(left.len() < batch);
            for (row, _, draws) in left.iter() {
                prop_assert_eq!(counts.get(&(row[0] as u32)).copied().unwrap_or(0), draws);
            }
        }

        #[test]
        fn rows_until_some_batches_are_enough_and_few_too_many(
            before in 0usize..200, capacity in 8usize..60, batch in 1usize..8, reuse in 1u8..5, batches in 1u64..30,
        ) {
            let mut buffer = MixingBuffer::new(1, capacity, reuse, Seed(3).stream("buffer"));
            let offer = |buffer: &mut MixingBuffer, most: u64| {
                let (mut drawn, taken) = (0, buffer.fill(&[0.0], &[0]));
                while buffer.is_full() && drawn < most {
                    buffer.draw(batch, &mut Vec::new());
                    drawn += 1;
                }
                (drawn, taken as u64)
            };
            for _ in 0..before {
                offer(&mut buffer, u64::MAX);
            }
            let needed = buffer.rows_until(batches, batch);
            let (mut drawn, mut taken) = (0, 0);
            while taken < needed && drawn < batches {
                let one = offer(&mut buffer, batches - drawn);
                (drawn, taken) = (drawn + one.0, taken + one.1);
            }
            prop_assert_eq!(drawn, batches);
            prop_assert!(needed - taken <= capacity as u64, "{needed} asked for, {taken} taken");
            prop_assert_eq!(buffer.rows_until(0, batch), 0);
        }

        #[test]
        fn the_sizes_of_offers_do_not_matter(piece in 1usize..100, reuse in 1u8..4) {
            prop_assert_eq!(serve(300, piece, 40, 6, reuse).0, serve(300, 300, 40, 6, reuse).0);
        }
    }

    #[test]
    fn batches_mix_the_whole_buffer() {
        let mut buffer = MixingBuffer::new(1, 1000, 1, Seed(3).stream("buffer"));
        let docs: Vec<u64> = (0..1000).map(|i| i / 10).collect();
        buffer.fill(&vec![0.0; 1000], &docs);
        let documents = buffer.draw(100, &mut Vec::new());
        // 100 balls in 100 boxes leave about 1/e of them empty
        assert!((50..80).contains(&documents), "{documents} documents in a batch");
    }

    #[test]
    fn a_refilled_buffer_continues_exactly() {
        let (_, mut a) = serve(57, 10, 40, 6, 3);
        a.fill(&[0.5; 60], &[9; 30]);
        let mut b = MixingBuffer::new(2, 40, 3, a.rng().clone());
        let rows: Vec<f32> = a.iter().flat_map(|(row, _, _)| row.to_vec()).collect();
        let docs: Vec<u64> = a.iter().map(|(_, doc, _)| doc).collect();
        let draws: Vec<u8> = a.iter().map(|(_, _, draws)| draws).collect();
        b.refill(&rows, &docs, &draws).unwrap();
        assert!(a.serves_like(&b) && !a.serves_like(&MixingBuffer::new(2, 40, 3, a.rng().clone())));
        let (mut x, mut y) = (Vec::new(), Vec::new());
        for _ in 0..20 {
            let batch = a.len().min(6);
            assert_eq!(a.draw(batch, &mut x), b.draw(batch, &mut y));
            assert_eq!(x, y);
            let (taken, also) = (a.fill(&[1.5; 8], &[7; 4]), b.fill(&[1.5; 8], &[7; 4]));
            assert_eq!(taken, also);
            assert!(a.iter().eq(b.iter()) && a.serves_like(&b));
        }
    }
}
