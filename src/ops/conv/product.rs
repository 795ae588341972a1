//! Convolutions with 1x1 kernels as products of the weight and every sample.

use super::direct::Convolution;
use crate::Result;
use crate::device::{DeviceClass, DeviceProfile};
use crate::graph::Lower;
use crate::ops::product::variants;
use crate::ops::variant::Variant;

pub(in crate::ops) struct AsProduct;

impl Variant<Convolution> for AsProduct {
    fn name(&self) -> &'static str {
        "product"
    }

    fn possible(&self, problem: &Convolution, _: &DeviceProfile) -> bool {
        problem.product.is_some()
    }

    /// On software adapters only what shares its reads beats the convolution kernels.
    fn pays(&self, problem: &Convolution, device: &DeviceProfile) -> bool {
        let shares = |p| variants::choose(p, device).name() != "register";
        device.class != DeviceClass::Software || problem.product.as_ref().is_some_and(shares)
    }

    fn lower(&self, problem: &Convolution, cx: &mut Lower<'_>) -> Result<()> {
        match &problem.product {
            Some(product) => variants::lower(product, cx),
            None => Ok(()),
        }
    }
}
