//! Figures of the device: copies, products, a training step, a forward pass. Products and copies are checked too.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use harvestd::compute::Backend;
use harvestd::compute::backend::MatrixFormat;
use harvestd::compute::coder_ops::CoderDims;
use harvestd::compute::cuda::device::Memory;
use harvestd::compute::cuda::product::{Product, ProductShape};
use harvestd::compute::cuda::{Cuda, Device};
use harvestd::error::Result;
use harvestd::hooks::{HookPoint, Site, Taps, Want};
use harvestd::model::{self, BatchShape, ModelSource};
use harvestd::runtime::rng::Seed;
use harvestd::sae::optim::{Adam, clip};
use harvestd::sae::settings::SelectionSettings;
use harvestd::sae::{Batch, Coder, CoderSettings, constraint, init};
use safetensors::tensor::{Dtype, TensorView};

use super::{Report, Run, fixture};

fn memory(device: &Device, bytes: usize) -> Memory {
    device.allocate(bytes).expect("room on the device")
}

/// Bits of bfloat16 numbers about 0.
fn halves(n: usize, purpose: &str) -> Vec<u8> {
    let mut rng = Seed(3).stream(purpose);
    let one = |x: f64| half::bf16::from_f64(x).to_bits().to_le_bytes();
    (0..n).flat_map(|_| one(rng.normal())).collect()
}

/// Through pinned buffers to the device and back, and on the device.
pub fn copies(run: &Run<'_>, report: &mut Report) {
    let bytes = if run.is_small { 9 << 20 } else { 1 << 30 };
    let data: Vec<u8> = (0..bytes as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let (a, b) = (memory(run.device, bytes), memory(run.device, bytes));
    let began = Instant::now();
    a.write(0, data.clone());
    run.device.finish().expect("a device");
    report.number("copies", "host to device", bytes as f64 / began.elapsed().as_secs_f64() / 1e9, "GB/s");
    let seconds = run.device.timed(|| b.copy_from(&a, bytes)).expect("a device");
    report.number("copies", "on the device, read and written", 2.0 * bytes as f64 / seconds / 1e9, "GB/s");
    let began = Instant::now();
    let back = b.read(0, bytes).expect("a device");
    report.number("copies", "device to host", bytes as f64 / began.elapsed().as_secs_f64() / 1e9, "GB/s");
    report.check("copies", back == data, &format!("{} MiB there and back", bytes >> 20));
}

fn shape(n: usize, n_in: usize, n_out: usize) -> ProductShape {
    let (x_stride, w_stride, y_stride) = (n_in, n_in, n_out);
    ProductShape { n, n_in, n_out, x_stride, w_stride, y_stride, float_out: true, has_bias: false, adds: false }
}

/// cuBLASLt beside the plain kernel.
pub fn products(run: &Run<'_>, report: &mut Report) {
    for (n, n_in, n_out) in [(64, 64, 64), (100, 768, 2304), (257, 1024, 777), (1, 64, 1000)] {
        let (n, n_out) = if run.is_small { (n.min(16), n_out.min(64)) } else { (n, n_out) };
        let given = |data: Vec<u8>| {
            let memory = memory(run.device, data.len());
            memory.write(0, data);
            memory
        };
        let (x, w) = (given(halves(n * n_in, "x")), given(halves(n_out * n_in, "w")));
        let ys = [memory(run.device, n * n_out * 4), memory(run.device, n * n_out * 4)];
        let product = |y: &Memory| {
            let (x, w, y) = (x.address(), w.address(), y.address());
            Product { x, w, bias: 0, y, shape: shape(n, n_in, n_out) }
        };
        run.device.multiply(product(&ys[0]));
        run.device.multiply_plainly(product(&ys[1]));
        let [got, want] = ys.map(|y| {
            let bytes = y.read(0, y.bytes()).expect("a device");
            bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("four"))).collect::<Vec<_>>()
        });
        let error = fixture::worst_row_error(&got, &want, n_out);
        let text = format!("cuBLASLt is {error:.1e} from the plain kernel");
        report.check(&format!("product {n} x {n_in} x {n_out}"), error < 1e-5, &text);
    }
}

/// The largest rate of products.
pub fn peak(run: &Run<'_>, report: &mut Report) {
    let n = if run.is_small { 64 } else { 8192 };
    let [x, w, y] = [2, 2, 4].map(|size| memory(run.device, n * n * size));
    [&x, &w].iter().for_each(|m| m.clear(0, n * n * 2));
    let product = Product { x: x.address(), w: w.address(), bias: 0, y: y.address(), shape: shape(n, n, n) };
    run.device.multiply(product);
    let times = if run.is_small { 1 } else { 20 };
    let seconds = run.device.timed(|| (0..times).for_each(|_| run.device.multiply(product))).expect("a device");
    let flops = 2.0 * (n as f64).powi(3) * f64::from(times);
    report.number("peak", &format!("product of {n} x {n}"), flops / seconds / 1e12, "TFLOP/s");
}

/// Whole TopK steps from rows that are on the device: forward, backward, clip, Adam, norms.
pub fn sae_step(run: &Run<'_>, report: &mut Report) {
    let sizes: &[(usize, usize, usize)] =
        if run.is_small { &[(64, 256, 64)] } else { &[(768, 16_384, 16_384), (2304, 65_536, 16_384)] };
    for &(d, f, n) in sizes {
        let backend = Cuda::for_coders(run.device.clone()).expect("a device");
        let dims = CoderDims::square(d, f);
        let settings = CoderSettings::plain(dims, SelectionSettings::TopK { k: 32 }, 1 << 40);
        let params = init::start(&backend, &settings, &mut Seed(1).stream("init"), backend.zeros(d));
        let mut coder = Coder::new(&backend, settings.clone(), params, n);
        let mut adam = Adam::new(&backend, &settings, [0.9, 0.999], 1e-8);
        let mut rng = Seed(1).stream("rows");
        let x = backend.upload(&(0..n * d).map(|_| rng.normal() as f32).collect::<Vec<_>>());
        let mut step = || {
            let batch = Batch { x: &x, target: None, n, scale: 1.0, dead: &[], step: 0 };
            coder.loss_and_gradients(&backend, &batch);
            constraint::project(&backend, &settings, &coder.params, &mut coder.gradients);
            let factor = clip::factor(clip::norm(&backend, &coder.gradients), 1.0);
            adam.update(&backend, &mut coder.params, &coder.gradients, 1e-4, factor);
            constraint::restore(&backend, &settings, &mut coder.params);
        };
        step();
        let times = if run.is_small { 1 } else { 5 };
        let began = Instant::now();
        (0..times).for_each(|_| step());
        run.device.finish().expect("a device");
        let rows = (times * n) as f64 / began.elapsed().as_secs_f64();
        report.number("sae_step", &format!("TopK 32, {d} to {f}, batches of {n}"), rows / 1e6, "M rows/s");
    }
}

/// Reads nothing, at the end of the last block.
struct Last(HookPoint);

impl<B: Backend> Taps<B> for Last {
    fn wants(&self, point: HookPoint) -> Want {
        if point == self.0 { Want::Read } else { Want::Nothing }
    }

    fn visit(&mut self, _: &B, _: HookPoint, _: &mut B::Tensor, _: usize, _: usize) -> Result<()> {
        Ok(())
    }
}

/// Tokens a second through a model of random weights, of SmolLM2-135M's shape.
pub fn forward(run: &Run<'_>, report: &mut Report) {
    let folder = tempfile::tempdir().expect("a folder");
    let (layers, d, heads, kv_heads, m, v) =
        if run.is_small { (2, 64, 4, 2, 128, 96) } else { (30, 576, 9, 3, 1536, 49_152) };
    let (sequences, context) = if run.is_small { (2, 32) } else { (32, 1024) };
    random_llama(folder.path(), [layers, d, heads, kv_heads, m, v]);
    let source = ModelSource::open(folder.path().to_str().expect("a path")).expect("a model");
    let shape = BatchShape { max_tokens: sequences * context, context_length: context };
    let backend = Arc::new(Cuda::for_models(run.device.clone()).expect("a device"));
    let mut model = model::load(backend, &source, shape, MatrixFormat::Bf16).expect("a model");
    let mut rng = Seed(5).stream("tokens");
    let tokens: Vec<Vec<u32>> =
        (0..sequences).map(|_| (0..context).map(|_| rng.below(v as u64) as u32).collect()).collect();
    let batch = fixture::batch(&tokens.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let mut taps = Last(HookPoint::block(layers as u32 - 1, Site::ResidPost));
    let mut pass = || {
        model.forward(&batch, &mut taps).expect("a pass");
        run.device.finish().expect("a device");
    };
    pass();
    let times = if run.is_small { 1 } else { 5 };
    let began = Instant::now();
    (0..times).for_each(|_| pass());
    let rate = (times * sequences * context) as f64 / began.elapsed().as_secs_f64();
    let what = format!("{layers} blocks of {d}, {sequences} sequences of {context}");
    report.number("forward", &what, rate / 1e6, "M tokens/s");
}

/// A model's folder: shape [layers, d, heads, key/value heads, MLP width, vocabulary].
fn random_llama(folder: &Path, [layers, d, heads, kv_heads, m, v]: [usize; 6]) {
    let kv = d / heads * kv_heads;
    let config = serde_json::json!({
        "model_type": "llama", "hidden_size": d, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "head_dim": d / heads, "intermediate_size": m, "vocab_size": v,
        "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "max_position_embeddings": 2048,
        "tie_word_embeddings": true, "bos_token_id": 0, "eos_token_id": 1,
    });
    std::fs::write(folder.join("config.json"), config.to_string()).expect("a folder that can be written");
    let mut shapes =
        vec![("model.embed_tokens.weight".to_owned(), vec![v, d]), ("model.norm.weight".to_owned(), vec![d])];
    for layer in 0..layers {
        let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
        shapes.extend([
            (name("input_layernorm"), vec![d]),
            (name("post_attention_layernorm"), vec![d]),
            (name("self_attn.q_proj"), vec![d, d]),
            (name("self_attn.k_proj"), vec![kv, d]),
            (name("self_attn.v_proj"), vec![kv, d]),
            (name("self_attn.o_proj"), vec![d, d]),
            (name("mlp.gate_proj"), vec![m, d]),
            (name("mlp.up_proj"), vec![m, d]),
            (name("mlp.down_proj"), vec![d, m]),
        ]);
    }
    let mut rng = Seed(9).stream("weights");
    let values = shapes.into_iter().map(|(name, shape)| {
        let scale = if shape.len() == 1 { 0.0 } else { 0.7 / (shape[1] as f64).sqrt() };
        let one = if shape.len() == 1 { 1.0 } else { 0.0 };
        let mut bits = || half::bf16::from_f64(one + scale * rng.normal()).to_bits().to_le_bytes();
        let bytes: Vec<u8> = (0..shape.iter().product()).flat_map(|_| bits()).collect();
        (name, shape, bytes)
    });
    let values: Vec<_> = values.collect();
    let views = values.iter().map(|(name, shape, bytes)| {
        (name.as_str(), TensorView::new(Dtype::BF16, shape.clone(), bytes).expect("whole numbers"))
    });
    let bytes = safetensors::serialize(views, None).expect("tensors");
    std::fs::write(folder.join("model.safetensors"), bytes).expect("a folder that can be written");
}
