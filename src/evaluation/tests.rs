use serde_json::Value;

use super::algebra::{solve, symmetric_eigen};
use super::dark_matter::DarkMatterSums;
use super::description::describe;
use super::geometry::{Dictionary, Spread};
use super::language_model::{LanguageModelSums, TokenLosses};
use super::reconstruction::ReconstructionSums;
use super::sample::CodeSample;
use super::sparsity::SparsitySums;
use super::{matching, universality};
use crate::compute::cpu::Cpu;
use crate::runtime::rng::{Rng, Seed};
use crate::sae::codes::Codes;

fn normals(rng: &mut Rng, n: usize) -> Vec<f32> {
    (0..n).map(|_| rng.normal() as f32).collect()
}

fn numbers(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(inner) => inner.iter().flat_map(numbers).collect(),
        other => vec![other.as_f64().unwrap()],
    }
}

fn dense(rows: &[f64], f: usize) -> Codes {
    let mut codes = Codes::default();
    for row in rows.chunks_exact(f) {
        let active: Vec<u32> = (0..f as u32).filter(|&i| row[i as usize] != 0.0).collect();
        let values: Vec<f32> = active.iter().map(|&i| row[i as usize] as f32).collect();
        codes.push(&active, &values);
    }
    codes
}

#[test]
fn the_reference_case_holds() {
    let cases: Value = serde_json::from_str(include_str!("../../tests/fixtures/coders.json")).unwrap();
    let (given, expected) = (&cases["metrics"]["inputs"], &cases["metrics"]["expected"]);
    let single = |key: &str| numbers(&given[key]).iter().map(|&x| x as f32).collect::<Vec<f32>>();
    let (x, y) = (single("x"), single("x_hat"));
    let (n, d) = (given["x"].as_array().unwrap().len(), given["x"][0].as_array().unwrap().len());
    let mean = (0..d).map(|j| x.iter().skip(j).step_by(d).map(|&x| f64::from(x)).sum::<f64>() / n as f64).collect();
    let mut sums = ReconstructionSums::about(mean);
    // in two halves: merging is adding
    let mut rest = sums.clone();
    sums.add(&x[..d], &y[..d]);
    rest.add(&x[d..], &y[d..]);
    sums.merge(&rest);
    let found = sums.finish().unwrap();
    let mut sparsity = SparsitySums::new(given["f"][0].as_array().unwrap().len());
    sparsity.add(&dense(&numbers(&given["f"]), given["f"][0].as_array().unwrap().len()));
    for (key, found) in [
        ("L0", sparsity.finish().unwrap().l0),
        ("S", found.mse),
        ("EV_a", found.explained_variance),
        ("EV_b", found.explained_variance_centred),
        ("EV_c_legacy", found.explained_variance_by_row.unwrap()),
        ("nmse_e", found.nmse),
        ("cos", found.cosine),
        ("l2_ratio", found.l2_ratio),
        ("rel_recon_bias", found.relative_bias),
    ] {
        let expected = expected[key].as_f64().unwrap();
        assert!((found - expected).abs() < 1e-6 * expected.abs().max(1.0), "{key}: {found}, expected {expected}");
    }
    assert!((found.fvu - (1.0 - found.explained_variance)).abs() < 1e-15);
}

#[test]
fn a_perfect_reconstruction_and_the_mean_are_the_two_ends() {
    let x = [1.0, 2.0, 3.0, 6.0, 5.0, 1.0];
    let mut perfect = ReconstructionSums::new(2);
    perfect.add(&x, &x);
    let m = perfect.finish().unwrap();
    assert_eq!((m.fvu, m.mse, m.nmse, m.explained_variance_by_row), (0.0, 0.0, 0.0, None));
    assert!((m.cosine - 1.0).abs() < 1e-12 && (m.relative_bias - 1.0).abs() < 1e-12 && m.l2_ratio == 1.0);
    let mut mean = ReconstructionSums::new(2);
    mean.add(&x, &[3.0; 6]);
    assert!((mean.finish().unwrap().fvu - 1.0).abs() < 1e-12);
    assert!((mean.variance() - 22.0 / 3.0).abs() < 1e-12);
    // an error that is everywhere the same
    let mut off = ReconstructionSums::new(2);
    off.add(&x, &x.map(|x| x + 2.0));
    let m = off.finish().unwrap();
    assert!(m.explained_variance < 0.0 && (m.explained_variance_centred - 1.0).abs() < 1e-12);
    assert_eq!(ReconstructionSums::new(2).finish(), None);
}

#[test]
fn loss_recovered_is_between_clean_and_ablated() {
    let token = |clean, mean_ablated| TokenLosses {
        clean,
        spliced: clean + 0.5,
        zero_ablated: clean + 10.0,
        mean_ablated,
        kl: 0.5,
        kl_zero_ablated: 2.0,
    };
    let mut sums = LanguageModelSums::default();
    sums.add(&token(2.0, Some(4.0)));
    sums.add(&token(4.0, Some(6.0)));
    let m = sums.finish().unwrap();
    assert_eq!((m.ce_clean, m.ce_spliced, m.ce_increase, m.kl), (3.0, 3.5, 0.5, 0.5));
    assert!((m.ce_recovered - 0.95).abs() < 1e-12 && (m.kl_recovered - 0.75).abs() < 1e-12);
    assert!((m.ce_recovered_mean.unwrap() - 0.75).abs() < 1e-12);
    sums.add(&token(1.0, None));
    assert_eq!(sums.finish().unwrap().ce_recovered_mean, None, "of all tokens or of none");
    assert_eq!(LanguageModelSums::default().finish(), None);
}

#[test]
fn densities_are_counted() {
    let mut sums = SparsitySums::new(5);
    for row in 0..1000 {
        // always, every other row, every 50th, once, never
        let fires = [true, row % 2 == 0, row % 50 == 0, row == 7, false];
        let active: Vec<u32> = (0..5).filter(|&i| fires[i as usize]).collect();
        let mut codes = Codes::default();
        codes.push(&active, &vec![2.0; active.len()]);
        sums.add(&codes);
    }
    assert_eq!(sums.fired(), [1000, 500, 20, 1, 0]);
    let m = sums.finish().unwrap();
    assert!((m.l0 - 1.521).abs() < 1e-12);
    assert_eq!((m.l0_p50, m.l0_p99), (2, 3));
    assert_eq!((m.dead_fraction, m.over_1_percent, m.dense_fraction), (0.2, 0.6, 0.4));
    assert!((m.dense_mass - 1500.0 / 1521.0).abs() < 1e-12);
    let histogram = sums.histogram();
    assert_eq!(histogram.counts.iter().sum::<u64>(), 5);
    let bin = |density: f64| ((density.log10() + 10.0) / 0.1) as usize;
    assert_eq!((histogram.counts[0], histogram.counts[99], histogram.counts[bin(0.02)]), (1, 1, 1));
    // one latent alone is as sparse as can be, all alike not at all
    let (mut one, mut all) = (SparsitySums::new(4), SparsitySums::new(4));
    one.add(&dense(&[0.0, 3.0, 0.0, 0.0], 4));
    all.add(&dense(&[2.0; 4], 4));
    assert_eq!((one.finish().unwrap().hoyer, all.finish().unwrap().hoyer), (1.0, 0.0));
}

fn sampled(rows: impl IntoIterator<Item = Vec<(u32, f32)>>) -> CodeSample {
    let mut sample = CodeSample::default();
    for (id, row) in rows.into_iter().enumerate() {
        let (latents, values): (Vec<u32>, Vec<f32>) = row.into_iter().unzip();
        let mut codes = Codes::default();
        codes.push(&latents, &values);
        sample.add(&[id as u64], &codes);
    }
    sample
}

#[test]
fn a_bit_is_a_bit() {
    // latent 0 fires on half the rows, always with the same value; latent 1 never
    let sample = sampled((0..1000).map(|row| if row % 2 == 0 { vec![(0, 3.0)] } else { Vec::new() }));
    let found = describe(&sample, None).unwrap();
    assert!(found.by_bins.iter().all(|binned| (binned.bits - 1.0).abs() < 1e-12), "{found:?}");
    assert_eq!((found.rows, found.reach, found.bits), (1000, 3.0, None));
    // values spread evenly: twice as many bins cost a bit each time the latent fires
    let sample = sampled((0..8192).map(|row| if row % 4 == 0 { vec![(0, (row + 1) as f32)] } else { Vec::new() }));
    let dictionary = Dictionary { encoder_width: 1, decoder_width: 1, decoder: vec![1.0], ..Dictionary::default() };
    let variance = 8192f64.powi(2);
    let found = describe(&sample, Some((&dictionary, variance))).unwrap();
    let bits = |bins| found.by_bins.iter().find(|b| b.bins == bins).unwrap();
    assert!((bits(32).bits - bits(16).bits - 0.25).abs() < 1e-3, "{found:?}");
    // rounding to the middle of a bin of width w loses w^2 / 12
    let added = bits(8).added_fvu.unwrap();
    assert!((added - 0.25 / 64.0 / 12.0).abs() < 0.3 * 0.25 / 64.0 / 12.0, "{added}");
    assert_eq!(found.bits, Some(bits(8).bits));
    assert_eq!(describe(&CodeSample::default(), None), None);
}

#[test]
fn systems_are_solved_and_matrices_taken_apart() {
    let mut rng = Seed(1).stream("algebra");
    for n in [1, 2, 3, 17, 40] {
        let m: Vec<f64> = (0..n * n).map(|_| rng.normal()).collect();
        let mut a = vec![0.0; n * n];
        super::algebra::add_products(&m, n, &m, n, &mut a);
        (0..n).for_each(|i| a[i * n + i] += 0.5);
        let x: Vec<f64> = (0..n * 3).map(|_| rng.normal()).collect();
        let mut b = vec![0.0; n * 3];
        super::algebra::add_products(&a, n, &x, 3, &mut b);
        solve(&mut a.clone(), n, &mut b, 3).unwrap();
        assert!(b.iter().zip(&x).all(|(b, x)| (b - x).abs() < 1e-9), "{n}");
        let (values, vectors) = symmetric_eigen(a.clone(), n);
        assert!(values.is_sorted() && values[0] > 0.49);
        for i in 0..n {
            let v = &vectors[i * n..][..n];
            assert!((v.iter().map(|x| x * x).sum::<f64>() - 1.0).abs() < 1e-9);
            for r in 0..n {
                let product: f64 = a[r * n..][..n].iter().zip(v).map(|(a, v)| a * v).sum();
                assert!((product - values[i] * v[r]).abs() < 1e-8 * values[n - 1], "{n} {i} {r}");
            }
        }
    }
    assert_eq!(solve(&mut [1.0, 2.0, 2.0, 1.0], 2, &mut [1.0, 1.0], 1), None, "not positive definite");
    let (values, _) = symmetric_eigen(vec![0.0; 9], 3);
    assert_eq!(values, [0.0; 3]);
}

#[test]
fn the_linear_part_of_an_error_is_found() {
    let (n, d) = (6000, 8);
    let mut rng = Seed(2).stream("dark matter");
    let map = normals(&mut rng, d * d);
    let mut sums = DarkMatterSums::new(d, d).unwrap();
    for _ in 0..6 {
        // inputs far from the origin
        let x: Vec<f32> = normals(&mut rng, n / 6 * d).iter().map(|x| x + 50.0).collect();
        let noise = normals(&mut rng, n / 6 * d);
        let y: Vec<f32> = x
            .chunks_exact(d)
            .zip(noise.chunks_exact(d))
            .flat_map(|(x, noise)| {
                (0..d)
                    .map(|j| {
                        let linear: f32 = x.iter().zip(&map[j * d..]).map(|(x, m)| (x - 50.0) * m).sum();
                        x[j] - linear - noise[j]
                    })
                    .collect::<Vec<f32>>()
            })
            .collect();
        sums.add(&x, &x, &y);
    }
    let found = sums.finish().unwrap();
    // of each dimension |row of map|^2 is linear, 1 is noise
    let expected: Vec<f64> = map
        .chunks_exact(d)
        .map(|row| row.iter().map(|&m| f64::from(m).powi(2)).sum::<f64>())
        .map(|linear| linear / (linear + 1.0))
        .collect();
    let expected = expected.iter().sum::<f64>() / d as f64;
    assert!((found.error_r2 - expected).abs() < 0.02, "{found:?}, expected {expected}");
    assert_eq!((found.rows_fitted, found.rows_judged), (3000, 3000));
    assert!(found.input_norm_r2 > 0.9, "far from the origin the norm is nearly linear: {found:?}");
    let mut few = DarkMatterSums::new(d, d).unwrap();
    let rows = normals(&mut rng, 20 * d);
    few.add(&rows, &rows, &vec![0.0; 20 * d]);
    assert_eq!(few.finish(), None);
    assert!(DarkMatterSums::new(8, 4097).is_none() && DarkMatterSums::new(4097, 8).is_none());
}

/// Of a transcoder's error, what is linear in the row that it reads: here one dimension's is, the other's is noise.
#[test]
fn the_error_of_another_row_is_predicted_from_what_is_read() {
    let (n, d) = (4000, 5);
    let mut rng = Seed(3).stream("dark matter");
    let x = normals(&mut rng, n * d);
    let (mut target, mut made) = (Vec::new(), Vec::new());
    for row in x.chunks_exact(d) {
        let y = [rng.normal() as f32, rng.normal() as f32];
        target.extend([y[0] + 2.0 * row[1] - row[4], y[1] + rng.normal() as f32]);
        made.extend(y);
    }
    let mut sums = DarkMatterSums::new(d, 2).unwrap();
    sums.add(&x, &target, &made);
    let found = sums.finish().unwrap();
    assert!((found.error_r2 - 0.5).abs() < 0.02, "{found:?}");
    // variances 5 and 1
    assert!((found.error_r2_pooled - 5.0 / 6.0).abs() < 0.02, "{found:?}");
    assert!(found.input_norm_r2.abs() < 0.1, "{found:?}");
}

#[test]
fn what_is_read_and_its_prompts_are_counted() {
    let mut sums = SparsitySums::new(4);
    // latent 0 on all rows of two prompts, latent 1 on one row of each, latent 2 twice in one
    let codes = dense(&[1.0, 1.0, 0.0, 0.0, 3.0, 0.0, 0.0, 0.0, 1.0, 0.0, 2.0, 0.0, 1.0, -1.0, 2.0, 0.0], 4);
    let inputs = [3.0, 4.0, 0.0, 0.0, 0.0, 2.0, 1.0, 0.0];
    sums.add_read(&codes, &inputs, Some(&[7, 7, 9, 9]));
    let found = sums.finish().unwrap();
    // rows of zeros count as 0
    assert_eq!(found.normalized_l1, Some((2.0 / 5.0 + 3.0 / 2.0 + 4.0) / 4.0));
    let consistent = found.consistent_activation.unwrap();
    assert_eq!((consistent.min, consistent.p50, consistent.max), (1.0, 2.0, 2.0));
    assert!((consistent.mean - 5.0 / 3.0).abs() < 1e-12, "{consistent:?}");
    assert_eq!(found.over_1_percent_mass, Some(1.0));
    // rows whose prompts are not known
    sums.add_read(&codes, &inputs, None);
    let found = sums.finish().unwrap();
    assert!(found.normalized_l1.is_some() && found.consistent_activation.is_none());
    sums.add(&codes);
    assert_eq!(sums.finish().unwrap().normalized_l1, None);
}

/// The largest sum over all ways to give each row a column of its own.
fn exhaustive(gain: &[f32], m: usize, row: usize, taken: &mut Vec<usize>) -> f64 {
    if row * m == gain.len() {
        return 0.0;
    }
    let mut best = f64::NEG_INFINITY;
    for j in 0..m {
        if !taken.contains(&j) {
            taken.push(j);
            best = best.max(f64::from(gain[row * m + j]) + exhaustive(gain, m, row + 1, taken));
            taken.pop();
        }
    }
    best
}

#[test]
fn an_assignment_is_the_best_there_is() {
    let mut rng = Seed(3).stream("assignment");
    for (n, m) in [(1, 1), (1, 4), (3, 3), (5, 6), (6, 6), (4, 7)] {
        let gain = normals(&mut rng, n * m);
        let pairs = matching::assign(&gain, n, m);
        let found: f64 = pairs.iter().map(|&(i, j)| f64::from(gain[i * m + j])).sum();
        let columns: std::collections::BTreeSet<usize> = pairs.iter().map(|pair| pair.1).collect();
        assert_eq!((pairs.len(), columns.len()), (n, n));
        let expected = exhaustive(&gain, m, 0, &mut Vec::new());
        assert!((found - expected).abs() < 1e-6, "{n} {m}: {found} {expected}");
    }
}

fn dictionary(rows: Vec<f32>, d: usize) -> Dictionary {
    Dictionary { encoder_width: d, decoder_width: d, encoder: rows.clone(), decoder: rows, rows_scaled: false }
}

#[test]
fn a_dictionary_in_another_order_is_the_same() {
    let (f, d) = (300, 16);
    let mut rng = Seed(4).stream("matching");
    let (cpu, rows) = (Cpu::new(1).unwrap(), normals(&mut rng, f * d));
    let mut order: Vec<usize> = (0..f).collect();
    rng.shuffle(&mut order);
    let turned = order.iter().flat_map(|&i| rows[i * d..][..d].iter().map(|x| x * 3.0)).collect();
    let (first, second) = (dictionary(rows.clone(), d), dictionary(turned, d));
    let found = matching::compare(&cpu, &first, &second).unwrap();
    for cosine in [found.mmcs_first_to_second, found.mmcs_second_to_first, found.paired_cosine, found.shared.unwrap()] {
        assert!((cosine - 1.0).abs() < 1e-5, "{found:?}");
    }
    assert!(found.exact && found.pairs == f as u64);
    // half of it: what is there is found, and what is not has no pair
    let half = dictionary(rows[..f / 2 * d].to_vec(), d);
    let found = matching::compare(&cpu, &first, &half).unwrap();
    assert!((found.mmcs_second_to_first - 1.0).abs() < 1e-5 && found.mmcs_first_to_second < 0.95, "{found:?}");
    assert_eq!(found.pairs, f as u64 / 2);
    assert_eq!(matching::compare(&cpu, &first, &dictionary(vec![1.0; 10], 5)), None, "other widths");
}

#[test]
fn greedy_pairs_are_nearly_as_good_as_the_best() {
    let (f, d) = (512, 32);
    let mut rng = Seed(5).stream("greedy");
    let a = super::geometry::unit_rows(&normals(&mut rng, f * d), d);
    // a noisy copy, and pure noise: the easy and the hardest case
    for (noise, at_least) in [(0.1, 0.999), (1.0, 0.93)] {
        let b: Vec<f32> = a.iter().map(|x| x + noise * rng.normal() as f32).collect();
        let b = super::geometry::unit_rows(&b, d);
        let mut gain = vec![0f32; f * f];
        super::geometry::cosines(&Cpu::new(1).unwrap(), &a, &b, d, |first, block| {
            gain[first * f..][..block.len()].copy_from_slice(block);
        });
        let exact = matching::assign(&gain, f, f);
        let candidates = (0..f).flat_map(|i| {
            let row = &gain[i * f..][..f];
            let mut order: Vec<usize> = (0..f).collect();
            order.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
            order[..32].iter().map(|&j| (row[j], i, j)).collect::<Vec<_>>()
        });
        let greedy = matching::greedy(candidates.collect(), f, f);
        let mean = |pairs: &[(usize, usize)]| {
            pairs.iter().map(|&(i, j)| f64::from(gain[i * f + j])).sum::<f64>() / pairs.len() as f64
        };
        assert!(greedy.len() as f64 > 0.9 * f as f64, "{} pairs", greedy.len());
        let (exact, greedy) = (mean(&exact), mean(&greedy));
        assert!(greedy > at_least * exact, "noise {noise}: greedy {greedy}, exact {exact}");
    }
}

#[test]
fn geometry_says_how_rows_lie() {
    // two alike, one across, one dead
    let decoder = vec![2.0, 0.0, 1.0, 0.0, 0.0, 3.0, 0.0, 0.0];
    let encoder = vec![1.0, 0.0, 0.0, 1.0, 0.0, -1.0, 1.0, 1.0];
    let dictionary = Dictionary { encoder_width: 2, decoder_width: 2, encoder, decoder, rows_scaled: false };
    let found = dictionary.geometry(&Cpu::new(1).unwrap());
    assert_eq!((found.decoder_norm.min, found.decoder_norm.mean, found.decoder_norm.max), (0.0, 1.5, 3.0));
    assert_eq!((found.nearest_cosine.max, found.nearest_cosine.mean, found.duplicates), (1.0, 0.5, 0.5));
    let both = found.encoder_decoder_cosine.unwrap();
    assert_eq!((both.min, both.max), (-1.0, 1.0));
    assert_eq!(found.decoder_norms.counts.iter().sum::<u64>(), 4);
    assert_eq!(Spread::of(&[]), Spread::default());
}

#[test]
fn the_same_codes_in_another_order_are_universal() {
    let (n, f, d) = (2000, 40, 6);
    let mut rng = Seed(6).stream("universality");
    let decoder = normals(&mut rng, f * d);
    let mut order: Vec<u32> = (0..f as u32).collect();
    rng.shuffle(&mut order);
    let row = |rng: &mut Rng| -> Vec<(u32, f32)> {
        let firing: Vec<u32> = (0..f as u32).filter(|_| rng.uniform() < 0.1).collect();
        firing.into_iter().map(|i| (i, 1.0 + rng.uniform() as f32)).collect()
    };
    let rows: Vec<Vec<(u32, f32)>> = (0..n).map(|_| row(&mut rng)).collect();
    let renamed = rows.iter().map(|row| {
        let mut row: Vec<(u32, f32)> = row.iter().map(|&(i, v)| (order[i as usize], 2.0 * v)).collect();
        row.sort_by_key(|entry| entry.0);
        row
    });
    let mut other = vec![0f32; f * d];
    for (i, &j) in order.iter().enumerate() {
        // a space that is turned: each direction with its values the other way round
        let to = &mut other[j as usize * d..][..d];
        to.iter_mut().zip(decoder[i * d..][..d].iter().rev()).for_each(|(to, from)| *to = *from);
    }
    let (first, second) = (sampled(rows.clone()), sampled(renamed));
    let (a, b) = (dictionary(decoder, d), dictionary(other, d));
    let found = universality::compare((&first, &second), (f, f), Some((&a, &b))).unwrap();
    assert!((found.correlation_first_to_second - 1.0).abs() < 1e-6, "{found:?}");
    assert!((found.correlation_second_to_first - 1.0).abs() < 1e-6 && found.above_half == 1.0);
    let space = found.space.unwrap();
    assert!((space.svcca - 1.0).abs() < 1e-6 && (space.cka - 1.0).abs() < 1e-6, "{space:?}");
    assert!(space.svcca_shuffled < 0.6 && space.cka_shuffled < 0.4, "{space:?}");
    assert!((space.rsa - 1.0).abs() < 1e-6 && space.rsa_shuffled.abs() < 0.1, "{space:?}");
    assert_eq!(universality::compare((&first, &CodeSample::default()), (f, f), None), None);
}
