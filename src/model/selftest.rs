//! The model's own check: the same tokens through the given backend and through the f64 reference.

use std::collections::HashMap;
use std::sync::Arc;

use crate::compute::backend::MatrixFormat;
use crate::compute::reference::Reference;
use crate::compute::{Backend, ModelOps};
use crate::error::{Error, Result};
use crate::hooks::{HookPoint, Site, Taps, Want};
use crate::model::{BatchShape, Model, ModelSource, load};
use crate::tokens::TokenBatch;

/// How far a site's rows are from the reference: of each token, `|fast - reference| / |reference|` in the Euclidean norm.
#[derive(Clone, Debug, PartialEq)]
pub struct SiteError {
    /// The site's name, or `logits`.
    pub name: String,
    /// The median token's error.
    pub median: f64,
    /// The worst token's error.
    pub worst: f64,
    /// Tokens compared.
    pub n_tokens: usize,
}

/// Compare every site (attention patterns too) and the logits on `batches`, in the order of the forward pass.
///
/// Loads the model twice. The reference computes one product at a time and keeps every site of every token in memory:
/// meant for a few short sequences.
pub fn compare<B: ModelOps>(
    backend: Arc<B>,
    source: &ModelSource,
    shape: BatchShape,
    format: MatrixFormat,
    batches: &[TokenBatch],
) -> Result<Vec<SiteError>> {
    let mut reference = load(Arc::new(Reference), source, shape, MatrixFormat::F32)?;
    let mut fast = load(backend, source, shape, format)?;
    let points: Vec<HookPoint> = fast.points().iter().map(|shape| shape.point).collect();
    let mut errors: HashMap<HookPoint, Vec<f64>> = HashMap::new();
    let mut logit_errors = Vec::new();
    for batch in batches {
        let expected = record(reference.as_mut(), batch)?;
        let actual = record(fast.as_mut(), batch)?;
        for (point, (width, expected)) in &expected {
            let (_, actual) = actual.get(point).ok_or_else(|| Error::internal(format!("`{point}` was not visited")))?;
            errors.entry(*point).or_default().extend(row_errors(expected, actual, *width));
        }
        let n_vocab = fast.spec().vocab_size;
        let expected = logits(reference.as_mut(), &expected)?;
        logit_errors.extend(row_errors(&expected, &logits(fast.as_mut(), &actual)?, n_vocab));
    }
    let mut report: Vec<SiteError> =
        points.into_iter().filter_map(|point| Some(summary(point.to_string(), errors.remove(&point)?))).collect();
    report.push(summary("logits".to_owned(), logit_errors));
    Ok(report)
}

/// Width and values `[n, width]` of every point.
type Recording = HashMap<HookPoint, (usize, Vec<f32>)>;

/// Keeps everything.
struct Recorder(Recording);

impl<B: Backend> Taps<B> for Recorder {
    fn wants(&self, _: HookPoint) -> Want {
        Want::Read
    }

    fn visit(&mut self, backend: &B, point: HookPoint, value: &mut B::Tensor, n: usize, width: usize) -> Result<()> {
        let mut rows = vec![0.0; n * width];
        backend.read(value, 0, &mut rows);
        self.0.insert(point, (width, rows));
        Ok(())
    }
}

fn record<B: Backend>(model: &mut dyn Model<B>, batch: &TokenBatch) -> Result<Recording> {
    let mut recorder = Recorder(HashMap::new());
    model.forward(batch, &mut recorder)?;
    Ok(recorder.0)
}

/// Each side's own final hidden states through its own head.
fn logits<B: Backend>(model: &mut dyn Model<B>, recording: &Recording) -> Result<Vec<f32>> {
    let mut logits = Vec::new();
    if let Some((_, hidden)) = recording.get(&HookPoint::outside(Site::LnFinalOut)) {
        model.unembed(hidden, &mut logits)?;
    }
    Ok(logits)
}

/// Each row's relative error; infinite if it is not a number.
fn row_errors(expected: &[f32], actual: &[f32], width: usize) -> Vec<f64> {
    let rows = expected.chunks_exact(width).zip(actual.chunks_exact(width));
    rows.map(|(expected, actual)| {
        let square = |x: f64| x * x;
        let norm: f64 = expected.iter().map(|&x| square(f64::from(x))).sum();
        let error: f64 = expected.iter().zip(actual).map(|(&x, &y)| square(f64::from(x) - f64::from(y))).sum();
        let relative = if error == 0.0 { 0.0 } else { (error / norm).sqrt() };
        if relative.is_nan() { f64::INFINITY } else { relative }
    })
    .collect()
}

fn summary(name: String, mut errors: Vec<f64>) -> SiteError {
    errors.sort_by(f64::total_cmp);
    let n_tokens = errors.len();
    let at = |i: usize| errors.get(i).copied().unwrap_or(0.0);
    SiteError { name, median: at(n_tokens / 2), worst: at(n_tokens.saturating_sub(1)), n_tokens }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_relative_to_each_row_and_nan_is_the_worst() {
        let errors = row_errors(&[3.0, 4.0, 0.0, 0.0, 1.0, 0.0], &[3.0, 4.5, 0.0, 0.0, f32::NAN, 0.0], 2);
        assert!((errors[0] - 0.1).abs() < 1e-9);
        assert_eq!(errors[1..], [0.0, f64::INFINITY]);
        let report = summary("x".to_owned(), errors);
        assert_eq!((report.worst, report.n_tokens), (f64::INFINITY, 3));
        assert!((report.median - 0.1).abs() < 1e-9);
    }
}
