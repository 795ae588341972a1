//! The Frechet distance of two Gaussians, as between features of images (FID).

use super::eigen::{eigenvalues, root};
use crate::{Error, Result};

/// Mean and covariance of points with `d` coordinates.
#[derive(Debug, Clone, PartialEq)]
pub struct Gaussian {
    mean: Vec<f64>,
    covariance: Vec<f64>,
}

impl Gaussian {
    /// From `mean [d]` and `covariance [d, d]`. Errors: other sizes, values that are not
    /// finite, a covariance that is not symmetric.
    pub fn new(mean: Vec<f64>, covariance: Vec<f64>) -> Result<Self> {
        let d = mean.len();
        if d == 0 || covariance.len() != d * d {
            let detail = format!("{} covariances for {d} coordinates", covariance.len());
            return Err(Error::argument("metrics::Gaussian", detail));
        }
        if mean.iter().chain(&covariance).any(|v| !v.is_finite()) {
            let detail = "a value is not finite";
            return Err(Error::argument("metrics::Gaussian", detail));
        }
        let largest = covariance.iter().fold(0.0f64, |m, v| m.max(v.abs()));
        let skew = |at: &usize| {
            let mirrored = covariance[at % d * d + at / d];
            (covariance[*at] - mirrored).abs() > 1e-6 * largest
        };
        if let Some(at) = (0..d * d).find(skew) {
            let detail = format!("covariance {}, {} is not its mirror image", at / d, at % d);
            return Err(Error::argument("metrics::Gaussian", detail));
        }
        Ok(Gaussian { mean, covariance })
    }

    /// Of samples, `features [n, d]`, with the covariance over `n - 1`. Errors: fewer than
    /// two samples, no whole number of them, values that are not finite.
    pub fn of(features: &[f32], d: usize) -> Result<Self> {
        if d == 0 || !features.len().is_multiple_of(d) || features.len() < 2 * d {
            let detail = format!(
                "{} features are not two or more samples of {d}",
                features.len()
            );
            return Err(Error::argument("metrics::Gaussian", detail));
        }
        let n = features.len() / d;
        let rows = || features.chunks_exact(d);
        let mut mean = vec![0.0; d];
        for row in rows() {
            for (m, x) in mean.iter_mut().zip(row) {
                *m += f64::from(*x) / n as f64;
            }
        }
        let mut covariance = vec![0.0; d * d];
        for row in rows() {
            let gap: Vec<f64> = row
                .iter()
                .zip(&mean)
                .map(|(x, m)| f64::from(*x) - m)
                .collect();
            for (line, a) in covariance.chunks_exact_mut(d).zip(&gap) {
                for (c, b) in line.iter_mut().zip(&gap) {
                    *c += a * b;
                }
            }
        }
        for c in &mut covariance {
            *c /= (n - 1) as f64;
        }
        Gaussian::new(mean, covariance)
    }

    /// The mean, `[d]`.
    pub fn mean(&self) -> &[f64] {
        &self.mean
    }

    /// The covariance, `[d, d]`.
    pub fn covariance(&self) -> &[f64] {
        &self.covariance
    }

    /// `|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2))`, in squared units of the points.
    /// Between features of the Inception network this is FID. Rounding may give a tiny
    /// value of either sign for equal Gaussians.
    ///
    /// The trace of the root is the sum of the roots of the eigenvalues of `L^T S2 L` with
    /// `S1 = L L^T`, which is symmetric and may be singular. Work grows with `d^3`.
    /// Errors: different numbers of coordinates.
    pub fn frechet(&self, other: &Gaussian) -> Result<f64> {
        let d = self.mean.len();
        if other.mean.len() != d {
            let detail = format!("{d} and {} coordinates", other.mean.len());
            return Err(Error::argument("metrics::Gaussian", detail));
        }
        let l = root(&self.covariance, d);
        // s l, then l^T (s l).
        let mut right = vec![0.0; d * d];
        let mut both = vec![0.0; d * d];
        multiply(&mut right, |i, k| other.covariance[i * d + k], &l, d);
        multiply(&mut both, |i, k| l[k * d + i], &right, d);
        let values = eigenvalues(both, d).ok_or_else(|| {
            Error::argument("metrics::Gaussian", "the covariances have no eigenvalues")
        })?;
        let roots: f64 = values.iter().map(|v| v.max(0.0).sqrt()).sum();
        let apart = self
            .mean
            .iter()
            .zip(&other.mean)
            .map(|(a, b)| (a - b) * (a - b));
        let trace = |g: &Gaussian| g.covariance.iter().step_by(d + 1).sum::<f64>();
        Ok(apart.sum::<f64>() + trace(self) + trace(other) - 2.0 * roots)
    }
}

/// Adds `a b` to `y`.
fn multiply(y: &mut [f64], a: impl Fn(usize, usize) -> f64, b: &[f64], d: usize) {
    for (i, line) in y.chunks_exact_mut(d).enumerate() {
        for k in 0..d {
            let a = a(i, k);
            for (y, b) in line.iter_mut().zip(&b[k * d..(k + 1) * d]) {
                *y += a * b;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_an_error() {
        assert!(Gaussian::new(vec![0.0; 2], vec![1.0; 3]).is_err());
        assert!(Gaussian::new(vec![], vec![]).is_err());
        assert!(Gaussian::new(vec![f64::NAN], vec![1.0]).is_err());
        assert!(Gaussian::new(vec![0.0; 2], vec![1.0, 0.5, 0.0, 1.0]).is_err());
        assert!(Gaussian::of(&[1.0, 2.0], 2).is_err());
        assert!(Gaussian::of(&[1.0, 2.0, 3.0], 2).is_err());
        let one = Gaussian::of(&[1.0, 2.0], 1).unwrap();
        let two = Gaussian::of(&[1.0, 2.0, 3.0, 5.0], 2).unwrap();
        assert!(one.frechet(&two).is_err());
    }
}
