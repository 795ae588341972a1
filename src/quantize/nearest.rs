//! Vector quantisation as functions of tensors: what [`super::VectorQuantizer`] and
//! [`super::SimVq`] put together.

use super::output::{Quantized, usage_counts};
use super::rows::{Rows, normalized};
use crate::Tensor;

/// How vectors are compared with codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Metric {
    /// Euclidean distance.
    #[default]
    Euclidean,
    /// Cosine similarity: vectors and codes are brought to length 1 first, and what
    /// comes out has length 1.
    Cosine,
}

/// How gradients by a code become gradients by the vector that it stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Estimator {
    /// Unchanged, as if the code were the vector.
    #[default]
    StraightThrough,
    /// By the rotation and stretch that take the vector to its code, themselves taken for
    /// constants (Fifty et al. 2024, arXiv 2410.06424): [`rotate_to`].
    Rotation,
}

impl Estimator {
    /// `codes` with gradients to `rows`, both `[M, D]`.
    #[track_caller]
    pub fn apply(self, rows: &Tensor, codes: &Tensor) -> Tensor {
        match self {
            Estimator::StraightThrough => rows.straight_through(codes),
            Estimator::Rotation => rotate_to(rows, codes),
        }
    }
}

/// `codes` `[M, D]`, whose gradients go to `rows` `[M, D]` by the linear map that takes each
/// row `e` to its code `q`.
///
/// With `a = e / |e|`, `b = q / |q|` and `r = (a + b) / |a + b|` that map is
/// `x -> |q| / |e| (x - 2 r (r . x) + 2 b (a . x))`, a rotation in the plane of both
/// and a change of length; `e` and `q` in it are constants. Opposite vectors, which no single
/// rotation joins, are reflected. A row shorter than 1e-6 has no direction to speak of and
/// keeps its length, or what it passes on would grow without bound.
#[track_caller]
pub fn rotate_to(rows: &Tensor, codes: &Tensor) -> Tensor {
    let (e, q) = (rows.stop_gradient(), codes.stop_gradient());
    let least: f32 = 1e-12;
    let inverse = |v: &Tensor| {
        let square = v.square().sum(&[-1], true);
        square.clamp(least, f32::MAX).rsqrt()
    };
    let length = |v: &Tensor| v.square().sum(&[-1], true).sqrt();
    let along = |a: &Tensor, x: &Tensor| a.mul(x).sum(&[-1], true);
    let (a, b) = (e.mul(&inverse(&e)), q.mul(&inverse(&q)));
    let middle = a.add(&b);
    let r = middle.mul(&inverse(&middle));
    let turned = rows
        .sub(&r.mul(&along(&r, rows)).mul_scalar(2.0))
        .add(&b.mul(&along(&a, rows)).mul_scalar(2.0));
    let short = length(&e).less(&length(&e).full_like(least.sqrt()));
    let stretch = length(&q).mul(&inverse(&e));
    let stretch = short.select(&stretch.full_like(1.0), &stretch);
    // The map's value is the code but for rounding.
    turned.mul(&stretch).straight_through(&q)
}

/// Quantises `x`, `[M, D]` or `[N, D, ..]`, with `codebook` `[K, D]`, gradients straight
/// through; the loss is `codebook_loss + beta * commitment_loss`. Error: the widths differ.
#[track_caller]
pub fn vector_quantize(x: &Tensor, codebook: &Tensor, metric: Metric, beta: f32) -> Quantized {
    let straight = Estimator::StraightThrough;
    vector_quantize_masked(x, None, codebook, metric, straight, beta)
}

/// [`vector_quantize`] by an estimator, without the positions where `valid` is 0
/// ([`super::Quantizer`]).
#[track_caller]
pub fn vector_quantize_masked(
    x: &Tensor,
    valid: Option<&Tensor>,
    codebook: &Tensor,
    metric: Metric,
    estimator: Estimator,
    beta: f32,
) -> Quantized {
    let laid_out = match codebook.check() {
        Ok(()) => Rows::new("vector_quantize", x, codebook.dim(-1), valid),
        Err(e) => Err(e),
    };
    match laid_out {
        Ok(rows) => quantize_rows(&rows, codebook, metric, estimator, beta),
        Err(e) => Quantized::poisoned(x.graph(), e),
    }
}

#[track_caller]
pub(super) fn quantize_rows(
    laid_out: &Rows,
    codebook: &Tensor,
    metric: Metric,
    estimator: Estimator,
    beta: f32,
) -> Quantized {
    let mut rows = laid_out.rows.clone();
    let mut codebook = codebook.clone();
    if metric == Metric::Cosine {
        rows = normalized(&rows);
        codebook = normalized(&codebook);
    }
    let book = codebook.dim(0);
    // Padded rows, which are zeros, take the code behind the last, which is zeros, too.
    let indices = laid_out.mask_indices(&rows.codebook_nearest(&codebook), book);
    let codes = codebook.gather_rows(&indices);
    let codebook_loss = laid_out.mean(&rows.stop_gradient().sub(&codes).square());
    let commitment_loss = laid_out.mean(&rows.sub(&codes.stop_gradient()).square());
    Quantized {
        loss: codebook_loss.add(&commitment_loss.mul_scalar(beta)),
        codebook_loss,
        commitment_loss,
        ..Quantized::plain(laid_out, &estimator.apply(&rows, &codes), &indices, book)
    }
}

/// The next state of a codebook kept by moving averages.
#[derive(Debug, Clone)]
pub struct EmaUpdate {
    /// Vectors per code in this batch, `[K]`.
    pub counts: Tensor,
    /// The sum of the vectors of each code in this batch, `[K, D]`.
    pub sums: Tensor,
    /// `decay * cluster_size + (1 - decay) * counts`
    pub cluster_size: Tensor,
    /// `decay * embed_sum + (1 - decay) * sums`
    pub embed_sum: Tensor,
    /// `(n + eps) / (total + K eps) * total`, with `n` the new cluster size and
    /// `total` its sum: codes without vectors are not divided by zero.
    pub smoothed_size: Tensor,
    /// `embed_sum / smoothed_size`
    pub codebook: Tensor,
}

/// Moves a codebook toward the vectors `rows` `[M, D]` that took the codes `indices`
/// `[M]` (van den Oord et al. 2017, appendix A.1); indices out of range take no part. No
/// gradient flows. The decay is float64 because `1 - decay` of a float32 would have five
/// good digits only.
#[track_caller]
pub fn ema_update(
    rows: &Tensor,
    indices: &Tensor,
    cluster_size: &Tensor,
    embed_sum: &Tensor,
    decay: f64,
    eps: f32,
) -> EmaUpdate {
    let codes = cluster_size.dim(0);
    let counts = usage_counts(indices, codes);
    let sums = rows
        .stop_gradient()
        .segment_sum(&indices.reshape([indices.numel()]), codes);
    let moved = |old: &Tensor, new: &Tensor| {
        let (kept, taken) = (decay as f32, (1.0 - decay) as f32);
        old.mul_scalar(kept).add(&new.mul_scalar(taken))
    };
    let size = moved(cluster_size, &counts);
    let embed_sum = moved(embed_sum, &sums);
    let total = size.sum(&[], false);
    let smoothed_size = size
        .add_scalar(eps)
        .mul(&total)
        .div(&total.add_scalar(codes as f32 * eps));
    EmaUpdate {
        codebook: embed_sum.div(&smoothed_size.reshape([codes, 1])),
        counts,
        sums,
        cluster_size: size,
        embed_sum,
        smoothed_size,
    }
}
