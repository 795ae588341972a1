//! Products in registers alone: what is possible for every problem on every device.

use super::problem::Product;
use crate::Result;
use crate::device::DeviceProfile;
use crate::graph::{Lower, Slot};
use crate::ops::variant::Variant;

const SHADER: &str = include_str!("../../../shaders/product/register.wgsl");

pub(in crate::ops) struct Register;

impl Variant<Product> for Register {
    fn name(&self) -> &'static str {
        "register"
    }

    fn possible(&self, _: &Product, _: &DeviceProfile) -> bool {
        true
    }

    fn lower(&self, p: &Product, cx: &mut Lower<'_>) -> Result<()> {
        let tm = p.m.next_power_of_two().min(8);
        let kernel = cx
            .kernel("matmul", SHADER)
            .variant(format!("register {tm}x4"))
            .define("TM", tm);
        p.common(kernel, true)
            .write(Slot::Out(0))
            .trips(p.k)
            .threads(p.n.div_ceil(4) * p.m.div_ceil(tm) * p.batch, 64)
    }
}
