use super::*;
use crate::compute::CoderOps;
use crate::compute::coder_ops::CoderDims;
use crate::compute::cpu::Cpu;
use crate::compute::reference::Reference;
use crate::sae::params;
use crate::sae::settings::SelectionSettings;

fn settings() -> CoderSettings {
    CoderSettings::plain(CoderDims::square(2, 2), SelectionSettings::Positive, 1)
}

/// Parameters that are all `value`.
fn filled<B: CoderOps>(backend: &B, value: f32) -> Params<B> {
    let mut params = params::zeros(backend, &settings());
    for tensor in params.each_mut() {
        let len = backend.len(tensor);
        backend.write(tensor, 0, &vec![value; len]);
    }
    params
}

fn first<B: CoderOps>(backend: &B, params: &Params<B>) -> f64 {
    let mut value = [0.0];
    backend.read_f64(&params.w_enc, 0, &mut value);
    value[0]
}

/// `y`, `z`, `x` of a scalar, as the formulas say.
#[test]
fn schedule_free_signs_follow_their_formulas() {
    fn run<B: CoderOps>(backend: &B) -> (f64, f64) {
        let mut signum = Signum::new(backend, &settings(), 0.9);
        let mut params = filled(backend, 1.0);
        for (rate, sign) in [(0.1, 1.0), (0.2, 1.0), (0.05, -3.0), (0.1, 0.0)] {
            signum.update(backend, &mut params, &filled(backend, sign), rate);
        }
        (first(backend, &params), first(backend, &signum.averaged(backend, &params)))
    }
    let (mut x, mut z, mut weight) = (1.0f64, 1.0f64, 0.0f64);
    for (rate, sign) in [(0.1f64, 1.0f64), (0.2, 1.0), (0.05, -1.0), (0.1, 0.0)] {
        z -= rate * sign;
        weight += rate * rate;
        x += rate * rate / weight * (z - x);
    }
    let y = 0.1 * z + 0.9 * x;
    let (found_y, found_x) = run(&Reference);
    assert!((found_y - y).abs() < 1e-12 && (found_x - x).abs() < 1e-12, "{found_y}, {found_x} and not {y}, {x}");
    let (found_y, found_x) = run(&Cpu::new(1).unwrap());
    assert!((found_y - y).abs() < 1e-6 && (found_x - x).abs() < 1e-5, "{found_y}, {found_x} and not {y}, {x}");
}

#[test]
fn weight_decay_shrinks_weights_besides() {
    let mut adam = Adam { weight_decay: 0.5, ..Adam::new(&Reference, &settings(), [0.9, 0.999], 1e-8) };
    let mut params = filled(&Reference, 2.0);
    adam.update(&Reference, &mut params, &filled(&Reference, 0.0), 0.1, 1.0);
    assert!((first(&Reference, &params) - 1.9).abs() < 1e-12);
}

#[test]
fn averages_are_means_at_first() {
    let mut average = Average::new(&Reference, &settings(), 0.9);
    for (t, value) in [1.0, 2.0, 6.0].into_iter().enumerate() {
        average.update(&Reference, &filled(&Reference, value), t as u64 + 1);
    }
    assert!((first(&Reference, &average.params) - 3.0).abs() < 1e-12);
    for t in 4..1000 {
        average.update(&Reference, &filled(&Reference, 7.0), t);
    }
    assert!((first(&Reference, &average.params) - 7.0).abs() < 1e-6);
}
