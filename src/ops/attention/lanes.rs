//! Attention by subgroups, whose lanes shuffle rows and weights.

use super::problem::Problem;
use crate::Result;
use crate::device::DeviceProfile;
use crate::graph::Lower;
use crate::ops::variant::Variant;

const SHADER: &str = include_str!("../../../shaders/attention/lanes.wgsl");

/// 8 or 16 rows a subgroup, two columns a lane at a time.
pub(super) struct Lanes;

impl Variant<Problem> for Lanes {
    fn name(&self) -> &'static str {
        "lanes"
    }

    fn possible(&self, _: &Problem, device: &DeviceProfile) -> bool {
        // All lanes' steps are written out: wide subgroups would make texts too long.
        matches!(device.subgroup_size, Some(4 | 8))
    }

    fn lower(&self, p: &Problem, cx: &mut Lower<'_>) -> Result<()> {
        let lanes = cx.device().subgroup_size.unwrap_or(8) as usize;
        let each = p.wide.div_ceil(4 * lanes).next_power_of_two().min(4);
        let rows = if each > 2 { 8 } else { 16 };
        let kernel = cx
            .kernel("attention_lanes", SHADER)
            .variant(p.label(self.name()))
            .define("LANES", lanes)
            .define("STEPS", lanes.ilog2())
            .define("ROWS", rows)
            .define("EACH", each)
            .shuffles(lanes);
        let (kernel, total) = p.common(kernel, [rows, 4 * each * lanes]);
        kernel
            .trips(p.cols.div_ceil(2 * lanes) * (p.vectors() + 3))
            .threads(total * lanes, 64)
    }
}
