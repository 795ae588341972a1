//! What every quantiser gives and takes.

use super::rows::Rows;
use crate::nn::Mode;
use crate::{Error, Graph, Result, Tensor};

/// What a quantiser gives. A loss term that a quantiser does not have is 0.
#[derive(Debug, Clone)]
pub struct Quantized {
    /// The codes in place of the vectors, in the input's layout; gradients go to the
    /// input by the quantiser's estimator. Zeros at padded positions.
    pub quantized: Tensor,
    /// Which code each vector took (u32): the input's shape without its channel axis,
    /// and at the end one more axis with a place for each book where there are several
    /// ([`Quantizer::books`]). Padded positions have [`Quantizer::codes`], one more than
    /// the last code.
    pub indices: Tensor,
    /// `mean((stop_gradient(x) - code)^2)`: pulls codes to vectors.
    pub codebook_loss: Tensor,
    /// `mean((x - stop_gradient(code))^2)`: pulls vectors to codes.
    pub commitment_loss: Tensor,
    /// What spreads the vectors over the codes, in nats: the entropy term of
    /// [`super::Lfq`], the divergence of [`super::GumbelQuantizer`] from equal shares.
    pub entropy_loss: Tensor,
    /// What to add to the model's loss: the terms with their weights.
    pub loss: Tensor,
    /// `exp(-sum p log(p + 1e-10))` over the shares `p` of the codes in this batch: how
    /// many codes are in use. The mean of those books that took any vector.
    pub perplexity: Tensor,
    /// The share of codes that at least one vector took, 0..1; with several books the
    /// mean of those that took any vector.
    pub usage: Tensor,
    /// How many vectors took each code: `[K]`, or `[books, K]`.
    pub counts: Tensor,
}

/// Something that puts codes in place of vectors.
///
/// Inputs are `[M, D]` or `[N, D, ..]`, channels second, as images have them. A mask is
/// an f32 tensor of the input's shape without its channel axis, 0 where a position is
/// padding and anything else where it counts: padded positions, whatever they hold, NaN
/// included, change no loss, no count and no codebook, and get no gradient.
pub trait Quantizer: Send + Sync {
    /// The channels `D` of the input.
    fn width(&self) -> usize;

    /// The number `K` of codes of a book.
    fn codes(&self) -> usize;

    /// How many codes a vector becomes: 1 but for heads and residual stages.
    fn books(&self) -> usize {
        1
    }

    /// Quantises `x`, leaving out the positions where `valid` is 0. In training,
    /// codebooks kept by moving averages are updated when the program has run. Errors:
    /// `x` has other channels than [`Quantizer::width`], `valid` another shape.
    #[track_caller]
    fn forward_masked(&self, x: &Tensor, valid: Option<&Tensor>, mode: Mode) -> Quantized;

    /// Quantises `x` without padding.
    #[track_caller]
    fn forward(&self, x: &Tensor, mode: Mode) -> Quantized {
        self.forward_masked(x, None, mode)
    }

    /// The vectors of `indices` (u32, laid out as [`Quantized::indices`]): a decoder's
    /// input for given or sampled codes. Zeros where a code is out of range; what comes
    /// from outside is checked with [`Quantizer::check_codes`] first. Error: `indices`
    /// are not u32, or their last axis is not one of [`Quantizer::books`].
    #[track_caller]
    fn decode(&self, indices: &Tensor) -> Tensor;

    /// Error: one of `codes` is none of this quantiser's.
    fn check_codes(&self, codes: &[u32]) -> Result<()> {
        match codes.iter().position(|c| *c as usize >= self.codes()) {
            None => Ok(()),
            Some(at) => Err(Error::argument(
                "codes",
                format!(
                    "code {} at position {at}: this quantiser has codes 0 to {}; the codes may be those of another model",
                    codes[at],
                    self.codes() - 1
                ),
            )),
        }
    }

    /// Starts codebooks with the centres of `rows`, vectors `[M, D]` row-major of one first
    /// batch ([`super::k_means`]; the same seed gives the same codebooks). Errors: this
    /// quantiser has no codebook to start, or those of [`super::k_means`].
    fn start_from(&self, rows: &[f32], seed: u64) -> Result<()> {
        let _ = (rows, seed);
        Err(Error::argument(
            "start_from",
            "this quantiser has no codebook that could start from vectors",
        ))
    }
}

impl<Q: Quantizer + ?Sized> Quantizer for Box<Q> {
    fn width(&self) -> usize {
        (**self).width()
    }
    fn codes(&self) -> usize {
        (**self).codes()
    }
    fn books(&self) -> usize {
        (**self).books()
    }
    fn forward_masked(&self, x: &Tensor, valid: Option<&Tensor>, mode: Mode) -> Quantized {
        (**self).forward_masked(x, valid, mode)
    }
    fn decode(&self, indices: &Tensor) -> Tensor {
        (**self).decode(indices)
    }
    fn start_from(&self, rows: &[f32], seed: u64) -> Result<()> {
        (**self).start_from(rows, seed)
    }
}

impl Quantized {
    /// What a quantiser of one book gives that put `codes` (rows, with their gradients) and
    /// `indices` `[M]`, padded ones masked already, in the place of `rows`, all losses 0.
    pub(super) fn plain(rows: &Rows, codes: &Tensor, indices: &Tensor, book: usize) -> Self {
        let zero = codes.graph().full([], 0.0);
        let indices = rows.place(indices);
        let counts = usage_counts(&indices, book);
        Quantized {
            quantized: rows.restore(codes),
            codebook_loss: zero.clone(),
            commitment_loss: zero.clone(),
            entropy_loss: zero.clone(),
            loss: zero,
            perplexity: perplexity(&counts, 1e-10),
            usage: usage(&counts),
            counts,
            indices,
        }
    }

    /// Nothing but the error.
    #[track_caller]
    pub(super) fn poisoned(graph: &Graph, error: Error) -> Self {
        let poison = graph.poisoned(error);
        Quantized {
            quantized: poison.clone(),
            indices: poison.clone(),
            codebook_loss: poison.clone(),
            commitment_loss: poison.clone(),
            entropy_loss: poison.clone(),
            loss: poison.clone(),
            perplexity: poison.clone(),
            usage: poison.clone(),
            counts: poison,
        }
    }

    /// The results of several books as one: losses added up and multiplied by `weight`,
    /// indices and counts side by side.
    pub(super) fn joined(parts: &[Quantized], quantized: Tensor, weight: f32) -> Self {
        let total = |term: fn(&Quantized) -> &Tensor| {
            let sum = parts[1..].iter().map(term);
            let sum = sum.fold(term(&parts[0]).clone(), |sum, t| sum.add(t));
            sum.mul_scalar(weight)
        };
        let places = quantized.shape().rank() - 1;
        let indices: Vec<Tensor> = (parts.iter())
            .map(|p| match p.indices.shape().rank() > places {
                true => p.indices.clone(),
                false => with_book_axis(&p.indices),
            })
            .collect();
        let indices = Tensor::concat(&indices.iter().collect::<Vec<_>>(), -1);
        let counts: Vec<Tensor> = (parts.iter())
            .map(|p| match p.counts.shape().rank() {
                1 => p.counts.reshape([1, p.counts.numel()]),
                _ => p.counts.clone(),
            })
            .collect();
        let counts = Tensor::concat(&counts.iter().collect::<Vec<_>>(), 0);
        Quantized {
            codebook_loss: total(|p| &p.codebook_loss),
            commitment_loss: total(|p| &p.commitment_loss),
            entropy_loss: total(|p| &p.entropy_loss),
            loss: total(|p| &p.loss),
            perplexity: perplexity(&counts, 1e-10),
            usage: usage(&counts),
            quantized,
            indices,
            counts,
        }
    }
}

/// One more axis of extent 1 at the end.
fn with_book_axis(indices: &Tensor) -> Tensor {
    let mut shape = indices.shape().dims().to_vec();
    shape.push(1);
    indices.reshape(shape)
}

/// The indices of books `from .. from + count` of `indices` `[.., books]`, without the
/// axis where that is one.
#[track_caller]
pub(super) fn books_of(indices: &Tensor, from: usize, count: usize) -> Tensor {
    let part = indices.slice(-1, from, count);
    match (count, part.check()) {
        (1, Ok(())) => {
            let dims = part.shape().dims();
            part.reshape(&dims[..dims.len() - 1])
        }
        _ => part,
    }
}

/// An error unless `indices` are integers whose last axis is one of `books`.
pub(super) fn check_books(op: &str, indices: &Tensor, books: usize) -> Result<()> {
    indices.check()?;
    check_u32(op, indices)?;
    match indices.shape().rank() > 0 && indices.dim(-1) == books {
        true => Ok(()),
        false => Err(Error::shape(
            op,
            format!(
                "the last axis of the indices must be the {books} books, they are {:?}",
                indices.shape()
            ),
        )),
    }
}

/// An error unless `indices` are integers.
pub(super) fn check_u32(op: &str, indices: &Tensor) -> Result<()> {
    match indices.dtype() {
        crate::DType::U32 => Ok(()),
        other => Err(Error::dtype(
            op,
            format!("the indices must be u32, they are {other}"),
        )),
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

/// `exp(-sum p log(p + eps))` with `p = counts / sum(counts)`; of `[books, K]` the mean of
/// the books that have counts.
#[track_caller]
pub fn perplexity(counts: &Tensor, eps: f32) -> Tensor {
    let sum = counts.sum(&[-1], true);
    // A book without counts has no shares: what it gives is not used.
    let p = counts.div(&sum.clamp(f32::MIN_POSITIVE, f32::MAX));
    let entropy = p.mul(&p.add_scalar(eps).log()).sum(&[-1], true).neg();
    mean_of_books(&entropy.exp(), &sum)
}

/// The share of codes with counts, of `[K]` or of `[books, K]`, there the mean of the books
/// that have any.
#[track_caller]
fn usage(counts: &Tensor) -> Tensor {
    let used = counts.zeros_like().less(counts);
    mean_of_books(&used.mean(&[-1], true), &counts.sum(&[-1], true))
}

fn mean_of_books(values: &Tensor, sums: &Tensor) -> Tensor {
    if values.numel() == 1 {
        return values.reshape([]);
    }
    let taken = sums.zeros_like().less(sums);
    let books = taken.sum(&[], false).clamp(1.0, f32::MAX);
    values.mul(&taken).sum(&[], false).div(&books)
}
