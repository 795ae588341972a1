//! A row times a matrix: workgroups share the inner axis.

use super::problem::{Product, half_names};
use crate::Result;
use crate::device::DeviceProfile;
use crate::graph::{Lower, Slot};
use crate::ops::variant::Variant;

const SHADER: &str = include_str!("../../../shaders/product/row.wgsl");

pub(in crate::ops) struct Row;

impl Variant<Product> for Row {
    fn name(&self) -> &'static str {
        "row"
    }

    fn possible(&self, p: &Product, device: &DeviceProfile) -> bool {
        let along = if p.b.2 { p.k } else { p.n };
        p.m == 1 && along.is_multiple_of(4) && device.max_invocations >= 256
    }

    fn lower(&self, p: &Product, cx: &mut Lower<'_>) -> Result<()> {
        let [of_a, of_b] = [p.a.0, p.b.0].map(|slot| half_names(cx, slot));
        // Invocations side by side along the columns, and along the inner axis.
        let (width, slices) = if p.b.2 { (1, 64) } else { (16, 16) };
        let a = match (p.b.2, cx.is_f16(p.a.0)) {
            (true, _) => format!("{}Quad", of_a.0),
            (false, true) => "u32".into(),
            (false, false) => "f32".into(),
        };
        let kernel = cx
            .kernel("matmul_row", SHADER)
            .variant("row")
            .define("WIDTH", width)
            .define("SLICES", slices)
            .define("A", a)
            .define("B", format!("{}Quad", of_b.0))
            .define("READ_A", of_a.1)
            .define("READ_B", of_b.1);
        p.common(kernel, true)
            .write(Slot::Out(0))
            .trips(p.k.div_ceil(slices) + slices)
            .flat_groups(p.n.div_ceil(4 * width) * p.batch)
    }
}
