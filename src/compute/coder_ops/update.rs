//! Numbers of an update.

/// One update by [`CoderOps::adam`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamStep {
    /// Learning rate.
    pub learning_rate: f64,
    /// Decay rates of the moments.
    pub betas: [f64; 2],
    /// Added to the denominator.
    pub epsilon: f64,
    /// Share of the weights, times the rate, that is taken off.
    pub weight_decay: f64,
    /// Number of this update, from 1.
    pub t: u64,
    /// The gradient is multiplied by this first (clipping).
    pub gradient_scale: f64,
}

/// `a`, `b` and `c` of [`CoderOps::orthogonalize`]: chosen to lift small singular values fast.
pub const NEWTON_SCHULZ: [f64; 3] = [3.4445, -4.7750, 2.0315];
/// Steps of [`CoderOps::orthogonalize`].
pub const NEWTON_SCHULZ_STEPS: usize = 5;

/// One update by [`CoderOps::schedule_free_sign`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SignStep {
    /// Learning rate.
    pub learning_rate: f64,
    /// Weight of the average in the point where gradients are taken; above 0.
    pub beta: f64,
    /// Weight of the newest point in the average.
    pub share: f64,
}
