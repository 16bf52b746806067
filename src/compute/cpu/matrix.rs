//! A model's matrices, as they are kept.

use half::bf16;
use half::slice::HalfFloatSliceExt;

use crate::compute::backend::MatrixFormat;
use crate::compute::cpu::product::Panels;

/// Numbers in one of the formats of [`MatrixFormat`], row after row or in panels.
#[derive(Clone, Debug, PartialEq)]
pub enum Matrix {
    /// As they are.
    F32(Vec<f32>),
    /// Rounded to bfloat16.
    Bf16(Vec<bf16>),
    /// Either, in the order in which products read them.
    Panels(Panels),
}

impl Matrix {
    /// `data`, rounded to `format`.
    pub(super) fn new(data: Vec<f32>, format: MatrixFormat) -> Self {
        match format {
            MatrixFormat::F32 => Self::F32(data),
            MatrixFormat::Bf16 => {
                let mut rounded = vec![bf16::ZERO; data.len()];
                rounded.convert_from_f32_slice(&data);
                Self::Bf16(rounded)
            }
        }
    }

    /// Numbers.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::Bf16(values) => values.len(),
            Self::Panels(panels) => panels.len(),
        }
    }

    /// Copy the numbers from `at` on to `out`.
    pub(super) fn copy_to(&self, at: usize, out: &mut [f32]) {
        match self {
            Self::F32(values) => out.copy_from_slice(&values[at..at + out.len()]),
            Self::Bf16(values) => values[at..at + out.len()].convert_to_f32_slice(out),
            Self::Panels(panels) => panels.copy_to(at, out),
        }
    }
}
