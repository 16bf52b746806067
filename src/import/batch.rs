//! A chunk of a file as the sink takes it: with what the file does not say, and without the rows that cannot be used.

use crate::accounting::{DropCounts, DropReason};
use crate::activation::keep::is_finite;
use crate::activation::{ActivationBatch, SiteRows};
use crate::corpus::cursor::SourceCursor;
use crate::error::{Error, Result};
use crate::hooks::HookPoint;
use crate::import::{Chunk, NonFinite};

/// Where a chunk is.
pub(super) struct BatchPlace {
    pub(super) unit: u32,
    pub(super) index: u32,
    pub(super) first_seq: u32,
    pub(super) ends: bool,
}

/// What all batches of a file have in common.
pub(super) struct Shape<'a> {
    /// Name of the file: documents are told apart by it.
    pub(super) name: &'a str,
    pub(super) point: HookPoint,
    pub(super) width: usize,
    pub(super) non_finite: NonFinite,
}

/// The batch of `chunk`. Rows with NaN or an infinity are left out and counted with their sequence, or refused.
pub(super) fn batch(chunk: Chunk, place: &BatchPlace, shape: &Shape<'_>) -> Result<ActivationBatch> {
    let n_sequences = chunk.lengths.len();
    let (mut seq, mut pos, mut doc_id) = (Vec::new(), Vec::new(), Vec::new());
    for (i, &rows) in chunk.lengths.iter().enumerate() {
        let sequence = place.first_seq + i as u32;
        seq.resize(seq.len() + rows as usize, sequence);
        pos.extend(0..rows);
        let document = xxhash_rust::xxh3::xxh3_64_with_seed(shape.name.as_bytes(), u64::from(sequence));
        doc_id.resize(seq.len(), document);
    }
    let rows = seq.len();
    let mut values = chunk.values;
    let mut doc_id = chunk.doc_id.unwrap_or(doc_id);
    let mut pos = chunk.pos.unwrap_or(pos);
    check_ascending(&seq, &pos)?;
    let mut token_id = chunk.token_id.unwrap_or_else(|| vec![0; rows]);
    let mut dropped = vec![DropCounts::new(); n_sequences];
    let keep: Vec<bool> = values.chunks_exact(shape.width).map(is_finite).collect();
    if let Some(row) = keep.iter().position(|keep| !keep) {
        if shape.non_finite == NonFinite::Fail {
            return Err(Error::data(format!(
                "sequence {} has NaN or an infinity at position {}: with --non-finite drop such rows are left out and \
                 counted",
                seq[row], pos[row]
            )));
        }
        for (row, _) in keep.iter().enumerate().filter(|(_, keep)| !**keep) {
            dropped[(seq[row] - place.first_seq) as usize].add(DropReason::NonFinite, 1);
        }
        retain(&mut values, shape.width, &keep);
        retain(&mut doc_id, 1, &keep);
        [&mut seq, &mut pos, &mut token_id].into_iter().for_each(|ids| retain(ids, 1, &keep));
    }
    let ends = (0..=n_sequences as u32).map(|i| seq.partition_point(|&s| s < place.first_seq + i) as u32);
    let sites = match n_sequences {
        0 => Vec::new(),
        _ => vec![SiteRows { point: shape.point, width: shape.width, data: values }],
    };
    Ok(ActivationBatch {
        index: u64::from(place.index),
        unit: place.unit,
        batch_in_unit: place.index,
        first_seq: place.first_seq,
        sites,
        doc_id,
        seq_starts: ends.collect(),
        seq,
        pos,
        token_id,
        dropped,
        dropped_at_end: DropCounts::new(),
        n_tokens: rows as u32,
        documents: n_sequences as u32,
        ends_unit: place.ends,
        cursor_after: SourceCursor::default(),
    })
}

/// A row is found by its sequence and position, so within a sequence positions ascend. Those of packed or padded sequences
/// may not.
fn check_ascending(seq: &[u32], pos: &[u32]) -> Result<()> {
    let mut pairs = seq.windows(2).zip(pos.windows(2));
    match pairs.position(|(seq, pos)| seq[0] == seq[1] && pos[0] >= pos[1]) {
        None => Ok(()),
        Some(row) => Err(Error::data(format!(
            "sequence {} has position {} after position {}, and positions of a sequence must ascend: with `--ids pos=` the \
             file's positions are not read, and rows are counted instead",
            seq[row],
            pos[row + 1],
            pos[row]
        ))),
    }
}

/// Keep the rows of `width` values that `keep` says.
fn retain<T: Copy>(data: &mut Vec<T>, width: usize, keep: &[bool]) {
    let mut end = 0;
    for (row, _) in keep.iter().enumerate().filter(|(_, keep)| **keep) {
        data.copy_within(row * width..(row + 1) * width, end);
        end += width;
    }
    data.truncate(end);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk() -> Chunk {
        let mut values: Vec<f32> = (0..12).map(|x| x as f32).collect();
        values[3] = f32::NAN;
        values[4] = f32::INFINITY;
        values[11] = f32::NEG_INFINITY;
        Chunk { lengths: vec![3, 0, 3], values, token_id: Some(vec![9, 8, 7, 6, 5, 4]), ..Chunk::default() }
    }

    fn shape(non_finite: NonFinite) -> Shape<'static> {
        Shape { name: "a/0.npy", point: HookPoint::stored("x").unwrap(), width: 2, non_finite }
    }

    const PLACE: BatchPlace = BatchPlace { unit: 1, index: 2, first_seq: 10, ends: true };

    #[test]
    fn positions_that_do_not_ascend_are_refused() {
        let with = |pos: [u32; 6]| {
            let chunk = Chunk { pos: Some(pos.into()), ..chunk() };
            batch(chunk, &PLACE, &shape(NonFinite::Drop)).map(|batch| batch.pos)
        };
        // another sequence begins anew
        assert_eq!(with([0, 7, 9, 0, 1, 2]).unwrap(), [0, 0, 1]);
        for (wrong, place) in [([0, 0, 1, 0, 1, 2], "sequence 10"), ([0, 1, 2, 2, 1, 3], "sequence 12")] {
            let error = with(wrong).unwrap_err().to_string();
            assert!(error.contains(place) && error.contains("--ids pos="), "{error}");
        }
    }

    #[test]
    fn rows_that_are_not_finite_are_left_out_and_counted() {
        let batch = batch(chunk(), &PLACE, &shape(NonFinite::Drop)).unwrap();
        assert_eq!(batch.sites[0].data, [0.0, 1.0, 6.0, 7.0, 8.0, 9.0]);
        assert_eq!((&batch.seq, &batch.pos), (&vec![10, 12, 12], &vec![0, 0, 1]));
        assert_eq!((&batch.token_id, &batch.seq_starts), (&vec![9, 6, 5], &vec![0, 1, 1, 3]));
        assert_eq!(batch.doc_id.len(), 3);
        let dropped: Vec<u64> = batch.dropped.iter().map(|d| d.get(DropReason::NonFinite)).collect();
        assert_eq!((dropped, batch.n_tokens), (vec![2, 0, 1], 6));
        let error = super::batch(chunk(), &PLACE, &shape(NonFinite::Fail)).unwrap_err().to_string();
        assert!(error.contains("sequence 10") && error.contains("position 1"), "{error}");
    }
}
