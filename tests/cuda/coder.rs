//! The kernels of training against the f64 reference.

use harvestd::compute::CoderOps;
use harvestd::compute::coder_ops::{
    AdamStep, ByLatent, Code, CoderDims, GradientTerm, LatentGradients, NO_LATENT, Rule,
};
use harvestd::compute::cuda::kernels::In;
use harvestd::compute::cuda::kernels::csr::{Count, Scan, Scatter, Sort};
use harvestd::compute::cuda::kernels::decode::Decode;
use harvestd::compute::cuda::kernels::gather::Gather;
use harvestd::compute::cuda::kernels::latent::{Adam, Entries, LatentApply, LatentGrad, LatentStep, Weights};
use harvestd::compute::cuda::kernels::reduce::{Columns, Finish, Idle, Stats};
use harvestd::compute::cuda::kernels::select::{
    ABOVE, BATCH_LARGEST, BatchThreshold, BatchTies, Compact, NEAR, POSITIVE, TopK,
};
use harvestd::compute::reference::Reference;

use super::harness::{Buffer, Emulator, Random, assert_close, doubles, emulator, every_order, wide};

/// Half a unit in the last place of a bfloat16, and a little for the sums before it.
const ROUNDED: f64 = 3e-3;
/// Sums of f32 products.
const SUMMED: f64 = 1e-5;

#[test]
fn batch_gather() {
    let Some(emulator) = emulator() else { return };
    let mut random = Random(11);
    for (n, d, scale) in [(1, 8, 1.0), (13, 264, 0.37), (9, 1000, 2.0)] {
        let (ring, shift) = (random.halves(31 * d, 1.0), random.floats(d, 0.3));
        let slots: Vec<u32> = (0..n).map(|_| random.below(31) as u32).collect();
        let (b_ring, b_slots, b_shift) = (Buffer::of(&ring), Buffer::of(&slots), Buffer::of(&shift));
        let (x, centered, squares) = every_order(|seed| {
            let (x, centered, squares) = (Buffer::poisoned(n * d), Buffer::poisoned(n * d), Buffer::<f32>::poisoned(n));
            let args = Gather {
                ring: b_ring.input(),
                slots: b_slots.input(),
                shift: b_shift.input(),
                x: x.output(),
                centered: centered.output(),
                squares: squares.output(),
                n: n as i32,
                d: d as i32,
                scale,
            };
            emulator.run(&args.launch(), seed);
            (x.read(), centered.read(), squares.read())
        });
        let rows: Vec<f64> = slots.iter().flat_map(|&s| wide(&ring[s as usize * d..][..d])).collect();
        let rows: Vec<f64> = rows.iter().map(|x| x * f64::from(scale)).collect();
        let reference = Reference;
        let mut want = vec![0.0; n * d];
        reference.center(&rows, 1.0, &doubles(&shift), &mut want, n, d);
        assert_close(&wide(&x), &rows, ROUNDED, "rows");
        assert_close(&wide(&centered), &want, ROUNDED, "centred rows");
        let want: Vec<f64> = rows.chunks(d).map(|row| row.iter().map(|x| x * x).sum()).collect();
        assert_close(&doubles(&squares), &want, SUMMED, "squares");
    }
}

/// Pre-activations, many of them equal where `ties`.
fn pre_activations(random: &mut Random, len: usize, ties: bool) -> Vec<f32> {
    let u = random.floats(len, 2.0);
    if ties { u.iter().map(|x| x.round()).collect() } else { u }
}

/// The entries of each row, after a check that unused places are as they must be.
fn rows_of(latents: &[u32], values: &[f32], k: usize) -> Vec<Vec<(u32, f64)>> {
    let rows = latents.chunks(k).zip(values.chunks(k));
    rows.map(|(latents, values)| {
        let used = latents.iter().position(|&l| l == NO_LATENT).unwrap_or(k);
        assert!(latents[..used].is_sorted_by(|a, b| a < b), "latents ascend: {latents:?}");
        assert!(latents[used..].iter().all(|&l| l == NO_LATENT) && values[used..].iter().all(|&v| v == 0.0));
        latents[..used].iter().copied().zip(doubles(&values[..used])).collect()
    })
    .collect()
}

/// What the reference selects.
fn selected(u: &[f32], n: usize, f: usize, rule: Rule<'_, Reference>) -> Vec<Vec<(u32, f64)>> {
    let mut code = Code::new(&Reference, n, 1);
    Reference.select(&doubles(u), f, rule, &mut code);
    let row = |b: usize| {
        let places = b * code.k..(b + 1) * code.k;
        let entries = code.latents[places.clone()].iter().copied().zip(code.values[places].iter().copied());
        entries.filter(|(latent, _)| *latent != NO_LATENT).collect()
    };
    (0..n).map(row).collect()
}

#[test]
fn topk_row() {
    let Some(emulator) = emulator() else { return };
    let mut random = Random(12);
    for (n, f, k, ties) in [
        (1, 1, 1, false),
        (3, 5000, 32, false),
        (2, 4099, 256, true),
        (2, 513, 1, true),
        (2, 300, 300, true),
        (3, 40, 64, false),
    ] {
        let u = pre_activations(&mut random, n * f, ties);
        let among: Vec<u8> = (0..f).map(|_| u8::from(random.below(3) == 0)).collect();
        let (b_u, b_among) = (Buffer::of(&u), Buffer::of(&among));
        for is_among in [false, true] {
            let (latents, values) = every_order(|seed| {
                let (latents, values) = (Buffer::poisoned(n * k), Buffer::<f32>::poisoned(n * k));
                let args = TopK {
                    u: b_u.input(),
                    among: if is_among { b_among.input() } else { In::default() },
                    latents: latents.output(),
                    values: values.output(),
                    f: f as i32,
                    k: k as i32,
                };
                emulator.run(&args.launch(n), seed);
                (latents.read(), values.read())
            });
            // what is left out never is positive
            let masked: Vec<f32> =
                u.iter().enumerate().map(|(at, &x)| if is_among && among[at % f] == 0 { -1.0 } else { x }).collect();
            let want = selected(&masked, n, f, Rule::RowLargest { k: k.min(f), score: None, signed: false });
            assert_eq!(rows_of(&latents, &values, k), want, "{n} x {f}, {k} of them");
        }
    }
}

#[test]
fn entries_by_rule() {
    let Some(emulator) = emulator() else { return };
    let mut random = Random(13);
    for (n, f, ties) in [(1, 7, false), (3, 1500, true), (4, 513, false)] {
        let u = pre_activations(&mut random, n * f, ties);
        let threshold = random.floats(f, 1.0);
        let (b_u, b_threshold) = (Buffer::of(&u), Buffer::of(&threshold));
        let wide_threshold = doubles(&threshold);
        for rule in [POSITIVE, ABOVE, NEAR] {
            let run = |k: usize| {
                every_order(|seed| {
                    let (latents, values, counts) =
                        (Buffer::poisoned(n * k), Buffer::<f32>::poisoned(n * k), Buffer::<u32>::poisoned(n));
                    let args = Compact {
                        u: b_u.input(),
                        threshold: b_threshold.input(),
                        latents: latents.output(),
                        values: values.output(),
                        counts: counts.output(),
                        f: f as i32,
                        k: k as i32,
                        rule,
                        half_width: 0.5,
                        ..Compact::default()
                    };
                    emulator.run(&args.launch(n), seed);
                    (latents.read(), values.read(), counts.read())
                })
            };
            let (latents, values, counts) = run(f);
            let want = selected(
                &u,
                n,
                f,
                match rule {
                    POSITIVE => Rule::Positive,
                    ABOVE => Rule::Above(&wide_threshold),
                    _ => Rule::Near { threshold: &wide_threshold, half_width: 0.5 },
                },
            );
            assert_eq!(rows_of(&latents, &values, f), want, "rule {rule}");
            assert_eq!(counts, want.iter().map(|row| row.len() as u32).collect::<Vec<_>>());
            // with too few places the first ones are kept, and the count tells
            let (latents, values, counts) = run(2);
            let cut: Vec<_> = want.iter().map(|row| row[..row.len().min(2)].to_vec()).collect();
            assert_eq!(rows_of(&latents, &values, 2), cut, "rule {rule}");
            assert_eq!(counts, want.iter().map(|row| row.len() as u32).collect::<Vec<_>>());
        }
    }
}

#[test]
fn the_largest_of_a_batch() {
    let Some(emulator) = emulator() else { return };
    let mut random = Random(14);
    for (n, f, count, ties, has_score) in
        [(1, 40, 3, false, false), (5, 700, 100, true, false), (4, 513, 64, false, true), (3, 30, 4000, true, true)]
    {
        let u = pre_activations(&mut random, n * f, ties);
        // powers of two: exact in f32
        let score: Vec<f32> = (0..f).map(|_| [0.5, 1.0, 2.0][random.below(3)]).collect();
        let (b_u, b_score) = (Buffer::of(&u), Buffer::of(&score));
        let scores = if has_score { b_score.input() } else { In::default() };
        let (latents, values) = every_order(|seed| {
            let (state, histogram) = (Buffer::of(&[0u32; 2]), Buffer::of(&[0u32; 256]));
            let (ties, before) = (Buffer::<u32>::poisoned(n), Buffer::<u32>::poisoned(n + 1));
            let (latents, values, counts) =
                (Buffer::poisoned(n * f), Buffer::<f32>::poisoned(n * f), Buffer::<u32>::poisoned(n));
            let threshold = BatchThreshold {
                u: b_u.input(),
                score: scores,
                state: state.output(),
                histogram: histogram.output(),
                count,
                f: f as i32,
                round: 0,
            };
            for round in threshold.rounds() {
                round.launches(n).iter().for_each(|launch| emulator.run(launch, seed));
            }
            let args =
                BatchTies { u: b_u.input(), score: scores, state: state.input(), ties: ties.output(), f: f as i32 };
            emulator.run(&args.launch(n), seed);
            emulator.run(&Scan { counts: ties.input(), starts: before.output(), n: n as i32 }.launch(), seed);
            let args = Compact {
                u: b_u.input(),
                score: scores,
                state: state.input(),
                ties_before: before.input(),
                latents: latents.output(),
                values: values.output(),
                counts: counts.output(),
                f: f as i32,
                k: f as i32,
                rule: BATCH_LARGEST,
                ..Compact::default()
            };
            emulator.run(&args.launch(n), seed);
            assert_eq!(histogram.read(), [0; 256], "it is ready for the next batch");
            (latents.read(), values.read())
        });
        let wide_score = doubles(&score);
        let rule = Rule::BatchLargest { count: count as usize, score: has_score.then_some(&wide_score) };
        assert_eq!(rows_of(&latents, &values, f), selected(&u, n, f, rule), "{count} of {n} x {f}");
    }
}

/// A code of random entries, and its by-latent order by the reference.
struct Sample {
    code: Code<Reference>,
    by_latent: ByLatent<Reference>,
    values: Vec<f32>,
    entries: usize,
}

fn sample(random: &mut Random, n: usize, f: usize, k: usize) -> Sample {
    let mut code = Code::new(&Reference, n, k);
    let mut values = vec![0.0f32; n * k];
    code.latents.fill(NO_LATENT);
    for b in 0..n {
        // latent 0 is hot, the last one is never used, and rows are of different lengths
        let mut row = std::collections::BTreeSet::from([0]);
        for _ in 0..random.below(k) {
            row.insert(random.below(f.max(2) - 1) as u32);
        }
        for (i, latent) in row.into_iter().enumerate() {
            let value = random.normal(1.0).abs() + 0.01;
            code.latents[b * k + i] = latent;
            values[b * k + i] = value;
            code.values[b * k + i] = f64::from(value);
        }
    }
    let mut by_latent = ByLatent::new(&Reference, n, k, f);
    Reference.group_by_latent(&code, f, &mut by_latent);
    let entries = by_latent.starts[f] as usize;
    Sample { code, by_latent, values, entries }
}

#[test]
fn decode_err() {
    let Some(emulator) = emulator() else { return };
    let mut random = Random(15);
    for (n, f, k, d, has_bias) in [(1, 9, 3, 8, false), (7, 50, 6, 264, true), (3, 40, 12, 2304, true)] {
        let sample = sample(&mut random, n, f, k);
        let (w, target, bias) = (random.halves(f * d, 0.3), random.halves(n * d, 1.0), random.floats(d, 0.2));
        let borders = [f as u32 / 3, f as u32 / 2, f as u32];
        let (b_latents, b_values) = (Buffer::of(&sample.code.latents), Buffer::of(&sample.values));
        let (b_w, b_target, b_bias, b_borders) =
            (Buffer::of(&w), Buffer::of(&target), Buffer::of(&bias), Buffer::of(&borders));
        let (residual, loss) = every_order(|seed| {
            let (residual, loss) = (Buffer::poisoned(3 * n * d), Buffer::<f32>::poisoned(3 * n));
            let args = Decode {
                latents: b_latents.input(),
                values: b_values.input(),
                w_dec: b_w.input(),
                bias: if has_bias { b_bias.input() } else { In::default() },
                target: b_target.input(),
                borders: b_borders.input(),
                residual: residual.output(),
                loss: loss.output(),
                n: n as i32,
                d: d as i32,
                k: k as i32,
                groups: 3,
            };
            emulator.run(&args.launch(), seed);
            (residual.read(), loss.read())
        });
        let mut centred = vec![0.0; n * d];
        let shift = if has_bias { doubles(&bias) } else { vec![0.0; d] };
        Reference.center(&wide(&target), 1.0, &shift, &mut centred, n, d);
        for (group, &border) in borders.iter().enumerate() {
            let mut want = vec![0.0; n * d];
            Reference.residual(&sample.code, 0..border, &wide(&w), &centred, &mut want, d);
            let got = wide(&residual[group * n * d..][..n * d]);
            assert_close(&got, &want, ROUNDED, &format!("residual of {border} latents, {n} x {d}"));
            let squares: Vec<f64> = want.chunks(d).map(|row| row.iter().map(|x| x * x).sum()).collect();
            assert_close(&doubles(&loss[group * n..][..n]), &squares, SUMMED, "loss");
        }
    }
}

/// The by-latent order of a code by the kernels.
fn grouped(emulator: &Emulator, sample: &Sample, n: usize, f: usize, k: usize, seed: u64) -> (Vec<u32>, Vec<u32>) {
    let b_latents = Buffer::of(&sample.code.latents);
    let (counts, cursors) = (Buffer::of(&vec![0u32; f]), Buffer::of(&vec![0u32; f]));
    let (starts, places) = (Buffer::<u32>::poisoned(f + 1), Buffer::<u32>::poisoned(sample.entries));
    let size = (n * k) as i32;
    emulator.run(&Count { latents: b_latents.input(), counts: counts.output(), places: size }.launch(), seed);
    emulator.run(&Scan { counts: counts.input(), starts: starts.output(), n: f as i32 }.launch(), seed);
    let scatter = Scatter {
        latents: b_latents.input(),
        starts: starts.input(),
        cursors: cursors.output(),
        places: places.output(),
        count: size,
    };
    emulator.run(&scatter.launch(), seed);
    let sort = Sort {
        starts: starts.input(),
        latents: b_latents.input(),
        places: places.output(),
        rows: n as i32,
        k: k as i32,
    };
    emulator.run(&sort.launch(f), seed);
    (starts.read(), places.read())
}

#[test]
fn csr_by_latent() {
    let Some(emulator) = emulator() else { return };
    let mut random = Random(16);
    for (n, f, k) in [(1, 2, 1), (33, 20, 4), (4200, 9, 3), (70, 2100, 5)] {
        let sample = sample(&mut random, n, f, k);
        let (starts, places) = every_order(|seed| grouped(emulator, &sample, n, f, k, seed));
        assert_eq!(starts, sample.by_latent.starts, "{n} x {k} over {f}");
        assert_eq!(places, sample.by_latent.places[..sample.entries], "{n} x {k} over {f}");
    }
}

/// Shape of a step, and what it does.
#[derive(Clone, Copy, Debug)]
struct Step {
    n: usize,
    f: usize,
    k: usize,
    d: usize,
    out: usize,
    has_extra: bool,
    constrain: bool,
}

/// Everything a step reads, as the kernels have it.
struct World {
    step: Step,
    sample: Sample,
    extra: Vec<f32>,
    residual: Vec<u16>,
    x: Vec<u16>,
    /// `w_enc`, `b_enc`, `w_dec`, then their first and second moments.
    state: [Vec<f32>; 9],
    idle: Vec<u32>,
    scale: f32,
    adam: AdamStep,
}

fn world(random: &mut Random, step: Step) -> World {
    let Step { n, f, k, d, out, .. } = step;
    let mut w_dec = doubles(&random.floats(f * out, 1.0));
    Reference.normalize_rows(&mut w_dec, f, out);
    let positive = |x: Vec<f32>| x.into_iter().map(f32::abs).collect::<Vec<_>>();
    World {
        step,
        sample: sample(random, n, f, k),
        extra: random.floats(n * k, 0.01),
        residual: random.halves(n * out, 1.0),
        x: random.halves(n * d, 1.0),
        state: [
            random.floats(f * d, 0.1),
            random.floats(f, 0.1),
            w_dec.iter().map(|&w| w as f32).collect(),
            random.floats(f * d, 0.01),
            random.floats(f, 0.01),
            random.floats(f * out, 0.01),
            positive(random.floats(f * d, 1e-3)),
            positive(random.floats(f, 1e-3)),
            positive(random.floats(f * out, 1e-3)),
        ],
        idle: (0..f as u32).collect(),
        scale: -2.0 / n as f32,
        adam: AdamStep {
            learning_rate: 1e-2,
            betas: [0.9, 0.999],
            epsilon: 1e-6,
            weight_decay: 0.1,
            t: 7,
            gradient_scale: 0.5,
        },
    }
}

/// A world in memory.
struct Memory {
    state: Vec<Buffer<f32>>,
    copies: [Buffer<u16>; 2],
    idle: Buffer<u32>,
    read_only: [Buffer<u32>; 2],
    floats: [Buffer<f32>; 2],
    halves: [Buffer<u16>; 2],
}

impl World {
    fn memory(&self) -> Memory {
        let Step { f, d, out, .. } = self.step;
        Memory {
            state: self.state.iter().map(|x| Buffer::of(x)).collect(),
            copies: [Buffer::poisoned(f * d), Buffer::poisoned(f * out)],
            idle: Buffer::of(&self.idle),
            read_only: [
                Buffer::of(&self.sample.by_latent.starts),
                Buffer::of(&self.sample.by_latent.places[..self.sample.entries]),
            ],
            floats: [Buffer::of(&self.sample.values), Buffer::of(&self.extra)],
            halves: [Buffer::of(&self.residual), Buffer::of(&self.x)],
        }
    }

    fn entries(&self, memory: &Memory) -> Entries {
        Entries {
            starts: memory.read_only[0].input(),
            places: memory.read_only[1].input(),
            values: memory.floats[0].input(),
            extra: if self.step.has_extra { memory.floats[1].input() } else { In::default() },
            residual: memory.halves[0].input(),
            x: memory.halves[1].input(),
            k: self.step.k as i32,
            scale: self.scale,
        }
    }

    fn weights(&self, memory: &Memory) -> Weights {
        let state = |i: usize| memory.state[i].output();
        Weights {
            w_enc: state(0),
            b_enc: state(1),
            w_dec: state(2),
            m_enc: state(3),
            m_bias: state(4),
            m_dec: state(5),
            v_enc: state(6),
            v_bias: state(7),
            v_dec: state(8),
            copy_enc: memory.copies[0].output(),
            copy_dec: memory.copies[1].output(),
            idle: memory.idle.output(),
            d: self.step.d as i32,
            out: self.step.out as i32,
            rows: self.step.n as i32,
            project: self.step.constrain.into(),
            normalize: self.step.constrain.into(),
        }
    }

    /// Gradients of the encoder, its bias and the decoder by the reference.
    fn gradients(&self) -> [Vec<f64>; 3] {
        let Step { n, f, k, d, out, .. } = self.step;
        let (residual, w_dec) = (wide(&self.residual), doubles(&self.state[2]));
        let mut g_pre = vec![0.0; n * k];
        let code = &self.sample.code;
        Reference.entry_dots(code, 0..f as u32, &w_dec, &residual, f64::from(self.scale), &mut g_pre, out);
        if self.step.has_extra {
            g_pre.iter_mut().zip(&self.extra).for_each(|(g, &x)| *g += f64::from(x));
        }
        let mut found = [vec![0.0; f * d], vec![0.0; f], vec![0.0; f * out]];
        let [w_enc, b_enc, w_dec] = &mut found;
        let term = GradientTerm {
            code,
            by_latent: &self.sample.by_latent,
            g_pre: &g_pre,
            residual: &residual,
            residual_scale: f64::from(self.scale),
            latents: 0..f as u32,
        };
        let dims = CoderDims { d, f, out, groups: 1 };
        Reference.latent_gradients(&[term], &wide(&self.x), dims, LatentGradients { w_enc, b_enc, w_dec });
        found
    }

    /// The state after a step with these gradients by the reference.
    fn after(&self, mut gradients: [Vec<f64>; 3]) -> Vec<Vec<f64>> {
        let Step { f, d, out, .. } = self.step;
        let mut state: Vec<Vec<f64>> = self.state.iter().map(|x| doubles(x)).collect();
        if self.step.constrain {
            Reference.project_rows(&mut gradients[2], &state[2], f, out);
        }
        for (i, len) in [f * d, f, f * out].into_iter().enumerate() {
            let [mut w, mut m, mut v] = [i, i + 3, i + 6].map(|j| std::mem::take(&mut state[j]));
            Reference.adam(&mut w, &gradients[i], &mut m, &mut v, len, &self.adam);
            for (j, x) in [(i, w), (i + 3, m), (i + 6, v)] {
                state[j] = x;
            }
        }
        if self.step.constrain {
            Reference.normalize_rows(&mut state[2], f, out);
        }
        state
    }
}

const STEPS: [Step; 4] = [
    Step { n: 1, f: 2, k: 1, d: 8, out: 8, has_extra: false, constrain: true },
    Step { n: 40, f: 23, k: 5, d: 264, out: 264, has_extra: true, constrain: true },
    Step { n: 21, f: 9, k: 4, d: 72, out: 520, has_extra: true, constrain: false },
    Step { n: 70, f: 5, k: 3, d: 16, out: 40, has_extra: false, constrain: true },
];

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

fn assert_state(got: &[Vec<u32>], want: &[Vec<f64>], what: &str) {
    const NAMES: [&str; 9] = ["w_enc", "b_enc", "w_dec", "m_enc", "m_bias", "m_dec", "v_enc", "v_bias", "v_dec"];
    for (i, name) in NAMES.iter().enumerate() {
        let values: Vec<f64> = got[i].iter().map(|&b| f64::from(f32::from_bits(b))).collect();
        assert_close(&values, &want[i], SUMMED, &format!("{name}, {what}"));
    }
}

#[test]
fn latent_step() {
    let Some(emulator) = emulator() else { return };
    let mut random = Random(17);
    for step in STEPS {
        let world = world(&mut random, step);
        let (state, copies, idle) = every_order(|seed| {
            let memory = world.memory();
            let args = LatentStep {
                entries: world.entries(&memory),
                weights: world.weights(&memory),
                adam: Adam::from(&world.adam),
            };
            emulator.run(&args.launch(step.f), seed);
            let state: Vec<Vec<u32>> = memory.state.iter().map(|b| bits(&b.read())).collect();
            (state, memory.copies.each_ref().map(Buffer::read), memory.idle.read())
        });
        assert_state(&state, &world.after(world.gradients()), &format!("{step:?}"));
        for (copy, of) in copies.iter().zip([0, 2]) {
            let rounded = state[of].iter().map(|&b| half::bf16::from_f32(f32::from_bits(b)).to_bits());
            assert!(copy.iter().copied().eq(rounded), "the copies are the weights, rounded");
        }
        let starts = &world.sample.by_latent.starts;
        let is_active = |i: usize| starts[i] < starts[i + 1];
        let want: Vec<u32> = (0..step.f).map(|i| if is_active(i) { 0 } else { i as u32 + step.n as u32 }).collect();
        assert_eq!(idle, want);
    }
}

#[test]
fn gradients_in_memory_make_the_same_step() {
    let Some(emulator) = emulator() else { return };
    let mut random = Random(18);
    for step in STEPS {
        let Step { f, d, out, .. } = step;
        let world = world(&mut random, step);
        // taken twice, the second time added: as two codes that take part in one step
        let (gradients, state) = every_order(|seed| {
            let memory = world.memory();
            let [g_enc, g_bias, g_dec] = [f * d, f, f * out].map(Buffer::<f32>::poisoned);
            for accumulate in [0, 1] {
                let args = LatentGrad {
                    entries: world.entries(&memory),
                    w_dec: memory.state[2].input(),
                    g_enc: g_enc.output(),
                    g_bias: g_bias.output(),
                    g_dec: g_dec.output(),
                    d: d as i32,
                    out: out as i32,
                    accumulate,
                };
                emulator.run(&args.launch(f), seed);
            }
            let gradients = [g_enc.read(), g_bias.read(), g_dec.read()].map(|g| bits(&g));
            let args = LatentApply {
                weights: world.weights(&memory),
                adam: Adam::from(&world.adam),
                g_enc: g_enc.input(),
                g_bias: g_bias.input(),
                g_dec: g_dec.input(),
            };
            emulator.run(&args.launch(f), seed);
            (gradients, memory.state.iter().map(|b| bits(&b.read())).collect::<Vec<_>>())
        });
        let twice = world.gradients().map(|g| g.iter().map(|x| 2.0 * x).collect::<Vec<_>>());
        for (got, want) in gradients.iter().zip(&twice) {
            let got: Vec<f64> = got.iter().map(|&b| f64::from(f32::from_bits(b))).collect();
            assert_close(&got, want, SUMMED, &format!("{step:?}"));
        }
        assert_state(&state, &world.after(twice), &format!("{step:?}"));
    }
}

#[test]
fn sums_over_rows() {
    let Some(emulator) = emulator() else { return };
    let mut random = Random(19);
    for (n, d, rows_a_block, is_float, keep) in
        [(1, 8, 4, false, 0.0), (37, 264, 8, false, 0.5), (130, 72, 64, true, 1.0)]
    {
        let (halves, floats, weight) = (random.halves(n * d, 1.0), random.floats(n * d, 1.0), random.floats(n, 1.0));
        let (b_halves, b_floats, b_weight) = (Buffer::of(&halves), Buffer::of(&floats), Buffer::of(&weight));
        // what was there does not matter where nothing of it is kept
        let before = if keep == 0.0 { vec![f32::NAN; d] } else { random.floats(d, 1.0) };
        for is_weighted in [false, true] {
            let got = every_order(|seed| {
                let args = Columns {
                    rows_bf16: if is_float { In::default() } else { b_halves.input() },
                    rows_float: if is_float { b_floats.input() } else { In::default() },
                    weight: if is_weighted { b_weight.input() } else { In::default() },
                    n: n as i32,
                    d: d as i32,
                    rows_a_block,
                    ..Columns::default()
                };
                let (partial, out) = (Buffer::<f32>::poisoned(args.parts() * d), Buffer::of(&before));
                let args = Columns { partial: partial.output(), ..args };
                emulator.run(&args.launch(), seed);
                let finish = Finish {
                    partial: partial.input(),
                    out: out.output(),
                    parts: args.parts() as i32,
                    d: d as i32,
                    keep,
                    scale: -0.25,
                };
                emulator.run(&finish.launch(), seed);
                bits(&out.read())
            });
            let x = if is_float { doubles(&floats) } else { wide(&halves) };
            let weights = if is_weighted { doubles(&weight) } else { vec![1.0; n] };
            let mut want: Vec<f64> =
                if keep == 0.0 { vec![0.0; d] } else { before.iter().map(|&x| f64::from(keep * x)).collect() };
            Reference.add_weighted_rows(&weights, &x, -0.25, &mut want, n, d);
            let got: Vec<f64> = got.iter().map(|&b| f64::from(f32::from_bits(b))).collect();
            assert_close(&got, &want, SUMMED, &format!("{n} x {d}"));
        }
    }
}

#[test]
fn what_a_step_reports() {
    let Some(emulator) = emulator() else { return };
    let mut random = Random(20);
    for (n, f, k, limit) in [(1, 2, 1, 0), (300, 1000, 7, 400), (257, 33, 2, 1_000_000)] {
        let sample = sample(&mut random, n, f, k);
        let (loss, squares) = (random.floats(n, 1.0), random.floats(n, 3.0));
        let idle: Vec<u32> = (0..f).map(|_| random.below(1000) as u32).collect();
        let (b_loss, b_squares, b_latents) =
            (Buffer::of(&loss), Buffer::of(&squares), Buffer::of(&sample.code.latents));
        let b_idle = Buffer::of(&idle);
        let (stats, is_idle, count) = every_order(|seed| {
            let (out, is_idle, count) = (Buffer::<f64>::poisoned(3), Buffer::<u8>::poisoned(f), Buffer::of(&[0u32]));
            let args = Stats {
                loss: b_loss.input(),
                squares: b_squares.input(),
                latents: b_latents.input(),
                out: out.output(),
                places: (n * k) as u64,
                n: n as i32,
            };
            emulator.run(&args.launch(), seed);
            let args =
                Idle { idle: b_idle.input(), is_idle: is_idle.output(), count: count.output(), f: f as i32, limit };
            emulator.run(&args.launch(), seed);
            (out.read(), is_idle.read(), count.read())
        });
        let want = [doubles(&loss).iter().sum(), doubles(&squares).iter().sum(), sample.entries as f64];
        assert_close(&stats, &want, 1e-12, "sums in double precision");
        assert_eq!(is_idle, idle.iter().map(|&i| u8::from(i > limit)).collect::<Vec<_>>());
        assert_eq!(count, [idle.iter().filter(|&&i| i > limit).count() as u32]);
    }
}
