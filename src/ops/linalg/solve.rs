//! Determinants and inverses of square matrices, by their LU factors.

use super::singular::finite;
use super::triangular::Triangular;
use crate::Tensor;

/// The inverse of the matrices with these LU factors: `U^-1 L^-1 P`. All of it infinite
/// where a pivot is zero.
#[track_caller]
pub(crate) fn lu_inverse(lu: &Tensor, perm: &Tensor) -> Tensor {
    let p = perm.stop_gradient().one_hot(lu.dim(-1));
    let y = lu.solve_triangular(&p, Triangular::lower().unit());
    lu.solve_triangular(&y, Triangular::upper())
}

impl Tensor {
    /// The sign and `log |det|` (in nats) of the determinants of `[.., n, n]`, both `[..]`.
    ///
    /// For a singular matrix they are 0 and minus infinity. Gradients flow through the
    /// logarithm: the inverse's transpose, and zeros for a singular matrix. Rounding can
    /// hide that a matrix is singular; its determinant is then tiny, not zero.
    #[track_caller]
    pub fn slogdet(&self) -> (Tensor, Tensor) {
        let factors = self.lu();
        (factors.sign, factors.log_det)
    }

    /// The inverses of square matrices `[.., n, n]`.
    ///
    /// All elements of a singular matrix's inverse are infinite, so that
    /// [`crate::Outputs::check_finite`] finds it, and its gradients are zero.
    #[track_caller]
    pub fn inverse(&self) -> Tensor {
        let (padded, n) = match self.padded() {
            Ok(padded) => padded,
            Err(error) => return self.graph().poisoned(error),
        };
        let factors = padded.lu_padded();
        let inverse = lu_inverse(&factors.lu, &factors.perm);
        let inverse = match padded.dim(-1) == n {
            true => inverse,
            false => inverse.slice(-1, 0, n).slice(-2, 0, n),
        };
        // -Y^T dY Y^T is cheaper than going back through the factors.
        Tensor::with_gradient(&[self], &inverse, |_, y, dy| {
            let y = finite(y);
            let left = y.matmul_with(dy, true, false);
            vec![left.matmul_with(&y, false, true).neg()]
        })
    }
}
