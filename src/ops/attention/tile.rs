//! Attention by workgroups, whose weights lie in workgroup memory.

use super::problem::Problem;
use crate::Result;
use crate::device::DeviceProfile;
use crate::graph::Lower;
use crate::ops::variant::Variant;

const SHADER: &str = include_str!("../../../shaders/attention/tile.wgsl");

/// 16 or 32 rows a workgroup, 32 columns at a time.
pub(super) struct Tile;

impl Variant<Problem> for Tile {
    fn name(&self) -> &'static str {
        "tile"
    }

    fn possible(&self, _: &Problem, _: &DeviceProfile) -> bool {
        // At most 5 KiB of workgroup memory: everywhere.
        true
    }

    fn lower(&self, p: &Problem, cx: &mut Lower<'_>) -> Result<()> {
        let columns = p.wide.div_ceil(4).next_power_of_two();
        // More than 64 sums of an invocation do not stay in registers.
        let rows = if columns > 32 { 16 } else { 32 };
        let columns = columns.clamp(64 / rows, 64);
        let kernel = cx
            .kernel("attention", SHADER)
            .variant(p.label(self.name()))
            .define("BR", rows)
            .define("COLS", columns)
            .define("RT", rows * columns / 64);
        let (kernel, total) = p.common(kernel, [rows, 4 * columns]);
        let softmax = 16;
        kernel
            .trips(p.cols.div_ceil(32) * (p.vectors() + 8 + softmax + 4))
            .flat_groups(total)
    }
}
