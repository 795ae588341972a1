//! The ops, one room per family, one file per op, named like its shader. Each file holds
//! the shape rule, the float64 reference, the gradient, the dispatch and the
//! [`crate::Tensor`] methods. Ops know the graph and nothing above it.

mod attention;
mod categorical;
mod conv;
mod flow;
mod gradient;
mod image;
mod index;
mod linalg;
mod loss;
mod norm;
mod pointwise;
mod pool;
mod product;
mod random;
mod reduce;
mod roof;
mod source;
mod variant;
mod view;

pub(crate) use attention::check_attention;
pub use categorical::Categorical;
pub use conv::{Conv1dParams, ConvParams, ConvTransposeParams};
pub use flow::{CouplingMask, CouplingParams, CouplingScale, RawLayout, SplineParams};
pub(crate) use gradient::{segment, stand_in};
pub use image::{GridPadding, PixelFormat};
pub(crate) use linalg::factor;
pub use linalg::{LuFactors, Plu, Triangular};
pub use loss::{CrossEntropy, LossReduction};
pub use norm::{ActNormInit, LocalResponse, fold_batch_norms};
pub use pointwise::{Activation, Func, Map};
pub use pool::PoolParams;
pub use product::Matmul;
pub use random::threefry;
pub(crate) use reduce::sum_chunks_apart;
pub use reduce::{Reduce, Reduction};
pub use view::Pack;

/// The names of all variants of a kernel, whatever the device; empty for kernels that
/// have one. [`Choices`](crate::device::Choices) take them.
pub fn variants(kernel: &str) -> Vec<&'static str> {
    match kernel {
        "matmul" => product::variants::PRODUCTS.names(),
        "attention" => attention::variants::ATTENTION.names(),
        "conv2d" => conv::variants::CONVOLUTIONS.names(),
        "conv2d_weight" => conv::weight_variants::WEIGHT_GRADIENTS.names(),
        _ => Vec::new(),
    }
}
