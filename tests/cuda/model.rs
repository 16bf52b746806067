//! The kernels of a forward pass against the f64 reference.

use harvestd::compute::ModelOps;
use harvestd::compute::cuda::kernels::act::{Act, kind};
use harvestd::compute::cuda::kernels::add_norm::AddNorm;
use harvestd::compute::cuda::kernels::attention::Attention;
use harvestd::compute::cuda::kernels::capture::{Capture, NO_SLOT, Splice};
use harvestd::compute::cuda::kernels::cross_entropy::CrossEntropy;
use harvestd::compute::cuda::kernels::embed::Embed;
use harvestd::compute::cuda::kernels::rope::Rope;
use harvestd::compute::cuda::kernels::{In, Out, SOURCES};
use harvestd::compute::model_ops::{
    Activation, AttentionDims, AttentionRows, AttentionSides, BatchRows, BatchShape, NormDims, Qkv, RopeDims,
};
use harvestd::compute::reference::Reference;

use super::harness::{Buffer, Random, assert_close, doubles, emulator, every_order, wide};

/// Half a unit in the last place of a bfloat16, and a little for the sums before it.
const ROUNDED: f64 = 3e-3;

#[test]
fn every_kernel_is_in_the_emulator_as_rust_declares_it() {
    let Some(emulator) = emulator() else { return };
    let entries: Vec<_> = SOURCES.iter().flat_map(|source| source.entries).collect();
    assert_eq!(emulator.count(), entries.len());
    for entry in entries {
        assert_eq!(emulator.describe(entry.name).2, entry.threads, "{}", entry.name);
    }
}

#[test]
fn embed() {
    let Some(emulator) = emulator() else { return };
    let mut random = Random(1);
    for (n, d, has_places, scale) in
        [(1, 8, false, 1.0), (11, 264, true, 1.0), (8, 1000, false, 3.5), (19, 72, true, 2.0)]
    {
        let (tokens, places) = (random.halves(13 * d, 1.0), random.halves(7 * d, 1.0));
        let ids: Vec<u32> = (0..n).map(|_| random.below(13) as u32).collect();
        let positions: Vec<u32> = (0..n).map(|_| random.below(7) as u32).collect();
        let (b_ids, b_positions) = (Buffer::of(&ids), Buffer::of(&positions));
        let (b_tokens, b_places) = (Buffer::of(&tokens), Buffer::of(&places));
        let got = every_order(|seed| {
            let y = Buffer::poisoned(n * d);
            let args = Embed {
                ids: b_ids.input(),
                positions: b_positions.input(),
                tokens: b_tokens.input(),
                places: if has_places { b_places.input() } else { In::default() },
                y: y.output(),
                n: n as i32,
                d: d as i32,
                scale,
            };
            emulator.run(&args.launch(), seed);
            y.read()
        });
        let (tokens, places) = (wide(&tokens), wide(&places));
        let want: Vec<f64> = (0..n * d)
            .map(|at| {
                let place = if has_places { places[positions[at / d] as usize * d + at % d] } else { 0.0 };
                tokens[ids[at / d] as usize * d + at % d] * f64::from(scale) + place
            })
            .collect();
        assert_close(&wide(&got), &want, ROUNDED, &format!("embed {n} x {d}"));
    }
}

#[test]
fn add_norm() {
    let Some(emulator) = emulator() else { return };
    let mut random = Random(2);
    // deltas, norm of the first delta, layer norm, second output, offset of weights
    let cases = [
        (1, 8, 0, false, false, false, 0.0),
        (5, 264, 1, false, false, true, 0.0),
        (3, 2304, 1, true, false, false, 1.0),
        (4, 768, 2, false, true, true, 0.0),
        (2, 2056, 2, false, true, false, 0.0),
    ];
    for (n, d, deltas, has_post, is_layer, has_second, offset) in cases {
        let what = format!("add_norm {n} x {d}");
        let residual = random.halves(n * d, 3.0);
        let (delta_a, delta_b) = (random.halves(n * d, 1.0), random.halves(n * d, 1.0));
        let vectors: Vec<Vec<f32>> = (0..5).map(|_| random.floats(d, 0.5)).collect();
        let buffers: Vec<_> = vectors.iter().map(|v| Buffer::of(v)).collect();
        let (b_a, b_b) = (Buffer::of(&delta_a), Buffer::of(&delta_b));
        let given = |is: bool, buffer: &Buffer<u16>| if is { buffer.input() } else { In::default() };
        let weight_of = |is: bool, i: usize| if is { buffers[i].input() } else { In::default() };
        let got = every_order(|seed| {
            let (stream, y_a, y_b) = (Buffer::of(&residual), Buffer::poisoned(n * d), Buffer::poisoned(n * d));
            let scale = Buffer::<f32>::poisoned(n);
            let args = AddNorm {
                residual: stream.output(),
                delta_a: given(deltas > 0, &b_a),
                delta_b: given(deltas > 1, &b_b),
                post_weight: weight_of(has_post, 0),
                weight_a: buffers[1].input(),
                bias_a: weight_of(is_layer, 2),
                y_a: y_a.output(),
                weight_b: buffers[3].input(),
                bias_b: weight_of(is_layer, 4),
                y_b: if has_second { y_b.output() } else { Out::default() },
                scale: scale.output(),
                d: d as i32,
                eps: 1e-5,
                is_layer: is_layer.into(),
                weight_offset: offset,
            };
            emulator.run(&args.launch(n), seed);
            let second = if has_second { y_b.read() } else { Vec::new() };
            (stream.read(), y_a.read(), second, scale.read().iter().map(|s| s.to_bits()).collect::<Vec<_>>())
        });
        let reference = Reference;
        let dims = NormDims { n, d, eps: f64::from(1e-5f32) };
        let weight = |i: usize| doubles(&vectors[i]).iter().map(|w| w + f64::from(offset)).collect::<Vec<_>>();
        let mut first = wide(&delta_a);
        if has_post {
            let mut normed = vec![0.0; n * d];
            reference.rms_norm(&first, Some(&weight(0)), &mut normed, dims);
            first = normed;
        }
        let mut stream = wide(&residual);
        for (at, x) in stream.iter_mut().enumerate() {
            *x += if deltas > 0 { first[at] } else { 0.0 } + if deltas > 1 { wide(&delta_b[at..=at])[0] } else { 0.0 };
        }
        assert_close(&wide(&got.0), &stream, ROUNDED, &what);
        // the norms are of the stream as it was rounded
        let stream = wide(&got.0);
        let norm = |w: usize, b: usize| {
            let mut y = vec![0.0; n * d];
            if is_layer {
                reference.layer_norm(&stream, Some((&weight(w), &doubles(&vectors[b]))), &mut y, dims);
            } else {
                reference.rms_norm(&stream, Some(&weight(w)), &mut y, dims);
            }
            y
        };
        assert_close(&wide(&got.1), &norm(1, 2), ROUNDED, &what);
        if has_second {
            assert_close(&wide(&got.2), &norm(3, 4), ROUNDED, &what);
        }
        let mut scale = vec![0.0; n];
        let kind = if is_layer {
            harvestd::compute::model_ops::NormKind::Layer
        } else {
            harvestd::compute::model_ops::NormKind::Rms
        };
        reference.norm_scale(kind, &stream, &mut scale, dims);
        let got_scale: Vec<f64> = got.3.iter().map(|&bits| f64::from(f32::from_bits(bits))).collect();
        assert_close(&got_scale, &scale, 1e-5, &what);
    }
}

/// A batch of contexts of these lengths: starts of the rows, and the rows for the reference.
fn contexts(lengths: &[usize]) -> (Vec<u32>, Vec<u32>, Vec<AttentionRows>) {
    let (mut starts, mut positions, mut rows) = (Vec::new(), Vec::new(), Vec::new());
    for &len in lengths {
        let start = starts.len();
        rows.push(AttentionRows { start, len, column: 0 });
        starts.extend(std::iter::repeat_n(start as u32, len));
        positions.extend(0..len as u32);
    }
    (starts, positions, rows)
}

#[test]
fn rope() {
    let Some(emulator) = emulator() else { return };
    let mut random = Random(3);
    for (n, heads, e, rotary, stride, has_norm) in [
        (1, 1, 64, 64, 64, false),
        (7, 3, 64, 16, 200, false),
        (5, 2, 80, 32, 160, true),
        (4, 3, 128, 128, 400, true),
        (3, 1, 256, 256, 264, true),
    ] {
        let what = format!("rope {n} x {heads} x {e}, {rotary}");
        let x = random.halves(n * stride, 1.0);
        let (_, positions, rows) = contexts(&[n]);
        let angles: Vec<f32> = random.floats(n * rotary / 2, 2.0);
        let (cos, sin): (Vec<f32>, Vec<f32>) = angles.iter().map(|a| (a.cos(), a.sin())).unzip();
        let norm = random.halves(e, 0.5);
        let (b_positions, b_cos, b_sin, b_norm) =
            (Buffer::of(&positions), Buffer::of(&cos), Buffer::of(&sin), Buffer::of(&norm));
        let got = every_order(|seed| {
            let buffer = Buffer::of(&x);
            let args = Rope {
                x: buffer.output(),
                positions: b_positions.input(),
                cos: b_cos.input(),
                sin: b_sin.input(),
                norm_weight: if has_norm { b_norm.input() } else { In::default() },
                n: n as i32,
                heads: heads as i32,
                e: e as i32,
                rotary: rotary as i32,
                stride: stride as i32,
                eps: 1e-6,
                weight_offset: 1.0,
            };
            emulator.run(&args.launch(), seed);
            buffer.read()
        });
        let reference = Reference;
        let mut want: Vec<f64> = x.chunks(stride).flat_map(|row| wide(&row[..heads * e])).collect();
        if has_norm {
            let weight: Vec<f64> = wide(&norm).iter().map(|w| w + 1.0).collect();
            let heads_alone = want.clone();
            let dims = NormDims { n: n * heads, d: e, eps: f64::from(1e-6f32) };
            reference.rms_norm(&heads_alone, Some(&weight), &mut want, dims);
        }
        let shape = BatchShape { max_tokens: n, context_length: n };
        let attention = AttentionDims { heads, kv_heads: heads, e, scale: 1.0, window: None, softcap: None };
        let mut index = reference.batch_index(shape, attention);
        reference.load_batch(&mut index, BatchRows { ids: &vec![0; n], positions: &positions, contexts: &rows });
        reference.rope(&index, &mut want, &doubles(&cos), &doubles(&sin), RopeDims { heads, e, rotary });
        let heads_of = |x: &[u16]| x.chunks(stride).flat_map(|row| wide(&row[..heads * e])).collect::<Vec<_>>();
        assert_close(&heads_of(&got), &want, ROUNDED, &what);
        let rest_is_same = got.chunks(stride).zip(x.chunks(stride)).all(|(g, x)| g[heads * e..] == x[heads * e..]);
        assert!(rest_is_same, "{what}: what is not of the heads was changed");
    }
}

/// Contexts, heads, key/value heads, head width, window, cap.
type AttentionCase<'a> = (&'a [usize], usize, usize, usize, Option<usize>, Option<f32>);

#[test]
fn attention() {
    let Some(emulator) = emulator() else { return };
    let mut random = Random(4);
    let cases: [AttentionCase<'_>; 9] = [
        (&[1], 1, 1, 64, None, None),
        (&[65], 2, 1, 32, None, None),
        (&[16], 1, 1, 16, None, Some(5.0)),
        (&[3, 70, 1, 20], 2, 2, 64, None, None),
        (&[100], 4, 2, 64, None, Some(20.0)),
        (&[130, 9], 2, 1, 64, Some(40), None),
        (&[40, 50], 2, 1, 80, None, None),
        (&[70, 7], 2, 1, 128, Some(5), None),
        (&[67], 1, 1, 256, None, Some(30.0)),
    ];
    for (lengths, heads, kv_heads, e, window, softcap) in cases {
        let (starts, positions, rows) = contexts(lengths);
        let n = starts.len();
        let what = format!("attention {lengths:?}, {heads} of {kv_heads} heads of {e}, {window:?}, {softcap:?}");
        // queries, keys and values lie in one buffer, with something behind them
        let stride = (heads + 2 * kv_heads) * e + 8;
        let packed = random.halves(n * stride, 1.0);
        let (buffer, b_starts) = (Buffer::of(&packed), Buffer::of(&starts));
        let at = |column: usize| In::<u16>::at(buffer.input().address() + 2 * column as u64);
        let scale = 1.0 / (e as f32).sqrt();
        let (z, lse) = every_order(|seed| {
            let (z, lse) = (Buffer::poisoned(n * heads * e), Buffer::<f32>::poisoned(n * heads));
            let args = Attention {
                q: at(0),
                k: at(heads * e),
                v: at((heads + kv_heads) * e),
                z: z.output(),
                lse: lse.output(),
                starts: b_starts.input(),
                n: n as i32,
                heads: heads as i32,
                kv_heads: kv_heads as i32,
                e: e as i32,
                q_stride: stride as i32,
                kv_stride: stride as i32,
                scale,
                softcap: softcap.unwrap_or(0.0),
                window: window.unwrap_or(0) as i32,
            };
            emulator.run(&args.launch(), seed);
            (z.read(), lse.read().iter().map(|x| x.to_bits()).collect::<Vec<_>>())
        });
        let part = |from: usize, width: usize| {
            packed.chunks(stride).flat_map(|row| wide(&row[from..from + width])).collect::<Vec<_>>()
        };
        let (q, k, v) = (part(0, heads * e), part(heads * e, kv_heads * e), part((heads + kv_heads) * e, kv_heads * e));
        let reference = Reference;
        let dims = AttentionDims { heads, kv_heads, e, scale, window, softcap };
        let t = lengths.iter().copied().max().unwrap();
        let mut index = reference.batch_index(BatchShape { max_tokens: n, context_length: t }, dims);
        reference.load_batch(&mut index, BatchRows { ids: &vec![0; n], positions: &positions, contexts: &rows });
        let (mut want, mut scores, mut pattern) =
            (vec![0.0; n * heads * e], vec![0.0; n * heads * t], vec![0.0; n * heads * t]);
        let sides = AttentionSides { scores: Some(&mut scores), pattern: Some(&mut pattern) };
        reference.attention(&mut index, Qkv { q: &q, k: &k, v: &v }, &mut want, sides, dims);
        assert_close(&wide(&z), &want, 6e-3, &what);
        // the pattern can be had from the scores and the logarithm of the sum
        let lse: Vec<f64> = lse.iter().map(|&bits| f64::from(f32::from_bits(bits))).collect();
        let from_lse: Vec<f64> = (0..scores.len())
            .map(|at| if pattern[at] > 0.0 { (scores[at] - lse[at / t]).exp() } else { 0.0 })
            .collect();
        assert_close(&from_lse, &pattern, 1e-4, &what);
    }
}

#[test]
fn act() {
    let Some(emulator) = emulator() else { return };
    let mut random = Random(5);
    for f in [Activation::Silu, Activation::GeluTanh, Activation::GeluErf, Activation::Relu] {
        for (n, m, is_gated) in [(1, 8, false), (5, 264, true), (3, 1000, true)] {
            let stride = if is_gated { 2 * m } else { m };
            let x = random.halves(n * stride, 2.0);
            let buffer = Buffer::of(&x);
            let got = every_order(|seed| {
                let y = Buffer::poisoned(n * m);
                let args = Act {
                    gate: buffer.input(),
                    up: if is_gated { In::at(buffer.input().address() + 2 * m as u64) } else { In::default() },
                    y: y.output(),
                    n: n as i32,
                    m: m as i32,
                    stride: stride as i32,
                    kind: kind(f),
                };
                emulator.run(&args.launch(), seed);
                y.read()
            });
            let x = wide(&x);
            let mut want: Vec<f64> = x.chunks(stride).flat_map(|row| row[..m].to_vec()).collect();
            if is_gated {
                let up: Vec<f64> = x.chunks(stride).flat_map(|row| row[m..].to_vec()).collect();
                Reference.activate_mul(f, &mut want, &up, n * m);
            } else {
                Reference.activate(f, &mut want, n * m);
            }
            assert_close(&wide(&got), &want, ROUNDED, &format!("{f:?} {n} x {m}"));
        }
    }
}

#[test]
fn what_is_captured_can_be_spliced_back() {
    let Some(emulator) = emulator() else { return };
    let mut random = Random(6);
    for (n, width, stride, column) in [(1, 8, 8, 0), (13, 64, 200, 16), (9, 520, 528, 8)] {
        let x = random.halves(n * stride, 1.0);
        // every other row is dropped, the others go to slots in another order; some slots stay as they are
        let rows: Vec<u32> = (0..n as u32).rev().collect();
        let slots: Vec<u32> = (0..n as u32).map(|i| if i % 2 == 1 { NO_SLOT } else { (i * 7) % 31 }).collect();
        let (b_x, b_rows, b_slots) = (Buffer::of(&x), Buffer::of(&rows), Buffer::of(&slots));
        let (ring, floats, squares) = every_order(|seed| {
            let (ring, floats, squares) =
                (Buffer::poisoned(31 * width), Buffer::<f32>::poisoned(31 * width), Buffer::<f32>::poisoned(31));
            let args = Capture {
                x: b_x.input(),
                rows: b_rows.input(),
                slots: b_slots.input(),
                ring_bf16: ring.output(),
                ring_float: floats.output(),
                squares: squares.output(),
                n: n as i32,
                width: width as i32,
                stride: stride as i32,
                column: column as i32,
            };
            emulator.run(&args.launch(), seed);
            let bits = |x: Vec<f32>| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            (ring.read(), bits(floats.read()), bits(squares.read()))
        });
        for slot in 0..31 {
            let row = slots.iter().position(|&s| s == slot as u32).map(|i| rows[i] as usize);
            let want = row.map_or(vec![0xffff; width], |row| x[row * stride + column..][..width].to_vec());
            assert_eq!(ring[slot * width..][..width], want, "slot {slot}");
            let Some(_) = row else {
                assert_eq!(squares[slot], u32::MAX, "slot {slot}");
                continue;
            };
            let values: Vec<f64> =
                floats[slot * width..][..width].iter().map(|&b| f64::from(f32::from_bits(b))).collect();
            assert_eq!(values, wide(&want), "slot {slot}");
            let square = wide(&want).iter().map(|x| x * x).sum::<f64>();
            assert_close(&[f64::from(f32::from_bits(squares[slot]))], &[square], 1e-5, "square");
        }

        // the same rows back into a batch of something else; then a fill, then zeros
        let taken: Vec<u16> =
            rows.iter().flat_map(|&row| x[row as usize * stride + column..][..width].to_vec()).collect();
        let fill = random.halves(width, 1.0);
        let (b_taken, b_fill, other) = (Buffer::of(&taken), Buffer::of(&fill), random.halves(n * stride, 1.0));
        for (replacement, filled) in
            [(b_taken.input(), In::default()), (In::default(), b_fill.input()), (In::default(), In::default())]
        {
            let got = every_order(|seed| {
                let batch = Buffer::of(&other);
                let args = Splice {
                    x: batch.output(),
                    rows: b_rows.input(),
                    replacement,
                    fill: filled,
                    n: n as i32,
                    width: width as i32,
                    stride: stride as i32,
                    column: column as i32,
                };
                emulator.run(&args.launch(), seed);
                batch.read()
            });
            for (at, &bits) in got.iter().enumerate() {
                let (row, c) = (at / stride, at % stride);
                let want = match (column..column + width).contains(&c) {
                    false => other[at],
                    true if replacement.is_given() => x[row * stride + c],
                    true if filled.is_given() => fill[c - column],
                    true => 0,
                };
                assert_eq!(bits, want, "row {row}, column {c}");
            }
        }
    }
}

#[test]
fn cross_entropy() {
    let Some(emulator) = emulator() else { return };
    let mut random = Random(7);
    for (n, vocabulary, stride, softcap) in
        [(1, 1, 8, 0.0), (4, 257, 257, 0.0), (3, 5003, 5056, 30.0), (2, 31, 40, 2.0)]
    {
        let logits = random.halves(n * stride, 6.0);
        let targets: Vec<u32> = (0..n).map(|_| random.below(vocabulary) as u32).collect();
        let (b_logits, b_targets) = (Buffer::of(&logits), Buffer::of(&targets));
        let got = every_order(|seed| {
            let (loss, lse) = (Buffer::<f32>::poisoned(n), Buffer::<f32>::poisoned(n));
            let args = CrossEntropy {
                logits: b_logits.input(),
                targets: b_targets.input(),
                loss: loss.output(),
                lse: lse.output(),
                vocabulary: vocabulary as i32,
                stride: stride as i32,
                softcap,
            };
            emulator.run(&args.launch(n), seed);
            [loss.read(), lse.read()].concat()
        });
        let cap = |x: f64| if softcap > 0.0 { f64::from(softcap) * (x / f64::from(softcap)).tanh() } else { x };
        let rows: Vec<Vec<f64>> =
            logits.chunks(stride).map(|row| wide(&row[..vocabulary]).into_iter().map(cap).collect()).collect();
        let lse: Vec<f64> = rows
            .iter()
            .map(|row| {
                let most = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                most + row.iter().map(|x| (x - most).exp()).sum::<f64>().ln()
            })
            .collect();
        let loss = rows.iter().zip(&lse).zip(&targets).map(|((row, lse), &t)| lse - row[t as usize]);
        let want: Vec<f64> = loss.chain(lse.iter().copied()).collect();
        assert_close(&doubles(&got), &want, 1e-5, &format!("{n} x {vocabulary}"));
    }
}
