//! The ops, one file per family, named like its shader. Each room holds the
//! shape rule, the float64 reference, the gradient, the dispatch and the
//! [`crate::Tensor`] methods. Ops know the graph and nothing above it.

mod actnorm;
mod batch_norm;
mod codebook;
mod concat;
mod conv;
mod conv_direct;
mod conv_input;
mod conv_packed;
mod conv_tiled;
mod conv_transpose;
mod conv_weight;
mod conv_weight_packed;
mod coupling;
mod coupling_layout;
mod cumsum;
mod elementwise;
mod fold;
mod func;
mod gather;
mod gradient;
mod linalg;
mod loss;
mod lu;
mod matmul;
mod max_pool;
mod pack;
mod pick;
mod pointwise;
mod pool;
mod product;
mod random;
mod rearrange;
mod reduce;
mod segment_sum;
mod softmax;
mod source;
mod triangular;
mod view;

pub use actnorm::ActNormInit;
pub use conv::ConvParams;
pub use conv_transpose::ConvTransposeParams;
pub use coupling::{CouplingMask, CouplingParams, CouplingScale, RawLayout};
pub use func::Func;
pub(crate) use gradient::segment;
pub use loss::{CrossEntropy, LossReduction};
pub use lu::LuFactors;
pub use matmul::{Activation, Matmul};
pub use pack::Pack;
pub use pointwise::Map;
pub use pool::PoolParams;
pub use random::threefry;
pub use reduce::{Reduce, Reduction};
pub use triangular::Triangular;
