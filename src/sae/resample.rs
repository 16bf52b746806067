//! Resampling (Bricken et al. 2023): now and then, dead latents start anew in the direction of rows that the coder
//! reconstructs badly.
//!
//! Rows of the last batch are drawn without replacement, with probabilities in proportion to the square of their loss. With
//! `v = (y - b_dec) / |y - b_dec|` of its row, a dead latent gets the decoder row `v` (in the norm that training starts
//! with), the encoder row `0.2 v` times the mean norm of living latents' encoder rows, and bias 0; what the optimiser
//! remembers of it is forgotten.

use std::borrow::Cow;

use crate::compute::CoderOps;
use crate::compute::coder_ops::CoderDims;
use crate::runtime::rng::Rng;
use crate::sae::coder::Coder;
use crate::sae::constraint;
use crate::sae::optim::Optimizer;
use crate::sae::selection::host;

/// Encoder rows of latents that start anew, as a share of the mean norm of the others'.
const ENCODER_SHARE: f64 = 0.2;

/// The last batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Rows<'a> {
    /// `[groups, n, d]` what the coder reads, before it is multiplied by `scale`.
    pub x: Cow<'a, [f32]>,
    /// See [`Rows::x`].
    pub scale: f64,
    /// `[n, out]` what it reconstructs, scaled, where that is another.
    pub target: Option<Vec<f32>>,
}

/// Start `dead` latents anew from the last batch. Returns those that were, ascending: all, if there are as many rows that
/// are not reconstructed perfectly. Where the target is another, decoder rows point at it and encoder rows at the input.
pub fn resample<B: CoderOps>(
    backend: &B,
    coder: &mut Coder<B>,
    optimizer: &mut Optimizer<B>,
    rows: &Rows<'_>,
    dead: &[u32],
    rng: &mut Rng,
) -> Vec<u32> {
    let dims = coder.settings().dims;
    let CoderDims { d, f, out, groups } = dims;
    let n = rows.x.len() / (groups * d);
    let mut losses = backend.zeros(n);
    backend.row_distances(coder.residual(), &backend.zeros(out), &mut losses, n, out);
    let drawn = draw(&host(backend, &losses, n), dead.len(), rng);
    let encoder_norm = ENCODER_SHARE * living_norm(backend, coder, dead);
    let b_dec = host(backend, &coder.params.b_dec, out);
    let decoder_norm = coder.settings().start.norm;
    let mut renewed = Vec::new();
    for (&latent, row) in dead.iter().zip(drawn) {
        let at = latent as usize;
        if at >= f {
            continue;
        }
        let read = (at / dims.group() * n + row) * d;
        let input: Vec<f64> = rows.x[read..][..d].iter().map(|&x| rows.scale * f64::from(x)).collect();
        let read: Vec<f64> = match &rows.target {
            None => input.clone(),
            Some(target) => target[row * out..][..out].iter().map(|&y| f64::from(y)).collect(),
        };
        let centered: Vec<f64> = read.iter().zip(&b_dec).map(|(y, b)| y - b).collect();
        let input = if rows.target.is_some() { &input } else { &centered };
        let (Some(decoder), Some(encoder)) = (of_norm(&centered, decoder_norm), of_norm(input, encoder_norm)) else {
            continue;
        };
        backend.write(&mut coder.params.w_dec, at * out, &decoder);
        backend.write(&mut coder.params.w_enc, at * d, &encoder);
        backend.write(&mut coder.params.b_enc, at, &[0.0]);
        renewed.push(latent);
    }
    if coder.settings().target.later_layers {
        let settings = coder.settings().clone();
        constraint::restore(backend, &settings, &mut coder.params);
    }
    for &latent in &renewed {
        optimizer.forget(backend, &coder.params, latent as usize, (d, out));
    }
    renewed
}

/// A vector in the direction of another; `None` if that has none.
fn of_norm(vector: &[f64], length: f64) -> Option<Vec<f32>> {
    let norm = vector.iter().map(|x| x * x).sum::<f64>().sqrt();
    (norm >= 1e-12).then(|| vector.iter().map(|x| (x * length / norm) as f32).collect())
}

/// The mean norm of the encoder rows of latents that are not `dead` (ascending); of all if none lives.
fn living_norm<B: CoderOps>(backend: &B, coder: &Coder<B>, dead: &[u32]) -> f64 {
    let (d, f) = (coder.settings().dims.d, coder.settings().dims.f);
    let mut norms = backend.zeros(f);
    backend.row_norms(&coder.params.w_enc, &mut norms, f, d);
    let norms = host(backend, &norms, f);
    let living = norms.iter().enumerate().filter(|(i, _)| dead.binary_search(&(*i as u32)).is_err());
    let (count, sum) = living.fold((0, 0.0), |(count, sum), (_, norm)| (count + 1, sum + norm));
    if count > 0 { sum / f64::from(count) } else { norms.iter().sum::<f64>() / f as f64 }
}

/// Up to `count` different rows, in proportion to the fourth power of their residuals' norms (Efraimidis & Spirakis: the
/// largest `u^(1/weight)`).
fn draw(residuals: &[f64], count: usize, rng: &mut Rng) -> Vec<usize> {
    let largest = residuals.iter().copied().fold(0.0, f64::max);
    let mut keys: Vec<(f64, usize)> = Vec::new();
    for (row, residual) in residuals.iter().enumerate() {
        let uniform = rng.uniform().max(f64::MIN_POSITIVE);
        let weight = (residual / largest).powi(4);
        if weight > 0.0 {
            keys.push((uniform.ln() / weight, row));
        }
    }
    keys.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    keys.into_iter().take(count).map(|(_, row)| row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::Backend;
    use crate::compute::reference::Reference;
    use crate::runtime::rng::Seed;
    use crate::sae::coder::Batch;
    use crate::sae::config::{CoderConfig, OptimizerConfig};
    use crate::sae::init;

    #[test]
    fn rows_are_drawn_by_the_square_of_their_loss() {
        let mut rng = Seed(3).stream("draw");
        let mut counts = [0; 3];
        for _ in 0..4000 {
            let drawn = draw(&[1.0, 0.0, 2.0], 1, &mut rng);
            counts[drawn[0]] += 1;
        }
        assert_eq!(counts[1], 0);
        let share = f64::from(counts[2]) / 4000.0;
        assert!((share - 16.0 / 17.0).abs() < 0.02, "{share}");
        assert_eq!(draw(&[1.0, 0.0, 2.0], 9, &mut rng).len(), 2);
        assert!(draw(&[0.0, 0.0], 2, &mut rng).is_empty());
    }

    #[test]
    fn dead_latents_point_at_bad_rows_and_are_forgotten_by_the_optimizer() {
        let (d, n) = (4, 6);
        let config = serde_json::json!({"type": "standard", "width": 5, "l1_coefficient": 0.1, "form": "bricken"});
        let settings = serde_json::from_value::<CoderConfig>(config).unwrap().settings(d).unwrap();
        let optimizer = serde_json::json!({"type": "adam", "learning_rate": 0.01});
        let optimizer: OptimizerConfig = serde_json::from_value(optimizer).unwrap();
        let mut optimizer = Optimizer::new(&Reference, &settings, &optimizer);
        let mut rng = Seed(3).stream("resample");
        let params = init::start(&Reference, &settings, &mut rng, vec![0.5; d]);
        let mut coder = Coder::new(&Reference, settings, params, n);
        let rows: Vec<f32> = (0..n * d).map(|_| rng.normal() as f32).collect();
        let x = Reference.upload(&rows);
        let batch = Batch { x: &x, target: None, n, scale: 2.0, dead: &[], step: 9 };
        coder.loss_and_gradients(&Reference, &batch);
        optimizer.update(&Reference, &mut coder.params, &coder.gradients, 0.01, 1.0);
        let before = coder.params.clone();
        let renewed = resample(
            &Reference,
            &mut coder,
            &mut optimizer,
            &Rows { x: Cow::Borrowed(&rows), scale: 2.0, target: None },
            &[1, 4],
            &mut rng,
        );
        assert_eq!(renewed, [1, 4]);
        let row = |t: &[f64], i: usize| t[i * d..][..d].to_vec();
        for i in 0..5 {
            let moments: Vec<f64> = optimizer.groups().iter().flat_map(|(_, group)| row(&group.w_dec, i)).collect();
            if !renewed.contains(&(i as u32)) {
                assert_eq!(row(&coder.params.w_enc, i), row(&before.w_enc, i));
                assert!(moments.iter().any(|m| *m != 0.0));
                continue;
            }
            assert!(moments.iter().all(|m| *m == 0.0));
            let from = rows.chunks(d).filter(|x| {
                let centered: Vec<f64> = x.iter().map(|&x| 2.0 * f64::from(x) - 0.5).collect();
                let norm = centered.iter().map(|x| x * x).sum::<f64>().sqrt();
                let b_dec = &coder.params.b_dec;
                let shift: f64 = b_dec.iter().map(|b| (b - 0.5).abs()).sum();
                let cosine: f64 = centered.iter().zip(&coder.params.w_dec[i * d..]).map(|(x, w)| x * w / norm).sum();
                cosine > 0.999 - shift
            });
            assert_eq!(from.count(), 1, "latent {i} points at one row");
            let ratio = coder.params.w_enc[i * d] / coder.params.w_dec[i * d];
            assert!(ratio > 0.0 && ratio < 0.5, "{ratio}");
            assert_eq!(coder.params.b_enc[i], 0.0);
        }
    }
}
