//! Convolutions on GPUs: products whose blocks are gathered into workgroup memory.

use super::conv_direct::Direct;
use super::product::Tile;
use crate::Result;
use crate::graph::{Lower, Slot};

const SHADER: &str = include_str!("../../shaders/conv2d_tiled.wgsl");

impl Direct {
    /// Workgroups that tiles of a variant need.
    pub(super) fn tiles(&self, tile: &Tile) -> usize {
        let [rows, columns] = tile.extent();
        let pixels = self.n * self.count[0] * self.count[1];
        self.channels_out.div_ceil(rows) * pixels.div_ceil(columns) * self.groups
    }

    pub(super) fn lower_tiled(&self, cx: &mut Lower<'_>, variant: &str, tile: &Tile) -> Result<()> {
        let [rows, columns] = tile.extent();
        let pixels = self.n * self.count[0] * self.count[1];
        let depth = self.channels_in * self.taps[0] * self.taps[1];
        let total = self.tiles(tile);
        let mut kernel = cx
            .kernel("conv2d_tiled", SHADER)
            .variant(format!("{}, {variant} ({rows}x{columns})", self.name))
            .define("ROWS", tile.threads[0])
            .define("COLUMNS", tile.threads[1])
            .define("TM", tile.each[0])
            .define("TN", tile.each[1])
            .define("BK", tile.depth)
            .stored("W", Slot::In(1))
            .define("TAPS_Y", self.taps[0])
            .define("TAPS_X", self.taps[1])
            .arg(total)
            .arg(self.channels_out.div_ceil(rows))
            .arg(pixels.div_ceil(columns))
            .arg(self.groups)
            .arg(self.channels_out)
            .arg(self.channels_in)
            .arg(depth)
            .arg(pixels)
            .arg(self.count[0])
            .arg(self.count[1])
            .arg(self.input[0])
            .arg(self.input[1])
            .arg(self.output[0])
            .arg(self.output[1])
            .arg(self.first[0])
            .arg(self.first[1])
            .arg(self.step[0])
            .arg(self.step[1])
            .arg(self.stride[0])
            .arg(self.stride[1])
            .arg(self.dilation[0])
            .arg(self.dilation[1])
            .arg_i32(self.before[0])
            .arg_i32(self.before[1])
            .arg(self.weight_first)
            .arg(self.weight_group)
            .arg(self.weight_out)
            .arg(self.weight_in)
            .arg_i32(self.weight_tap[0])
            .arg_i32(self.weight_tap[1])
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
