//! Spectral normalisation (Miyato et al. 2018, arXiv 1802.05957).

use crate::{Error, Tensor};

/// What [`Tensor::spectral_norm`] gives.
#[derive(Debug, Clone)]
pub struct SpectralNorm {
    /// The weight over its estimated largest singular value.
    pub weight: Tensor,
    /// The estimate, a scalar.
    pub sigma: Tensor,
    /// The left singular vector after the iterations, `[rows]`; no gradient.
    pub u: Tensor,
    /// The right singular vector after the iterations, `[rest]`; no gradient.
    pub v: Tensor,
}

/// `x` with length 1; a length below `eps` counts as `eps`.
#[track_caller]
fn unit(x: &Tensor, eps: f32) -> Tensor {
    let length = x.square().sum(&[], false).sqrt();
    x.div(&length.maximum(&length.full_like(eps)))
}

impl Tensor {
    /// This weight `[rows, ..]`, as a matrix `W` `[rows, rest]`, divided by an estimate of
    /// its largest singular value: `iterations` times `v = W^T u / |W^T u|`,
    /// `u = W v / |W v|`, then `sigma = u^T W v`. Start with the vectors `u` `[rows]` and
    /// `v` `[rest]` of the last step (at first random ones) and keep the returned ones.
    ///
    /// `u` and `v` are constants for the gradient. Lengths, and `sigma`, of a magnitude
    /// below `eps` (PyTorch's is 1e-12) count as `eps`: a weight of zeros stays one.
    /// Error: shapes that do not fit.
    #[track_caller]
    pub fn spectral_norm(
        &self,
        u: &Tensor,
        v: &Tensor,
        iterations: usize,
        eps: f32,
    ) -> SpectralNorm {
        let rows = self.dim(0);
        let rest = self.numel() / rows.max(1);
        let fits = u.shape().dims() == [rows] && v.shape().dims() == [rest];
        let checked = [self, u, v].iter().try_for_each(|t| t.check());
        let checked = checked.and_then(|()| match fits && self.shape().rank() > 0 {
            true => Ok(()),
            false => Err(Error::shape(
                "spectral_norm",
                format!(
                    "a weight {:?} takes vectors [{rows}] and [{rest}], got {:?} and {:?}",
                    self.shape(),
                    u.shape(),
                    v.shape()
                ),
            )),
        });
        if let Err(error) = checked {
            let wrong = self.graph().poisoned(error);
            return SpectralNorm {
                weight: wrong.clone(),
                sigma: wrong.clone(),
                u: wrong.clone(),
                v: wrong,
            };
        }
        let matrix = self.reshape([rows, rest]);
        let fixed = matrix.stop_gradient();
        let mut u = u.stop_gradient().reshape([rows, 1]);
        let mut v = v.stop_gradient().reshape([rest, 1]);
        for _ in 0..iterations {
            v = unit(&fixed.matmul_with(&u, true, false), eps);
            u = unit(&fixed.matmul(&v), eps);
        }
        let sigma = u.mul(&matrix.matmul(&v)).sum(&[], false);
        let least = sigma.full_like(eps);
        let small = sigma.abs().less(&least).stop_gradient();
        let weight = self.div(&small.select(&least, &sigma));
        self.graph().observe("", "spectral norm", self, &weight);
        SpectralNorm {
            weight,
            sigma,
            u: u.reshape([rows]),
            v: v.reshape([rest]),
        }
    }
}
