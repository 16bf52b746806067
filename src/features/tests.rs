use super::coactivation::Pairs;
use super::directions::{effects, nearest};
use super::*;
use crate::compute::cpu::Cpu;
use crate::runtime::rng::{Rng, Seed};
use crate::sae::codes::Codes;
use crate::tokens::{Segment, TokenBatch};

const SETTINGS: Settings =
    Settings { top: 5, sampled: 12, strata: 3, before: 4, after: 2, neighbours: 3, tokens: 2, seed: 7 };

/// A batch of two sequences, the first of two documents; not all rows have codes.
fn batch(rng: &mut Rng, n: u32) -> (TokenBatch, Vec<u32>) {
    let cut = [0, 1 + rng.below(u64::from(n) / 2) as u32, n / 2 + 1, n];
    let segments = cut.windows(2).map(|w| Segment { start: w[0], len: w[1] - w[0] }).collect();
    let batch = TokenBatch {
        unit: rng.below(5) as u32,
        first_seq: rng.below(9) as u32 * 2,
        ids: (0..n).map(|_| rng.below(6) as u32).collect(),
        doc_ids: (0..n).map(|row| u64::from(cut.iter().filter(|c| **c <= row).count() as u32)).collect(),
        seq_starts: vec![0, cut[2], n],
        segments,
        ..TokenBatch::default()
    };
    let rows = (0..n).filter(|_| rng.uniform() < 0.9).collect();
    (batch, rows)
}

/// Few values, so that there are ties; both signs.
fn codes(rng: &mut Rng, n: usize, f: usize, density: f64) -> Codes {
    let mut codes = Codes::default();
    for _ in 0..n {
        let latents: Vec<u32> = (0..f as u32).filter(|_| rng.uniform() < density).collect();
        let values: Vec<f32> = latents.iter().map(|_| rng.below(7) as f32 * 0.5 - 1.0).collect();
        codes.push(&latents, &values);
    }
    codes
}

/// All peaks of one latent in the order of the stream, by the definition: every row against every other.
fn naive_peaks(batches: &[(TokenBatch, Vec<u32>, Codes)], latent: u32, settings: Settings) -> Vec<Context> {
    let mut found = Vec::new();
    for (batch, rows, codes) in batches {
        let mut value = vec![0f32; batch.n_tokens()];
        for (i, &row) in rows.iter().enumerate() {
            let (latents, values) = codes.row(i);
            if let Some(at) = latents.iter().position(|l| *l == latent) {
                value[row as usize] = values[at];
            }
        }
        let segment_of = |row: usize| batch.segments.iter().position(|s| (row as u32) < s.start + s.len).unwrap();
        let reach = settings.before.max(settings.after);
        for row in 0..batch.n_tokens() {
            let near = |j: &usize| segment_of(*j) == segment_of(row) && j.abs_diff(row) <= reach && *j != row;
            let beaten = (0..batch.n_tokens())
                .filter(near)
                .any(|j| value[j].abs() > value[row].abs() || (value[j].abs() == value[row].abs() && j < row));
            if value[row] == 0.0 || beaten {
                continue;
            }
            let window: Vec<usize> = (row.saturating_sub(settings.before)..=row + settings.after)
                .filter(|j| *j < batch.n_tokens() && segment_of(*j) == segment_of(row))
                .collect();
            let sequence = (0..batch.n_sequences()).find(|i| batch.sequence_rows(*i).contains(&row)).unwrap();
            found.push(Context {
                place: Place {
                    document: batch.doc_ids[row],
                    unit: batch.unit,
                    sequence: batch.first_seq + sequence as u32,
                    position: (row - batch.seq_starts[sequence] as usize) as u32,
                },
                activation: value[row],
                peak: window.iter().position(|j| *j == row).unwrap() as u32,
                ids: window.iter().map(|&j| batch.ids[j]).collect(),
                activations: window.iter().map(|&j| value[j]).collect(),
            });
        }
    }
    found
}

/// The strongest with different tokens, by sorting all.
fn naive_top(peaks: &[Context], most: usize) -> Vec<Context> {
    let mut sorted = peaks.to_vec();
    sorted.sort_by(|a, b| b.activation.abs().total_cmp(&a.activation.abs()));
    let mut top: Vec<Context> = Vec::new();
    for context in sorted {
        if top.iter().all(|other| other.ids != context.ids) {
            top.push(context);
        }
    }
    top.truncate(most);
    top
}

#[test]
fn a_collector_finds_what_a_search_through_everything_finds() {
    let f = 5;
    for seed in 0..40 {
        let mut rng = Seed(seed).stream("features");
        let density = [0.05, 0.3, 0.9][seed as usize % 3];
        let mut collector = Collector::new(f, SETTINGS);
        let mut batches = Vec::new();
        for _ in 0..6 {
            let length = 8 + rng.below(40) as u32;
            let (batch, rows) = batch(&mut rng, length);
            let codes = codes(&mut rng, rows.len(), f, density);
            collector.add(&batch, &rows, &codes);
            batches.push((batch, rows, codes));
        }
        assert_eq!(collector.rows(), batches.iter().map(|b| b.1.len() as u64).sum::<u64>());
        assert_eq!(collector.tokens(), batches.iter().map(|b| b.0.n_tokens() as u64).sum::<u64>());
        for latent in 0..f {
            let peaks = naive_peaks(&batches, latent as u32, SETTINGS);
            let seen = collector.latent(latent);
            assert_eq!(seen.peaks(), peaks.len() as u64, "seed {seed}");
            assert_eq!(seen.top(), naive_top(&peaks, SETTINGS.top), "seed {seed}");
            let sampled = seen.sampled(SETTINGS.strata);
            assert_eq!(sampled.len(), peaks.len().min(SETTINGS.sampled));
            assert!(sampled.iter().all(|(_, context)| peaks.contains(context)), "seed {seed}");
            assert!(sampled.is_sorted_by(|a, b| a.0 <= b.0 && a.1.activation.abs() >= b.1.activation.abs()));
            if sampled.len() == 12 {
                let of = |stratum| sampled.iter().filter(|(s, _)| *s == stratum).count();
                assert_eq!([of(0), of(1), of(2)], [4, 4, 4]);
            }
            let values = batches.iter().flat_map(|(_, _, codes)| {
                codes.rows().flat_map(|(latents, values)| {
                    latents.iter().zip(values).filter(|(l, v)| **l == latent as u32 && **v != 0.0)
                })
            });
            let mut sequences = Vec::new();
            for (batch, rows, codes) in &batches {
                for (row, (latents, values)) in rows.iter().zip(codes.rows()) {
                    let sequence =
                        (0..batch.n_sequences()).find(|i| batch.sequence_rows(*i).contains(&(*row as usize)));
                    if latents.iter().zip(values).any(|(l, v)| *l == latent as u32 && *v != 0.0) {
                        sequences.push((batch.unit, batch.first_seq, sequence));
                    }
                }
            }
            sequences.dedup();
            assert_eq!(seen.sequences, sequences.len() as u64, "seed {seed}");
            let sizes: Vec<f64> = values.map(|(_, v)| f64::from(v.abs())).collect();
            assert_eq!(seen.sizes.n(), sizes.len() as u64);
            assert!((seen.sizes.mean() - sizes.iter().sum::<f64>() / sizes.len().max(1) as f64).abs() < 1e-12);
        }
        check_pairs(&collector, &batches, f);
    }
}

fn check_pairs(collector: &Collector, batches: &[(TokenBatch, Vec<u32>, Codes)], f: usize) {
    let (mut both, mut rows) = (vec![vec![0u32; f]; f], 0);
    for codes in batches.iter().map(|(_, _, codes)| codes) {
        for (latents, values) in codes.rows() {
            rows += 1;
            let fired: Vec<u32> = latents.iter().zip(values).filter(|(_, v)| **v != 0.0).map(|(l, _)| *l).collect();
            fired.iter().for_each(|&a| fired.iter().for_each(|&b| both[a as usize][b as usize] += 1));
        }
    }
    let found = collector.coactivation();
    assert_eq!((found.rows_seen, found.rows_counted), (rows, rows));
    for a in 0..f {
        let jaccard = |b: usize| both[a][b] as f32 / (both[a][a] + both[b][b] - both[a][b]) as f32;
        let mut expected: Vec<(u32, u32, f32)> =
            (0..f).filter(|b| *b != a && both[a][*b] >= 2).map(|b| (b as u32, both[a][b], jaccard(b))).collect();
        expected.sort_by(|x, y| y.2.total_cmp(&x.2).then(x.0.cmp(&y.0)));
        expected.truncate(SETTINGS.neighbours);
        let found: Vec<(u32, u32, f32)> = found.by_latent[a].iter().map(|c| (c.latent, c.rows, c.jaccard)).collect();
        assert_eq!(found, expected);
    }
}

#[test]
fn a_draw_is_fair() {
    let mut times = [0u32; 50];
    for seed in 0..4000 {
        let mut collector = Collector::new(1, Settings { sampled: 10, before: 0, after: 0, seed, ..SETTINGS });
        let batch = TokenBatch {
            ids: (0..50).collect(),
            doc_ids: vec![0; 50],
            seq_starts: vec![0, 50],
            segments: vec![Segment { start: 0, len: 50 }],
            ..TokenBatch::default()
        };
        let mut codes = Codes::default();
        (0..50).for_each(|i| codes.push(&[0], &[1.0 + i as f32]));
        collector.add(&batch, &(0..50).collect::<Vec<_>>(), &codes);
        let sampled = collector.latent(0).sampled(10);
        assert_eq!(sampled.len(), 10);
        sampled.iter().for_each(|(_, context)| times[context.ids[0] as usize] += 1);
    }
    // 800 expected, with a standard deviation of 25
    assert!(times.iter().all(|n| (675..925).contains(n)), "{times:?}");
}

#[test]
fn memory_does_not_grow_with_the_text() {
    let mut rng = Seed(3).stream("memory");
    let mut collector = Collector::new(4, SETTINGS);
    for _ in 0..300 {
        let (batch, rows) = batch(&mut rng, 64);
        collector.add(&batch, &rows, &codes(&mut rng, rows.len(), 4, 0.5));
    }
    for latent in 0..4 {
        let seen = collector.latent(latent);
        assert!(seen.peaks() > 1000 && seen.top().len() <= 5 && seen.sampled(3).len() == 12);
        assert!(seen.top().iter().all(|context| context.ids.len() <= 7));
    }
    assert!(SETTINGS.bytes_max(1000) > 17 * 1000 * 7 * 8);
    // rows of co-activation: half of them go when there are too many
    let mut pairs = Pairs::default();
    let row: Vec<u32> = (0..4096).collect();
    (0..400).for_each(|i| pairs.add(i, row.iter().copied()));
    let found = pairs.finish(4096, 1);
    assert!(found.rows_seen == 400 && found.rows_counted <= 64 && found.rows_counted > 4, "{}", found.rows_counted);
    assert!(found.by_latent[5][0].jaccard == 1.0 && u64::from(found.by_latent[5][0].rows) == found.rows_counted);
}

#[test]
fn quantiles_are_near_the_exact_ones() {
    let mut rng = Seed(5).stream("sizes");
    let mut values: Vec<f32> = (0..5000).map(|_| (rng.normal() * 2.0).exp() as f32).collect();
    let mut sizes = Sizes::default();
    values.iter().for_each(|&x| sizes.add(x));
    values.sort_by(f32::total_cmp);
    for q in [0.01, 0.1, 0.5, 0.9, 0.999] {
        let exact = values[(q * 5000f64).ceil() as usize - 1];
        assert!((sizes.quantile(q) / exact - 1.0).abs() <= 1.0 / 31.0, "{q}: {} {exact}", sizes.quantile(q));
    }
    assert_eq!((sizes.quantile(0.0), sizes.quantile(1.0)), (values[0], values[4999]));
    for per_octave in [1, 4, 16] {
        let (edges, counts) = sizes.histogram(per_octave);
        assert_eq!((edges.len(), counts.iter().sum::<u64>()), (counts.len() + 1, 5000));
        for (bin, &count) in edges.windows(2).zip(&counts) {
            assert_eq!(values.iter().filter(|x| (bin[0]..bin[1]).contains(x)).count() as u64, count);
        }
    }
    let (mut none, mut odd) = (Sizes::default(), Sizes::default());
    assert_eq!((none.quantile(0.5), none.histogram(4)), (0.0, (Vec::new(), Vec::new())));
    [1e-40, 3e38, f32::MIN_POSITIVE, 2.0].iter().for_each(|&x| odd.add(x));
    assert_eq!((odd.n(), odd.quantile(0.0), odd.quantile(1.0)), (4, 1e-40, 3e38));
    none.add(1.0);
    assert_eq!((none.quantile(0.5), none.mean()), (1.0, 1.0));
}

#[test]
fn neighbours_and_tokens_are_those_of_a_search() {
    let (f, d, v) = (300, 6, 31);
    let mut rng = Seed(6).stream("directions");
    let mut rows: Vec<f32> = (0..f * d).map(|_| rng.normal() as f32).collect();
    rows[7 * d..8 * d].fill(0.0);
    let found = nearest(&Cpu::new(1).unwrap(), &rows, d, 4);
    let cosine = |a: usize, b: usize| {
        let dot = |a: usize, b: usize| -> f64 {
            (0..d).map(|j| f64::from(rows[a * d + j]) * f64::from(rows[b * d + j])).sum()
        };
        dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
    };
    assert!(found.len() == f && found[7].is_empty());
    for a in (0..f).filter(|a| *a != 7) {
        let mut others: Vec<usize> = (0..f).filter(|b| *b != a && *b != 7).collect();
        others.sort_by(|x, y| cosine(a, *y).total_cmp(&cosine(a, *x)));
        assert_eq!(found[a].iter().map(|near| near.latent as usize).collect::<Vec<_>>(), others[..4], "{a}");
        assert!((f64::from(found[a][0].cosine) - cosine(a, others[0])).abs() < 1e-5);
    }
    let head: Vec<f32> = (0..v * d).map(|_| rng.normal() as f32).collect();
    let product = |rows: &[f32], out: &mut Vec<f32>| -> crate::error::Result<()> {
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        out.clear();
        rows.chunks(d).for_each(|row| out.extend(head.chunks(d).map(|token| dot(row, token))));
        Ok(())
    };
    let found = effects(&rows, d, 3, product).unwrap();
    assert_eq!(found.len(), f);
    for (row, found) in rows.chunks(d).zip(&found) {
        let mut logits = Vec::new();
        product(row, &mut logits).unwrap();
        let mut order: Vec<u32> = (0..v as u32).collect();
        order.sort_by(|a, b| logits[*b as usize].partial_cmp(&logits[*a as usize]).expect("numbers").then(a.cmp(b)));
        assert_eq!(found.promoted.iter().map(|p| p.0).collect::<Vec<_>>(), order[..3]);
        assert_eq!(found.lens, order[..20]);
        assert!(found.promoted.iter().all(|(token, logit)| logits[*token as usize] == *logit));
        assert!(
            found.suppressed.windows(2).all(|w| w[0].1 <= w[1].1)
                && found.suppressed[0].1 == logits.iter().copied().fold(f32::INFINITY, f32::min)
        );
        assert_eq!((found.histogram.iter().sum::<u32>(), found.middles().len()), (v as u32, 40));
    }
}

/// A latent that fires on one token: what share of its contexts peaks at a token that it promotes.
#[test]
fn an_input_score_is_the_share_of_peaks_that_are_promoted() {
    let settings = Settings { top: 200, before: 1, after: 0, ..SETTINGS };
    let of = |contexts: u32, promoted: &[u32]| {
        let mut collector = Collector::new(1, settings);
        for n in 0..contexts {
            // one context each: two tokens, the latent peaks at the second, the weaker the later
            let batch = TokenBatch {
                first_seq: n,
                ids: vec![1000 + n, n % 4],
                doc_ids: vec![0; 2],
                seq_starts: vec![0, 2],
                segments: vec![Segment { start: 0, len: 2 }],
                ..TokenBatch::default()
            };
            let mut codes = Codes::default();
            codes.push(&[0], &[1000.0 - n as f32]);
            collector.add(&batch, &[1], &codes);
        }
        let lens = promoted.to_vec();
        let directions = Directions { effects: vec![Effects { lens, ..Effects::default() }], ..Directions::default() };
        Features::new(collector, directions).feature(0).input_score()
    };
    assert_eq!(of(40, &[0, 2, 77]), Some(0.5));
    assert_eq!(of(9, &[0]), None, "too few to say");
    // the strongest 100 of 160: tokens 0 to 3 in turn
    assert_eq!(of(160, &[3]), Some(0.25));
    let mut collector = Collector::new(1, settings);
    collector.add(&TokenBatch::default(), &[], &Codes::default());
    assert_eq!(Features::new(collector, Directions::default()).feature(0).input_score(), None);
}
