//! Convolutions on GPUs: products whose blocks are gathered into workgroup memory.

use super::direct::{Convolution, Direct};
use crate::Result;
use crate::device::DeviceProfile;
use crate::graph::{Lower, Slot};
use crate::ops::product::tile::Tile;
use crate::ops::variant::Variant;

const SHADER: &str = include_str!("../../../shaders/conv/tile.wgsl");

impl Variant<Convolution> for Tile {
    fn name(&self) -> &'static str {
        self.name
    }

    fn possible(&self, _: &Convolution, device: &DeviceProfile) -> bool {
        self.fits(device)
    }

    /// Enough full tiles to keep a GPU busy.
    fn pays(&self, problem: &Convolution, _: &DeviceProfile) -> bool {
        let tiles: usize = problem.parts.iter().map(|p| p.tiles(self)).sum();
        let [rows, _] = self.extent();
        2 * problem.channels_out() > rows && (tiles >= 64 || rows <= 32)
    }

    fn lower(&self, problem: &Convolution, cx: &mut Lower<'_>) -> Result<()> {
        for part in &problem.parts {
            match part.taps.contains(&0) {
                // A lattice without any tap only gets its bias.
                true => part.lower(cx)?,
                false => part.lower_tiled(cx, self)?,
            }
        }
        Ok(())
    }
}

impl Direct {
    /// Workgroups that tiles of a variant need.
    fn tiles(&self, tile: &Tile) -> usize {
        let [rows, columns] = tile.extent();
        let pixels = self.n * self.count[0] * self.count[1];
        self.channels_out.div_ceil(rows) * pixels.div_ceil(columns) * self.groups
    }

    fn lower_tiled(&self, cx: &mut Lower<'_>, tile: &Tile) -> Result<()> {
        let [rows, columns] = tile.extent();
        let pixels = self.n * self.count[0] * self.count[1];
        let depth = self.channels_in * self.taps[0] * self.taps[1];
        let total = self.tiles(tile);
        let mut kernel = cx
            .kernel("conv2d_tiled", SHADER)
            .variant(format!("{}, {} ({rows}x{columns})", self.name, tile.name))
            .define("ROWS", tile.threads[0])
            .define("COLUMNS", tile.threads[1])
            .define("TM", tile.each[0])
            .define("TN", tile.each[1])
            .define("BK", tile.depth)
            .stored("W", Slot::In(1))
            .define("TAPS_Y", self.taps[0])
            .define("TAPS_X", self.taps[1])
            .arg("total", total)
            .arg("tiles_m", self.channels_out.div_ceil(rows))
            .arg("tiles_n", pixels.div_ceil(columns))
            .arg("groups", self.groups)
            .arg("channels_out", self.channels_out)
            .arg("channels_in", self.channels_in)
            .arg("depth", depth)
            .arg("pixels", pixels)
            .arg("rows", self.count[0])
            .arg("columns", self.count[1])
            .arg("in_y", self.input[0])
            .arg("in_x", self.input[1])
            .arg("out_y", self.output[0])
            .arg("out_x", self.output[1])
            .arg("first_y", self.first[0])
            .arg("first_x", self.first[1])
            .arg("step_y", self.step[0])
            .arg("step_x", self.step[1])
            .arg("stride_y", self.stride[0])
            .arg("stride_x", self.stride[1])
            .arg("dilation_y", self.dilation[0])
            .arg("dilation_x", self.dilation[1])
            .arg_i32("before_y", self.before[0])
            .arg_i32("before_x", self.before[1])
            .arg("weight_first", self.weight_first)
            .arg("weight_group", self.weight_group)
            .arg("weight_out", self.weight_out)
            .arg("weight_in", self.weight_in)
            .arg_i32("weight_tap_y", self.weight_tap[0])
            .arg_i32("weight_tap_x", self.weight_tap[1])
            .read(Slot::In(0))
            .read(Slot::In(1));
        kernel = self.epilogue(kernel);
        kernel
            .write(Slot::Out(0))
            .flops(self.flops())
            .trips((depth.div_ceil(tile.depth) + 1) * (tile.depth + 1))
            .flat_groups(total)
    }
}
