//! `tests/fixtures/coders.json`: numbers in f64 that an independent implementation made.

use super::*;
use crate::compute::coder_ops::PenaltyShape;
use crate::sae::optim::Adam;
use crate::sae::settings::{JumpReluSettings, L0Penalty, PenaltySettings};
use crate::sae::state::MovingAverage;
use crate::sae::{constraint, init};

const D: usize = 3;
const F: usize = 6;
const N: usize = 4;

fn case(name: &str) -> Value {
    let text = include_str!("../../../../tests/fixtures/coders.json");
    serde_json::from_str::<Value>(text).unwrap()[name].clone()
}

/// All numbers in a nested array, row by row.
fn numbers(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(items) => items.iter().flat_map(numbers).collect(),
        number => vec![number.as_f64().unwrap()],
    }
}

fn turned(values: &[f64], rows: usize, columns: usize) -> Vec<f64> {
    (0..columns).flat_map(|c| (0..rows).map(move |r| values[r * columns + c])).collect()
}

/// The case's coder, after a batch.
struct Run {
    coder: Coder<Reference>,
    report: BatchReport,
    expected: Value,
}

/// `bias` is the case's name of the encoder's bias, `extra` those of the extra parameters in their order.
fn run(name: &str, settings: CoderSettings, bias: &str, extra: &[&str], dead: &[u32]) -> Run {
    let case = case(name);
    let inputs = &case["inputs"];
    let params = PerParam {
        w_enc: turned(&numbers(&inputs["W_enc"]), D, F),
        b_enc: numbers(&inputs[bias]),
        w_dec: numbers(&inputs["W_dec"]),
        b_dec: numbers(&inputs["b_dec"]),
        extra: settings
            .extra_params()
            .iter()
            .zip(extra)
            .map(|(name, theirs)| (*name, numbers(&inputs[*theirs])))
            .collect(),
    };
    let mut coder = Coder::new(&Reference, settings, params, N);
    let report = coder.loss_and_gradients(&Reference, &batch(&numbers(&inputs["x"]), N, dead));
    let run = Run { coder, report, expected: case["expected"].clone() };
    run.gradient("g_W_enc", &turned(&run.numbers("g_W_enc"), D, F), &run.coder.gradients.w_enc);
    run.gradient("g_W_dec", &run.numbers("g_W_dec"), &run.coder.gradients.w_dec);
    run.gradient("g_b_dec", &run.numbers("g_b_dec"), &run.coder.gradients.b_dec);
    run.gradient("bias", &run.numbers(&format!("g_{bias}")), &run.coder.gradients.b_enc);
    for ((_, gradient), theirs) in run.coder.gradients.extra.iter().zip(extra) {
        run.gradient(theirs, &run.numbers(&format!("g_{theirs}")), gradient);
    }
    if run.expected.get("f").is_some() {
        assert_close(&dense(run.coder.code(), F), &run.numbers("f"), 1e-8, "code");
    }
    if run.expected.get("x_hat").is_some() {
        let mut x_hat = vec![0.0; N * D];
        let params = &run.coder.params;
        Reference.decode(run.coder.code(), &params.w_dec, &params.b_dec, &mut x_hat, D);
        assert_close(&x_hat, &run.numbers("x_hat"), 1e-8, "x_hat");
    }
    run
}

impl Run {
    fn numbers(&self, key: &str) -> Vec<f64> {
        numbers(&self.expected[key])
    }

    fn gradient(&self, name: &str, expected: &[f64], found: &[f64]) {
        assert_close(found, expected, 1e-8, name);
    }

    /// The sum of the case's losses of these names is `found`.
    fn loss(&self, found: f64, names: &[&str]) {
        let expected: f64 = names.iter().flat_map(|name| self.numbers(name)).sum();
        assert_close(&[found], &[expected], 1e-8, names[0]);
    }
}

fn plain(selection: SelectionSettings) -> CoderSettings {
    let free = CoderSettings::plain(CoderDims::square(D, F), selection, 100);
    CoderSettings { decoder: DecoderNorm::Free, ..free }
}

fn l1(by_norm: bool) -> Vec<PenaltySettings> {
    vec![PenaltySettings { shape: PenaltyShape::Linear, coefficient: 0.3, by_norm, warmup_steps: 0 }]
}

#[test]
fn relu_with_l1_by_norm() {
    let settings = CoderSettings { penalties: l1(true), ..plain(SelectionSettings::Positive) };
    let run = run("relu_l1_norm_tied", settings, "b_enc", &[], &[]);
    run.loss(run.report.reconstruction_loss, &["loss_recon"]);
    run.loss(run.report.sparsity_loss, &["loss_l1"]);
}

#[test]
fn topk_with_auxk() {
    let run = run("topk_auxk", topk(D, F, 2, 2), "b_enc", &[], &[0, 3, 5]);
    run.loss(run.report.reconstruction_loss, &["loss_recon"]);
    run.loss(run.report.auxiliary_loss, &["loss_aux"]);
}

#[test]
fn batch_topk_ranked_by_norm() {
    let selection = SelectionSettings::BatchTopK { k: 2.0, threshold_rate: 0.01 };
    let settings = CoderSettings { decoder: DecoderNorm::Ranked, ..plain(selection) };
    let mut run = run("batchtopk_normscore", settings.clone(), "b_enc", &[], &[]);
    run.loss(run.report.reconstruction_loss, &["loss_recon"]);
    run.loss(run.report.least, &["min_positive_reported"]);
    run.coder.state.threshold = Some(MovingAverage { value: 0.5, count: 1000 });
    run.coder.state.update(&settings, &run.report, 1);
    run.loss(run.coder.state.threshold.unwrap().value, &["tau_new"]);
}

fn jumprelu(sparsity: L0Penalty, pre_act_coefficient: f64) -> SelectionSettings {
    SelectionSettings::JumpRelu(JumpReluSettings {
        start: 0.0,
        bandwidth: 0.4,
        sparsity,
        coefficient: 0.3,
        warmup_steps: 0,
        pre_act_coefficient,
        pre_act_all: true,
        encoder_gradient: false,
    })
}

#[test]
fn jumprelu_with_l0_and_pre_activation_loss() {
    let run = run("jumprelu_step_preact", plain(jumprelu(L0Penalty::Mean, 0.01)), "b_enc", &["theta"], &[]);
    run.loss(run.report.reconstruction_loss, &["loss_recon"]);
    run.loss(run.report.sparsity_loss, &["loss_l0"]);
    run.loss(run.report.auxiliary_loss, &["loss_pre"]);
}

#[test]
fn jumprelu_with_tanh() {
    let shape = PenaltyShape::Tanh { scale: 4.0 };
    let penalties = vec![PenaltySettings { shape, coefficient: 0.3, by_norm: true, warmup_steps: 0 }];
    let settings = CoderSettings { penalties, ..plain(jumprelu(L0Penalty::Off, 0.0)) };
    let run = run("jumprelu_tanh", settings, "b_enc", &["theta"], &[]);
    run.loss(run.report.sparsity_loss, &["loss_tanh"]);
}

#[test]
fn gated_in_both_forms() {
    for (name, free) in [("gated_frozen_w1", false), ("gated_saelens_wnorm", true)] {
        let selection = SelectionSettings::Gated { trains_decoder: free };
        let settings = CoderSettings { penalties: l1(free), ..plain(selection) };
        let run = run(name, settings, "b_gate", &["r_mag", "b_mag"], &[]);
        run.loss(run.report.reconstruction_loss, &["loss_recon"]);
        run.loss(run.report.sparsity_loss, &["loss_l1"]);
        run.loss(run.report.auxiliary_loss, &["loss_aux"]);
    }
}

#[test]
fn nested_prefixes() {
    let prefixes = [2, 4, 6].map(|width| Prefix { width, weight: 1.0 }).to_vec();
    let settings = CoderSettings { prefixes, ..plain(SelectionSettings::Positive) };
    let run = run("matryoshka_prefix", settings, "b_enc", &[], &[]);
    run.loss(run.report.reconstruction_loss, &["prefix_losses"]);
}

#[test]
fn top_afa() {
    let case = case("top_afa");
    let (inputs, expected) = (&case["inputs"], &case["expected"]);
    let params = PerParam {
        w_enc: turned(&numbers(&inputs["W_enc"]), D, F),
        b_enc: vec![0.0; F],
        w_dec: numbers(&inputs["W_dec"]),
        b_dec: numbers(&inputs["b_dec"]),
        extra: Vec::new(),
    };
    let settings = plain(SelectionSettings::TopAfa { coefficient: 0.1, threshold_rate: 0.01 });
    let x = numbers(&inputs["x"]);
    let mut coder = Coder::new(&Reference, settings, params, N);
    let report = coder.loss_and_gradients(&Reference, &batch(&x, N, &[]));
    assert_close(&dense(coder.code(), F), &numbers(&expected["f"]), 1e-8, "code");
    assert_close(&[report.sparsity_loss], &numbers(&Value::from(vec![expected["afa_loss"].clone()])), 1e-8, "loss");
    let (mut lengths, code) = (vec![0.0; N], coder.code());
    Reference.row_norms(&x, &mut lengths, N, D);
    let mut gradient = vec![0.0; code.places()];
    Reference.norm_distance(code, &lengths, 0.1 / N as f64, &mut gradient);
    let mut by_latent = vec![0.0; N * F];
    for place in (0..code.places()).filter(|&place| code.values[place] > 0.0) {
        by_latent[place / code.k * F + code.latents[place] as usize] = gradient[place];
    }
    assert_close(&by_latent, &numbers(&expected["g_f_afa"]), 1e-8, "gradient");
    assert!(coder.gradients.b_enc.iter().all(|g| *g == 0.0), "the encoder has no bias");
}

#[test]
fn adam_on_unit_rows() {
    let case = case("adam_unitnorm");
    let settings = topk(D, F, 1, 0);
    let mut params = random_params(&Reference, &settings, "unused");
    let mut gradients = params::zeros(&Reference, &settings);
    params.w_dec = numbers(&case["inputs"]["W0"]);
    let mut adam = Adam::new(&Reference, &settings, [0.9, 0.999], 1e-8);
    for step in ["W_after_1", "W_after_2"] {
        gradients.w_dec = numbers(&case["inputs"]["g"]);
        constraint::project(&Reference, &settings, &params, &mut gradients);
        adam.update(&Reference, &mut params, &gradients, 0.01, 1.0);
        constraint::restore(&Reference, &settings, &mut params);
        assert_close(&params.w_dec, &numbers(&case["expected"][step]), 1e-6, step);
    }
}

#[test]
fn geometric_median() {
    let case = case("geometric_median");
    let x = numbers(&case["inputs"]["x"]);
    let median = init::geometric_median(&Reference, &x, 4, 3);
    assert_close(&median, &numbers(&case["expected"]["median"]), 1e-6, "median");
}

/// Two sites of three values, as one row of six.
#[test]
fn crosscoder_with_l1() {
    let case = case("crosscoder_l1");
    let (inputs, expected) = (&case["inputs"], &case["expected"]);
    let (f, sites) = (numbers(&inputs["b_enc"]).len(), numbers(&inputs["b_dec"]).len() / D);
    let by_latent = |value: &Value| {
        // [site, value, latent] to [latent, site and value]
        turned(&numbers(value), sites * D, f)
    };
    let json = serde_json::json!({"type": "standard", "width": f, "l1_coefficient": case["config"]["lambda_"]});
    let settings = configured(json, sites * D).of_parts(vec![D; sites]);
    let settings = CoderSettings {
        penalties: settings.penalties.iter().map(|p| PenaltySettings { warmup_steps: 0, ..*p }).collect(),
        ..settings
    };
    let params = PerParam {
        w_enc: by_latent(&inputs["W_enc"]),
        b_enc: numbers(&inputs["b_enc"]),
        w_dec: numbers(&inputs["W_dec"]),
        b_dec: numbers(&inputs["b_dec"]),
        extra: Vec::new(),
    };
    let n = numbers(&inputs["x"]).len() / (sites * D);
    let mut coder = Coder::new(&Reference, settings, params, n);
    let report = coder.loss_and_gradients(&Reference, &batch(&numbers(&inputs["x"]), n, &[]));
    let close = |found: &[f64], key: &str| assert_close(found, &numbers(&expected[key]), 1e-8, key);
    close(&[report.reconstruction_loss], "loss_recon");
    close(&[report.sparsity_loss], "loss_l1");
    close(&dense(coder.code(), f), "f");
    assert_close(&coder.gradients.w_enc, &by_latent(&expected["g_W_enc"]), 1e-8, "g_W_enc");
    close(&coder.gradients.b_enc, "g_b_enc");
    close(&coder.gradients.w_dec, "g_W_dec");
    close(&coder.gradients.b_dec, "g_b_dec");
}

/// Two layers; ReLU stands for the thresholds.
#[test]
fn cross_layer_transcoder_with_tanh() {
    let case = case("clt_tanh");
    let (inputs, expected) = (&case["inputs"], &case["expected"]);
    let layers = 2;
    let coefficient = case["config"]["lambda_"].as_f64().unwrap();
    let shape = PenaltyShape::Tanh { scale: case["config"]["c"].as_f64().unwrap() };
    let tanh = PenaltySettings { shape, coefficient, by_norm: true, warmup_steps: 0 };
    let square = CoderSettings::plain(CoderDims::square(layers * D, F), SelectionSettings::Positive, 100);
    let square = CoderSettings { decoder: DecoderNorm::Free, penalties: vec![tanh], ..square };
    let settings = square.across_layers(D, layers);
    // [value, latent] of each layer to [latent, value]
    let by_latent = |values: &[f64]| -> Vec<f64> { values.chunks(D * F).flat_map(|w| turned(w, D, F)).collect() };
    // the decoder's rows: to the first layer, then to the second
    let rows = |of: &Value, names: [&str; 3]| -> Vec<f64> {
        let [to_first, to_second, last] = names.map(|name| numbers(&of[name]));
        let row = |w: &[f64], i: usize| w[i * D..][..D].to_vec();
        let zeros = vec![0.0; D * F];
        let first = (0..F).flat_map(|i| [row(&to_first, i), row(&to_second, i)].concat());
        first.chain((0..F).flat_map(|i| [row(&zeros, i), row(&last, i)].concat())).collect()
    };
    let params = PerParam {
        w_enc: by_latent(&numbers(&inputs["W_enc"])),
        b_enc: numbers(&inputs["b_enc"]),
        w_dec: rows(inputs, ["W00", "W01", "W11"]),
        b_dec: numbers(&inputs["b_dec"]),
        extra: Vec::new(),
    };
    // [layer, row, value] to [row, layer and value]
    let side_by_side = |values: Vec<f64>| -> Vec<f64> {
        let at = |b: usize, l: usize| values[(l * N + b) * D..][..D].to_vec();
        (0..N).flat_map(|b| (0..layers).flat_map(move |l| at(b, l)).collect::<Vec<_>>()).collect()
    };
    let target = side_by_side(numbers(&inputs["y"]));
    let mut coder = Coder::new(&Reference, settings.clone(), params, N);
    let x = numbers(&inputs["x"]);
    let report = coder.loss_and_gradients(&Reference, &Batch { target: Some(&target), ..batch(&x, N, &[]) });
    constraint::project(&Reference, &settings, &coder.params, &mut coder.gradients);
    assert_close(&[report.reconstruction_loss], &numbers(&expected["loss_recon"]), 1e-8, "loss_recon");
    assert_close(&[report.sparsity_loss], &numbers(&expected["loss_tanh"]), 1e-8, "loss_tanh");
    assert_close(&coder.gradients.w_enc, &by_latent(&numbers(&expected["g_W_enc"])), 1e-8, "g_W_enc");
    assert_close(&coder.gradients.w_dec, &rows(expected, ["g_W00", "g_W01", "g_W11"]), 1e-8, "g_W_dec");
    assert_close(&coder.gradients.b_dec, &numbers(&expected["g_b_dec"]), 1e-8, "g_b_dec");
}

#[test]
fn pairs_of_parts() {
    let case = case("kron_mand");
    let (inputs, expected) = (&case["inputs"], &case["expected"]);
    let settings = configured(
        serde_json::json!({"type": "kron", "width": F, "k": 3, "first": 2, "second": 3, "aux": {"coefficient": 0}}),
        D,
    );
    let side = |of: &Value, a: &str, b: &str| [turned(&numbers(&of[a]), D, 2), turned(&numbers(&of[b]), D, 3)].concat();
    let mut params = params::zeros(&Reference, &settings);
    *params.extra_mut("w_parts") = side(inputs, "P", "Q");
    *params.extra_mut("b_parts") = [numbers(&inputs["b_P"]), numbers(&inputs["b_Q"])].concat();
    (params.w_dec, params.b_dec) = (numbers(&inputs["W_dec"]), numbers(&inputs["b_dec"]));
    let mut coder = Coder::new(&Reference, settings, params, N);
    let report = coder.loss_and_gradients(&Reference, &batch(&numbers(&inputs["x"]), N, &[]));
    assert_close(&[report.loss()], &numbers(&expected["loss"]), 1e-8, "loss");
    assert_close(&dense(coder.code(), F), &numbers(&expected["f"]), 1e-8, "code");
    assert_close(coder.gradients.extra("w_parts"), &side(expected, "g_P", "g_Q"), 1e-8, "g_P, g_Q");
    let biases = [numbers(&expected["g_b_P"]), numbers(&expected["g_b_Q"])].concat();
    assert_close(coder.gradients.extra("b_parts"), &biases, 1e-8, "g_b");
    assert_close(&coder.gradients.w_dec, &numbers(&expected["g_W_dec"]), 1e-8, "g_W_dec");
    assert_close(&coder.gradients.b_dec, &numbers(&expected["g_b_dec"]), 1e-8, "g_b_dec");
}

#[test]
fn matching_pursuit() {
    let case = case("matching_pursuit");
    let (inputs, expected) = (&case["inputs"], &case["expected"]);
    let settings = configured(serde_json::json!({"type": "matching_pursuit", "width": F, "k": 3}), D);
    let mut params = params::zeros(&Reference, &settings);
    (params.w_dec, params.b_dec) = (numbers(&inputs["W"]), numbers(&inputs["b_pre"]));
    let mut coder = Coder::new(&Reference, settings, params, N);
    let report = coder.loss_and_gradients(&Reference, &batch(&numbers(&inputs["x"]), N, &[]));
    assert_close(&[report.loss()], &numbers(&expected["loss"]), 1e-8, "loss");
    assert_close(&dense(coder.code(), F), &numbers(&expected["code"]), 1e-8, "code");
    assert_close(&coder.residual()[..N * D], &numbers(&expected["residual"]), 1e-8, "residual");
    assert_close(&coder.gradients.w_dec, &numbers(&expected["g_W"]), 1e-8, "g_W");
    assert_close(&coder.gradients.b_dec, &numbers(&expected["g_b_pre"]), 1e-8, "g_b_pre");
}

#[test]
fn experts() {
    let case = case("switch");
    let (inputs, expected) = (&case["inputs"], &case["expected"]);
    let settings = configured(serde_json::json!({"type": "switch", "width": F, "experts": 2, "k": 2}), D);
    let mut params = params::zeros(&Reference, &settings);
    let w_enc = inputs["W_enc"].as_array().unwrap().iter();
    params.w_enc = w_enc.flat_map(|expert| turned(&numbers(expert), D, 3)).collect();
    (params.w_dec, params.b_dec) = (numbers(&inputs["W_dec"]), numbers(&inputs["b_dec"]));
    *params.extra_mut("w_router") = turned(&numbers(&inputs["W_r"]), D, 2);
    *params.extra_mut("b_router") = numbers(&inputs["b_r"]);
    let mut coder = Coder::new(&Reference, settings, params, N);
    let report = coder.loss_and_gradients(&Reference, &batch(&numbers(&inputs["x"]), N, &[]));
    assert_close(&[report.reconstruction_loss], &numbers(&expected["loss_recon"]), 1e-8, "loss_recon");
    assert_close(&[report.auxiliary_loss], &numbers(&expected["loss_lb"]), 1e-8, "loss_lb");
    assert_close(coder.gradients.extra("w_router"), &turned(&numbers(&expected["g_W_r"]), D, 2), 1e-8, "g_W_r");
    assert_close(coder.gradients.extra("b_router"), &numbers(&expected["g_b_r"]), 1e-8, "g_b_r");
    assert_close(&coder.gradients.w_dec, &numbers(&expected["g_W_dec"]), 1e-8, "g_W_dec");
}

#[test]
fn mixtures_of_points() {
    let case = case("archetypal");
    let (inputs, expected) = (&case["inputs"], &case["expected"]);
    let settings = configured(serde_json::json!({"type": "archetypal", "width": F, "k": 4, "points": 5}), D);
    let mut params = params::zeros(&Reference, &settings);
    let mut gradients = params::zeros(&Reference, &settings);
    *params.extra_mut("mixture") = numbers(&inputs["W"]);
    *params.extra_mut("relaxation") = numbers(&inputs["Lambda"]);
    *params.extra_mut("log_scale") = numbers(&case["config"]["mu"]);
    let points = numbers(&inputs["C"]);
    let mut map = MappedDecoder::new(&Reference, &settings).unwrap();
    map.enter(&Reference, &points, &mut params, &mut gradients);
    assert_close(&params.w_dec, &numbers(&expected["D"]), 1e-8, "D");
    let (code, x, b) = (numbers(&inputs["code"]), numbers(&inputs["x"]), numbers(&inputs["b_dec"]));
    let mut loss = 0.0;
    for (row, p) in (0..N).flat_map(|row| (0..D).map(move |p| (row, p))) {
        let made = b[p] + (0..F).map(|i| code[row * F + i] * params.w_dec[i * D + p]).sum::<f64>();
        let left = x[row * D + p] - made;
        loss += left * left / N as f64;
        (0..F).for_each(|i| gradients.w_dec[i * D + p] -= 2.0 / N as f64 * left * code[row * F + i]);
    }
    assert_close(&[loss], &numbers(&expected["loss"]), 1e-8, "loss");
    map.leave(&Reference, &points, &mut params, &mut gradients);
    for (ours, theirs) in [("mixture", "g_W"), ("relaxation", "g_Lambda"), ("log_scale", "g_mu")] {
        assert_close(gradients.extra(ours), &numbers(&expected[theirs]), 1e-8, theirs);
    }
    assert!(params.w_dec.is_empty() && gradients.w_dec.is_empty());
}

/// After any update rows of the mixture add up to 1 and are not negative, and no row is further from the hull than allowed.
#[test]
fn mixtures_stay_mixtures() {
    let json = serde_json::json!({
        "type": "archetypal", "width": F, "k": 4, "points": 5, "delta": 0.3, "multiplier": false
    });
    let settings = configured(json, D);
    let mut params = random_params(&Reference, &settings, "mixtures");
    constraint::restore(&Reference, &settings, &mut params);
    for row in params.extra("mixture").chunks(5) {
        assert!(row.iter().all(|w| *w >= 0.0) && (row.iter().sum::<f64>() - 1.0).abs() < 1e-6, "{row:?}");
    }
    let lengths: Vec<f64> =
        params.extra("relaxation").chunks(D).map(|row| row.iter().map(|x| x * x).sum::<f64>().sqrt()).collect();
    assert!(lengths.iter().all(|length| *length <= 0.3 + 1e-9) && lengths.iter().any(|length| *length > 0.29));
}
