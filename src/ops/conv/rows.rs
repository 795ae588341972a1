//! Convolutions of many channels on software adapters with subgroups, as products whose
//! rows are pixels: what a tap sees of a tile of pixels is read once by all lanes together.

use super::direct::{Convolution, Direct};
use super::pack::{Image, Order, View, pack_weight};
use super::packed::{can_share, workgroup, worth};
use crate::Result;
use crate::device::{DeviceProfile, LOOP_BUDGET};
use crate::graph::{Lower, Slot};
use crate::ops::product::problem::half_names;
use crate::ops::variant::Variant;

const SHADER: &str = include_str!("../../../shaders/conv/rows.wgsl");

/// A tile of so many pixels by so many channels, of `quads` fours for every lane.
#[derive(Clone, Copy)]
struct Tile {
    pixels: usize,
    channels: usize,
    quads: usize,
}

impl Tile {
    /// The largest of which there are enough for every core.
    fn of(part: &Direct, lanes: usize) -> Tile {
        let quads = if part.channels_out > 4 * lanes { 2 } else { 1 };
        let channels = 4 * quads * lanes;
        let tile = |pixels| Tile {
            pixels,
            channels,
            quads,
        };
        let enough = |tile: &Tile| tile.count(part) >= 8;
        let of = [32, 16].map(tile).into_iter().find(enough);
        of.unwrap_or(tile(8))
    }

    fn count(&self, part: &Direct) -> usize {
        let pixels = (part.n * part.count[0] * part.count[1]).div_ceil(self.pixels);
        pixels * part.channels_out.div_ceil(self.channels) * part.groups
    }
}

pub(in crate::ops) struct Rows;

impl Variant<Convolution> for Rows {
    fn name(&self) -> &'static str {
        "rows"
    }

    fn possible(&self, problem: &Convolution, device: &DeviceProfile) -> bool {
        matches!(&problem.parts[..], [part] if part.in_rows(device))
    }

    fn pays(&self, problem: &Convolution, device: &DeviceProfile) -> bool {
        problem.parts.iter().all(|p| p.rows_pay(device))
    }

    fn lower(&self, problem: &Convolution, cx: &mut Lower<'_>) -> Result<()> {
        problem.parts.iter().try_for_each(|p| p.lower_rows(cx))
    }
}

impl Direct {
    /// Whether the pixels of the output lie next to each other in whole fours.
    fn in_rows(&self, device: &DeviceProfile) -> bool {
        can_share(device)
            && self.step == [1, 1]
            && self.count == self.output
            && (self.count[0] * self.count[1]).is_multiple_of(4)
            && !self.taps.contains(&0)
            && self.image().is_some_and(|image| {
                let trips = image.quads * self.taps[0] * self.taps[1];
                let bytes = image.bytes(self.n * self.groups);
                bytes <= device.max_binding && trips as u64 <= LOOP_BUDGET
            })
    }

    /// Whether that is worth the compilation, and few lanes go without a channel.
    fn rows_pay(&self, device: &DeviceProfile) -> bool {
        let lanes = device.subgroup_size.unwrap_or(1) as usize;
        let tile = Tile::of(self, lanes);
        let padded = self.channels_out.next_multiple_of(tile.channels);
        worth(device, self.flops())
            && tile.quads == 2
            && tile.pixels == 32
            && 8 * self.channels_out >= 7 * padded
    }

    fn image(&self) -> Option<Image> {
        let view = View {
            count: self.count,
            taps: self.taps,
            stride: self.stride,
            dilation: self.dilation,
            before: self.before,
        };
        Image::plan(self.channels_in, self.input, &[view])
    }

    /// Lowers a convolution that is [`Direct::in_rows`].
    fn lower_rows(&self, cx: &mut Lower<'_>) -> Result<()> {
        let Some(mut image) = self.image() else {
            return self.lower(cx);
        };
        let lanes = cx.device().subgroup_size.unwrap_or(1) as usize;
        let (channels, dilation) = (self.channels_in, self.dilation[1]);
        let blocks = self.n * self.groups;
        image.copy(cx, Slot::In(0), blocks, channels, self.input, dilation)?;
        let tile = Tile::of(self, lanes);
        let tiles_out = self.channels_out.div_ceil(tile.channels);
        let weights = pack_weight(cx, self, &image, Order::Outputs(tile.channels))?;
        let of_w = half_names(cx, weights);
        let of_eight = if tile.quads == 2 { "Oct" } else { "Quad" };

        let pixels = self.n * self.count[0] * self.count[1];
        let tiles = pixels.div_ceil(tile.pixels);
        let total = tile.count(self);
        let size = workgroup(lanes, total);
        let kernel = cx
            .kernel("conv2d_rows", SHADER)
            .variant(format!(
                "{}, rows {}x{}",
                self.name, tile.pixels, tile.channels
            ))
            .define("WORKGROUP", size)
            .define("LANES", lanes)
            .shuffles(lanes.min(tile.pixels))
            .define("HELD", tile.pixels.div_ceil(lanes))
            .define("TM", tile.pixels)
            .define("QUADS", tile.quads)
            .define("WEIGHTS", format!("{}{of_eight}", of_w.0))
            .define("READ", of_w.1)
            .arg("total", total)
            .arg("tiles", tiles)
            .arg("pixels", pixels)
            .arg("plane", self.count[0] * self.count[1])
            .arg("columns", self.count[1])
            .arg("tiles_out", tiles_out)
            .arg("groups", self.groups)
            .arg("channels_out", self.channels_out)
            .arg("quads", image.quads)
            .arg("rows_in", image.rows)
            .arg("columns_in", image.columns);
        self.loop_over(kernel, &image, weights)
            .dealt(total * lanes, size)
    }
}
