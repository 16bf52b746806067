//! How much a forward pass computes: floating-point operations a token and bytes of memory.

use crate::hooks::HookPoint;
use crate::model::ModelSpec;
use crate::roofline::ForwardWork;

/// Bytes of an f32.
const F32: f64 = 4.0;

/// Points of one of two models, as its own.
pub(super) fn points_of(second: bool, points: &[HookPoint]) -> Vec<HookPoint> {
    points.iter().filter(|point| point.second == second).map(|point| point.of_first()).collect()
}

/// Floating-point operations a token, up to and including the block of the last of `points`. A multiplication and an
/// addition are two; only matrix products and attention count, the rest is a percent or two.
pub(super) fn flops_per_token(spec: &ModelSpec, points: &[HookPoint], context_length: usize) -> f64 {
    ForwardWork::of(spec, points, context_length).flops()
}

/// The speed that a whole pass reaches where its large products alone reach `flops_per_second`: between them are small
/// products (attention), exponentials and passes over memory, which weigh the more the narrower the model is. The curve
/// goes through two measurements on a CPU: a third at width 192, a half at width 576.
pub(super) fn usable(flops_per_second: f64, width: f64) -> f64 {
    flops_per_second * 0.75 * width / (width + 256.0)
}

/// Bytes of the forward pass's buffers for batches of `batch_tokens`.
pub(super) fn workspace_bytes(spec: &ModelSpec, points: &[HookPoint], batch_tokens: usize, context: usize) -> f64 {
    (spec.workspace_values(points, context) * batch_tokens) as f64 * F32
}
