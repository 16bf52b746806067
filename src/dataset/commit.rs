//! What makes a shard exist, and the pure decision what a unit needs next.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use xxhash_rust::xxh3::Xxh3;

use crate::accounting::DropCounts;
use crate::dataset::header::PART_FORMAT;
use crate::dataset::stats::SiteStatistics;
use crate::error::{Error, Result};

/// One committed shard. Objects that no commit names do not exist for readers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Commit {
    /// Version of the format of shards and commits.
    pub format: u32,
    /// The work unit.
    pub unit: u32,
    /// Index of the shard in its unit.
    pub part: u32,
    /// The shard, relative to the dataset's URL.
    pub object: String,
    /// Rows in it; may be 0.
    pub rows: u64,
    /// Its size.
    pub bytes: u64,
    /// Its checksum.
    pub checksum: Checksum,
    /// Sequences of the unit that it covers: from, to (exclusive).
    pub sequences: [u32; 2],
    /// Documents that end in it.
    pub documents: u64,
    /// Tokens that were computed for it.
    pub tokens: u64,
    /// What was read for it but not kept.
    pub dropped: DropCounts,
    /// Where the unit stands after it.
    pub cursor: UnitCursor,
    /// Statistics of the stored values, by site.
    pub sites: BTreeMap<String, SiteStatistics>,
}

/// Checksum of an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checksum {
    /// `xxh3_128`, or `sha256` in datasets of earlier versions.
    pub algorithm: String,
    /// In lowercase hexadecimal.
    pub value: String,
}

impl Checksum {
    /// An XXH3 checksum of 128 bits, with seed 0.
    pub fn xxh3_128(value: u128) -> Self {
        Self { algorithm: "xxh3_128".into(), value: format!("{value:032x}") }
    }

    /// Whether it is of an algorithm that this version computes.
    pub fn is_known(&self) -> bool {
        ["xxh3_128", "sha256"].contains(&self.algorithm.as_str())
    }

    /// What computes a checksum to compare with this one.
    pub fn hasher(&self) -> Hasher {
        match self.algorithm.as_str() {
            "sha256" => Hasher::Sha256(Box::default()),
            _ => Hasher::Xxh3(Box::new(Xxh3::new())),
        }
    }

    /// A SHA-256 checksum.
    pub fn sha256(value: String) -> Self {
        Self { algorithm: "sha256".into(), value }
    }
}

/// Computes a [`Checksum`] of bytes that come in pieces.
pub enum Hasher {
    /// Of the usual algorithm.
    Xxh3(Box<Xxh3>),
    /// Of that of earlier versions.
    Sha256(Box<Sha256>),
}

impl Hasher {
    /// Take the next bytes in.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Xxh3(hash) => hash.update(bytes),
            Self::Sha256(hash) => hash.update(bytes),
        }
    }

    /// The checksum of all bytes.
    pub fn finish(self) -> Checksum {
        match self {
            Self::Xxh3(hash) => Checksum::xxh3_128(hash.digest128()),
            Self::Sha256(hash) => Checksum::sha256(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
        }
    }
}

/// `algorithm:value`, as in manifests' segments.
impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm, self.value)
    }
}

impl FromStr for Checksum {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (algorithm, value) = text.split_once(':').ok_or_else(|| format!("`{text}` is not a checksum"))?;
        Ok(Self { algorithm: algorithm.to_owned(), value: value.to_owned() })
    }
}

/// Where a unit stands after a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitCursor {
    /// First sequence of the next part.
    pub next_seq: u32,
    /// Batch of the unit that holds it.
    pub next_batch: u32,
    /// Whether this was the unit's last part.
    pub done: bool,
    /// Batches of the unit, once done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batches: Option<u32>,
}

/// What the commits of one unit say about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnitProgress {
    /// First sequence that is not committed.
    pub next_seq: u32,
    /// Batch of the unit that holds it.
    pub next_batch: u32,
    /// Index of the next part.
    pub next_part: u32,
    /// Whether the whole unit is committed.
    pub done: bool,
    /// Batches of the unit, once done.
    pub batches: Option<u32>,
}

impl Commit {
    /// Read a commit.
    pub fn from_json(bytes: &[u8]) -> Result<Self> {
        let commit: Self = serde_json::from_slice(bytes).map_err(|e| Error::data(format!("not a commit: {e}")))?;
        if commit.format != PART_FORMAT {
            return Err(Error::data(format!(
                "format {} is not known; this version reads {PART_FORMAT}",
                commit.format
            )));
        }
        Ok(commit)
    }

    /// The commit as stored.
    pub fn to_json(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec_pretty(self).expect("maps with string keys and numbers serialise");
        text.push(b'\n');
        text
    }

    /// Whether both commit the same rows. Values may differ in their last bits: workers on different hardware need not
    /// agree in them.
    pub fn same_rows(&self, other: &Self) -> bool {
        (self.unit, self.part, self.rows, self.sequences, self.cursor, &self.dropped)
            == (other.unit, other.part, other.rows, other.sequences, other.cursor, &other.dropped)
    }
}

/// A commit as far as it says where its unit stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartMark {
    /// The work unit.
    pub unit: u32,
    /// Index of the part in its unit.
    pub part: u32,
    /// Sequences of the unit that it covers: from, to (exclusive).
    pub sequences: [u32; 2],
    /// Where the unit stands after it.
    pub cursor: UnitCursor,
}

impl From<&Commit> for PartMark {
    fn from(commit: &Commit) -> Self {
        let &Commit { unit, part, sequences, cursor, .. } = commit;
        Self { unit, part, sequences, cursor }
    }
}

/// What the commits of a dataset say about its units. Units without commits are not in the map.
///
/// An error ([`Data`](crate::error::ErrorKind::Data)) if a unit's parts leave out or repeat sequences.
pub fn unit_progress<'a>(commits: impl IntoIterator<Item = &'a Commit>) -> Result<HashMap<u32, UnitProgress>> {
    let mut progress = HashMap::new();
    advance_units(&mut progress, commits.into_iter().map(PartMark::from).collect())?;
    Ok(progress)
}

/// Take `progress` over `parts`, given in any order. Each unit is taken as far as its parts follow each other; the error
/// names the first part that does not, after all that could be taken.
pub fn advance_units(progress: &mut HashMap<u32, UnitProgress>, mut parts: Vec<PartMark>) -> Result<()> {
    parts.sort_unstable_by_key(|part| (part.unit, part.part));
    let mut first_error = Ok(());
    for unit in parts.chunk_by(|a, b| a.unit == b.unit) {
        let at = progress.entry(unit[0].unit).or_default();
        for part in unit {
            match advance(*at, part) {
                Ok(next) => *at = next,
                Err(what) => {
                    first_error = first_error.and_then(|()| Err(Error::data(format!("unit {}: {what}", part.unit))));
                    break;
                }
            }
        }
    }
    first_error
}

/// The progress after `part`, which must be the next one; or what is wrong with it.
pub fn advance(at: UnitProgress, part: &PartMark) -> Result<UnitProgress, String> {
    let [from, to] = part.sequences;
    let (index, cursor) = (part.part, part.cursor);
    if index != at.next_part {
        return Err(format!("part {} is missing: the next commit is of part {index}", at.next_part));
    }
    if at.done {
        return Err(format!("part {index} comes after the unit's last part"));
    }
    if from != at.next_seq {
        return Err(format!("part {index} begins at sequence {from} instead of {}", at.next_seq));
    }
    if to < from || cursor.next_seq != to {
        return Err(format!("part {index} covers sequences {from} to {to} but its cursor is at {}", cursor.next_seq));
    }
    if cursor.done != cursor.batches.is_some() {
        return Err(format!("part {index} does not say how many batches the unit has, or says so too early"));
    }
    let next_part = index.checked_add(1).ok_or("has too many parts")?;
    Ok(UnitProgress {
        next_seq: to,
        next_batch: cursor.next_batch,
        next_part,
        done: cursor.done,
        batches: cursor.batches,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::accounting::DropReason;

    pub(crate) fn commit(unit: u32, part: u32, sequences: [u32; 2], done: bool) -> Commit {
        let mut dropped = DropCounts::new();
        dropped.add(DropReason::SpecialToken, 2);
        Commit {
            format: PART_FORMAT,
            unit,
            part,
            object: format!("shards/{unit:06}-{part:05}.parquet"),
            rows: 10,
            bytes: 100,
            checksum: Checksum::sha256("00".into()),
            sequences,
            documents: 1,
            tokens: 12,
            dropped,
            cursor: UnitCursor {
                next_seq: sequences[1],
                next_batch: sequences[1] / 2,
                done,
                batches: done.then_some(sequences[1] / 2),
            },
            sites: BTreeMap::new(),
        }
    }

    #[test]
    fn reads_back_what_it_writes() {
        let commit = commit(1, 2, [4, 9], true);
        assert_eq!(Commit::from_json(&commit.to_json()).unwrap(), commit);
        assert!(Commit::from_json(&commit.to_json()[..40]).is_err());
        assert!(Commit::from_json(&Commit { format: 9, ..commit }.to_json()).is_err());
    }

    #[test]
    fn progress_is_the_last_part_of_each_unit_in_any_order() {
        let commits = [commit(5, 1, [4, 9], true), commit(2, 0, [0, 3], false), commit(5, 0, [0, 4], false)];
        let progress = unit_progress(&commits).unwrap();
        assert_eq!(progress.len(), 2);
        assert_eq!(
            progress[&5],
            UnitProgress { next_seq: 9, next_batch: 4, next_part: 2, done: true, batches: Some(4) }
        );
        assert_eq!(progress[&2], UnitProgress { next_seq: 3, next_batch: 1, next_part: 1, done: false, batches: None });
        assert!(unit_progress(&[]).unwrap().is_empty());
    }

    #[test]
    fn gaps_and_overlaps_are_errors() {
        let cases: [(Vec<Commit>, &str); 5] = [
            (vec![commit(0, 1, [0, 3], false)], "part 0 is missing"),
            (vec![commit(0, 0, [0, 3], false), commit(0, 1, [4, 5], true)], "begins at sequence 4 instead of 3"),
            (vec![commit(0, 0, [0, 3], false), commit(0, 1, [2, 5], true)], "begins at sequence 2 instead of 3"),
            (vec![commit(0, 0, [0, 3], true), commit(0, 1, [3, 5], true)], "after the unit's last part"),
            (vec![commit(0, 0, [0, 3], false), commit(0, 0, [0, 3], false)], "part 1 is missing"),
        ];
        for (commits, text) in cases {
            let error = unit_progress(&commits).unwrap_err();
            assert!(error.to_string().contains(text), "{error}");
        }
    }
}
