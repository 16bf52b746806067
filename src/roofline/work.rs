//! What the stages of a pipeline compute and move.

use serde::Serialize;

use super::machine::{Machine, Rate};
use crate::hooks::{HookPoint, Site};
use crate::model::ModelSpec;

/// Bytes of an f32.
const F32: f64 = 4.0;

/// What a forward pass does for each token, up to and including the block of the last wanted point.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct ForwardWork {
    /// Operations of the products with weights; a multiplication and an addition are two.
    pub linear_flops: f64,
    /// Operations of scores and of what they mix, causal: a token sees half its context on average.
    pub attention_flops: f64,
    /// Bytes that have to be read or written at least once between products: residual stream, norms, queries, keys, values,
    /// the hidden layer.
    pub bytes: f64,
}

impl ForwardWork {
    /// That of `spec` for `points`, in sequences of `context_length` tokens.
    pub fn of(spec: &ModelSpec, points: &[HookPoint], context_length: usize) -> Self {
        let (d, m) = (spec.d_model as f64, spec.hidden_width() as f64);
        let (q, kv) = ((spec.n_heads * spec.d_head) as f64, (spec.n_kv_heads * spec.d_head) as f64);
        let mlp_matrices = if spec.mlp.gated { 3.0 } else { 2.0 };
        let attention = Self {
            linear_flops: 2.0 * (d * q + 2.0 * d * kv + q * d),
            attention_flops: 2.0 * q * context_length as f64,
            // the norm reads and writes; its output is read, and queries, keys, values written; rotated; read; `z` written and
            // read; the stream read and written
            bytes: F32 * (2.0 * d + (d + q + 2.0 * kv) + 2.0 * (q + kv) + (q + 2.0 * kv) + 2.0 * q + 2.0 * d),
        };
        let mlp = Self {
            linear_flops: 2.0 * mlp_matrices * d * m,
            attention_flops: 0.0,
            bytes: F32 * (2.0 * d + d + 2.0 * m + 2.0 * d),
        };
        let last = points.iter().copied().max_by_key(|p| p.forward_order());
        let (blocks, with_attention, with_mlp) = match last {
            None | Some(HookPoint { layer: None, site: Site::Embed | Site::PosEmbed, .. }) => (0.0, false, false),
            Some(HookPoint { layer: Some(layer), site, .. }) => {
                (f64::from(layer), site >= Site::Q, site >= Site::MlpPre)
            }
            Some(_) => (f64::from(spec.n_layers()), false, false),
        };
        let times = |part: Self, times: f64| Self {
            linear_flops: part.linear_flops * times,
            attention_flops: part.attention_flops * times,
            bytes: part.bytes * times,
        };
        let whole = times(attention, blocks).and(times(mlp, blocks));
        let begun = times(attention, f64::from(u8::from(with_attention)));
        whole.and(begun).and(times(mlp, f64::from(u8::from(with_mlp))))
    }

    /// Both.
    pub fn and(self, other: Self) -> Self {
        Self {
            linear_flops: self.linear_flops + other.linear_flops,
            attention_flops: self.attention_flops + other.attention_flops,
            bytes: self.bytes + other.bytes,
        }
    }

    /// All operations.
    pub fn flops(&self) -> f64 {
        self.linear_flops + self.attention_flops
    }
}

/// A stage, for each token or row that passes through it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stage {
    /// Its name.
    pub name: String,
    /// `token` or `row`.
    pub per: &'static str,
    /// Operations.
    pub flops: f64,
    /// Bytes read and written.
    pub bytes: f64,
    /// The most that the machine could do in a second, if it did nothing else; absent where neither peak bounds it.
    pub ideal: Option<f64>,
    /// What was done in a second of a short sample.
    pub measured: Option<f64>,
}

impl Stage {
    /// A stage whose operations run at `flops` a second and whose bytes at `bandwidth`, whichever takes longer.
    fn new(name: String, per: &'static str, (flops, rate): (f64, f64), (bytes, bandwidth): (f64, f64)) -> Self {
        let seconds = (flops / rate).max(bytes / bandwidth);
        let ideal = (seconds > 0.0 && seconds.is_finite()).then(|| 1.0 / seconds);
        Self { name, per, flops, bytes, ideal, measured: None }
    }

    /// Text to token ids: no arithmetic to speak of, so nothing bounds it but its own steps.
    pub fn tokenise(bytes_per_token: f64) -> Self {
        Self {
            name: "tokenise".to_owned(),
            per: "token",
            flops: 0.0,
            bytes: bytes_per_token,
            ideal: None,
            measured: None,
        }
    }

    /// The forward pass and its kinds of operations: the whole first. `bf16` says what products with weights run on.
    pub fn forward(work: ForwardWork, bf16: bool, machine: &Machine) -> [Self; 4] {
        let (f32s, copy) = (machine.f32_flops().all, machine.copy.all);
        let products = if bf16 { machine.bf16_flops() } else { machine.f32_flops() };
        let Rate { all: products, .. } = products;
        let part = |name: &str, flops: f64, rate: f64, bytes: f64| {
            Self::new(name.to_owned(), "token", (flops, rate), (bytes, copy))
        };
        let mut whole = part("forward", work.flops(), f32s, work.bytes);
        let seconds = work.linear_flops / products + work.attention_flops / f32s;
        whole.ideal = (seconds > 0.0).then(|| 1.0 / seconds.max(work.bytes / copy));
        [
            whole,
            part("  products with weights", work.linear_flops, products, 0.0),
            part("  attention", work.attention_flops, f32s, 0.0),
            part("  between products", 0.0, f32s, work.bytes),
        ]
    }

    /// A trainer's step, for each row: the encoder's product is dense, reconstruction and gradients go over the `k` latents of
    /// a row, and Adam over the parameters once a step of `batch` rows. `widths` are of the input and the output.
    pub fn train(name: &str, widths: [f64; 2], latents: f64, k: f64, batch: f64, machine: &Machine) -> Self {
        let [d, out] = widths;
        let parameters = (d + out) * latents;
        // reconstruction, its transpose, and a gradient for each matrix
        let flops = 2.0 * d * latents + 2.0 * k * (2.0 * out + out + d);
        // parameters, gradients, two moments; all but the gradients are written
        let bytes = F32 * 7.0 * parameters / batch;
        Self::new(format!("train {name}"), "row", (flops, machine.f32_flops().all), (bytes, machine.copy.all))
    }

    /// Rows encoded and written, `bytes` each as stored and `values` values.
    pub fn store(values: f64, bytes: f64, machine: &Machine) -> Self {
        Self::new("encode and store".to_owned(), "row", (0.0, 1.0), (values * F32 + bytes, machine.copy.all))
            .no_faster_than(machine.disk_write / bytes.max(1.0))
    }

    fn no_faster_than(mut self, rate: f64) -> Self {
        self.ideal = self.ideal.map(|ideal| ideal.min(rate));
        self
    }

    /// The share of the ideal rate that was reached.
    pub fn reached(&self) -> Option<f64> {
        Some(self.measured? / self.ideal?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::roofline::machine::UnitRate;

    fn machine() -> Machine {
        let rate = |one: f64| Rate { one, all: 2.0 * one };
        let unit = |name, bf16, one| UnitRate { name, bf16, flops: rate(one) };
        Machine {
            processor: "a test".to_owned(),
            threads: 2,
            units: vec![unit("a", false, 20.0), unit("b", false, 50.0), unit("c", true, 100.0)],
            has_amx: false,
            multiplies_bf16: true,
            read: rate(10.0),
            copy: rate(5.0),
            disk_write: 4.0,
        }
    }

    #[test]
    fn the_scarcer_of_arithmetic_and_memory_bounds_a_stage() {
        let machine = machine();
        let work = ForwardWork { linear_flops: 100.0, attention_flops: 50.0, bytes: 1.0 };
        let [f32s, products, attention, between] = Stage::forward(work, false, &machine);
        assert_eq!(f32s.ideal, Some(1.0 / 1.5));
        assert_eq!((products.ideal, attention.ideal, between.ideal), (Some(1.0), Some(2.0), Some(10.0)));
        let [bf16, ..] = Stage::forward(work, true, &machine);
        assert_eq!(bf16.ideal, Some(1.0), "half a second for products, half for attention");
        let [slow, ..] = Stage::forward(ForwardWork { bytes: 100.0, ..work }, true, &machine);
        assert_eq!(slow.ideal, Some(0.1), "memory");
        assert_eq!(Stage { measured: Some(0.05), ..slow }.reached(), Some(0.5));
        let nothing = Stage::forward(ForwardWork::default(), true, &machine);
        assert!(nothing.iter().all(|stage| stage.ideal.is_none()));
    }

    #[test]
    fn a_machine_without_fast_pairs_multiplies_bf16_as_f32() {
        let machine = Machine { multiplies_bf16: false, ..machine() };
        assert_eq!(machine.bf16_flops(), machine.f32_flops());
        assert_eq!(machine.f32_flops(), Rate { one: 50.0, all: 100.0 });
    }

    #[test]
    fn storing_is_bounded_by_the_disk_and_training_by_the_encoder() {
        let machine = machine();
        assert_eq!(Stage::store(1.0, 2.0, &machine).ideal, Some(10.0 / 6.0), "six bytes through memory");
        assert_eq!(Stage::store(1.0, 40.0, &machine).ideal, Some(0.1), "forty bytes to disk");
        let train = Stage::train("x", [2.0, 2.0], 10.0, 1.0, 1e9, &machine);
        assert_eq!(train.flops, 40.0 + 2.0 * 8.0);
        assert!((train.ideal.unwrap() - 100.0 / 56.0).abs() < 1e-12);
    }
}
