//! Attention without its matrix of scores: the op and its gradients, the problem that all
//! of them are, and the kernels that solve it.

mod dot_product;
mod lanes;
mod problem;
mod tile;
pub(in crate::ops) mod variants;

pub(crate) use dot_product::check_attention;
