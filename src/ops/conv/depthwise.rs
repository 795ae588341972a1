//! Depthwise convolutions of stride 1, one filter a channel: hardly any arithmetic for
//! what they read, so every row is read once and in whole vec4s.

use super::direct::{Convolution, Direct};
use super::register::even_tile;
use crate::Result;
use crate::device::DeviceProfile;
use crate::graph::{Lower, Slot};
use crate::ops::variant::Variant;

const SHADER: &str = include_str!("../../../shaders/conv/depthwise.wgsl");

/// Most rows and most vec4s of columns that an invocation computes.
const TILE: [usize; 2] = [8, 2];

/// Longest kernel, of either axis, that is written out.
const LONGEST: usize = 7;

pub(in crate::ops) struct Depthwise;

impl Variant<Convolution> for Depthwise {
    fn name(&self) -> &'static str {
        "depthwise"
    }

    fn possible(&self, problem: &Convolution, _: &DeviceProfile) -> bool {
        problem.parts.iter().all(Direct::is_depthwise)
    }

    fn lower(&self, problem: &Convolution, cx: &mut Lower<'_>) -> Result<()> {
        problem.parts.iter().try_for_each(|p| p.lower_depthwise(cx))
    }
}

impl Direct {
    /// Whether every channel has a filter of its own, and rows are whole vec4s.
    fn is_depthwise(&self) -> bool {
        let written_out = |taps: &usize| (1..=LONGEST).contains(taps);
        (self.channels_in, self.channels_out) == (1, 1)
            && (self.stride, self.dilation) == ([1, 1], [1, 1])
            && self.step == [1, 1]
            && self.first == [0, 0]
            && self.count == self.output
            && self.taps.iter().all(written_out)
            && (0..LONGEST as isize).contains(&self.before[1])
            && self.input[1].is_multiple_of(4)
            && self.output[1].is_multiple_of(4)
    }

    fn lower_depthwise(&self, cx: &mut Lower<'_>) -> Result<()> {
        let (in_x, out_x) = (self.input[1] / 4, self.output[1] / 4);
        let [rows, width] = [
            even_tile(self.output[0], TILE[0]),
            even_tile(out_x, TILE[1]),
        ];
        let tiles = [self.output[0].div_ceil(rows), out_x.div_ceil(width)];
        let total = self.n * self.groups * tiles[0] * tiles[1];
        // The first pixel of the first tap, from the first one that is read on.
        let before = self.before[1] as usize;
        let left = before.div_ceil(4);
        let first = 4 * left - before;
        let quads = (first + 4 * width + self.taps[1] - 1).div_ceil(4);
        let kernel = cx
            .kernel("conv2d_depthwise", SHADER)
            .variant(format!("{}, {rows}x{}", self.name, 4 * width))
            .stored("W", Slot::In(1))
            .define("ROWS", rows)
            .define("WIDTH", width)
            .define("TAPS_Y", self.taps[0])
            .define("TAPS_X", self.taps[1])
            .define("LEFT", left)
            .define("FIRST", first)
            .define("QUADS", quads)
            .arg("total", total)
            .arg("tiles_y", tiles[0])
            .arg("tiles_x", tiles[1])
            .arg("channels", self.groups)
            .arg("in_y", self.input[0])
            .arg("in_x", in_x)
            .arg("out_y", self.output[0])
            .arg("out_x", out_x)
            .arg_i32("before_y", self.before[0])
            .arg("weight_first", self.weight_first)
            .arg("weight_group", self.weight_group)
            .arg_i32("weight_tap_y", self.weight_tap[0])
            .arg_i32("weight_tap_x", self.weight_tap[1])
            .read(Slot::In(0))
            .read(Slot::In(1));
        self.epilogue(kernel)
            .write(Slot::Out(0))
            .flops(self.flops())
            .threads(total, 32)
    }
}
