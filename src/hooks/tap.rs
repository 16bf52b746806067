//! What `forward()` calls at each site.

use crate::compute::Backend;
use crate::error::Result;
use crate::hooks::HookPoint;

/// What a tap wants with a hook point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Nothing: the model may skip computing what only this point needs.
    Nothing,
    /// The value.
    Read,
    /// The value, and it may be changed; later layers then see the changed value (only at points that
    /// [`crate::hooks::Site::edits_propagate`]).
    Edit,
}

/// Receives activations during a forward pass.
///
/// The model asks [`Taps::wants`] before it computes something that nobody else needs, and calls [`Taps::visit`] with
/// the device buffer holding `n_rows` rows of `width` values, row by row. The pass ends after the last wanted point.
pub trait Taps<B: Backend> {
    /// What is wanted at `point`. Must not change during a pass.
    fn wants(&self, point: HookPoint) -> Want;

    /// The value at `point`, `[n_rows, width]` row-major; may be changed if `wants` answered [`Want::Edit`].
    fn visit(
        &mut self,
        backend: &B,
        point: HookPoint,
        value: &mut B::Tensor,
        n_rows: usize,
        width: usize,
    ) -> Result<()>;
}
