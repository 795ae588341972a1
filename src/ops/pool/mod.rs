//! Windows that slide over images: maxima, means, their gradients, nearest upsampling, and
//! means over parts of given number.

pub(in crate::ops) mod adaptive;
pub(in crate::ops) mod avg_pool2d;
pub(in crate::ops) mod max_pool2d;
pub(in crate::ops) mod windows;

pub use windows::PoolParams;
