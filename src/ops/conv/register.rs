//! Convolutions in registers alone: what is possible for every problem on every device.

use super::direct::{Convolution, Direct};
use crate::Result;
use crate::device::{DeviceClass, DeviceProfile};
use crate::graph::{Lower, Slot};
use crate::ops::variant::Variant;

const SHADER: &str = include_str!("../../../shaders/conv/register.wgsl");

/// Longest row of input values that is written out; unused ones cost nothing.
const WIDEST: usize = 64;

/// The smallest tile of at most `most` that covers `extent` in as few tiles.
pub(crate) fn even_tile(extent: usize, most: usize) -> usize {
    extent.div_ceil(extent.div_ceil(most).max(1)).max(1)
}

/// How many of `taps` are unrolled: all, or one at a time where the kernel's text
/// or the row of input values would grow too long. With it, the length of that row
/// for `tile` pixels (which may shrink to one).
pub(crate) fn unroll(
    taps: usize,
    tile: usize,
    stride: usize,
    dilation: usize,
) -> (usize, usize, usize) {
    let span = |tile: usize, taps: usize| (tile - 1) * stride + (taps - 1) * dilation + 1;
    let all = if (1..=7).contains(&taps) { taps } else { 1 };
    for (tile, taps) in [(tile, all), (tile, 1), (1, all)] {
        if span(tile, taps) <= WIDEST {
            return (tile, taps, span(tile, taps));
        }
    }
    (1, 1, 1)
}

/// Of the `span` inputs that neighbouring pixels of a row see, `apart` from those of the
/// next ones and `before` pixels to the left of it: how many come before the first that is
/// a multiple of four in its row, and the fours after it. Both 0 where these do not begin
/// at the same place for all pixels.
pub(crate) fn fours(input: usize, apart: usize, before: isize, span: usize) -> (usize, usize) {
    let aligned = apart.is_multiple_of(4) && input.is_multiple_of(4);
    match usize::try_from(before) {
        Ok(before) if aligned && before + 4 <= span => (before, (span - before) / 4),
        _ => (0, 0),
    }
}

/// What a variant's name says about reads that a subgroup shares.
pub(crate) fn shared(lanes: usize) -> String {
    match lanes {
        0 => String::new(),
        _ => format!(", {lanes} lanes share"),
    }
}

/// Floating-point operations that are worth a larger tile.
pub(crate) const LARGE: usize = 1 << 26;

pub(in crate::ops) struct Register;

impl Variant<Convolution> for Register {
    fn name(&self) -> &'static str {
        "register"
    }

    fn possible(&self, _: &Convolution, _: &DeviceProfile) -> bool {
        true
    }

    fn lower(&self, problem: &Convolution, cx: &mut Lower<'_>) -> Result<()> {
        problem.parts.iter().try_for_each(|p| p.lower(cx))
    }
}

impl Direct {
    /// In registers.
    pub fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        // Few channels (depthwise) leave room for more pixels.
        let software = cx.device().class == DeviceClass::Software;
        let pixels = match self.channels_out {
            1 if software => 32,
            2 if software => 16,
            1 | 2 => 8,
            3.. if software => 8,
            _ => 4,
        };
        let (tile, unrolled, span) = unroll(
            self.taps[1],
            even_tile(self.count[1], pixels),
            self.stride[1],
            self.dilation[1],
        );
        let tiles_x = self.count[1].div_ceil(tile);
        let tiles = self.n * self.count[0] * tiles_x;
        // A software adapter wants few loads, a GPU wants enough invocations.
        let lanes = match cx.device().subgroup_size {
            Some(size) if software && tiles >= size as usize => size as usize,
            _ => 0,
        };
        let most = if lanes > 0 {
            // Larger tiles take longer to compile.
            if self.flops() >= LARGE { 32 } else { 16 }
        } else if software || tiles * self.groups * self.channels_out.div_ceil(8) >= 1 << 15 {
            8
        } else {
            4
        };
        let tile_out = even_tile(self.channels_out, most);
        let tiles_out = self.channels_out.div_ceil(tile_out);
        let padded_tiles = tiles.next_multiple_of(lanes.max(1));
        let total = padded_tiles * tiles_out * self.groups;
        // A lattice point without any tap still gets its bias.
        let depth = match self.taps {
            [0, _] | [_, 0] => 0,
            _ => self.channels_in,
        };
        // What the phases of one gradient differ in but need not costs pipelines.
        let phases = self.step != [1, 1];
        let padded = (0..2).any(|axis| {
            let reach = (self.count[axis] - 1) * self.stride[axis]
                + self.taps[axis].saturating_sub(1) * self.dilation[axis];
            let last = reach as isize - self.before[axis];
            phases || self.before[axis] > 0 || last >= self.input[axis] as isize
        });
        let vectors = self.step == [1, 1]
            && self.count == self.output
            && tile.is_multiple_of(4)
            && self.output[1].is_multiple_of(tile);
        let loop_x = unrolled != self.taps[1];
        let loop_y = phases || self.taps[0] != 1;
        let per_row = 1 + if loop_x { self.taps[1] } else { 0 };
        let per_channel = 1 + if loop_x || loop_y {
            self.taps[0] * per_row
        } else {
            0
        };
        // The phases of a gradient begin at different places.
        let (left, full) = match !phases && !loop_x {
            true => fours(self.input[1], tile * self.stride[1], self.before[1], span),
            false => (0, 0),
        };
        let mut kernel = cx
            .kernel(self.name, SHADER)
            .variant(format!("registers {tile_out}x{tile}{}", shared(lanes)))
            .define("LANES", lanes)
            .shuffles(lanes.min(tile_out))
            .define("HELD", tile_out.div_ceil(lanes.max(1)))
            .define("TO", tile_out)
            .define("TX", tile)
            .stored("W", Slot::In(1))
            .define("TAPS", unrolled)
            .define("LEFT", left)
            .define("FULL", full)
            .define("FOURS", (full > 0) as u32)
            .define("REST", span - left - 4 * full)
            .define("STRIDE_X", self.stride[1])
            .define("DILATION_X", self.dilation[1])
            .define("LOOP_X", loop_x as u32)
            .define("LOOP_Y", loop_y as u32)
            .define("PADDED", padded as u32)
            .define("VECTORS", vectors as u32)
            .arg("tiles", tiles)
            .arg("padded", padded_tiles)
            .arg("tiles_x", tiles_x)
            .arg("rows", self.count[0])
            .arg("columns", self.count[1])
            .arg("tiles_out", tiles_out)
            .arg("groups", self.groups)
            .arg("channels_out", self.channels_out)
            .arg("channels_in", self.channels_in)
            .arg("depth", depth)
            .arg("in_y", self.input[0])
            .arg("in_x", self.input[1])
            .arg("out_y", self.output[0])
            .arg("out_x", self.output[1])
            .arg("first_y", self.first[0])
            .arg("first_x", self.first[1])
            .arg("step_y", self.step[0])
            .arg("step_x", self.step[1])
            .arg("taps_y", self.taps[0])
            .arg("taps_x", self.taps[1])
            .arg("stride_y", self.stride[0])
            .arg("dilation_y", self.dilation[0])
            .arg_i32("before_y", self.before[0])
            .arg_i32("before_x", self.before[1])
            .arg("weight_first", self.weight_first)
            .arg("weight_group", self.weight_group)
            .arg("weight_out", self.weight_out)
            .arg("weight_in", self.weight_in)
            .arg_i32("weight_tap_y", self.weight_tap[0])
            .arg_i32("weight_tap_x", self.weight_tap[1])
            .read(Slot::In(0));
        if full > 0 {
            kernel = kernel.read(Slot::In(0));
        }
        kernel = kernel.read(Slot::In(1));
        kernel = self.epilogue(kernel);
        kernel
            .write(Slot::Out(0))
            .flops(self.flops())
            .trips(depth * per_channel)
            .dealt(total, 64)
    }
}
