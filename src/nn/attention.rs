//! Attention approximated with landmarks (Xiong et al. 2021, "Nystromformer",
//! arXiv 2102.03902).

use crate::ops::check_attention;
use crate::{Error, Tensor};

/// How [`Tensor::nystrom_attention`] approximates.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Nystrom {
    /// Landmarks; they must divide the numbers of queries and keys.
    pub landmarks: usize,
    /// Steps of the pseudo-inverse, 6 in the paper.
    pub iterations: usize,
}

impl Nystrom {
    /// So many landmarks, and 6 steps.
    pub fn new(landmarks: usize) -> Self {
        Nystrom {
            landmarks,
            iterations: 6,
        }
    }
}

/// What [`Tensor::nystrom_attention`] gives.
#[derive(Debug, Clone)]
pub struct NystromAttention {
    /// The attention, `[.., T, e]`.
    pub out: Tensor,
    /// The landmarks' attention to each other, `[.., m, m]`.
    pub kernel: Tensor,
    /// Its pseudo-inverse, `[.., m, m]`.
    pub pinv: Tensor,
}

impl Tensor {
    /// The pseudo-inverse of matrices `[.., m, m]` by `iterations` steps of
    /// `V <- V (13 I - A V (15 I - A V (7 I - A V))) / 4` (Razavi et al. 2014; third
    /// order), from `V = A^T / (max column sum * max row sum of |A|)`, each matrix by
    /// itself. Gradients flow through the start as well. Error: not square.
    #[track_caller]
    pub fn pinv_iterate(&self, iterations: usize) -> Tensor {
        if let Err(error) = self.check() {
            return self.graph().poisoned(error);
        }
        let m = self.dim(-1);
        if self.shape().rank() < 2 || self.dim(-2) != m {
            return self.graph().poisoned(Error::shape(
                "pinv_iterate",
                format!(
                    "square matrices [.., m, m] are expected, got {:?}",
                    self.shape()
                ),
            ));
        }
        let size = self.abs();
        let largest = |axis: isize| size.sum(&[axis], true).max(&[-1, -2], true);
        let norms = largest(-2).mul(&largest(-1));
        let unit: Vec<f32> = (0..m * m)
            .map(|i| if i / m == i % m { 1.0 } else { 0.0 })
            .collect();
        let unit = self.graph().constant([m, m], &unit);
        let mut v = self.transpose(-1, -2).div(&norms);
        for _ in 0..iterations {
            let av = self.matmul(&v);
            let mut inner = unit.mul_scalar(7.0).sub(&av);
            for c in [15.0, 13.0] {
                inner = unit.mul_scalar(c).sub(&av.matmul(&inner));
            }
            v = v.matmul(&inner).mul_scalar(0.25);
        }
        v
    }

    /// Attention through landmarks, the means of `T / m` consecutive queries and of `S / m`
    /// consecutive keys: with these `q'`, `k'`,
    /// `softmax(q k'^T) pinv(softmax(q' k'^T)) softmax(q' k^T) v`, all scores times `scale`.
    /// Memory is linear in `T` and `S`.
    ///
    /// Errors: shapes that do not fit, landmarks that do not divide `T` and `S`.
    #[track_caller]
    pub fn nystrom_attention(
        &self,
        keys: &Tensor,
        values: &Tensor,
        scale: f32,
        how: Nystrom,
    ) -> NystromAttention {
        let (t, s, m) = (self.dim(-2), keys.dim(-2), how.landmarks);
        let fits = |n: usize| m > 0 && n.is_multiple_of(m);
        let known = [self, keys, values].iter().try_for_each(|t| t.check());
        let shapes = [self.shape(), keys.shape(), values.shape()];
        let checked = known
            .and_then(|()| check_attention("nystrom_attention", shapes))
            .and_then(|()| match fits(t) && fits(s) {
                true => Ok(()),
                false => Err(Error::argument(
                    "nystrom_attention",
                    format!("{m} landmarks do not divide {t} queries and {s} keys"),
                )),
            });
        if let Err(error) = checked {
            let wrong = self.graph().poisoned(error);
            return NystromAttention {
                out: wrong.clone(),
                kernel: wrong.clone(),
                pinv: wrong,
            };
        }
        let landmarks = |x: &Tensor| {
            let (rows, width) = (x.dim(-2), x.dim(-1));
            let mut shape = x.shape().dims().to_vec();
            shape.truncate(shape.len() - 2);
            shape.extend([m, rows / m, width]);
            x.reshape(shape).mean(&[-2], false)
        };
        let softmax = |q: &Tensor, k: &Tensor| {
            let scores = q.matmul_with(k, false, true).mul_scalar(scale);
            scores.softmax(-1)
        };
        let (few_queries, few_keys) = (landmarks(self), landmarks(keys));
        let kernel = softmax(&few_queries, &few_keys);
        let pinv = kernel.pinv_iterate(how.iterations);
        let seen = softmax(&few_queries, keys).matmul(values);
        let out = softmax(self, &few_keys).matmul(&pinv.matmul(&seen));
        self.graph().observe("", "nystrom attention", self, &out);
        NystromAttention { out, kernel, pinv }
    }
}
