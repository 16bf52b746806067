//! Where pieces get their weights from.

use crate::compute::Backend;
use crate::compute::backend::MatrixFormat;
use crate::model::ModelSpec;
use crate::model::architectures::TensorNames;
use crate::model::weights::Weights;

/// Weights on their way from files to a device, tensor by tensor.
pub(in crate::model) struct Loader<'a, B> {
    pub(in crate::model) backend: &'a B,
    pub(in crate::model) spec: &'a ModelSpec,
    pub(in crate::model) weights: &'a mut Weights,
    pub(in crate::model) format: MatrixFormat,
}

impl<B: Backend> Loader<'_, B> {
    /// The family's names.
    pub(in crate::model) fn names(&self) -> TensorNames {
        self.spec.architecture.tensors
    }

    /// The vector `name` of `len` numbers.
    pub(in crate::model) fn vector(&mut self, name: &str, len: usize) -> B::Tensor {
        let values = self.weights.tensor(name, &[len]);
        self.backend.upload(&values)
    }

    /// The matrix `name`, `[rows, columns]`.
    pub(in crate::model) fn matrix(&mut self, name: &str, rows: usize, columns: usize) -> B::Matrix {
        let values = self.values(name, rows, columns);
        self.backend.matrix(values, self.format)
    }

    /// The matrix `name`, `[rows, columns]`, for products alone.
    pub(in crate::model) fn product_matrix(&mut self, name: &str, rows: usize, columns: usize) -> B::Matrix {
        let values = self.values(name, rows, columns);
        self.backend.weights(values, [rows, columns], self.format)
    }

    /// The numbers of matrix `name`, `[rows, columns]`; some families store it as `[columns, rows]`.
    pub(in crate::model) fn values(&mut self, name: &str, rows: usize, columns: usize) -> Vec<f32> {
        match self.names().transposed && name.starts_with(self.names().blocks) {
            true => self.weights.transposed(name, rows, columns),
            false => self.weights.tensor(name, &[rows, columns]),
        }
    }

    /// The whole name of `part` of block `layer`.
    pub(in crate::model) fn in_block(&self, layer: u32, part: &str) -> String {
        format!("{}.{layer}.{part}", self.names().blocks)
    }
}
