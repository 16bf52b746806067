//! Cutting a listing into units of work: pure.
//!
//! Consecutive small files share a unit; a large file whose format has borders inside is cut into parts. Every byte (or
//! row group) of every file belongs to exactly one unit, so every document does: a document belongs to the part in
//! which it starts, which its reader sees to.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The most units a corpus may have; what `unit_bytes: 1B` on a large file would exceed.
const UNITS_MAX: u64 = 10_000_000;

/// What is known of a file when units are cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileShape {
    /// Bytes.
    pub bytes: u64,
    /// Where it may be cut.
    pub cut: Cut,
}

/// Where a file may be cut.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cut {
    /// Nowhere: compressed, or one document.
    Nowhere,
    /// At any byte: readers find the next document border.
    Anywhere,
    /// Between row groups of these sizes in bytes.
    RowGroups(Vec<u64>),
}

/// A file, or a part of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Index in the listing.
    pub file: u32,
    /// Which part.
    pub part: Part,
    /// Bytes, about.
    pub bytes: u64,
}

/// Which part of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Whole,
    /// Documents that start in this range of bytes.
    Bytes(std::ops::Range<u64>),
    /// These row groups.
    RowGroups(std::ops::Range<usize>),
}

/// The atom of work: spans that are read in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Index in the corpus.
    pub index: u32,
    /// What it consists of.
    pub spans: Vec<Span>,
}

impl Unit {
    /// Bytes of input, about.
    pub fn bytes(&self) -> u64 {
        self.spans.iter().map(|s| s.bytes).sum()
    }
}

/// Cut a listing into units of about `unit_bytes`.
pub fn split(files: &[FileShape], unit_bytes: u64) -> Result<Vec<Unit>> {
    let unit_bytes = unit_bytes.max(1);
    let mut units = Units::default();
    for (file, shape) in (0u32..).zip(files) {
        match &shape.cut {
            Cut::Anywhere if shape.bytes > unit_bytes => {
                let parts = shape.bytes.div_ceil(unit_bytes);
                units.room_for(parts)?;
                for i in 0..parts {
                    let (start, end) = (share_of(shape.bytes, i, parts), share_of(shape.bytes, i + 1, parts));
                    units.push_alone(Span { file, part: Part::Bytes(start..end), bytes: end - start });
                }
            }
            Cut::RowGroups(groups) if groups.len() > 1 => {
                for group in row_group_parts(groups, unit_bytes) {
                    let bytes = groups[group.clone()].iter().sum();
                    units.push_alone(Span { file, part: Part::RowGroups(group), bytes });
                }
            }
            _ => units.push_small(Span { file, part: Part::Whole, bytes: shape.bytes }, unit_bytes),
        }
        units.room_for(0)?;
    }
    units.close_group();
    Ok(units.done)
}

/// `bytes * i / n` without overflow.
fn share_of(bytes: u64, i: u64, n: u64) -> u64 {
    (u128::from(bytes) * u128::from(i) / u128::from(n)) as u64
}

/// Runs of row groups of about `unit_bytes`.
fn row_group_parts(groups: &[u64], unit_bytes: u64) -> Vec<std::ops::Range<usize>> {
    let mut parts = Vec::new();
    let (mut start, mut bytes) = (0, 0u64);
    for (i, &group) in groups.iter().enumerate() {
        if i > start && bytes.saturating_add(group) > unit_bytes {
            parts.push(start..i);
            (start, bytes) = (i, 0);
        }
        bytes = bytes.saturating_add(group);
    }
    parts.push(start..groups.len());
    parts
}

#[derive(Default)]
struct Units {
    done: Vec<Unit>,
    /// Small files that are collected for the next unit.
    group: Vec<Span>,
    group_bytes: u64,
}

impl Units {
    fn push_small(&mut self, span: Span, unit_bytes: u64) {
        if !self.group.is_empty() && self.group_bytes.saturating_add(span.bytes) > unit_bytes {
            self.close_group();
        }
        self.group_bytes = self.group_bytes.saturating_add(span.bytes);
        self.group.push(span);
    }

    fn push_alone(&mut self, span: Span) {
        self.close_group();
        self.push_unit(vec![span]);
    }

    fn close_group(&mut self) {
        if !self.group.is_empty() {
            let spans = std::mem::take(&mut self.group);
            self.push_unit(spans);
            self.group_bytes = 0;
        }
    }

    fn push_unit(&mut self, spans: Vec<Span>) {
        let index = u32::try_from(self.done.len()).expect("room_for keeps the number of units small");
        self.done.push(Unit { index, spans });
    }

    fn room_for(&self, more: u64) -> Result<()> {
        check_number(self.done.len() as u64 + more)
    }
}

/// Refuse a corpus of too many units.
pub(super) fn check_number(units: u64) -> Result<()> {
    if units > UNITS_MAX {
        return Err(Error::config(format!(
            "the corpus would have more than {UNITS_MAX} units of work: make `corpus.unit_bytes` larger"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shapes() -> impl Strategy<Value = Vec<FileShape>> {
        let file = (0u64..3000, 0u8..3, prop::collection::vec(0u64..900, 0..8)).prop_map(|(bytes, cut, groups)| {
            let cut = match cut {
                0 => Cut::Nowhere,
                1 => Cut::Anywhere,
                _ => Cut::RowGroups(groups),
            };
            FileShape { bytes, cut }
        });
        prop::collection::vec(file, 0..20)
    }

    proptest! {
        #[test]
        fn every_part_of_every_file_is_in_one_unit(files in shapes(), unit_bytes in 1u64..4000) {
            let units = split(&files, unit_bytes).unwrap();
            let mut bytes_next = vec![0u64; files.len()];
            let mut groups_next = vec![0usize; files.len()];
            let mut whole = vec![0u32; files.len()];
            let mut last = 0;
            for (i, unit) in units.iter().enumerate() {
                prop_assert_eq!(unit.index as usize, i);
                prop_assert!(!unit.spans.is_empty());
                for span in &unit.spans {
                    let f = span.file as usize;
                    prop_assert!(f >= last, "files stay in order");
                    last = f;
                    match &span.part {
                        Part::Whole => whole[f] += 1,
                        Part::Bytes(range) => {
                            prop_assert_eq!(range.start, bytes_next[f]);
                            prop_assert!(range.end > range.start && range.end - range.start <= unit_bytes);
                            bytes_next[f] = range.end;
                        }
                        Part::RowGroups(range) => {
                            prop_assert_eq!(range.start, groups_next[f]);
                            prop_assert!(range.end > range.start);
                            groups_next[f] = range.end;
                        }
                    }
                }
                prop_assert!(unit.bytes() <= unit_bytes || unit.spans.len() == 1, "only single spans are larger");
            }
            for (f, shape) in files.iter().enumerate() {
                let groups = match &shape.cut { Cut::RowGroups(g) => g.len(), _ => usize::MAX };
                let ways = [whole[f] == 1, bytes_next[f] == shape.bytes && bytes_next[f] > 0, groups_next[f] == groups];
                prop_assert_eq!(ways.iter().filter(|&&w| w).count(), if groups == 0 { 2 } else { 1 }, "{:?}", ways);
            }
        }
    }

    #[test]
    fn small_files_share_a_unit() {
        let small = FileShape { bytes: 10, cut: Cut::Nowhere };
        assert_eq!(split(&vec![small.clone(); 10], 35).unwrap().len(), 4);
        assert_eq!(split(&vec![small; 10], u64::MAX).unwrap().len(), 1);
    }

    #[test]
    fn absurdly_small_units_are_refused() {
        let huge = FileShape { bytes: 1 << 50, cut: Cut::Anywhere };
        let error = split(&[huge], 1).unwrap_err();
        assert!(error.to_string().contains("unit_bytes"), "{error}");
    }
}
