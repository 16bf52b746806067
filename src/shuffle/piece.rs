//! A piece: rows of one slice in the order of their hashes, and an index of where each bucket's run is.
//!
//! ```text
//! scratch/<shard>-<row group>.rows    rows: document u64, unit, sequence, position, token u32, then the values as stored
//! scratch/<shard>-<row group>.index   one entry a bucket: first row u64, rows u64, xxh3 of the run's bytes u64
//! ```
//!
//! All numbers little-endian. The index is written last: a piece exists if and only if its index does.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::dataset::decoder::ShardRows;
use crate::dataset::header::SiteHeader;
use crate::dataset::places::Shuffled;
use crate::dataset::values::{from_stored, to_stored};
use crate::error::{Error, Result};
use crate::shuffle::plan::ID_BYTES;

/// Bytes of an entry of the index.
pub(super) const ENTRY_BYTES: usize = 24;

/// What rows are sorted by; no two rows are equal in it.
pub(super) type Key = (u64, u32, u32, u32);

/// Rows of a slice as they come.
pub(super) struct Piece {
    order: Shuffled,
    sites: Arc<[SiteHeader]>,
    row_bytes: usize,
    keys: Vec<(Key, u32)>,
    rows: Vec<u8>,
}

impl Piece {
    pub(super) fn new(order: Shuffled, sites: &Arc<[SiteHeader]>, row_bytes: usize, rows: usize) -> Self {
        let (sites, keys) = (Arc::clone(sites), Vec::with_capacity(rows));
        Self { order, sites, row_bytes, keys, rows: Vec::with_capacity(rows.saturating_mul(row_bytes)) }
    }

    /// Append rows.
    pub(super) fn push(&mut self, rows: &ShardRows) {
        for i in 0..rows.seq.len() {
            let (unit, seq, pos) = (rows.unit[i], rows.seq[i], rows.pos[i]);
            let at = self.keys.len() as u32;
            self.keys.push(((self.order.hash(unit, seq, pos), unit, seq, pos), at));
            self.rows.extend_from_slice(&rows.doc_id[i].to_le_bytes());
            for id in [unit, seq, pos, rows.token_id[i]] {
                self.rows.extend_from_slice(&id.to_le_bytes());
            }
            for (site, values) in self.sites.iter().zip(&rows.sites) {
                to_stored(&values[i * site.width..(i + 1) * site.width], site.dtype, &mut self.rows);
            }
        }
    }

    /// Sort, hand out the rows in runs of about `chunk` bytes, and give the index.
    pub(super) fn finish(mut self, chunk: usize, mut give: impl FnMut(Bytes)) -> Vec<u8> {
        self.keys.sort_unstable();
        let mut index = Vec::with_capacity(self.order.buckets as usize * ENTRY_BYTES);
        let mut out = Vec::with_capacity(chunk + self.row_bytes);
        let mut from = 0;
        for bucket in 0..self.order.buckets {
            let rest = &self.keys[from..];
            let n = rest.partition_point(|((hash, ..), _)| self.order.bucket(*hash) <= bucket);
            let mut sum = xxhash_rust::xxh3::Xxh3::new();
            for (_, row) in &rest[..n] {
                let row = &self.rows[*row as usize * self.row_bytes..][..self.row_bytes];
                sum.update(row);
                out.extend_from_slice(row);
                if out.len() >= chunk {
                    give(std::mem::replace(&mut out, Vec::with_capacity(chunk + self.row_bytes)).into());
                }
            }
            for number in [from as u64, n as u64, sum.digest()] {
                index.extend_from_slice(&number.to_le_bytes());
            }
            from += n;
        }
        give(out.into());
        index
    }
}

/// Where a bucket's run is in a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    first: u64,
    pub(super) rows: u64,
    sum: u64,
}

impl Entry {
    /// From its bytes.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let number = |i: usize| Some(u64::from_le_bytes(bytes.get(8 * i..8 * i + 8)?.try_into().ok()?));
        Some(Self { first: number(0)?, rows: number(1)?, sum: number(2)? })
    }

    /// The run's bytes in the piece.
    pub(super) fn range(&self, row_bytes: usize) -> Option<Range<u64>> {
        let from = self.first.checked_mul(row_bytes as u64)?;
        Some(from..from.checked_add(self.rows.checked_mul(row_bytes as u64)?)?)
    }

    /// An error if `bytes` are not what was written.
    pub(super) fn check(&self, bytes: &[u8]) -> Result<()> {
        if xxhash_rust::xxh3::xxh3_64(bytes) != self.sum {
            return Err(Error::data("a piece has other bytes than were written: delete scratch/ and begin anew"));
        }
        Ok(())
    }
}

/// The key of a row.
pub(super) fn key(order: &Shuffled, row: &[u8]) -> Key {
    let id = |i: usize| u32::from_le_bytes([row[8 + 4 * i], row[9 + 4 * i], row[10 + 4 * i], row[11 + 4 * i]]);
    let (unit, seq, pos) = (id(0), id(1), id(2));
    (order.hash(unit, seq, pos), unit, seq, pos)
}

/// Append a row.
pub(super) fn unpack(row: &[u8], sites: &[SiteHeader], out: &mut ShardRows) {
    let mut doc_id = [0; 8];
    doc_id.copy_from_slice(&row[..8]);
    out.doc_id.push(u64::from_le_bytes(doc_id));
    let id = |i: usize| u32::from_le_bytes([row[8 + 4 * i], row[9 + 4 * i], row[10 + 4 * i], row[11 + 4 * i]]);
    out.unit.push(id(0));
    out.seq.push(id(1));
    out.pos.push(id(2));
    out.token_id.push(id(3));
    let mut at = ID_BYTES;
    for (site, values) in sites.iter().zip(&mut out.sites) {
        let bytes = site.width * crate::dataset::schema::value_bytes(site.dtype);
        let n = values.len();
        values.resize(n + site.width, 0.0);
        from_stored(&row[at..at + bytes], site.dtype, &mut values[n..]);
        at += bytes;
    }
}
