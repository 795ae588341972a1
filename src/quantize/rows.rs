//! Vector quantisation as functions of tensors: what [`super::VectorQuantizer`]
//! puts together.

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

/// What a vector quantiser gives.
#[derive(Debug, Clone)]
pub struct Quantized {
    /// The codes in place of the vectors, in the input's shape; gradients pass
    /// straight through to the input.
    pub quantized: Tensor,
    /// Which code each vector took (u32): the input's shape without its channel axis.
    pub indices: Tensor,
    /// `mean((stop_gradient(x) - code)^2)`: pulls codes to vectors.
    pub codebook_loss: Tensor,
    /// `mean((x - stop_gradient(code))^2)`: pulls vectors to codes.
    pub commitment_loss: Tensor,
    /// What to add to the model's loss.
    pub loss: Tensor,
    /// `exp(-sum p log(p + 1e-10))` over the shares `p` of the codes in this batch: how
    /// many codes are in use.
    pub perplexity: Tensor,
    /// How many vectors took each code, `[K]`.
    pub counts: Tensor,
}

/// Vectors as rows `[M, D]`: the channel axis (the second one, of more than two)
/// goes last.
pub(crate) fn to_rows(x: &Tensor) -> Tensor {
    let rank = x.shape().rank();
    if rank <= 2 {
        return x.clone();
    }
    let mut axes: Vec<usize> = (0..rank).filter(|a| *a != 1).collect();
    axes.push(1);
    let width = x.dim(1);
    x.permute(&axes).reshape([x.numel() / width, width])
}

/// Rows `[M, D]` back in the places of [`to_rows`]'s input, whose extents without
/// the channel axis are `places`.
pub(crate) fn from_rows(rows: &Tensor, places: &[usize]) -> Tensor {
    if places.len() <= 1 {
        return rows.clone();
    }
    let mut shape = places.to_vec();
    shape.push(rows.dim(-1));
    let last = places.len();
    let mut axes = vec![0, last];
    axes.extend(1..last);
    rows.reshape(shape).permute(&axes)
}

/// The extents of `x` without its channel axis.
pub(crate) fn places(x: &Tensor) -> Vec<usize> {
    let dims = x.shape().dims().iter().enumerate();
    dims.filter(|(i, _)| *i != 1).map(|(_, d)| *d).collect()
}

/// Rows brought to length 1 (lengths below 1e-12 count as 1e-12).
pub(crate) fn normalized(rows: &Tensor) -> Tensor {
    let square = rows.square().sum(&[-1], true);
    rows.mul(&square.clamp(1e-24, f32::MAX).rsqrt())
}

/// Quantises `x`, `[M, D]` or `[N, D, ..]`, with `codebook` `[K, D]`; the loss is
/// `codebook_loss + beta * commitment_loss`. Error: the widths differ.
#[track_caller]
pub fn vector_quantize(x: &Tensor, codebook: &Tensor, metric: Metric, beta: f32) -> Quantized {
    let mut rows = to_rows(x);
    let mut codebook = codebook.clone();
    if metric == Metric::Cosine {
        rows = normalized(&rows);
        codebook = normalized(&codebook);
    }
    let indices = rows.codebook_nearest(&codebook);
    let codes = codebook.gather_rows(&indices);
    let mean_square = |a: &Tensor, b: &Tensor| a.sub(b).square().mean(&[], false);
    let codebook_loss = mean_square(&rows.stop_gradient(), &codes);
    let commitment_loss = mean_square(&rows, &codes.stop_gradient());
    let places = places(x);
    let counts = usage_counts(&indices, codebook.dim(0));
    Quantized {
        quantized: from_rows(&rows.straight_through(&codes), &places),
        loss: codebook_loss.add(&commitment_loss.mul_scalar(beta)),
        codebook_loss,
        commitment_loss,
        perplexity: perplexity(&counts, 1e-10),
        counts,
        indices: if indices.check().is_ok() {
            indices.reshape(places)
        } else {
            indices
        },
    }
}

/// How often each of `codes` codes stands in `indices` (any shape): `[codes]`.
#[track_caller]
pub fn usage_counts(indices: &Tensor, codes: usize) -> Tensor {
    let n = indices.numel();
    let ones = indices.graph().full([n, 1], 1.0);
    ones.segment_sum(&indices.reshape([n]), codes)
        .reshape([codes])
}

/// `exp(-sum p log(p + eps))` with `p = counts / sum(counts)`.
#[track_caller]
pub fn perplexity(counts: &Tensor, eps: f32) -> Tensor {
    let p = counts.div(&counts.sum(&[], false));
    let entropy = p.mul(&p.add_scalar(eps).log()).sum(&[], false).neg();
    entropy.exp()
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
/// `[M]` (van den Oord et al. 2017, appendix A.1). No gradient flows. The decay is
/// float64 because `1 - decay` of a float32 would have five good digits only.
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
