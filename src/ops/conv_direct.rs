//! The direct convolution kernel: what convolutions and their gradients by the
//! input have in common once they are lowered.

use super::product::{Product, Tile};
use super::{Activation, conv_packed};
use crate::Result;
use crate::device::DeviceClass;
use crate::graph::{KernelBuilder, Lower, Slot};
use crate::variants;

const SHADER: &str = include_str!("../../shaders/conv2d.wgsl");

/// A stride, dilation and padding convolution from input 0 with the weights of
/// input 1 (any order of their axes, either direction of taps) to a lattice of
/// pixels of output 0. Axes are vertical, horizontal; channels are per group.
pub(crate) struct Direct {
    pub name: &'static str,
    pub n: usize,
    pub groups: usize,
    pub channels_in: usize,
    pub channels_out: usize,
    pub input: [usize; 2],
    pub output: [usize; 2],
    /// Pixels that are computed, the first of them and the steps between them.
    pub count: [usize; 2],
    pub first: [usize; 2],
    pub step: [usize; 2],
    pub taps: [usize; 2],
    pub stride: [usize; 2],
    pub dilation: [usize; 2],
    pub before: [isize; 2],
    /// Offset of the first weight, and weights between groups, channels and taps.
    pub weight_first: usize,
    pub weight_group: usize,
    pub weight_out: usize,
    pub weight_in: usize,
    pub weight_tap: [isize; 2],
    /// Per output channel of all groups.
    pub bias: Option<Slot>,
    /// Like the output.
    pub residual: Option<Slot>,
    pub activation: Activation,
}

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

/// Lowers convolutions that read the same input and together give one output, with the
/// best variant for them; `product` is what a 1x1 convolution is as a matrix product.
pub(crate) fn lower(parts: &[Direct], product: Option<Product>, cx: &mut Lower<'_>) -> Result<()> {
    let device = cx.device();
    let software = device.class == DeviceClass::Software;
    let flops = parts.iter().map(Direct::flops).sum();
    let channels_out = parts.iter().map(|p| p.channels_out).max().unwrap_or(1);
    // Lanes of the other kernels share weights along pixels; where a sample has fewer
    // tiles of these than a subgroup has lanes, they read every weight for a few pixels.
    let lanes = device.subgroup_size.unwrap_or(1) as usize;
    let few = parts
        .iter()
        .all(|p| p.n * p.count[0] * p.count[1] < 4 * lanes);
    let as_product = product.as_ref().map(|p| p.variant(cx));
    let can = |variant: &str| match (Tile::of(variant), variant) {
        (Some(tile), _) => tile.possible(device),
        (None, "product") => as_product.is_some(),
        (None, "rows") => matches!(parts, [part] if part.in_rows(device)),
        (None, "packed") => conv_packed::can_share(device),
        (None, "columns") => parts.iter().all(|p| p.is_product(device.max_binding)),
        (None, "depthwise") => parts.iter().all(Direct::is_depthwise),
        _ => true,
    };
    let fits = |variant: &str| match (Tile::of(variant), variant) {
        // Enough full tiles to keep a GPU busy.
        (Some(tile), _) => {
            let tiles: usize = parts.iter().map(|p| p.tiles(&tile)).sum();
            let [rows, _] = tile.extent();
            2 * channels_out > rows && (tiles >= 64 || rows <= 32)
        }
        (None, "product") => !software || as_product != Some("register"),
        (None, "rows") => parts.iter().all(|p| p.rows_pay(device)),
        (None, "packed") => conv_packed::worth(device, flops),
        (None, "columns") => {
            let packed = conv_packed::worth(device, flops);
            let pay = |p: &Direct| p.columns_pay(packed, cx);
            (few && channels_out >= 64) || software && channels_out >= 32 && parts.iter().all(pay)
        }
        _ => true,
    };
    let shape = variants::conv_shape(channels_out, flops);
    let variant = variants::choose(device, "conv2d", shape, can, fits);
    match (Tile::of(variant), variant, product) {
        (None, "product", Some(product)) => return product.lower(cx),
        (None, "packed", _) if conv_packed::packed(parts, cx)? => return Ok(()),
        _ => {}
    }
    for part in parts {
        match Tile::of(variant) {
            None if variant == "columns" => part.lower_columns(cx)?,
            None if variant == "rows" => part.lower_rows(cx)?,
            None if variant == "depthwise" => part.lower_depthwise(cx)?,
            // A lattice without any tap only gets its bias.
            Some(tile) if !part.taps.contains(&0) => part.lower_tiled(cx, variant, &tile)?,
            _ => part.lower(cx)?,
        }
    }
    Ok(())
}

impl Direct {
    /// What the epilogues of all convolution kernels are told alike.
    pub(super) fn epilogue<'l, 'a>(&self, kernel: KernelBuilder<'l, 'a>) -> KernelBuilder<'l, 'a> {
        let kernel = kernel
            .define("BIAS", self.bias.is_some() as u32)
            .define("RESIDUAL", self.residual.is_some() as u32);
        let added = [self.bias, self.residual].into_iter().flatten();
        added.fold(self.activation.define(kernel), |kernel, slot| {
            kernel.read(slot)
        })
    }

    pub fn flops(&self) -> usize {
        let outputs = self.n * self.groups * self.channels_out * self.count[0] * self.count[1];
        2 * outputs * self.channels_in * self.taps[0] * self.taps[1]
    }

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
            .arg(tiles)
            .arg(padded_tiles)
            .arg(tiles_x)
            .arg(self.count[0])
            .arg(self.count[1])
            .arg(tiles_out)
            .arg(self.groups)
            .arg(self.channels_out)
            .arg(self.channels_in)
            .arg(depth)
            .arg(self.input[0])
            .arg(self.input[1])
            .arg(self.output[0])
            .arg(self.output[1])
            .arg(self.first[0])
            .arg(self.first[1])
            .arg(self.step[0])
            .arg(self.step[1])
            .arg(self.taps[0])
            .arg(self.taps[1])
            .arg(self.stride[0])
            .arg(self.dilation[0])
            .arg_i32(self.before[0])
            .arg_i32(self.before[1])
            .arg(self.weight_first)
            .arg(self.weight_group)
            .arg(self.weight_out)
            .arg(self.weight_in)
            .arg_i32(self.weight_tap[0])
            .arg_i32(self.weight_tap[1])
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
