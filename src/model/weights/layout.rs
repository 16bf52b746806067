//! Rows in another order than Hugging Face's, put back.

/// How the rows of a stored tensor lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// As in Hugging Face.
    Same,
    /// `[columns, rows]` where Hugging Face has `[rows, columns]`.
    Transposed,
    /// In each head, rows `i` and `i + half` of Hugging Face lie side by side: rotary pairs.
    PairedRows {
        /// Heads that the rows belong to.
        heads: usize,
    },
    /// All heads' queries, then keys, then values, where Hugging Face has query, key and value of each head.
    SplitHeads {
        /// Heads that the rows belong to.
        heads: usize,
    },
}

impl Layout {
    /// Whether `rows` can be laid out so.
    pub fn fits(self, rows: usize) -> bool {
        match self {
            Self::Same | Self::Transposed => true,
            Self::PairedRows { heads } => heads > 0 && rows.is_multiple_of(2 * heads),
            Self::SplitHeads { heads } => heads > 0 && rows.is_multiple_of(3 * heads),
        }
    }

    /// `stored` in Hugging Face's order, whose shape is `shape`. [`Layout::fits`] holds for its rows.
    pub fn restore<T: Copy>(self, stored: Vec<T>, shape: &[usize]) -> Vec<T> {
        let rows = shape.first().copied().unwrap_or(1);
        let width = stored.len().checked_div(rows).unwrap_or(0);
        let gather = |from: &dyn Fn(usize) -> usize| {
            (0..rows).flat_map(|row| &stored[from(row) * width..][..width]).copied().collect()
        };
        match self {
            Self::Same => stored,
            Self::Transposed => transposed(&stored, rows, width),
            Self::PairedRows { heads } => {
                let half = rows / heads / 2;
                gather(&|row| {
                    let (head, in_head) = (row / (2 * half), row % (2 * half));
                    2 * (head * half + in_head % half) + in_head / half
                })
            }
            Self::SplitHeads { heads } => {
                let d = rows / heads / 3;
                gather(&|row| {
                    let (head, in_head) = (row / (3 * d), row % (3 * d));
                    (in_head / d * heads + head) * d + in_head % d
                })
            }
        }
    }
}

/// The transpose `[rows, columns]` of `stored`, `[columns, rows]`, tile by tile.
pub(super) fn transposed<T: Copy>(stored: &[T], rows: usize, columns: usize) -> Vec<T> {
    const TILE: usize = 32;
    let Some(&any) = stored.first() else { return Vec::new() };
    let mut values = vec![any; rows * columns];
    for row0 in (0..rows).step_by(TILE) {
        for column0 in (0..columns).step_by(TILE) {
            for row in row0..rows.min(row0 + TILE) {
                for column in column0..columns.min(column0 + TILE) {
                    values[row * columns + column] = stored[column * rows + row];
                }
            }
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transposes_of_all_sizes() {
        for (rows, columns) in [(1, 1), (3, 5), (32, 33), (70, 65), (0, 4), (4, 0)] {
            let stored: Vec<usize> = (0..rows * columns).collect();
            let wanted: Vec<usize> = (0..rows * columns).map(|at| at % columns * rows + at / columns).collect();
            assert_eq!(transposed(&stored, rows, columns), wanted);
        }
    }

    #[test]
    fn pairs_and_heads_are_put_back() {
        // two heads of four rows: Hugging Face's rows 0 1 2 3 are stored as 0 2 1 3
        let paired = vec![0, 2, 1, 3, 4, 6, 5, 7];
        let shape = [8];
        assert_eq!(Layout::PairedRows { heads: 2 }.restore(paired, &shape), [0, 1, 2, 3, 4, 5, 6, 7]);
        // two heads of width one, rows of two values: q0 q1 k0 k1 v0 v1
        let split = vec![0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11];
        assert_eq!(Layout::SplitHeads { heads: 2 }.restore(split, &[6, 2]), (0..12).collect::<Vec<_>>());
        assert!(!Layout::PairedRows { heads: 3 }.fits(8) && !Layout::SplitHeads { heads: 0 }.fits(6));
    }
}
