//! The vocabulary of operations on a device.
//!
//! A [`Cuda`] is for models or for coders. What a model computes is kept as bfloat16, as Hugging Face does on a GPU; sums are f32, and
//! so are the weights of norms and the tables of rotary embeddings. What a coder is trained with is f32. Operations are sent to the device and done in the order they were sent; only reading waits.
//! They have no results: a fault of the device ends the stage that meets it, with the fault as its error ([`super::Fault`]).

mod coder;
mod launches;
mod model;

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use half::bf16;

use super::device::{Device, Memory};
use super::kernels::capture::Capture;
use super::kernels::{Bf16, In, Out, VECTOR};
use super::product::{Product, ProductShape};
use crate::compute::backend::{Backend, LinearDims, MatrixFormat};
use crate::error::Error;

pub use launches::Index;
pub use model::BatchIndex;

/// The operations on a device.
pub struct Cuda {
    device: Device,
    /// What new buffers hold.
    numbers: Numbers,
    /// What products pass through that are not results; it grows to the largest.
    scratch: Mutex<Memory>,
}

/// A buffer on a device.
pub struct Tensor {
    memory: Memory,
    len: usize,
    numbers: Numbers,
    /// The same numbers as bfloat16, of what was uploaded as f32: what products add.
    rounded: Option<Memory>,
}

/// What a buffer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Numbers {
    Bf16,
    F32,
}

/// A model's matrix, in bfloat16.
pub struct Matrix {
    memory: Memory,
    len: usize,
}

impl Cuda {
    /// The operations of models on `device`.
    ///
    /// # Errors
    /// What ended the device.
    pub fn for_models(device: Device) -> Result<Self, Error> {
        Self::new(device, Numbers::Bf16)
    }

    /// The operations of coders on `device`.
    ///
    /// # Errors
    /// What ended the device.
    pub fn for_coders(device: Device) -> Result<Self, Error> {
        Self::new(device, Numbers::F32)
    }

    fn new(device: Device, numbers: Numbers) -> Result<Self, Error> {
        let scratch = Mutex::new(device.allocate(0)?);
        Ok(Self { device, numbers, scratch })
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Memory that nobody has written.
    fn memory(&self, bytes: usize) -> Memory {
        self.device.allocate(bytes).unwrap_or_else(|fault| fault.raise())
    }

    fn zeros_of(&self, len: usize, numbers: Numbers) -> Tensor {
        let memory = self.memory(len * numbers.bytes());
        memory.clear(0, memory.bytes());
        Tensor { memory, len, numbers, rounded: None }
    }

    /// Whole numbers on the device.
    fn indices(&self, data: &[u32]) -> Memory {
        let memory = self.memory(size_of_val(data));
        memory.write(0, bytemuck::cast_slice(data).to_vec());
        memory
    }

    /// Give `use_it` the address of `bytes` bytes of scratch: what is sent while it runs may use them.
    fn with_scratch(&self, bytes: usize, use_it: impl FnOnce(u64)) {
        let mut scratch = self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        if scratch.bytes() < bytes {
            *scratch = self.memory(bytes);
        }
        use_it(scratch.address());
    }

    /// Enqueue `y = x w^T + bias`, or that added to `y`, of bfloat16 numbers.
    fn product(
        &self,
        [x, w, y]: [u64; 3],
        bias: Option<&Tensor>,
        strides: [usize; 3],
        LinearDims { n, n_in, n_out }: LinearDims,
        adds: bool,
    ) {
        if n == 0 || n_out == 0 {
            return;
        }
        let bias = bias.map_or(0, |bias| bias.as_addend());
        let [x_stride, w_stride, y_stride] = strides;
        let (float_out, has_bias) = (false, bias != 0);
        let shape = ProductShape { n, n_in, n_out, x_stride, w_stride, y_stride, float_out, has_bias, adds };
        self.device.multiply(Product { x, w, bias, y, shape });
    }
}

impl Numbers {
    fn bytes(self) -> usize {
        match self {
            Self::Bf16 => 2,
            Self::F32 => 4,
        }
    }
}

impl Tensor {
    /// Its bfloat16 numbers, at least `len`, to read.
    fn halves(&self, len: usize) -> In<Bf16> {
        assert!(self.numbers == Numbers::Bf16 && self.len >= len, "{:?}, {} and not {len}", self.numbers, self.len);
        In::at(self.memory.address())
    }

    /// Its bfloat16 numbers, at least `len`, to change.
    fn halves_mut(&mut self, len: usize) -> Out<Bf16> {
        Out::at(self.halves(len).address())
    }

    /// Room for `len` bfloat16 numbers that replace what it holds.
    fn new_halves(&mut self, len: usize) -> Out<Bf16> {
        self.become_of(Numbers::Bf16);
        self.halves_mut(len)
    }

    /// Its f32 numbers, at least `len`, to read.
    fn floats(&self, len: usize) -> In<f32> {
        assert!(self.numbers == Numbers::F32 && self.len >= len, "{:?}, {} and not {len}", self.numbers, self.len);
        In::at(self.memory.address())
    }

    /// Its f32 numbers, at least `len`, to change.
    fn floats_mut(&mut self, len: usize) -> Out<f32> {
        assert!(self.rounded.is_none(), "what was uploaded for a model is not overwritten");
        Out::at(self.floats(len).address())
    }

    /// Room for `len` f32 numbers that replace what it holds.
    fn new_floats(&mut self, len: usize) -> Out<f32> {
        self.become_of(Numbers::F32);
        self.floats_mut(len)
    }

    /// Hold other numbers in the same memory.
    fn become_of(&mut self, numbers: Numbers) {
        if self.numbers != numbers {
            assert!(self.rounded.is_none(), "what was uploaded is not overwritten");
            self.len = self.memory.bytes() / numbers.bytes();
            self.numbers = numbers;
        }
    }

    /// Its numbers as products add them.
    fn as_addend(&self) -> u64 {
        let memory = self.rounded.as_ref().unwrap_or(&self.memory);
        assert!(self.rounded.is_some() || self.numbers == Numbers::Bf16, "a bias that was not uploaded");
        memory.address()
    }
}

fn halves_of(data: &[f32]) -> Vec<u8> {
    data.iter().flat_map(|&x| bf16::from_f32(x).to_bits().to_le_bytes()).collect()
}

fn floats_of(bytes: &[u8], numbers: Numbers, out: &mut [f32]) {
    match numbers {
        Numbers::Bf16 => {
            for (to, from) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                *to = bf16::from_bits(u16::from_le_bytes([from[0], from[1]])).to_f32();
            }
        }
        Numbers::F32 => {
            for (to, from) in out.iter_mut().zip(bytes.chunks_exact(4)) {
                *to = f32::from_le_bytes([from[0], from[1], from[2], from[3]]);
            }
        }
    }
}

impl Backend for Cuda {
    type Tensor = Tensor;
    type Matrix = Matrix;

    fn name(&self) -> &'static str {
        "cuda"
    }

    fn zeros(&self, len: usize) -> Tensor {
        self.zeros_of(len, self.numbers)
    }

    fn upload(&self, data: &[f32]) -> Tensor {
        let memory = self.memory(size_of_val(data));
        memory.write(0, bytemuck::cast_slice(data).to_vec());
        let rounded = (self.numbers == Numbers::Bf16).then(|| {
            let rounded = self.memory(data.len() * 2);
            rounded.write(0, halves_of(data));
            rounded
        });
        Tensor { memory, len: data.len(), numbers: Numbers::F32, rounded }
    }

    /// In bfloat16 whatever the format: pipelines that ask for another are refused.
    fn matrix(&self, data: Vec<f32>, _: MatrixFormat) -> Matrix {
        let memory = self.memory(data.len() * 2);
        memory.write(0, halves_of(&data));
        Matrix { memory, len: data.len() }
    }

    fn len(&self, t: &Tensor) -> usize {
        t.len
    }

    fn write(&self, t: &mut Tensor, at: usize, data: &[f32]) {
        assert!(at + data.len() <= t.len && t.rounded.is_none());
        let bytes = match t.numbers {
            Numbers::Bf16 => halves_of(data),
            Numbers::F32 => bytemuck::cast_slice(data).to_vec(),
        };
        t.memory.write(at * t.numbers.bytes(), bytes);
    }

    fn read(&self, t: &Tensor, at: usize, out: &mut [f32]) {
        assert!(at + out.len() <= t.len);
        let size = t.numbers.bytes();
        let bytes = t.memory.read(at * size, out.len() * size).unwrap_or_else(|fault| fault.raise());
        floats_of(&bytes, t.numbers, out);
    }

    fn read_f64(&self, t: &Tensor, at: usize, out: &mut [f64]) {
        let mut floats = vec![0f32; out.len()];
        self.read(t, at, &mut floats);
        out.iter_mut().zip(floats).for_each(|(to, from)| *to = f64::from(from));
    }

    fn gather_rows(&self, x: &Tensor, width: usize, columns: Range<usize>, rows: &[u32], out: &mut [f32]) {
        assert!(columns.end <= width && out.len() == rows.len() * columns.len());
        let in_vectors = [width, columns.start, columns.len()].iter().all(|at| at.is_multiple_of(VECTOR));
        if rows.is_empty() || columns.is_empty() {
            return;
        }
        if x.numbers == Numbers::F32 || !in_vectors {
            // a number a row, or a few: all of them, picked here
            let last = rows.iter().max().map_or(0, |&row| row as usize + 1);
            let mut all = vec![0f32; last * width];
            self.read(x, 0, &mut all);
            for (to, &row) in out.chunks_exact_mut(columns.len()).zip(rows) {
                to.copy_from_slice(&all[row as usize * width..][columns.clone()]);
            }
            return;
        }
        let (picked, kept) = (self.indices(rows), self.memory(out.len() * 2));
        let capture = Capture {
            x: x.halves(0),
            rows: In::at(picked.address()),
            slots: In::default(),
            ring_bf16: Out::at(kept.address()),
            ring_float: Out::default(),
            squares: Out::default(),
            n: rows.len() as i32,
            width: columns.len() as i32,
            stride: width as i32,
            column: columns.start as i32,
        };
        self.device.launch(&capture.launch());
        let bytes = kept.read(0, kept.bytes()).unwrap_or_else(|fault| fault.raise());
        floats_of(&bytes, Numbers::Bf16, out);
    }

    fn linear(&self, x: &Tensor, w: &Matrix, bias: Option<&Tensor>, y: &mut Tensor, dims: LinearDims) {
        let LinearDims { n, n_in, n_out } = dims;
        assert!(w.len >= n_in * n_out);
        let addresses = [x.halves(n * n_in).address(), w.memory.address(), y.new_halves(n * n_out).address()];
        self.product(addresses, bias, [n_in, n_in, n_out], dims, false);
    }
}

/// What no pipeline that was found valid asks for.
fn refused(what: &str) -> ! {
    let error = Error::config(format!("{what} cannot be computed on a GPU: set `device: cpu`"));
    std::panic::resume_unwind(Box::new(error))
}

#[cfg(test)]
mod tests {
    use super::super::fault::Fault;
    use super::*;

    #[test]
    fn numbers_are_rounded_to_the_nearest() {
        let bytes = halves_of(&[1.0, -2.5, 1.003_906_3]);
        let mut back = [0f32; 3];
        floats_of(&bytes, Numbers::Bf16, &mut back);
        assert_eq!(back, [1.0, -2.5, 1.0]);
        floats_of(&[0, 0, 128, 63], Numbers::F32, &mut back[..1]);
        assert_eq!(back[0], 1.0);
    }

    #[test]
    fn what_is_refused_is_a_fault_of_the_pipeline() {
        let refused = crate::runtime::worker::catch::<()>(|| refused("a mixture of experts")).unwrap_err();
        assert_eq!(refused.kind(), crate::error::ErrorKind::Config);
        let fault = Fault::Ended { device: "cuda:0".to_owned() };
        let raised = crate::runtime::worker::catch::<()>(|| fault.raise()).unwrap_err();
        assert_eq!(raised.kind(), crate::error::ErrorKind::Device);
    }
}
