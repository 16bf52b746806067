//! Rows that become a batch.

use std::ops::Range;

use crate::accounting::{DropCounts, DropReason};
use crate::activation::keep::is_finite;
use crate::activation::{ActivationBatch, SiteRows};
use crate::corpus::cursor::SourceCursor;
use crate::corpus::is_holdout;
use crate::dataset::decoder::ShardRows;
use crate::replay::source::StoredSite;

/// Which rows are handed out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Split {
    /// Every one.
    All,
    /// For training: all but those of the held-out share of the documents, and those with NaN or an infinity.
    Training(f64),
    /// For evaluation: those of the held-out share, but those with NaN or an infinity.
    HeldOut(f64),
}

impl Split {
    /// Why row `row` of `rows` is left out, if it is. A row with a NaN at one site is of no use at any: rows are aligned.
    fn leaves_out(self, rows: &ShardRows, row: usize, sites: &[StoredSite]) -> Option<DropReason> {
        let held_out = |share: f64| share > 0.0 && is_holdout(rows.doc_id[row], share);
        let finite = || {
            let mut values =
                rows.sites.iter().zip(sites).map(|(values, site)| &values[row * site.width..][..site.width]);
            values.all(is_finite)
        };
        match self {
            Self::All => None,
            Self::Training(_) | Self::HeldOut(_) if !finite() => Some(DropReason::NonFinite),
            Self::Training(share) => held_out(share).then_some(DropReason::HeldOutRow),
            Self::HeldOut(share) => (!held_out(share)).then_some(DropReason::HeldOutRow),
        }
    }
}

/// What a batch is, besides its rows.
pub(super) struct About {
    pub(super) unit: u32,
    pub(super) batch_in_unit: u32,
    pub(super) first_seq: u32,
    /// Sequences that it covers, with rows or without.
    pub(super) n_sequences: u32,
    pub(super) ends_unit: bool,
    pub(super) index: u64,
    pub(super) cursor_after: SourceCursor,
}

/// Rows gathered for one batch.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    rows: ShardRows,
    left_out: DropCounts,
}

impl Gathered {
    /// None yet, of `sites` columns.
    pub(super) fn new(sites: usize) -> Self {
        Self { rows: ShardRows { sites: vec![Vec::new(); sites], ..ShardRows::default() }, left_out: DropCounts::new() }
    }

    /// Append rows `range` of `from` that `split` takes.
    pub(super) fn append(&mut self, from: &ShardRows, range: Range<usize>, sites: &[StoredSite], split: Split) {
        if split == Split::All {
            return self.copy(from, range, sites);
        }
        let mut start = range.start;
        for row in range.clone() {
            if let Some(reason) = split.leaves_out(from, row, sites) {
                self.copy(from, start..row, sites);
                self.left_out.add(reason, 1);
                start = row + 1;
            }
        }
        self.copy(from, start..range.end, sites);
    }

    fn copy(&mut self, from: &ShardRows, range: Range<usize>, sites: &[StoredSite]) {
        let rows = &mut self.rows;
        rows.doc_id.extend_from_slice(&from.doc_id[range.clone()]);
        rows.unit.extend_from_slice(&from.unit[range.clone()]);
        rows.seq.extend_from_slice(&from.seq[range.clone()]);
        rows.pos.extend_from_slice(&from.pos[range.clone()]);
        rows.token_id.extend_from_slice(&from.token_id[range.clone()]);
        for ((out, values), site) in rows.sites.iter_mut().zip(&from.sites).zip(sites) {
            out.extend_from_slice(&values[range.start * site.width..range.end * site.width]);
        }
    }

    /// The batch. Rows that training leaves out are counted with its first sequence.
    pub(super) fn finish(self, about: About, sites: &[StoredSite], split: Split) -> ActivationBatch {
        let rows = self.rows;
        let mut seq_starts = vec![0u32];
        if about.n_sequences == 1 {
            seq_starts.push(rows.seq.len() as u32);
        } else {
            for i in 1..=about.n_sequences {
                seq_starts.push(rows.seq.partition_point(|&seq| seq < about.first_seq + i) as u32);
            }
        }
        let mut dropped = vec![DropCounts::new(); about.n_sequences as usize];
        let mut dropped_at_end = DropCounts::new();
        if let Split::Training(_) = split {
            dropped.first_mut().unwrap_or(&mut dropped_at_end).merge(&self.left_out);
        }
        let documents = rows.doc_id.chunk_by(|a, b| a == b).count() as u32;
        let values = sites.iter().zip(rows.sites);
        let values = values.map(|(site, data)| SiteRows { point: site.point, width: site.width, data });
        ActivationBatch {
            index: about.index,
            unit: about.unit,
            batch_in_unit: about.batch_in_unit,
            first_seq: about.first_seq,
            sites: values.collect(),
            n_tokens: rows.seq.len() as u32,
            documents,
            doc_id: rows.doc_id,
            seq: rows.seq,
            pos: rows.pos,
            token_id: rows.token_id,
            seq_starts,
            dropped,
            dropped_at_end,
            ends_unit: about.ends_unit,
            cursor_after: about.cursor_after,
        }
    }
}
