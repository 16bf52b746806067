//! The norm of all gradients together, and the factor that bounds it.

use crate::compute::CoderOps;
use crate::sae::params::{Gradients, W_DEC};

/// `sqrt(sum over all parameters of g^2)`. Not finite if one gradient is not.
pub fn norm<B: CoderOps>(backend: &B, gradients: &Gradients<B>) -> f64 {
    let squares = gradients.each().into_iter().map(|g| backend.sum_squares(g, backend.len(g)));
    squares.sum::<f64>().sqrt()
}

/// The same, of gradients of whose `w_dec` the sum of squares is known.
pub fn norm_with<B: CoderOps>(backend: &B, gradients: &Gradients<B>, of_decoder: f64) -> f64 {
    let others = gradients.each().into_iter().enumerate();
    let squares = others.map(|(i, g)| if i == W_DEC { of_decoder } else { backend.sum_squares(g, backend.len(g)) });
    squares.sum::<f64>().sqrt()
}

/// What gradients of norm `norm` are multiplied by so that it is at most `limit`; a `limit` of 0 bounds nothing.
pub fn factor(norm: f64, limit: f64) -> f64 {
    if limit > 0.0 && norm > limit { limit / norm } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_long_gradients_are_shortened() {
        assert_eq!(factor(4.0, 1.0), 0.25);
        assert_eq!(factor(0.5, 1.0), 1.0);
        assert_eq!(factor(1e9, 0.0), 1.0);
    }
}
