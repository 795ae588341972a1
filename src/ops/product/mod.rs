//! Matrix products: the op, the problem it and 1x1 convolutions become, and the kernels
//! that solve it, one file each. It knows no convolution.

mod matmul;
mod pack;
mod packed;
pub(in crate::ops) mod problem;
mod register;
mod row;
pub(in crate::ops) mod shuffle;
pub(in crate::ops) mod tile;
pub(in crate::ops) mod variants;

pub use matmul::Matmul;
