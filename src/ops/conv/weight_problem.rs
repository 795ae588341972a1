//! The gradient of a convolution by its weight as a problem for kernels: inputs are the
//! convolution's own and the upstream gradient, in this order.

use super::window::{Dims, Window};

pub(in crate::ops) struct WeightGradient {
    pub window: Window,
    /// Images of 1x1 kernels may be told as one row.
    pub dims: Dims,
}

impl WeightGradient {
    /// The elements of the result.
    pub fn weights(&self) -> usize {
        self.dims.o * self.dims.cg * self.dims.kernel[0] * self.dims.kernel[1]
    }

    /// Rows of all samples' outputs: what is summed over.
    pub fn rows(&self) -> usize {
        self.dims.n * self.dims.output[0]
    }

    pub fn flops(&self) -> usize {
        2 * self.rows() * self.dims.output[1] * self.weights()
    }

    /// The shape class: what the order of variants turns on.
    pub fn shape_class(&self) -> &'static str {
        match self.flops() {
            _ if self.dims.is_pointwise(&self.window) => "pointwise",
            0..0x40_0000 => "small",
            0x40_0000..0x1000_0000 => "medium",
            _ => "large",
        }
    }
}
