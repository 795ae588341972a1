//! The gradient of a convolution with a 1x1 kernel by its weight: the products of the
//! upstream gradient and the transposed input of every sample, added up.

use super::weight_problem::WeightGradient;
use crate::Result;
use crate::device::{DeviceProfile, LOOP_BUDGET};
use crate::graph::{Lower, Slot};
use crate::ops::Activation;
use crate::ops::product::problem::{Bias, Product};
use crate::ops::variant::Variant;

pub(in crate::ops) struct AsProduct;

impl Variant<WeightGradient> for AsProduct {
    fn name(&self) -> &'static str {
        "product"
    }

    /// A subgroup's lanes must be able to read both operands as they lie, every sample in
    /// one loop.
    fn possible(&self, problem: &WeightGradient, device: &DeviceProfile) -> bool {
        let d = &problem.dims;
        let pixels = d.input[0] * d.input[1];
        let shares = |lanes| (4..=64).contains(&lanes);
        device.subgroup_size.is_some_and(shares)
            && d.is_pointwise(&problem.window)
            && d.c == d.cg
            && pixels.is_multiple_of(4)
            && (pixels as u64 / 4) < LOOP_BUDGET
            && d.c.is_multiple_of(4)
    }

    /// Where there are columns for every lane and rows for a tile.
    fn pays(&self, problem: &WeightGradient, device: &DeviceProfile) -> bool {
        let lanes = device.subgroup_size.unwrap_or(1) as usize;
        problem.dims.c >= 4 * lanes && problem.dims.o >= 8
    }

    fn lower(&self, problem: &WeightGradient, cx: &mut Lower<'_>) -> Result<()> {
        let d = &problem.dims;
        let pixels = d.input[0] * d.input[1];
        let product = Product {
            batch: d.n,
            m: d.o,
            n: d.c,
            k: pixels,
            a: (Slot::In(1), d.o * pixels, false),
            b: (Slot::In(0), d.c * pixels, true),
            bias: Bias::None,
            residual: None,
            activation: Activation::None,
        };
        product.shuffle_sum(cx)
    }
}
