//! Discrete bottlenecks: quantisers that put a code in place of a vector, and what can be
//! done with grids of codes.
//!
//! | | |
//! |---|---|
//! | [`VectorQuantizer`] | the nearest code of a codebook, Euclidean or by cosine; the codebook learns by gradient or by moving averages, starts from k-means, unused codes become vectors of the batch (van den Oord et al. 2017) |
//! | [`SimVq`] | a frozen codebook through a learned linear map |
//! | [`Heads`] | several heads, with codebooks of their own or one for all |
//! | [`Residual`] | stages that quantise what is left, with quantise-dropout; in [`Heads`]: grouped |
//! | [`Fsq`] | every channel rounded to a few levels |
//! | [`Lfq`] | the channels' signs, with an entropy term |
//! | [`GumbelQuantizer`] | codes drawn from logits, temperature by schedule |
//! | [`edit`] | grids of codes and latents moved, turned, spliced, mixed |
//!
//! All are a [`Quantizer`], take masks for padded positions, give a [`Quantized`] and decode
//! from codes. Gradients pass straight through, or where vectors stand for codes by the
//! rotation between them ([`Estimator`]).
//!
//! Compositions of tensor methods over parameters; the code search itself is
//! [`crate::Tensor::codebook_nearest`], which makes no matrix of vectors and codes. This
//! room must not know models.

pub mod edit;
mod fsq;
mod gumbel;
mod heads;
mod kmeans;
mod lfq;
mod nearest;
mod output;
mod quantizer;
mod reset;
mod residual;
mod rows;
mod simvq;

pub use fsq::{Fsq, FsqOutput, FsqShift};
pub use gumbel::{Decay, GumbelConfig, GumbelQuantizer, Temperature, gumbel_softmax};
pub use heads::Heads;
pub use kmeans::k_means;
pub use lfq::Lfq;
pub use nearest::{
    EmaUpdate, Estimator, Metric, ema_update, rotate_to, vector_quantize, vector_quantize_masked,
};
pub use output::{Quantized, Quantizer, perplexity, usage_counts};
pub use quantizer::{CodebookUpdate, VectorQuantizer, VqConfig, VqNames};
pub use residual::{QuantizeDropout, Residual};
pub use simvq::SimVq;
