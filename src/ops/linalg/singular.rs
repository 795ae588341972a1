//! What gradients of singular matrices are made of.

use crate::Tensor;

/// Zeros in place of infinities, with which a gradient must not be multiplied; NaN stays.
#[track_caller]
pub(crate) fn finite(x: &Tensor) -> Tensor {
    let limit = x.full_like(f32::MAX);
    let infinite = limit.less(&x.abs()).stop_gradient();
    infinite.select(&x.zeros_like(), x)
}
