//! A token batch, checked against the model that shall run it.

use crate::compute::model_ops::{AttentionRows, BatchShape};
use crate::error::{Error, Result};
use crate::model::ModelSpec;
use crate::tokens::TokenBatch;

/// Check `batch` and fill `contexts` with its attention contexts.
pub(in crate::model) fn contexts(
    batch: &TokenBatch,
    spec: &ModelSpec,
    shape: BatchShape,
    contexts: &mut Vec<AttentionRows>,
) -> Result<()> {
    contexts.clear();
    let n = batch.n_tokens();
    let wrong = |what: String| Err(Error::internal(format!("token batch {}: {what}", batch.index)));
    if n > shape.max_tokens {
        return wrong(format!("{n} tokens where {} were planned", shape.max_tokens));
    }
    if batch.positions.len() != n {
        return wrong(format!("{} positions for {n} tokens", batch.positions.len()));
    }
    if let Some(row) = batch.ids.iter().position(|&id| id as usize >= spec.vocab_size) {
        return Err(Error::data(format!(
            "token id {} is outside the model's vocabulary of {}: the tokenizer belongs to another model",
            batch.ids[row], spec.vocab_size
        )));
    }
    if let Some(&position) = batch.positions.iter().find(|&&p| p as usize >= shape.context_length) {
        return wrong(format!("position {position} in a context of {}", shape.context_length));
    }
    let mut row = 0;
    let mut sequence = 0;
    for segment in &batch.segments {
        let (start, len) = (segment.start as usize, segment.len as usize);
        while sequence + 1 < batch.n_sequences() && batch.seq_starts[sequence + 1] as usize <= start {
            sequence += 1;
        }
        if sequence >= batch.n_sequences() || start != row || start + len > batch.seq_starts[sequence + 1] as usize {
            return wrong(format!("segment at row {start} does not follow row {row} within one sequence"));
        }
        let column = start - batch.seq_starts[sequence] as usize;
        if column + len > shape.context_length {
            return wrong(format!("a sequence of {} tokens in a context of {}", column + len, shape.context_length));
        }
        contexts.push(AttentionRows { start, len, column });
        row += len;
    }
    if row == n { Ok(()) } else { wrong(format!("segments hold {row} of {n} rows")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::tokens::Segment;

    const SHAPE: BatchShape = BatchShape { max_tokens: 8, context_length: 4 };

    /// Two sequences of three tokens; the second holds documents of one and two tokens.
    fn batch() -> TokenBatch {
        TokenBatch {
            ids: vec![1; 6],
            positions: vec![0, 1, 2, 0, 0, 1],
            seq_starts: vec![0, 3, 6],
            segments: [(0, 3), (3, 1), (4, 2)].map(|(start, len)| Segment { start, len }).to_vec(),
            ..TokenBatch::default()
        }
    }

    fn check(batch: &TokenBatch) -> Result<Vec<AttentionRows>> {
        let config = serde_json::json!({"model_type": "gpt2", "n_embd": 8, "n_head": 2, "n_layer": 1, "vocab_size": 9, "n_positions": 4});
        let mut out = Vec::new();
        contexts(batch, &ModelSpec::parse(&config)?, SHAPE, &mut out).map(|()| out)
    }

    #[test]
    fn segments_know_their_column_in_the_sequence() {
        let columns: Vec<usize> = check(&batch()).unwrap().iter().map(|c| c.column).collect();
        assert_eq!(columns, [0, 0, 1]);
        assert_eq!(check(&TokenBatch::default()).unwrap(), []);
    }

    #[test]
    fn misfits_are_refused() {
        let refused = |change: fn(&mut TokenBatch)| {
            let mut batch = batch();
            change(&mut batch);
            check(&batch).expect_err("is refused").kind()
        };
        assert_eq!(refused(|b| b.ids[2] = 9), ErrorKind::Data);
        assert_eq!(refused(|b| b.positions[2] = 4), ErrorKind::Internal);
        assert_eq!(refused(|b| b.positions.push(0)), ErrorKind::Internal);
        assert_eq!(refused(|b| b.segments[0].len = 4), ErrorKind::Internal);
        assert_eq!(refused(|b| b.segments[1].start = 2), ErrorKind::Internal);
        assert_eq!(refused(|b| b.segments.truncate(2)), ErrorKind::Internal);
        assert_eq!(refused(|b| b.seq_starts.clear()), ErrorKind::Internal);
        assert_eq!(refused(|b| b.seq_starts = vec![0, 6]), ErrorKind::Internal);
        assert_eq!(refused(|b| b.ids = vec![1; 9]), ErrorKind::Internal);
    }
}
