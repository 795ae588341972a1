//! Discrete bottlenecks: vector quantisation with a learned codebook (van den Oord
//! et al. 2017) and finite scalar quantisation (Mentzer et al. 2023).
//!
//! Compositions of tensor methods over parameters; the code search itself is
//! [`crate::Tensor::codebook_nearest`]. This room must not know models.

mod fsq;
mod kmeans;
mod quantizer;
mod rows;

pub use fsq::{Fsq, FsqOutput, FsqShift};
pub use kmeans::k_means;
pub use quantizer::{CodebookUpdate, VectorQuantizer, VqConfig};
pub use rows::{
    EmaUpdate, Metric, Quantized, ema_update, perplexity, usage_counts, vector_quantize,
};
