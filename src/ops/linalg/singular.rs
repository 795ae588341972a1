//! What gradients of singular matrices are made of.

use crate::Tensor;

/// Zeros in place of infinities, with which a gradient must not be multiplied.
#[track_caller]
pub(crate) fn finite(x: &Tensor) -> Tensor {
    let limit = x.full_like(f32::MAX);
    let holds = x.abs().less_equal(&limit).stop_gradient();
    holds.select(x, &x.zeros_like())
}
