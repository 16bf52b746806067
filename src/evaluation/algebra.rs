//! Dense linear algebra in f64, row-major: products, systems of equations, eigenvalues. Sizes are those of widths of
//! activations, not of dictionaries.

use rayon::prelude::*;

/// Rows of a block that stays in cache.
const BLOCK: usize = 64;

/// `out += a' b`: `a` `[n, p]`, `b` `[n, q]`, `out` `[p, q]`.
pub fn add_products(a: &[f64], p: usize, b: &[f64], q: usize, out: &mut [f64]) {
    assert!(a.len() / p == b.len() / q && out.len() == p * q, "shapes of a product");
    for (a, b) in a.chunks(BLOCK * p).zip(b.chunks(BLOCK * q)) {
        out.par_chunks_mut(q).enumerate().with_min_len(16).for_each(|(i, out)| {
            for (a, b) in a.chunks_exact(p).zip(b.chunks_exact(q)) {
                let factor = a[i];
                out.iter_mut().zip(b).for_each(|(out, b)| *out += factor * b);
            }
        });
    }
}

/// Solve `a x = b` for a symmetric positive definite `a` `[n, n]`, which is overwritten; `b` `[n, m]` becomes `x`. `None`
/// if `a` is not positive definite to machine precision.
pub fn solve(a: &mut [f64], n: usize, b: &mut [f64], m: usize) -> Option<()> {
    assert!(a.len() == n * n && b.len() == n * m, "shapes of a system");
    for i in 0..n {
        let (above, row) = a.split_at_mut(i * n);
        for j in 0..i {
            let other = &above[j * n..][..=j];
            row[j] = (row[j] - dot(&row[..j], &other[..j])) / other[j];
        }
        let left = row[i] - dot(&row[..i], &row[..i]);
        if !(left > 0.0 && left.is_finite()) {
            return None;
        }
        row[i] = left.sqrt();
    }
    for i in 0..n {
        for j in 0..i {
            subtract(b, m, i, j, a[i * n + j]);
        }
        b[i * m..][..m].iter_mut().for_each(|x| *x /= a[i * n + i]);
    }
    for i in (0..n).rev() {
        for j in i + 1..n {
            subtract(b, m, i, j, a[j * n + i]);
        }
        b[i * m..][..m].iter_mut().for_each(|x| *x /= a[i * n + i]);
    }
    Some(())
}

/// `b[i] -= factor b[j]`, rows of `m` values.
fn subtract(b: &mut [f64], m: usize, i: usize, j: usize, factor: f64) {
    let (low, high) = b.split_at_mut(i.max(j) * m);
    let (to, from) = if i > j { (&mut high[..m], &low[j * m..][..m]) } else { (&mut low[i * m..][..m], &high[..m]) };
    to.iter_mut().zip(from).for_each(|(to, from)| *to -= factor * from);
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    // independent sums: the loop vectorises
    let mut sums = [0f64; 8];
    let (blocks, rest) = (a.chunks_exact(8).zip(b.chunks_exact(8)), a.len() / 8 * 8);
    for (a, b) in blocks {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    sums.iter().sum::<f64>() + a[rest..].iter().zip(&b[rest..]).map(|(a, b)| a * b).sum::<f64>()
}

/// Eigenvalues of a symmetric `[n, n]` matrix, ascending, and its eigenvectors as rows of `[n, n]`.
///
/// Householder reduction and implicit QL (EISPACK's `tred2` and `tql2`), with the vectors kept as rows so that every
/// inner loop is contiguous.
pub fn symmetric_eigen(mut v: Vec<f64>, n: usize) -> (Vec<f64>, Vec<f64>) {
    assert_eq!(v.len(), n * n, "shape of a symmetric matrix");
    if n == 0 {
        return (Vec::new(), Vec::new());
    }
    let (mut d, mut e) = (vec![0.0; n], vec![0.0; n]);
    tridiagonalise(&mut v, n, &mut d, &mut e);
    accumulate(&mut v, n, &mut d);
    implicit_ql(&mut v, n, &mut d, &mut e);
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&i, &j| d[i].total_cmp(&d[j]));
    let values = order.iter().map(|&i| d[i]).collect();
    let vectors = order.iter().flat_map(|&i| v[i * n..][..n].iter().copied()).collect();
    (values, vectors)
}

/// Diagonal and subdiagonal by Householder reflections, which stay in `v`. Column `j` of EISPACK's matrix is row `j` here.
fn tridiagonalise(v: &mut [f64], n: usize, d: &mut [f64], e: &mut [f64]) {
    for j in 0..n {
        d[j] = v[j * n + n - 1];
    }
    for i in (1..n).rev() {
        let scale: f64 = d[..i].iter().map(|x| x.abs()).sum();
        let mut h = 0.0;
        if scale == 0.0 {
            e[i] = d[i - 1];
            for j in 0..i {
                d[j] = v[j * n + i - 1];
                v[j * n + i] = 0.0;
                v[i * n + j] = 0.0;
            }
        } else {
            d[..i].iter_mut().for_each(|x| *x /= scale);
            h = d[..i].iter().map(|x| x * x).sum();
            let f = d[i - 1];
            let g = if f > 0.0 { -f64::sqrt(h) } else { f64::sqrt(h) };
            e[i] = scale * g;
            h -= f * g;
            d[i - 1] = f - g;
            reflect(v, n, i, h, d, e);
        }
        d[i] = h;
    }
}

/// One reflection of [`tridiagonalise`], of the leading `i` rows and columns.
fn reflect(v: &mut [f64], n: usize, i: usize, h: f64, d: &mut [f64], e: &mut [f64]) {
    e[..i].fill(0.0);
    for j in 0..i {
        let f = d[j];
        v[i * n + j] = f;
        let mut g = e[j] + v[j * n + j] * f;
        let column = &v[j * n + j + 1..j * n + i];
        for ((x, d), e) in column.iter().zip(&d[j + 1..i]).zip(&mut e[j + 1..i]) {
            g += x * d;
            *e += x * f;
        }
        e[j] = g;
    }
    e[..i].iter_mut().for_each(|e| *e /= h);
    let f: f64 = e[..i].iter().zip(&d[..i]).map(|(e, d)| e * d).sum();
    let half = f / (h + h);
    for (e, d) in e[..i].iter_mut().zip(&d[..i]) {
        *e -= half * d;
    }
    for j in 0..i {
        let (f, g) = (d[j], e[j]);
        let column = &mut v[j * n + j..j * n + i];
        for ((x, e), d) in column.iter_mut().zip(&e[j..i]).zip(&d[j..i]) {
            *x -= f * e + g * d;
        }
        d[j] = v[j * n + i - 1];
        v[j * n + i] = 0.0;
    }
}

/// The product of the reflections.
fn accumulate(v: &mut [f64], n: usize, d: &mut [f64]) {
    for i in 0..n - 1 {
        v[i * n + n - 1] = v[i * n + i];
        v[i * n + i] = 1.0;
        let h = d[i + 1];
        let (before, after) = v.split_at_mut((i + 1) * n);
        let next = &mut after[..=i];
        if h != 0.0 {
            for (d, x) in d.iter_mut().zip(next.iter()) {
                *d = x / h;
            }
            for column in before.chunks_exact_mut(n) {
                let g = dot(next, &column[..=i]);
                column.iter_mut().zip(&d[..=i]).for_each(|(x, d)| *x -= g * d);
            }
        }
        next.fill(0.0);
    }
    for j in 0..n {
        d[j] = v[j * n + n - 1];
        v[j * n + n - 1] = 0.0;
    }
    v[n * n - 1] = 1.0;
}

/// Eigenvalues of the tridiagonal matrix, with the vectors turned along.
fn implicit_ql(v: &mut [f64], n: usize, d: &mut [f64], e: &mut [f64]) {
    e.rotate_left(1);
    e[n - 1] = 0.0;
    let (mut shift, mut largest) = (0.0, 0f64);
    for l in 0..n {
        largest = largest.max(d[l].abs() + e[l].abs());
        let small = f64::EPSILON * largest;
        let m = (l..n).find(|&m| e[m].abs() <= small).unwrap_or(n - 1);
        // two or three rounds are usual; without an end only for what is not finite
        for _ in 0..if m > l { 100 } else { 0 } {
            let g = d[l];
            let mut p = (d[l + 1] - g) / (2.0 * e[l]);
            let r = p.hypot(1.0).copysign(p);
            d[l] = e[l] / (p + r);
            d[l + 1] = e[l] * (p + r);
            let (dl1, el1, h) = (d[l + 1], e[l + 1], g - d[l]);
            d[l + 2..].iter_mut().for_each(|d| *d -= h);
            shift += h;
            p = d[m];
            let (mut c, mut c2, mut c3, mut s, mut s2) = (1.0, 1.0, 1.0, 0.0, 0.0);
            for i in (l..m).rev() {
                (c3, c2, s2) = (c2, c, s);
                let (g, h, r) = (c * e[i], c * p, p.hypot(e[i]));
                e[i + 1] = s * r;
                s = e[i] / r;
                c = p / r;
                p = c * d[i] - s * g;
                d[i + 1] = h + s * (c * g + s * d[i]);
                let (first, second) = v[i * n..][..2 * n].split_at_mut(n);
                for (x, y) in first.iter_mut().zip(second) {
                    (*x, *y) = (c * *x - s * *y, s * *x + c * *y);
                }
            }
            p = -s * s2 * c3 * el1 * e[l] / dl1;
            e[l] = s * p;
            d[l] = c * p;
            if e[l].abs() <= small || !e[l].is_finite() {
                break;
            }
        }
        d[l] += shift;
        e[l] = 0.0;
    }
}
