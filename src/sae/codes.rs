//! Codes on the host: of each row the latents that fire, and their values.

/// The codes of rows, each as long as it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Codes {
    ends: Vec<usize>,
    latents: Vec<u32>,
    values: Vec<f32>,
}

impl Codes {
    /// Add a row: its latents, ascending, and their values.
    pub fn push(&mut self, latents: &[u32], values: &[f32]) {
        assert_eq!(latents.len(), values.len(), "one value a latent");
        self.latents.extend_from_slice(latents);
        self.values.extend_from_slice(values);
        self.ends.push(self.latents.len());
    }

    /// Forget all rows.
    pub fn clear(&mut self) {
        self.ends.clear();
        self.latents.clear();
        self.values.clear();
    }

    /// Rows.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Entries of all rows together.
    pub fn entries(&self) -> usize {
        self.latents.len()
    }

    /// Values of all rows, one after the other.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// `l0` becomes the number of latents of each row; `fired` `[f]` is counted up.
    pub fn count(&self, l0: &mut Vec<u32>, fired: &mut [u64]) {
        l0.clear();
        for (latents, _) in self.rows() {
            latents.iter().for_each(|&i| fired[i as usize] += 1);
            l0.push(latents.len() as u32);
        }
    }

    /// `[rows, f]`, zeros included.
    pub fn dense(&self, f: usize) -> Vec<f32> {
        let mut out = vec![0.0; self.len() * f];
        for ((latents, values), row) in self.rows().zip(out.chunks_exact_mut(f.max(1))) {
            latents.iter().zip(values).for_each(|(&latent, &value)| row[latent as usize] = value);
        }
        out
    }

    /// Latents and values of a row.
    pub fn row(&self, row: usize) -> (&[u32], &[f32]) {
        let start = if row == 0 { 0 } else { self.ends[row - 1] };
        (&self.latents[start..self.ends[row]], &self.values[start..self.ends[row]])
    }

    /// Latents and values of every row.
    pub fn rows(&self) -> impl Iterator<Item = (&[u32], &[f32])> {
        (0..self.len()).map(|row| self.row(row))
    }
}
