//! `manifests/<generation>.json`: what the commits of a dataset said, so that they need not be read one by one.
//!
//! A manifest *covers* parts of units, from each unit's first part on without a gap. A commit of a covered part counts no
//! more, whatever it says: the manifest's segments hold what the commit said that was there when the part was covered.
//! Generations follow each other; the newest counts, and says all that the ones before said.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::accounting::DropCounts;
use crate::dataset::commit::{Checksum, Commit};
use crate::dataset::header::FORMAT;
use crate::dataset::segment::Entry;
use crate::dataset::stats::SiteStatistics;
use crate::error::{Error, Result};

/// Segments of a manifest, at most: with full segments, billions of parts.
const SEGMENTS_MAX: usize = 100_000;
/// A segment's size, at most; larger ones are refused unread.
pub const SEGMENT_BYTES_MAX: u64 = 1 << 30;
/// Parts of a segment, at most: what a few bytes claim to hold must fit in memory.
const SEGMENT_ROWS_MAX: u64 = 1 << 22;
/// Rows of a segment that is not merged any more.
const SEGMENT_ROWS: u64 = 1 << 18;
/// Uncompressed bytes of a segment, about, at most.
const SEGMENT_BYTES: u64 = 128 << 20;

/// A manifest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of the format.
    pub format: u32,
    /// Which of the dataset's manifests this is: the one before it has the number before it.
    pub generation: u64,
    /// Where the covered parts are listed.
    pub segments: Vec<SegmentRef>,
    /// Sums over all covered parts.
    pub totals: CoveredTotals,
    /// What was read for the covered parts but not kept.
    pub dropped: DropCounts,
    /// Statistics of the values of all covered parts, retired ones included, by site.
    pub sites: BTreeMap<String, SiteStatistics>,
}

/// An immutable Parquet file with one row a covered part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentRef {
    /// The file, relative to the dataset's URL.
    pub object: String,
    /// Parts that it lists.
    pub rows: u64,
    /// Its size.
    pub bytes: u64,
    /// Its checksum.
    pub checksum: Checksum,
}

/// Sums over covered parts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoveredTotals {
    /// Parts that are live: neither retired nor deleted.
    pub shards: u64,
    /// Their rows.
    pub rows: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Parts that are retired: their rows are gone or will be.
    pub retired_shards: u64,
    /// The rows that they had.
    pub retired_rows: u64,
    /// The bytes that they had.
    pub retired_bytes: u64,
    /// Documents of all covered parts.
    pub documents: u64,
    /// Tokens computed for all covered parts.
    pub tokens: u64,
    /// Units that are committed to their end.
    pub units_done: u64,
}

impl Manifest {
    /// The manifest before the first: it covers nothing.
    pub fn empty() -> Self {
        Self {
            format: FORMAT,
            generation: 0,
            segments: Vec::new(),
            totals: CoveredTotals::default(),
            dropped: DropCounts::new(),
            sites: BTreeMap::new(),
        }
    }

    /// Read a manifest that was found under the name of `generation`.
    pub fn from_json(bytes: &[u8], generation: u64) -> Result<Self> {
        let manifest: Self = serde_json::from_slice(bytes).map_err(|e| Error::data(format!("not a manifest: {e}")))?;
        if manifest.format != FORMAT {
            return Err(Error::data(format!("format {} is not known; this version reads {FORMAT}", manifest.format)));
        }
        if manifest.generation != generation {
            return Err(Error::data(format!("is of generation {} but named {generation}", manifest.generation)));
        }
        let impossible = |s: &SegmentRef| s.bytes > SEGMENT_BYTES_MAX || s.rows > SEGMENT_ROWS_MAX;
        if manifest.segments.len() > SEGMENTS_MAX || manifest.segments.iter().any(impossible) {
            return Err(Error::data("names impossible segments"));
        }
        if let Some(odd) = manifest.segments.iter().find(|s| s.checksum.algorithm != "sha256") {
            return Err(Error::data(format!("`{}` has a checksum of unknown algorithm", odd.object)));
        }
        Ok(manifest)
    }

    /// The manifest as stored.
    pub fn to_json(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec_pretty(self).expect("maps with string keys and numbers serialise");
        text.push(b'\n');
        text
    }

    /// Parts that it covers.
    pub fn parts(&self) -> u64 {
        self.totals.shards.saturating_add(self.totals.retired_shards)
    }

    /// Count one more covered part.
    pub fn cover(&mut self, commit: &Commit) {
        self.totals.add(commit);
        self.dropped.merge(&commit.dropped);
        for (site, of_part) in &commit.sites {
            self.sites.entry(site.clone()).or_default().merge(of_part);
        }
    }

    /// The last segments that a new one of `rows` parts, with `row_bytes` each, should take in: as many as keep the number
    /// of segments logarithmic until they are full. Gives how many segments stay.
    pub fn segments_to_keep(&self, rows: u64, row_bytes: u64) -> usize {
        let full = Self::segment_rows(row_bytes);
        let (mut keep, mut merged) = (self.segments.len(), rows);
        while let Some(last) = keep.checked_sub(1).map(|i| &self.segments[i]) {
            let sum = merged.saturating_add(last.rows);
            if sum > full || last.rows > merged.saturating_mul(4) {
                break;
            }
            (keep, merged) = (keep - 1, sum);
        }
        keep
    }

    /// Parts in a full segment, if each takes about `row_bytes`.
    pub fn segment_rows(row_bytes: u64) -> u64 {
        (SEGMENT_BYTES / row_bytes.max(1)).clamp(1024, SEGMENT_ROWS)
    }
}

impl CoveredTotals {
    /// Add a live part.
    pub fn add(&mut self, commit: &Commit) {
        self.shards += 1;
        self.rows = self.rows.saturating_add(commit.rows);
        self.bytes = self.bytes.saturating_add(commit.bytes);
        self.documents = self.documents.saturating_add(commit.documents);
        self.tokens = self.tokens.saturating_add(commit.tokens);
        self.units_done += u64::from(commit.cursor.done);
    }

    /// Make one of the live parts a retired one.
    pub fn retire(&mut self, commit: &Commit) {
        self.shards = self.shards.saturating_sub(1);
        self.rows = self.rows.saturating_sub(commit.rows);
        self.bytes = self.bytes.saturating_sub(commit.bytes);
        self.retired_shards += 1;
        self.retired_rows = self.retired_rows.saturating_add(commit.rows);
        self.retired_bytes = self.retired_bytes.saturating_add(commit.bytes);
    }

    /// The sums over `entries`.
    pub fn of(entries: &[Entry]) -> Self {
        let mut totals = Self::default();
        for entry in entries {
            totals.add(&entry.commit);
            if entry.retired_at.is_some() {
                totals.retire(&entry.commit);
            }
        }
        totals
    }

    /// The sums over both.
    pub fn merge(&mut self, other: &Self) {
        let pairs = [
            (&mut self.shards, other.shards),
            (&mut self.rows, other.rows),
            (&mut self.bytes, other.bytes),
            (&mut self.retired_shards, other.retired_shards),
            (&mut self.retired_rows, other.retired_rows),
            (&mut self.retired_bytes, other.retired_bytes),
            (&mut self.documents, other.documents),
            (&mut self.tokens, other.tokens),
            (&mut self.units_done, other.units_done),
        ];
        for (mine, theirs) in pairs {
            *mine = mine.saturating_add(theirs);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::commit::tests::commit;

    fn segments(rows: &[u64]) -> Manifest {
        let segment = |&rows: &u64| SegmentRef {
            object: format!("manifests/{rows}"),
            rows,
            bytes: 1,
            checksum: Checksum::sha256("0".into()),
        };
        Manifest { segments: rows.iter().map(segment).collect(), ..Manifest::empty() }
    }

    #[test]
    fn reads_back_what_it_writes_and_refuses_the_rest() {
        let mut manifest = Manifest { generation: 7, ..segments(&[3]) };
        manifest.cover(&commit(1, 0, [0, 4], true));
        let text = manifest.to_json();
        assert_eq!(Manifest::from_json(&text, 7).unwrap(), manifest);
        assert!(Manifest::from_json(&text, 8).unwrap_err().to_string().contains("generation 7"));
        assert!(Manifest::from_json(&text[..text.len() / 2], 7).is_err());
        manifest.segments[0].bytes = u64::MAX;
        assert!(Manifest::from_json(&manifest.to_json(), 7).unwrap_err().to_string().contains("impossible"));
    }

    #[test]
    fn totals_follow_what_is_covered_and_retired() {
        let entry = |part, retired_at| Entry {
            commit: commit(0, part, [part, part + 1], part == 2),
            committed_at: 5,
            retired_at,
        };
        let totals = CoveredTotals::of(&[entry(0, Some(9)), entry(1, None), entry(2, None)]);
        assert_eq!((totals.shards, totals.rows, totals.bytes), (2, 20, 200));
        assert_eq!((totals.retired_shards, totals.retired_rows, totals.units_done, totals.tokens), (1, 10, 1, 36));
    }

    /// However commits come, segments stay few: full ones, and a few that grow by a factor of four.
    #[test]
    fn small_segments_are_merged() {
        let mut manifest = segments(&[]);
        let (step, row_bytes) = (4096, 512);
        for round in 1..=1000u64 {
            let keep = manifest.segments_to_keep(step, row_bytes);
            let merged: u64 = manifest.segments[keep..].iter().map(|s| s.rows).sum::<u64>() + step;
            let mut rows: Vec<u64> = manifest.segments[..keep].iter().map(|s| s.rows).collect();
            rows.push(merged);
            assert!(merged <= Manifest::segment_rows(row_bytes));
            assert_eq!(rows.iter().sum::<u64>(), round * step);
            manifest = segments(&rows);
            let full = round * step / (Manifest::segment_rows(row_bytes) / 4) + 8;
            assert!((rows.len() as u64) <= full, "{} segments after {round} rounds", rows.len());
        }
    }
}
