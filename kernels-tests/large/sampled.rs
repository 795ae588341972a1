//! Single entries of results that take the interpreter too long, in float64.

use std::collections::BTreeSet;

use crate::support::Numbers;

/// Some entries of `n`, the first and the last among them: fewer where each has many terms.
fn places(n: usize, terms: usize) -> BTreeSet<usize> {
    let mut numbers = Numbers::new(7);
    let others = (100_000 / terms).clamp(6, 150);
    let others = (0..others).map(|_| numbers.below(n));
    others.chain([0, n - 1]).collect()
}

/// Compares a sum with its terms. Roundings add up like the terms, at random: their share
/// of the sum grows like the root of the count.
#[track_caller]
fn close(what: &str, got: f32, terms: impl Iterator<Item = f64>) {
    let (mut sum, mut squares, mut count) = (0.0, 0.0, 0.0);
    for term in terms {
        sum += term;
        squares += term * term;
        count += 1.0;
    }
    let allowed = (4e-6 + 1e-7 * f64::sqrt(count)) * f64::sqrt(squares).max(1.0);
    let error = (f64::from(got) - sum).abs();
    assert!(
        error <= allowed,
        "{what}: {got}, expected {sum}, error {error:e}"
    );
}

/// `op(a) @ op(b)` of `[m, n]` over `k`.
pub fn product(
    [m, n, k]: [usize; 3],
    [ta, tb]: [bool; 2],
) -> impl Fn(&str, &[Vec<f32>], &[Vec<f32>]) {
    move |what, x, y| {
        for at in places(m * n, k) {
            let (i, j) = (at / n, at % n);
            let terms = (0..k).map(|l| {
                let a = x[0][if ta { l * m + i } else { i * k + l }];
                let b = x[1][if tb { j * k + l } else { l * n + j }];
                f64::from(a) * f64::from(b)
            });
            close(&format!("{what}, {i} {j}"), y[0][at], terms);
        }
    }
}

/// A convolution of square kernels with the same stride and padding on all sides.
#[derive(Clone, Copy)]
pub struct Geometry {
    pub n: usize,
    pub c: usize,
    pub o: usize,
    pub size: [usize; 2],
    pub kernel: usize,
    pub stride: usize,
    pub pad: usize,
    pub groups: usize,
}

impl Geometry {
    pub fn output(&self) -> [usize; 2] {
        self.size
            .map(|extent| (extent + 2 * self.pad - self.kernel) / self.stride + 1)
    }

    /// The pixel of the input that an output sees by a tap.
    fn seen(&self, axis: usize, out: usize, tap: usize) -> Option<usize> {
        let at = (out * self.stride + tap).checked_sub(self.pad)?;
        (at < self.size[axis]).then_some(at)
    }

    /// The output that sees a pixel by a tap.
    fn sees(&self, axis: usize, pixel: usize, tap: usize) -> Option<usize> {
        let at = (pixel + self.pad).checked_sub(tap)?;
        let out = at / self.stride;
        (at % self.stride == 0 && out < self.output()[axis]).then_some(out)
    }

    /// Of `x`, the weight and the gradient by the output: the output and the gradients by
    /// both.
    pub fn check(self) -> impl Fn(&str, &[Vec<f32>], &[Vec<f32>]) {
        move |what, inputs, values| {
            let [x, weight, dy] = [&inputs[0], &inputs[1], &inputs[2]];
            let (h, w) = (self.size[0], self.size[1]);
            let [p, q] = self.output();
            let (cg, og, k) = (self.c / self.groups, self.o / self.groups, self.kernel);
            let taps = || (0..k * k).map(move |t| (t / k, t % k));
            let of_x = |n: usize, c: usize, i: usize, j: usize| {
                f64::from(x[((n * self.c + c) * h + i) * w + j])
            };
            let of_dy = |n: usize, o: usize, i: usize, j: usize| {
                f64::from(dy[((n * self.o + o) * p + i) * q + j])
            };
            let of_weight = |o: usize, c: usize, (ky, kx): (usize, usize)| {
                f64::from(weight[((o * cg + c) * k + ky) * k + kx])
            };
            for at in places(values[0].len(), cg * k * k) {
                let (n, o, i, j) = (
                    at / (self.o * p * q),
                    at / (p * q) % self.o,
                    at / q % p,
                    at % q,
                );
                let mut terms = Vec::new();
                for (c, tap) in (0..cg).flat_map(|c| taps().map(move |t| (c, t))) {
                    let place = self.seen(0, i, tap.0).zip(self.seen(1, j, tap.1));
                    if let Some((y, x)) = place {
                        terms.push(of_x(n, o / og * cg + c, y, x) * of_weight(o, c, tap));
                    }
                }
                close(&format!("{what}, y {at}"), values[0][at], terms.into_iter());
            }
            for at in places(values[1].len(), og * k * k) {
                let (n, c, i, j) = (
                    at / (self.c * h * w),
                    at / (h * w) % self.c,
                    at / w % h,
                    at % w,
                );
                let mut terms = Vec::new();
                for (o, tap) in (0..og).flat_map(|o| taps().map(move |t| (o, t))) {
                    let place = self.sees(0, i, tap.0).zip(self.sees(1, j, tap.1));
                    if let Some((y, x)) = place {
                        let o = c / cg * og + o;
                        terms.push(of_dy(n, o, y, x) * of_weight(o, c % cg, tap));
                    }
                }
                close(
                    &format!("{what}, dx {at}"),
                    values[1][at],
                    terms.into_iter(),
                );
            }
            for at in places(values[2].len(), self.n * p * q) {
                let (o, c, tap) = (at / (cg * k * k), at / (k * k) % cg, (at / k % k, at % k));
                let mut terms = Vec::new();
                for (n, i, j) in (0..self.n * p * q).map(|at| (at / (p * q), at / q % p, at % q)) {
                    let place = self.seen(0, i, tap.0).zip(self.seen(1, j, tap.1));
                    if let Some((y, x)) = place {
                        terms.push(of_dy(n, o, i, j) * of_x(n, o / og * cg + c, y, x));
                    }
                }
                close(
                    &format!("{what}, dw {at}"),
                    values[2][at],
                    terms.into_iter(),
                );
            }
        }
    }
}

/// The nearest codes of `x[0]` in `x[1]`, `d` wide; ties may fall either way.
pub fn nearest(d: usize) -> impl Fn(&str, &[Vec<f32>], &[Vec<f32>]) {
    move |what, x, y| {
        for row in places(x[0].len() / d, x[1].len()) {
            let gap = |code: usize| -> f64 {
                let pairs = x[0][row * d..][..d].iter().zip(&x[1][code * d..][..d]);
                pairs
                    .map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2))
                    .sum()
            };
            let found = gap(y[0][row] as usize);
            let least = (0..x[1].len() / d).map(gap).fold(f64::INFINITY, f64::min);
            assert!(
                found <= least * (1.0 + 1e-5),
                "{what}, row {row}: {found}, {least}"
            );
        }
    }
}

/// Sum, variance, logsumexp, maximum and the place of the minimum of all numbers.
pub fn long_row(what: &str, x: &[Vec<f32>], y: &[Vec<f32>]) {
    let exact = || x[0].iter().map(|v| f64::from(*v));
    let count = x[0].len() as f64;
    let sum: f64 = exact().sum();
    let mean = sum / count;
    let squares: f64 = exact().map(|v| (v - mean) * (v - mean)).sum();
    let exps: f64 = exact().map(f64::exp).sum();
    let most = exact().fold(f64::NEG_INFINITY, f64::max);
    let expected = [sum, squares / count, exps.ln(), most];
    for (got, expected) in y.iter().zip(expected) {
        let error = (f64::from(got[0]) - expected).abs();
        assert!(
            error <= 4e-6 * expected,
            "{what}: {}, expected {expected}",
            got[0]
        );
    }
    let least = x[0].iter().copied().fold(f32::INFINITY, f32::min);
    let first = x[0].iter().position(|v| *v == least).expect("a minimum");
    // Places beyond 2^24 are rounded on the way here.
    assert_eq!(y[4][0], first as f32, "{what}");
}

/// The variance of all numbers.
pub fn variance(what: &str, x: &[Vec<f32>], y: &[Vec<f32>]) {
    let exact = || x[0].iter().map(|v| f64::from(*v));
    let count = x[0].len() as f64;
    let mean = exact().sum::<f64>() / count;
    let expected = exact().map(|v| (v - mean) * (v - mean)).sum::<f64>() / count;
    let got = f64::from(y[0][0]);
    let error = (got - expected).abs();
    assert!(
        error <= 4e-6 * expected,
        "{what}: {got}, expected {expected}"
    );
}

/// Of matrices `[batch, n, n]`: `a[perm] = L U` with no factor of L above 1, and where they
/// are given the logarithm of the determinant and the inverse.
pub fn factors(n: usize) -> impl Fn(&str, &[Vec<f32>], &[Vec<f32>]) {
    move |what, x, y| {
        let a = |batch: usize, i: usize, j: usize| f64::from(x[0][(batch * n + i) * n + j]);
        let lu = |batch: usize, i: usize, j: usize| f64::from(y[0][(batch * n + i) * n + j]);
        let near = |what: &str, got: f64, expected: f64| {
            let error = (got - expected).abs();
            let allowed = 1e-4 + 1e-6 * expected.abs();
            assert!(error <= allowed, "{what}: {got}, expected {expected}");
        };
        for batch in 0..x[0].len() / (n * n) {
            let perm: Vec<usize> = y[1][batch * n..][..n].iter().map(|r| *r as usize).collect();
            let rows: BTreeSet<usize> = perm.iter().copied().collect();
            assert_eq!(rows.len(), n, "{what}: rows of the permutation");
            for at in places(n * n, n) {
                let (i, j) = (at / n, at % n);
                assert!(
                    i <= j || lu(batch, i, j).abs() <= 1.0,
                    "{what}: L at {i} {j}"
                );
                let product = (0..=i.min(j)).map(|k| {
                    let l = if k == i { 1.0 } else { lu(batch, i, k) };
                    l * lu(batch, k, j)
                });
                let product = product.sum();
                near(
                    &format!("{what}, L U at {i} {j}"),
                    product,
                    a(batch, perm[i], j),
                );
                if let Some(inverse) = y.get(3) {
                    let of_inverse = |k: usize| f64::from(inverse[(batch * n + k) * n + j]);
                    let unit = (0..n).map(|k| a(batch, i, k) * of_inverse(k)).sum();
                    near(
                        &format!("{what}, inverse at {i} {j}"),
                        unit,
                        f64::from(i == j),
                    );
                }
            }
            if let Some(log_det) = y.get(2) {
                let exact: f64 = (0..n).map(|i| lu(batch, i, i).abs().ln()).sum();
                near(
                    &format!("{what}, log_det"),
                    f64::from(log_det[batch]),
                    exact,
                );
            }
        }
    }
}

/// That the triangular matrices `x[0]`, their lower halves, times the solution are `x[1]`,
/// of one column.
pub fn solution(n: usize) -> impl Fn(&str, &[Vec<f32>], &[Vec<f32>]) {
    move |what, x, y| {
        for i in places(n, n) {
            let terms = (0..=i).map(|k| f64::from(x[0][i * n + k]) * f64::from(y[0][k]));
            let (sum, expected) = (terms.sum::<f64>(), f64::from(x[1][i]));
            assert!(
                (sum - expected).abs() <= 1e-4,
                "{what}: {sum}, expected {expected}"
            );
        }
    }
}
