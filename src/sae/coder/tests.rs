use serde_json::Value;

use super::*;
use crate::compute::cpu::Cpu;
use crate::compute::reference::Reference;
use crate::compute::{Backend, CoderOps};
use crate::runtime::rng::Seed;
use crate::sae::config::CoderConfig;
use crate::sae::params::PerParam;
use crate::sae::settings::{AuxDivisor, AuxSettings, Prefix};

mod finite_differences;
mod golden;
mod products;
mod properties;
mod targets;
mod toy;

fn assert_close(found: &[f64], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!((f - e).abs() <= tolerance * e.abs().max(1.0), "{what}[{i}]: {f} instead of {e}");
    }
}

/// What the section `coder` of a pipeline gives for inputs of width `d`.
fn configured(coder: Value, d: usize) -> CoderSettings {
    serde_json::from_value::<CoderConfig>(coder).unwrap().settings(d).unwrap()
}

/// A TopK coder, its auxiliary branch off without `aux_k`.
fn topk(d: usize, f: usize, k: usize, aux_k: usize) -> CoderSettings {
    let aux = (aux_k > 0).then_some(AuxSettings::gao(aux_k, 1.0 / 32.0));
    CoderSettings { aux, ..CoderSettings::plain(CoderDims::square(d, f), SelectionSettings::TopK { k }, 100) }
}

/// Parameters without structure, from a named stream; thresholds are positive.
fn random_params<B: CoderOps>(backend: &B, settings: &CoderSettings, purpose: &str) -> Params<B> {
    let mut rng = Seed(11).stream(purpose);
    let shapes = settings.params();
    let made: Result<_, std::convert::Infallible> = PerParam::build(&settings.extra_params(), |i| {
        let (name, shape) = &shapes[i];
        let value = |x: f64| if *name == "threshold" { x.abs() } else { x };
        let len = shape.iter().product();
        let values: Vec<f32> = (0..len).map(|_| value(0.7 * rng.normal()) as f32).collect();
        Ok(backend.upload(&values))
    });
    made.unwrap()
}

/// A coder with points of data, where its decoder is made of some.
fn made<B: CoderOps>(backend: &B, settings: CoderSettings, params: Params<B>, n: usize) -> Coder<B> {
    let (points, out) = (settings.points(), settings.dims.out);
    let mut coder = Coder::new(backend, settings, params, n);
    coder.points = backend.upload(&random_rows(points, out, "points"));
    coder
}

fn random_rows(n: usize, d: usize, purpose: &str) -> Vec<f32> {
    let mut rng = Seed(12).stream(purpose);
    (0..n * d).map(|_| rng.normal() as f32).collect()
}

fn batch<'a, B: CoderOps>(x: &'a B::Tensor, n: usize, dead: &'a [u32]) -> Batch<'a, B> {
    Batch { x, target: None, n, scale: 1.0, dead, step: 1_000_000 }
}

/// `[n, f]`, zeros included.
fn dense(code: &Code<Reference>, f: usize) -> Vec<f64> {
    let mut out = vec![0.0; code.rows * f];
    for place in (0..code.places()).filter(|&place| code.values[place] > 0.0) {
        out[place / code.k * f + code.latents[place] as usize] = code.values[place];
    }
    out
}

/// One of every kind of coder: 4 -> 7 latents, auxiliary branches off.
fn every_kind() -> Vec<(&'static str, CoderSettings)> {
    let coder = |json: Value| configured(json, 4);
    vec![
        ("topk", topk(4, 7, 3, 0)),
        (
            "topk, ranked",
            coder(
                serde_json::json!({"type": "topk", "width": 7, "k": 3, "decoder": "ranked", "aux": {"coefficient": 0}}),
            ),
        ),
        (
            "topk, multi",
            coder(serde_json::json!({
                "type": "topk", "width": 7, "k": 1, "multi_coefficient": 0.125, "aux": {"coefficient": 0}
            })),
        ),
        (
            "p_anneal",
            coder(serde_json::json!({
                "type": "p_anneal", "width": 7, "sparsity_coefficient": 0.3, "anneal_end_step": 20000
            })),
        ),
        (
            "p_anneal, gated",
            coder(serde_json::json!({
                "type": "p_anneal", "width": 7, "base": "gated", "sparsity_coefficient": 0.3, "anneal_end_step": 20000
            })),
        ),
        (
            "batch_topk",
            coder(serde_json::json!({"type": "batch_topk", "width": 7, "k": 2.5, "aux": {"coefficient": 0}})),
        ),
        ("gba", coder(serde_json::json!({"type": "gba", "width": 7, "groups": 2}))),
        ("k_sparse", coder(serde_json::json!({"type": "k_sparse", "width": 7, "k": 3}))),
        ("matching_pursuit", coder(serde_json::json!({"type": "matching_pursuit", "width": 7, "k": 3}))),
        (
            "kron",
            coder(
                serde_json::json!({"type": "kron", "width": 12, "k": 4, "first": 2, "second": 3, "aux": {"coefficient": 0}}),
            ),
        ),
        ("switch", coder(serde_json::json!({"type": "switch", "width": 8, "experts": 2, "k": 2}))),
        (
            "switch, not weighted",
            coder(serde_json::json!({"type": "switch", "width": 8, "experts": 2, "k": 2, "weighted": false})),
        ),
        (
            "archetypal",
            coder(
                serde_json::json!({"type": "archetypal", "width": 7, "k": 3, "points": 5, "aux": {"coefficient": 0}}),
            ),
        ),
        (
            "archetypal, in the hull",
            coder(serde_json::json!({
                "type": "archetypal", "width": 7, "k": 2.5, "selection": "batch_topk", "points": 5, "delta": 0,
                "multiplier": false, "aux": {"coefficient": 0}
            })),
        ),
        (
            "topk, free",
            coder(
                serde_json::json!({"type": "topk", "width": 7, "k": 3, "decoder": "free", "aux": {"coefficient": 0}}),
            ),
        ),
        (
            "topk, normalized",
            coder(
                serde_json::json!({"type": "topk", "width": 7, "k": 3, "decoder": "normalized", "aux": {"coefficient": 0}}),
            ),
        ),
        (
            "batch_topk, ranked",
            coder(serde_json::json!(
                {"type": "batch_topk", "width": 7, "k": 2.5, "decoder": "ranked", "aux": {"coefficient": 0}}
            )),
        ),
        (
            "feature_choice",
            coder(serde_json::json!({"type": "feature_choice", "width": 7, "k": 3.5, "aux": {"coefficient": 0}})),
        ),
        (
            "feature_choice, zipf",
            coder(serde_json::json!({
                "type": "feature_choice", "width": 7, "k": 3, "budget": "zipf", "zipf_top": 0.8, "aux": {"coefficient": 0}
            })),
        ),
        (
            "top_afa",
            coder(serde_json::json!({
                "type": "top_afa", "width": 7, "afa_coefficient": 0.3, "aux": {"coefficient": 0}
            })),
        ),
        ("group_max", coder(serde_json::json!({"type": "group_max", "width": 8, "k": 2, "aux": {"coefficient": 0}}))),
        (
            "nested_topk",
            coder(serde_json::json!({
                "type": "nested_topk", "width": 7, "ks": [1, 2, 4], "weights": "reversed", "aux": {"coefficient": 0}
            })),
        ),
        ("standard, april", coder(serde_json::json!({"type": "standard", "width": 7, "l1_coefficient": 0.3}))),
        (
            "standard, bricken",
            coder(serde_json::json!({"type": "standard", "width": 7, "l1_coefficient": 0.3, "form": "bricken"})),
        ),
        (
            "standard, p",
            coder(serde_json::json!({"type": "standard", "width": 7, "l1_coefficient": 0.3, "lp_norm": 0.8})),
        ),
        ("jumprelu", coder(serde_json::json!({"type": "jumprelu", "width": 7, "l0_coefficient": 0.2}))),
        (
            "jumprelu, tanh",
            coder(serde_json::json!({
                "type": "jumprelu", "width": 7, "l0_coefficient": 0.2, "sparsity": "tanh", "decoder": "free",
                "pre_act_coefficient": 0.05, "pre_act_all_latents": true
            })),
        ),
        ("gated", coder(serde_json::json!({"type": "gated", "width": 7, "l1_coefficient": 0.3}))),
        (
            "gated, free",
            coder(serde_json::json!({"type": "gated", "width": 7, "l1_coefficient": 0.3, "decoder": "free"})),
        ),
        (
            "matryoshka",
            coder(serde_json::json!({
                "type": "matryoshka", "width": 7, "k": 3, "widths": [2, 4], "weights": [0.5, 0.25, 2.0],
                "aux": {"coefficient": 0}
            })),
        ),
    ]
}
