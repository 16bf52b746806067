//! Do two coders see the same things? Correlations of their codes on the same rows, and whether latents that go together
//! have decoder rows that are arranged alike. (Lan et al., "Sparse autoencoders reveal universal feature spaces",
//! 2410.06981.)

use serde::{Deserialize, Serialize};

use crate::evaluation::algebra::{add_products, symmetric_eigen};
use crate::evaluation::geometry::Dictionary;
use crate::evaluation::rsa::Ranks;
use crate::evaluation::sample::CodeSample;
use crate::runtime::rng::Seed;
use crate::sae::codes::Codes;

/// Added to standard deviations.
const DEVIATION_FLOOR: f64 = 1e-8;
/// Pairs below this correlation are not compared further.
const CORRELATION_MIN: f64 = 0.1;
/// Pairs whose directions are compared, at most.
const PAIRS_MAX: usize = 4096;
/// Pairs of which every two are compared, at most.
const RSA_PAIRS_MAX: usize = 2048;
/// Widest directions that are compared.
const WIDTH_MAX: usize = 1024;
/// Share of the variance that the components of SVCCA keep.
const KEPT_VARIANCE: f64 = 0.99;
/// Wrong pairings that the score is compared with.
const SHUFFLES: u64 = 8;

/// What two coders share on the same rows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Universality {
    /// Rows that both coders' codes are kept of.
    pub rows: u64,
    /// Mean over the first's latents that fire of the largest correlation with a latent of the second.
    pub correlation_first_to_second: f64,
    /// The same from the second's latents.
    pub correlation_second_to_first: f64,
    /// Share of the second's latents that fire whose largest correlation is above 0.5.
    pub above_half: f64,
    /// How alike the decoder rows are of each latent of the second and its best in the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub space: Option<Space>,
}

/// Whether paired directions are arranged alike; with the mean of the same over random pairings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Space {
    /// Pairs with a correlation above 0.1.
    pub pairs: u64,
    /// Mean canonical correlation of the components that keep 99% of the variance.
    pub svcca: f64,
    /// The same for random pairings: what chance alone gives.
    pub svcca_shuffled: f64,
    /// Linear centred kernel alignment.
    pub cka: f64,
    /// The same for random pairings.
    pub cka_shuffled: f64,
    /// Representational similarity: rank correlation of the distances between directions (see
    /// [`rsa`](crate::evaluation::rsa::rsa)).
    #[serde(default)]
    pub rsa: f64,
    /// The same for random pairings.
    #[serde(default)]
    pub rsa_shuffled: f64,
}

/// Compare the codes of two coders of `latents` latents, and their directions. `None` if no row was kept of both.
pub fn compare(
    (first, second): (&CodeSample, &CodeSample),
    latents: (usize, usize),
    dictionaries: Option<(&Dictionary, &Dictionary)>,
) -> Option<Universality> {
    let rows = common(&first.ids, &second.ids);
    if rows.is_empty() {
        return None;
    }
    let a: Vec<usize> = rows.iter().map(|row| row.0).collect();
    let b: Vec<usize> = rows.iter().map(|row| row.1).collect();
    let forward = best((&first.codes, &a, latents.0), (&second.codes, &b, latents.1));
    let back = best((&second.codes, &b, latents.1), (&first.codes, &a, latents.0));
    let mean = |best: &[Option<(f64, usize)>]| {
        let found: Vec<f64> = best.iter().flatten().map(|(correlation, _)| *correlation).collect();
        found.iter().sum::<f64>() / found.len().max(1) as f64
    };
    let firing = back.iter().flatten().count().max(1) as f64;
    let above = back.iter().flatten().filter(|(correlation, _)| *correlation > 0.5).count();
    let space = dictionaries.and_then(|(first, second)| {
        let pairs = back.iter().enumerate().filter_map(|(j, best)| {
            let (_, i) = best.filter(|(correlation, _)| *correlation > CORRELATION_MIN)?;
            Some((i, j))
        });
        let pairs: Vec<(usize, usize)> = pairs.collect();
        space(&thinned(pairs, PAIRS_MAX), first, second)
    });
    Some(Universality {
        rows: rows.len() as u64,
        correlation_first_to_second: mean(&forward),
        correlation_second_to_first: mean(&back),
        above_half: above as f64 / firing,
        space,
    })
}

/// Places of the ids that both lists, ascending, have.
fn common(a: &[u64], b: &[u64]) -> Vec<(usize, usize)> {
    let (mut i, mut j, mut found) = (0, 0, Vec::new());
    while i < a.len() && j < b.len() {
        match a[i].cmp(&b[j]) {
            std::cmp::Ordering::Less => i += 1,
            std::cmp::Ordering::Greater => j += 1,
            std::cmp::Ordering::Equal => {
                found.push((i, j));
                (i, j) = (i + 1, j + 1);
            }
        }
    }
    found
}

/// At most `most` of them, evenly.
fn thinned(pairs: Vec<(usize, usize)>, most: usize) -> Vec<(usize, usize)> {
    let every = pairs.len().div_ceil(most).max(1);
    pairs.into_iter().step_by(every).collect()
}

/// Mean and standard deviation of each latent over `rows` of `codes`.
fn moments(codes: &Codes, rows: &[usize], f: usize) -> Vec<(f64, f64)> {
    let n = rows.len() as f64;
    let mut sums = vec![(0f64, 0f64); f];
    for &row in rows {
        let (latents, values) = codes.row(row);
        for (&latent, &value) in latents.iter().zip(values) {
            let (sum, squares) = &mut sums[latent as usize];
            *sum += f64::from(value);
            *squares += f64::from(value).powi(2);
        }
    }
    sums.into_iter().map(|(sum, squares)| (sum / n, (squares / n - (sum / n).powi(2)).max(0.0).sqrt())).collect()
}

/// For each latent of `a` that fires, its largest Pearson correlation with a latent of `b` that fires on one of its rows,
/// and which that is. Codes are given with the rows to take and the number of latents. One latent of `a` at a time, so
/// memory is that of `b`'s latents.
fn best(
    (a, a_rows, a_f): (&Codes, &[usize], usize),
    (b, b_rows, b_f): (&Codes, &[usize], usize),
) -> Vec<Option<(f64, usize)>> {
    let n = a_rows.len() as f64;
    let (of_a, of_b) = (moments(a, a_rows, a_f), moments(b, b_rows, b_f));
    let mut firing: Vec<Vec<(usize, f32)>> = vec![Vec::new(); a_f];
    for (at, &row) in a_rows.iter().enumerate() {
        let (latents, values) = a.row(row);
        for (&latent, &value) in latents.iter().zip(values).filter(|(_, value)| **value != 0.0) {
            firing[latent as usize].push((b_rows[at], value));
        }
    }
    let mut products = vec![0f64; b_f];
    let mut touched: Vec<u32> = Vec::new();
    let one = |(i, rows): (usize, &Vec<(usize, f32)>)| {
        if rows.is_empty() {
            return None;
        }
        for &(row, value) in rows {
            let (latents, others) = b.row(row);
            for (&latent, &other) in latents.iter().zip(others).filter(|(_, other)| **other != 0.0) {
                if products[latent as usize] == 0.0 {
                    touched.push(latent);
                }
                products[latent as usize] += f64::from(value) * f64::from(other);
            }
        }
        let mut best = (f64::NEG_INFINITY, 0);
        for &j in &touched {
            let (j, ((a_mean, a_deviation), (b_mean, b_deviation))) = (j as usize, (of_a[i], of_b[j as usize]));
            let product = std::mem::take(&mut products[j]);
            let scale = (a_deviation + DEVIATION_FLOOR) * (b_deviation + DEVIATION_FLOOR);
            let correlation = (product / n - a_mean * b_mean) / scale;
            if correlation > best.0 || (correlation == best.0 && j < best.1) {
                best = (correlation, j);
            }
        }
        touched.clear();
        Some(if best.0.is_finite() { best } else { (0.0, 0) })
    };
    firing.iter().enumerate().map(one).collect()
}

/// The directions of pairs, compared with random pairings.
fn space(pairs: &[(usize, usize)], first: &Dictionary, second: &Dictionary) -> Option<Space> {
    let (p, q) = (first.decoder_width, second.decoder_width);
    if pairs.len() < 3 || p.max(q) > WIDTH_MAX {
        return None;
    }
    let (x, y) = directions(pairs, first, second);
    let (rsa, rsa_shuffled) = distances(pairs, first, second);
    let (x, y) = (centred(x, p), centred(y, q));
    let (u, v) = (components(&x, p), components(&y, q));
    let mut shuffled = (0.0, 0.0);
    for shuffle in 0..SHUFFLES {
        let order = shuffled_order(pairs.len(), shuffle);
        shuffled.0 += canonical(&u, &permuted(&v.0, v.1, &order), v.1);
        shuffled.1 += alignment(&x, p, &permuted(&y, q, &order), q);
    }
    Some(Space {
        pairs: pairs.len() as u64,
        svcca: canonical(&u, &v.0, v.1),
        svcca_shuffled: shuffled.0 / SHUFFLES as f64,
        cka: alignment(&x, p, &y, q),
        cka_shuffled: shuffled.1 / SHUFFLES as f64,
        rsa,
        rsa_shuffled,
    })
}

/// The decoder rows of pairs: `[pairs, width]` of each side.
fn directions(pairs: &[(usize, usize)], first: &Dictionary, second: &Dictionary) -> (Vec<f64>, Vec<f64>) {
    let row = |dictionary: &'_ Dictionary, i: usize| -> Vec<f64> {
        let width = dictionary.decoder_width;
        dictionary.decoder[i * width..][..width].iter().map(|&x| f64::from(x)).collect()
    };
    let of_first = pairs.iter().flat_map(|pair| row(first, pair.0)).collect();
    (of_first, pairs.iter().flat_map(|pair| row(second, pair.1)).collect())
}

/// RSA of the directions of pairs, and of random pairings of them.
fn distances(pairs: &[(usize, usize)], first: &Dictionary, second: &Dictionary) -> (f64, f64) {
    let pairs = thinned(pairs.to_vec(), RSA_PAIRS_MAX);
    let (x, y) = directions(&pairs, first, second);
    let (x, y) = (Ranks::of(&x, first.decoder_width), Ranks::of(&y, second.decoder_width));
    let as_it_is: Vec<usize> = (0..pairs.len()).collect();
    let shuffled = (0..SHUFFLES).map(|shuffle| x.correlation(&y, &shuffled_order(pairs.len(), shuffle)));
    (x.correlation(&y, &as_it_is), shuffled.sum::<f64>() / SHUFFLES as f64)
}

/// SVCCA of `x` `[n, p]` and `y` `[n, q]`: the mean canonical correlation of the principal components that keep 99% of
/// each side's variance.
pub fn svcca(x: &[f64], p: usize, y: &[f64], q: usize) -> f64 {
    let (u, v) = (components(&centred(x.to_vec(), p), p), components(&centred(y.to_vec(), q), q));
    canonical(&u, &v.0, v.1)
}

/// Linear CKA of `x` `[n, p]` and `y` `[n, q]`.
pub fn cka(x: &[f64], p: usize, y: &[f64], q: usize) -> f64 {
    alignment(&centred(x.to_vec(), p), p, &centred(y.to_vec(), q), q)
}

fn centred(mut x: Vec<f64>, width: usize) -> Vec<f64> {
    let n = (x.len() / width) as f64;
    let mut means = vec![0.0; width];
    x.chunks_exact(width).for_each(|row| means.iter_mut().zip(row).for_each(|(mean, x)| *mean += x / n));
    x.chunks_exact_mut(width).for_each(|row| row.iter_mut().zip(&means).for_each(|(x, mean)| *x -= mean));
    x
}

/// Orthonormal scores `[n, k]` of the first principal components of centred rows `x` `[n, width]`: as many as it takes for
/// a share of 99% of the variance, by the first place where the cumulative share reaches it.
fn components(x: &[f64], width: usize) -> (Vec<f64>, usize) {
    let mut gram = vec![0.0; width * width];
    add_products(x, width, x, width, &mut gram);
    let (values, vectors) = symmetric_eigen(gram, width);
    let total: f64 = values.iter().map(|v| v.max(0.0)).sum();
    let mut share = 0.0;
    let largest = values.iter().enumerate().rev().filter(|(_, value)| **value > total * 1e-13);
    let kept = largest.take_while(|(_, value)| {
        let before = share;
        share += **value / total;
        before < KEPT_VARIANCE
    });
    let kept: Vec<(usize, f64)> = kept.map(|(i, value)| (i, value.sqrt())).collect();
    let k = kept.len();
    let mut scores = Vec::with_capacity(x.len() / width * k);
    for row in x.chunks_exact(width) {
        scores.extend(kept.iter().map(|&(i, deviation)| {
            let vector = &vectors[i * width..][..width];
            row.iter().zip(vector).map(|(x, v)| x * v).sum::<f64>() / deviation
        }));
    }
    (scores, k)
}

/// The mean singular value of `u' v`, both orthonormal: `[n, k]` and `[n, m]`.
fn canonical((u, k): &(Vec<f64>, usize), v: &[f64], m: usize) -> f64 {
    let k = *k;
    if k == 0 || m == 0 {
        return 0.0;
    }
    // columns of the smaller side, so that the eigenvalues are those of the smaller product
    let (few, n_few, many, n_many) = if k <= m { (u.as_slice(), k, v, m) } else { (v, m, u.as_slice(), k) };
    let mut cross = vec![0.0; n_many * n_few];
    add_products(many, n_many, few, n_few, &mut cross);
    let mut square = vec![0.0; n_few * n_few];
    add_products(&cross, n_few, &cross, n_few, &mut square);
    let (values, _) = symmetric_eigen(square, n_few);
    values.iter().map(|value| value.max(0.0).sqrt().min(1.0)).sum::<f64>() / n_few as f64
}

/// `|y' x|^2 / (|x' x| |y' y|)` of centred rows.
fn alignment(x: &[f64], p: usize, y: &[f64], q: usize) -> f64 {
    let squares = |a: &[f64], p: usize, b: &[f64], q: usize| -> f64 {
        let mut product = vec![0.0; p * q];
        add_products(a, p, b, q, &mut product);
        product.iter().map(|x| x * x).sum()
    };
    squares(y, q, x, p) / (squares(x, p, x, p) * squares(y, q, y, q)).sqrt()
}

fn permuted(rows: &[f64], width: usize, order: &[usize]) -> Vec<f64> {
    order.iter().flat_map(|&i| &rows[i * width..][..width]).copied().collect()
}

/// `0..n` in an order that depends on `n` and `shuffle` alone.
fn shuffled_order(n: usize, shuffle: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    Seed(shuffle).stream("evaluation/shuffle").shuffle(&mut order);
    order
}
