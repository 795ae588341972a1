//! The ops, one file per family, named like its shader. Each room holds the
//! shape rule, the float64 reference, the gradient, the dispatch and the
//! [`crate::Tensor`] methods. Ops know the graph and nothing above it.

mod matmul;
mod pack;
mod pointwise;
mod reduce;
mod source;
mod view;

pub use matmul::{Activation, Matmul};
pub use pack::Pack;
pub use pointwise::{Func, Map};
pub use reduce::{Reduce, Reduction};
