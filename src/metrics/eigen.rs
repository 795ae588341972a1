//! What distances of Gaussians need of symmetric matrices, in float64 and row-major.

/// `L` with `a = L L^T`, lower triangular, of a matrix without negative eigenvalues.
/// Pivots that rounding leaves of zero give zero columns.
pub(super) fn root(a: &[f64], n: usize) -> Vec<f64> {
    let largest = (0..n).fold(0.0f64, |m, i| m.max(a[i * n + i].abs()));
    let least = n as f64 * f64::EPSILON * largest;
    let mut l = vec![0.0; n * n];
    for j in 0..n {
        let product =
            |l: &[f64], i: usize| -> f64 { (0..j).map(|k| l[i * n + k] * l[j * n + k]).sum() };
        let pivot = a[j * n + j] - product(&l, j);
        if pivot <= least {
            continue;
        }
        let root = pivot.sqrt();
        l[j * n + j] = root;
        for i in j + 1..n {
            l[i * n + j] = (a[i * n + j] - product(&l, i)) / root;
        }
    }
    l
}

/// The eigenvalues of a symmetric matrix: Householder's reflections to three diagonals,
/// then QL steps with implicit shifts. `None` where these do not converge, as with values
/// that are not finite.
pub(super) fn eigenvalues(mut a: Vec<f64>, n: usize) -> Option<Vec<f64>> {
    let mut off = vec![0.0; n];
    for k in 0..n.saturating_sub(2) {
        let mut v: Vec<f64> = (k + 1..n).map(|i| a[i * n + k]).collect();
        let norm = v.iter().map(|x| x * x).sum::<f64>().sqrt();
        if norm == 0.0 {
            continue;
        }
        let target = -norm.copysign(v[0]);
        off[k] = target;
        v[0] -= target;
        let scale = 2.0 / v.iter().map(|x| x * x).sum::<f64>();
        let rest = k + 1..n;
        let mut w: Vec<f64> = rest
            .clone()
            .map(|i| {
                let row = a[i * n + k + 1..(i + 1) * n].iter();
                scale * row.zip(&v).map(|(a, v)| a * v).sum::<f64>()
            })
            .collect();
        let along = 0.5 * scale * w.iter().zip(&v).map(|(w, v)| w * v).sum::<f64>();
        for (w, v) in w.iter_mut().zip(&v) {
            *w -= along * v;
        }
        for i in rest {
            let row = a[i * n + k + 1..(i + 1) * n].iter_mut();
            let (vi, wi) = (v[i - k - 1], w[i - k - 1]);
            for (x, (v, w)) in row.zip(v.iter().zip(&w)) {
                *x -= vi * w + wi * v;
            }
        }
    }
    if n >= 2 {
        off[n - 2] = a[(n - 1) * n + n - 2];
    }
    let diagonal = (0..n).map(|i| a[i * n + i]).collect();
    of_three_diagonals(diagonal, off)
}

/// QL steps allowed for one eigenvalue; two or three are common.
const STEPS: usize = 64;

/// Of diagonal `d` and `e`, where `e[i]` stands between `i` and `i + 1`.
fn of_three_diagonals(mut d: Vec<f64>, mut e: Vec<f64>) -> Option<Vec<f64>> {
    let n = d.len();
    let all = d.iter().chain(&e).fold(0.0f64, |m, v| m.max(v.abs()));
    for l in 0..n {
        let mut steps = 0;
        loop {
            let negligible = |m: &usize| {
                let beside = d[*m].abs() + d[m + 1].abs();
                e[*m].abs() <= f64::EPSILON * beside.max(f64::EPSILON * all)
            };
            let m = (l..n - 1).find(negligible).unwrap_or(n - 1);
            if m == l {
                break;
            }
            steps += 1;
            if steps > STEPS {
                return None;
            }
            let shift = (d[l + 1] - d[l]) / (2.0 * e[l]);
            let mut g = d[m] - d[l] + e[l] / (shift + shift.hypot(1.0).copysign(shift));
            let (mut s, mut c, mut p) = (1.0, 1.0, 0.0);
            let mut split = false;
            for i in (l..m).rev() {
                let (f, b) = (s * e[i], c * e[i]);
                let r = f.hypot(g);
                e[i + 1] = r;
                if r == 0.0 {
                    d[i + 1] -= p;
                    e[m] = 0.0;
                    split = true;
                    break;
                }
                (s, c) = (f / r, g / r);
                g = d[i + 1] - p;
                let t = (d[i] - g) * s + 2.0 * c * b;
                p = s * t;
                d[i + 1] = g + p;
                g = c * t - b;
            }
            if !split {
                d[l] -= p;
                e[l] = g;
                e[m] = 0.0;
            }
        }
    }
    d.iter().all(|v| v.is_finite()).then_some(d)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The second differences of a line of `n` points: `2 - 2 cos(k pi / (n + 1))`.
    #[test]
    fn eigenvalues_that_are_known() {
        for n in [1, 2, 3, 17, 64] {
            let mut a = vec![0.0; n * n];
            for i in 0..n {
                a[i * n + i] = 2.0;
                if i + 1 < n {
                    a[i * n + i + 1] = -1.0;
                    a[(i + 1) * n + i] = -1.0;
                }
            }
            // Turned by a reflection, so that no diagonal is empty.
            let u: Vec<f64> = (0..n).map(|i| ((i * 7 + 3) % 11) as f64 - 4.5).collect();
            let length: f64 = u.iter().map(|x| x * x).sum();
            let h = |i: usize, j: usize| f64::from(u8::from(i == j)) - 2.0 * u[i] * u[j] / length;
            let times = |l: &dyn Fn(usize, usize) -> f64, r: &dyn Fn(usize, usize) -> f64| {
                let cells = (0..n * n).map(|at| (0..n).map(|k| l(at / n, k) * r(k, at % n)).sum());
                cells.collect::<Vec<f64>>()
            };
            let half = times(&h, &|i, j| a[i * n + j]);
            let turned = times(&|i, j| half[i * n + j], &h);
            let mut got = eigenvalues(turned, n).unwrap();
            got.sort_by(f64::total_cmp);
            for (k, got) in got.iter().enumerate() {
                let angle = (k + 1) as f64 * std::f64::consts::PI / (n + 1) as f64;
                assert!(
                    (got - (2.0 - 2.0 * angle.cos())).abs() < 1e-13,
                    "{n} {k}: {got}"
                );
            }
        }
        assert_eq!(eigenvalues(vec![f64::NAN, 1.0, 1.0, f64::NAN], 2), None);
    }
}
