//! One forward pass: the device, the batch, the taps, and when to stop.

use crate::compute::ModelOps;
use crate::error::{Error, Result};
use crate::hooks::{HookPoint, PointShape, Taps, Want};

/// What every piece of a forward pass needs.
pub(in crate::model) struct Pass<'a, B: ModelOps> {
    pub(in crate::model) backend: &'a B,
    pub(in crate::model) index: &'a mut B::BatchIndex,
    /// Rows.
    pub(in crate::model) n: usize,
    taps: &'a mut dyn Taps<B>,
    last: HookPoint,
}

/// Why a pass ends before the model does.
pub(in crate::model) enum Halt {
    /// Nothing further is wanted.
    Done,
    /// A tap failed.
    Failed(Error),
}

/// A step of a pass; `?` ends the pass.
pub(in crate::model) type Step = std::result::Result<(), Halt>;

impl<'a, B: ModelOps> Pass<'a, B> {
    /// A pass over `n` rows that ends after `last`.
    pub(in crate::model) fn new(
        backend: &'a B,
        index: &'a mut B::BatchIndex,
        n: usize,
        taps: &'a mut dyn Taps<B>,
        last: HookPoint,
    ) -> Self {
        Self { backend, index, n, taps, last }
    }

    /// Whether `point` must be computed even if no later layer needs it.
    pub(in crate::model) fn wants(&self, point: HookPoint) -> bool {
        self.taps.wants(point) != Want::Nothing
    }

    /// Whether nothing after `point` is wanted.
    pub(in crate::model) fn ends_at(&self, point: HookPoint) -> bool {
        point == self.last
    }

    /// Show `value`, rows of `width`, if `point` is wanted; end the pass if nothing after it is.
    pub(in crate::model) fn tap(&mut self, point: HookPoint, value: &mut B::Tensor, width: usize) -> Step {
        if self.wants(point) {
            self.taps.visit(self.backend, point, value, self.n, width).map_err(Halt::Failed)?;
        }
        if point == self.last { Err(Halt::Done) } else { Ok(()) }
    }

    /// As [`Pass::tap`], of a value that is there only if it is wanted.
    pub(in crate::model) fn tap_side(&mut self, point: HookPoint, value: Option<&mut B::Tensor>, width: usize) -> Step {
        match value {
            Some(value) if self.wants(point) => self.tap(point, value, width),
            _ => Ok(()),
        }
    }
}

/// The last of `points` that is wanted. Refuses edits where they would not propagate.
pub(in crate::model) fn last_wanted<B: ModelOps>(
    points: &[PointShape],
    taps: &dyn Taps<B>,
) -> Result<Option<HookPoint>> {
    let mut last = None;
    for PointShape { point, .. } in points {
        match taps.wants(*point) {
            Want::Nothing => {}
            Want::Edit if !point.site.edits_propagate() => {
                return Err(Error::config(format!("`{point}` can be read but not edited: no later layer reads it")));
            }
            Want::Read | Want::Edit => last = Some(*point),
        }
    }
    Ok(last)
}

/// The outcome of a pass.
pub(in crate::model) fn outcome(step: Step) -> Result<()> {
    match step {
        Ok(()) | Err(Halt::Done) => Ok(()),
        Err(Halt::Failed(error)) => Err(error),
    }
}
