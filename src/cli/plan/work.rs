//! How much a forward pass computes: floating-point operations a token and bytes of memory.

use crate::hooks::{HookPoint, Site};
use crate::model::ModelSpec;

/// Bytes of an f32.
const F32: f64 = 4.0;

/// Points of one of two models, as its own.
pub(super) fn points_of(second: bool, points: &[HookPoint]) -> Vec<HookPoint> {
    points.iter().filter(|point| point.second == second).map(|point| point.of_first()).collect()
}

/// Floating-point operations a token, up to and including the block of the last of `points`. A multiplication and an
/// addition are two; only matrix products and attention count, the rest is a percent or two.
pub(super) fn flops_per_token(spec: &ModelSpec, points: &[HookPoint], context_length: usize) -> f64 {
    let (d, m) = (spec.d_model as f64, spec.d_mlp as f64);
    let (q, kv) = ((spec.n_heads * spec.d_head) as f64, (spec.n_kv_heads * spec.d_head) as f64);
    // scores and their use: a token sees half the context on average
    let attention = 2.0 * (d * q + 2.0 * d * kv + q * d) + 2.0 * q * context_length as f64;
    let mlp = 2.0 * mlp_matrices(spec) * d * m;
    let last = points.iter().copied().max_by_key(|p| p.forward_order());
    match last {
        None => 0.0,
        Some(HookPoint { layer: Some(layer), site, .. }) => {
            let (with_attention, with_mlp) = (site >= Site::Q, site >= Site::MlpPre);
            f64::from(layer) * (attention + mlp)
                + if with_attention { attention } else { 0.0 }
                + if with_mlp { mlp } else { 0.0 }
        }
        Some(HookPoint { layer: None, site: Site::Embed | Site::PosEmbed, .. }) => 0.0,
        Some(_) => f64::from(spec.n_layers()) * (attention + mlp),
    }
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

/// Matrices of the MLP: a gated one has three.
fn mlp_matrices(spec: &ModelSpec) -> f64 {
    if spec.mlp.gated { 3.0 } else { 2.0 }
}
