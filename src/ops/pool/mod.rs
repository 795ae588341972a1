//! Windows that slide over images: maxima, means, their gradients, and nearest
//! upsampling.

pub(in crate::ops) mod avg_pool2d;
pub(in crate::ops) mod max_pool2d;
pub(in crate::ops) mod windows;

pub use windows::PoolParams;
