//! Convolutions and their gradients by input and weight, the problem that all of them
//! become, and the kernels that solve it, one file each.

mod columns;
mod conv1d;
pub(in crate::ops) mod conv2d;
mod depthwise;
mod direct;
pub(in crate::ops) mod input;
mod pack;
mod packed;
mod product;
mod register;
mod rows;
mod tile;
mod transpose;
pub(in crate::ops) mod variants;
mod weight;
mod weight_packed;
mod weight_problem;
mod weight_product;
mod weight_register;
pub(in crate::ops) mod weight_variants;
pub(in crate::ops) mod window;

pub use conv1d::Conv1dParams;
pub use conv2d::ConvParams;
pub use transpose::ConvTransposeParams;
