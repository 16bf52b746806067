//! Constants that rows are multiplied by before a coder reads them: one for each site that a row holds.

/// Neighbouring values of a row with one scale.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Part {
    /// Values.
    pub width: usize,
    /// What they are multiplied by.
    pub scale: f64,
}

/// The scales of what a coder reads and of what it reconstructs.
#[derive(Clone, Debug, PartialEq)]
pub struct Scales {
    /// Of the input's parts.
    pub input: Vec<Part>,
    /// Of the target's parts.
    pub output: Vec<Part>,
}

impl Scales {
    /// One scale for everything, of an autoencoder for rows of `d` values.
    pub fn one(d: usize, scale: f64) -> Self {
        let parts = vec![Part { width: d, scale }];
        Self { input: parts.clone(), output: parts }
    }

    /// `[d]` the scale of each input value.
    pub fn by_input(&self) -> Vec<f64> {
        columns(&self.input)
    }

    /// `[out]` the scale of each value that is reconstructed.
    pub fn by_output(&self) -> Vec<f64> {
        columns(&self.output)
    }

    /// The scale of the input, and of rows whose parts are scaled already: a product with one number is the same bits as in
    /// training.
    pub(crate) fn of_input(&self) -> Option<f64> {
        match self.input[..] {
            [part] => Some(part.scale),
            _ => None,
        }
    }
}

/// The scale of each column.
pub fn columns(parts: &[Part]) -> Vec<f64> {
    parts.iter().flat_map(|part| std::iter::repeat_n(part.scale, part.width)).collect()
}

/// Multiply rows by the scales of their parts.
pub fn apply(rows: &mut [f32], parts: &[Part]) {
    let scales = columns(parts);
    for row in rows.chunks_exact_mut(scales.len()) {
        row.iter_mut().zip(&scales).for_each(|(x, scale)| *x = (f64::from(*x) * scale) as f32);
    }
}

/// The inverse of [`apply`].
pub fn undo(rows: &mut [f32], parts: &[Part]) {
    let scales = columns(parts);
    for row in rows.chunks_exact_mut(scales.len()) {
        row.iter_mut().zip(&scales).for_each(|(x, scale)| *x = (f64::from(*x) / scale) as f32);
    }
}
