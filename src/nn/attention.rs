//! Attention: exact, and approximated with landmarks (Xiong et al. 2021, "Nystromformer",
//! arXiv 2102.03902).

use crate::{Error, Tensor};

/// What stands where a query may not look: far below any score, but finite, so that no
/// difference of infinities arises.
const HIDDEN: f32 = -1e30;

/// Queries `[.., T, d]`, keys `[.., S, d]` and values `[.., S, e]` with equal leading axes,
/// or what is wrong with them.
fn check(op: &str, [q, k, v]: [&Tensor; 3]) -> crate::Result<()> {
    for t in [q, k, v] {
        t.check()?;
    }
    let parts = |t: &Tensor| match t.shape().dims() {
        [lead @ .., rows, width] => Some((lead.to_vec(), *rows, *width)),
        _ => None,
    };
    if let (Some((a, _, d)), Some((b, s, d_k)), Some((c, s_v, _))) = (parts(q), parts(k), parts(v))
        && a == b
        && b == c
        && d == d_k
        && s == s_v
    {
        return Ok(());
    }
    Err(Error::shape(
        op,
        format!(
            "expected queries [.., T, d], keys [.., S, d] and values [.., S, e], got {:?}, {:?} and {:?}",
            q.shape(),
            k.shape(),
            v.shape()
        ),
    ))
}

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
    /// `softmax(q k^T * scale) v` of these queries `q` `[.., T, d]` with keys `[.., S, d]`
    /// and values `[.., S, e]`: `[.., T, e]`. The usual scale is `1 / sqrt(d)`. Where
    /// `causal`, query `t` sees the keys `0..=t` only.
    ///
    /// The scores `[.., T, S]` are stored. Errors: shapes that do not fit.
    #[track_caller]
    pub fn attention(&self, keys: &Tensor, values: &Tensor, scale: f32, causal: bool) -> Tensor {
        if let Err(error) = check("attention", [self, keys, values]) {
            return self.graph().poisoned(error);
        }
        let mut scores = self.matmul_with(keys, false, true).mul_scalar(scale);
        if causal {
            let numbers = |n: usize| -> Vec<f32> { (0..n).map(|i| i as f32).collect() };
            let (t, s) = (self.dim(-2), keys.dim(-2));
            let row = self.graph().constant([t, 1], &numbers(t));
            let column = self.graph().constant([s], &numbers(s));
            let hidden = scores.full_like(HIDDEN);
            scores = column.less_equal(&row).select(&scores, &hidden);
        }
        let y = scores.softmax(-1).matmul(values);
        self.graph().observe("", "attention", self, &y);
        y
    }

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
        let checked = check("nystrom_attention", [self, keys, values]).and_then(|()| {
            match fits(t) && fits(s) {
                true => Ok(()),
                false => Err(Error::argument(
                    "nystrom_attention",
                    format!("{m} landmarks do not divide {t} queries and {s} keys"),
                )),
            }
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
