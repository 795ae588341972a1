//! Convolutions on software adapters with subgroups: operands are first copied into
//! an order in which one load serves four channels and nothing is out of bounds.
//! Loads are what such an adapter spends its time on.

use super::direct::{Convolution, Direct};
use super::pack::{Image, Order, View, pack_weight};
use super::register::even_tile;
use crate::Result;
use crate::device::{DeviceProfile, LOOP_BUDGET};
use crate::graph::{KernelBuilder, Lower, Slot};
use crate::ops::product::problem::half_names;
use crate::ops::variant::Variant;

const SHADER: &str = include_str!("../../../shaders/conv/packed.wgsl");

/// Whether subgroups have a size that the packed kernels are written for.
pub(in crate::ops) fn can_share(device: &DeviceProfile) -> bool {
    device
        .subgroup_size
        .is_some_and(|lanes| (4..=64).contains(&lanes))
}

/// Whether so many operations are worth the compilation of packed kernels.
pub(in crate::ops) fn worth(device: &DeviceProfile, flops: usize) -> bool {
    flops as u64 >= device.packed_conv_flops
}

/// Invocations of a workgroup for so many jobs of one subgroup each: workgroups go to
/// the adapter's threads in equal numbers, so there have to be enough of them.
pub(crate) fn workgroup(lanes: usize, jobs: usize) -> usize {
    if jobs >= 256 { lanes.max(32) } else { lanes }
}

impl Direct {
    /// Whole tiles of pixels are read.
    fn view(&self, tile: &Tile) -> View {
        View {
            count: [0, 1].map(|axis| self.count[axis].next_multiple_of(tile.pixels[axis])),
            taps: self.taps,
            stride: self.stride,
            dilation: self.dilation,
            before: self.before,
        }
    }

    /// Whether the pixels of a sample can be read as they are, four at a time.
    fn is_direct(&self) -> bool {
        self.taps == [1, 1]
            && self.stride == [1, 1]
            && self.step == [1, 1]
            && self.before == [0, 0]
            && self.count == self.input
            && (self.input[0] * self.input[1]).is_multiple_of(4)
            && self.channels_in.is_multiple_of(4)
    }
}

/// What a lane computes: these channels at so many rows and columns of pixels.
struct Tile {
    channels: usize,
    pixels: [usize; 2],
}

impl Tile {
    /// Large, for few loads, but so that every core has some.
    fn of(parts: &[Direct], direct: bool, lanes: usize) -> Tile {
        // Up to 256 sums a lane: more do not stay in reach of the registers, and take
        // some compilers a minute.
        let wide = parts.iter().map(|p| p.channels_out).max().unwrap_or(1);
        let many = match even_tile(wide, 32) {
            0..=16 => 16,
            _ => 8,
        };
        let sizes = [(32, many), (32, 4), (16, 4), (8, 4), (8, 2)];
        let tiles = sizes.map(|(channels, pixels)| {
            let count = parts.first().map_or([1, 1], |p| p.count);
            let columns = match direct {
                // Whole vec4s.
                true => [16, 8]
                    .into_iter()
                    .find(|p| *p <= pixels && count[1].is_multiple_of(*p))
                    .unwrap_or(4),
                false => even_tile(count[1], pixels),
            };
            Tile {
                channels: even_tile(parts.first().map_or(1, |p| p.channels_out), channels),
                pixels: [even_tile(count[0], pixels / columns.min(pixels)), columns],
            }
        });
        let jobs = |tile: &Tile| -> usize {
            let jobs = parts.iter().map(|p| {
                let pixels: usize = tile.tiles(p).iter().product();
                let channels = p.channels_out.div_ceil(tile.channels);
                (p.n * pixels).div_ceil(lanes) * channels * p.groups
            });
            jobs.max().unwrap_or(0)
        };
        let last = Tile {
            channels: 8,
            pixels: [1, if direct { 4 } else { 1 }],
        };
        tiles
            .into_iter()
            .find(|tile| jobs(tile) >= 8)
            .unwrap_or(last)
    }

    /// Rows and columns of tiles.
    fn tiles(&self, part: &Direct) -> [usize; 2] {
        [0, 1].map(|axis| part.count[axis].div_ceil(self.pixels[axis]))
    }
}

/// What is copied, and how it is read.
struct Packing {
    image: Image,
    tile: Tile,
    /// Pixels are read as they are.
    direct: bool,
}

impl Packing {
    /// None where copies would grow too large, or loops too long.
    fn of(parts: &[Direct], device: &DeviceProfile) -> Option<Packing> {
        let lanes = device.subgroup_size.unwrap_or(1) as usize;
        let first = parts.first()?;
        let reached = || parts.iter().filter(|p| !p.taps.contains(&0));
        let direct = parts.len() == 1 && first.is_direct();
        let tile = Tile::of(parts, direct, lanes);
        let views: Vec<View> = reached().map(|p| p.view(&tile)).collect();
        let image = Image::plan(first.channels_in, first.input, &views)?;
        let longest = reached().map(|p| p.taps[0] * p.taps[1]).max();
        let trips = image.quads * longest.unwrap_or(1);
        let fits = first.channels_in * first.channels_out >= 8
            && (direct || image.bytes(first.n * first.groups) <= device.max_binding)
            && trips as u64 <= LOOP_BUDGET;
        fits.then_some(Packing {
            image,
            tile,
            direct,
        })
    }
}

pub(in crate::ops) struct Packed;

impl Variant<Convolution> for Packed {
    fn name(&self) -> &'static str {
        "packed"
    }

    fn possible(&self, problem: &Convolution, device: &DeviceProfile) -> bool {
        can_share(device) && Packing::of(&problem.parts, device).is_some()
    }

    fn pays(&self, problem: &Convolution, device: &DeviceProfile) -> bool {
        worth(device, problem.flops())
    }

    fn lower(&self, problem: &Convolution, cx: &mut Lower<'_>) -> Result<()> {
        let parts = &problem.parts;
        let (Some(first), Some(packing)) = (parts.first(), Packing::of(parts, cx.device())) else {
            return Ok(());
        };
        let Packing {
            mut image,
            tile,
            direct,
        } = packing;
        if direct {
            image.slot = Slot::In(0);
        } else {
            let (channels, dilation) = (first.channels_in, first.dilation[1]);
            let blocks = first.n * first.groups;
            image.copy(cx, Slot::In(0), blocks, channels, first.input, dilation)?;
        }
        for part in parts {
            match part.taps.contains(&0) {
                true => part.lower(cx)?,
                false => part.lower_packed(cx, &image, &tile, direct)?,
            }
        }
        Ok(())
    }
}

impl Direct {
    fn lower_packed(
        &self,
        cx: &mut Lower<'_>,
        image: &Image,
        tile: &Tile,
        direct: bool,
    ) -> Result<()> {
        let lanes = cx.device().subgroup_size.unwrap_or(1) as usize;
        let [tiles_y, tiles_x] = tile.tiles(self);
        let tiles = self.n * tiles_y * tiles_x;
        let tile_out = tile.channels;
        let [ry, rx] = tile.pixels;
        let tiles_out = self.channels_out.div_ceil(tile_out);
        let held = tile_out.div_ceil(lanes);
        // Weights of two outputs of a lane lie next to each other where there are as many.
        let width = if held.is_multiple_of(2) { 2 } else { 1 };

        let order = Order::Shared {
            tile: tile_out,
            lanes,
            width,
        };
        let weights = pack_weight(cx, self, image, order)?;
        let (of_w, of_eight) = (
            half_names(cx, weights),
            if width == 2 { "Oct" } else { "Quad" },
        );

        let jobs = tiles.div_ceil(lanes);
        let total = jobs * tiles_out * self.groups;
        let size = workgroup(lanes, total);
        let vectors = self.step == [1, 1]
            && self.count == self.output
            && rx.is_multiple_of(4)
            && self.output[1].is_multiple_of(4);
        let kernel = cx
            .kernel("conv2d_shuffle", SHADER)
            .variant(format!("{}, shuffle {tile_out}x{ry}x{rx}", self.name))
            .define("WORKGROUP", size)
            .define("LANES", lanes)
            .shuffles(lanes.min(tile_out))
            .define("HELD", held)
            .define("TO", tile_out)
            .define("RX", rx)
            .define("WIDTH", width)
            .define("WEIGHTS", format!("{}{of_eight}", of_w.0))
            .define("READ", of_w.1)
            .define("RY", ry)
            .define("VECTORS", vectors as u32)
            .define("DIRECT", direct as u32)
            .arg("total", total)
            .arg("jobs", jobs)
            .arg("tiles", tiles)
            .arg("tiles_y", tiles_y)
            .arg("tiles_x", tiles_x)
            .arg("rows", self.count[0])
            .arg("columns", self.count[1])
            .arg("tiles_out", tiles_out)
            .arg("groups", self.groups)
            .arg("channels_out", self.channels_out)
            .arg("quads", image.quads)
            .arg("rows_in", image.rows)
            .arg("columns_in", image.columns)
            .arg("out_x", self.output[1])
            .arg("out_plane", self.output[0] * self.output[1])
            .arg("first", self.first[0] * self.output[1] + self.first[1])
            .arg("step_y", self.step[0])
            .arg("step_x", self.step[1]);
        self.loop_over(kernel, image, weights)
            .dealt(total * lanes, size)
    }

    /// What the kernels that loop over channels and taps are told of these, and all that
    /// they read and write.
    pub(in crate::ops) fn loop_over<'l, 'a>(
        &self,
        kernel: KernelBuilder<'l, 'a>,
        image: &Image,
        weights: Slot,
    ) -> KernelBuilder<'l, 'a> {
        let taps = image.taps(self);
        let kernel = kernel
            .arg("taps_y", taps[0])
            .arg("taps_x", taps[1])
            .arg("stride_y", self.stride[0])
            .arg("stride_x", self.stride[1])
            .arg("dilation_y", self.dilation[0])
            .arg("dilation_x", self.dilation[1])
            .arg("offset", image.offset(self.before))
            .stored("W", weights)
            .read(image.slot)
            .read(weights);
        self.epilogue(kernel)
            .write(Slot::Out(0))
            .flops(self.flops())
            .trips(image.quads * taps[0] * taps[1])
    }
}
