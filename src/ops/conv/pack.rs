//! Copies of images and weights for convolutions on software adapters, in orders in which
//! one load serves four channels and nothing is out of bounds.

use super::direct::Direct;
use crate::Result;
use crate::graph::{Lower, Slot};

const PACK: &str = include_str!("../../../shaders/conv/pack.wgsl");
const PACK_WEIGHT: &str = include_str!("../../../shaders/conv/pack_weight.wgsl");

/// Images `[blocks, channels, y, x]`, copied to `[blocks, quads, rows, columns]` of four
/// channels each, with zeros around them.
pub(crate) struct Image {
    pub slot: Slot,
    pub quads: usize,
    pub rows: usize,
    pub columns: usize,
    /// Zeros above and to the left (negative where pixels are left out).
    pub before: [isize; 2],
    /// Taps of a kernel row that count as channels; 1 where none do.
    pub fold: usize,
}

/// How a convolution looks at an image, per axis: pixels, taps, stride, dilation, and
/// zeros before the first.
#[derive(Clone, Copy)]
pub(crate) struct View {
    pub count: [usize; 2],
    pub taps: [usize; 2],
    pub stride: [usize; 2],
    pub dilation: [usize; 2],
    pub before: [isize; 2],
}

impl Image {
    /// Plans the copy for all these views, without any dispatch yet: `None` where it
    /// would grow too large.
    pub fn plan(channels: usize, input: [usize; 2], views: &[View]) -> Option<Image> {
        let first = views.first()?;
        let quads = channels.div_ceil(4);
        // Few channels do not fill a load, but together with the taps of a row they may.
        let (taps, dilation) = (first.taps[1], first.dilation[1]);
        let same = |v: &View| v.taps[1] == taps && v.dilation[1] == dilation;
        let folded = (channels * taps).div_ceil(4);
        let fold = match views.iter().all(same) && folded < quads * taps {
            true => taps,
            false => 1,
        };
        let before = [0, 1].map(|axis| views.iter().map(|v| v.before[axis]).max().unwrap_or(0));
        let extent = |axis: usize| {
            let reach = |v: &View| {
                let taps = if fold > 1 && axis == 1 {
                    1
                } else {
                    v.taps[axis]
                };
                let last = (v.count[axis] - 1) * v.stride[axis] + (taps - 1) * v.dilation[axis];
                last as isize + 1 - v.before[axis] + before[axis]
            };
            views.iter().map(reach).max().unwrap_or(1).max(1) as usize
        };
        let mut image = Image {
            slot: Slot::In(0),
            quads: if fold > 1 { folded } else { quads },
            rows: extent(0),
            columns: extent(1),
            before,
            fold,
        };
        if image.vectors(input) {
            image.columns = image.columns.max(image.before[1] as usize + input[1]);
        }
        // Heavily padded or folded images are not worth it.
        let grown = image.quads * 4 * image.rows * image.columns;
        (grown <= 8 * channels * input[0] * input[1] + 4096).then_some(image)
    }

    /// Whether rows are read as vec4s.
    fn vectors(&self, input: [usize; 2]) -> bool {
        self.fold == 1 && input[1].is_multiple_of(4) && self.before[1] >= 0
    }

    pub fn bytes(&self, blocks: usize) -> u64 {
        16 * (blocks * self.quads * self.rows * self.columns) as u64
    }

    /// Taps of a convolution of the image, of those that do not count as channels.
    pub fn taps(&self, part: &Direct) -> [usize; 2] {
        [part.taps[0], if self.fold > 1 { 1 } else { part.taps[1] }]
    }

    /// The offset of the first pixel of a view in the copy.
    pub fn offset(&self, before: [isize; 2]) -> usize {
        let [y, x] = [0, 1].map(|axis| (self.before[axis] - before[axis]) as usize);
        y * self.columns + x
    }

    /// Copies `from`.
    pub fn copy(
        &mut self,
        cx: &mut Lower<'_>,
        from: Slot,
        blocks: usize,
        channels: usize,
        input: [usize; 2],
        dilation: usize,
    ) -> Result<()> {
        self.slot = cx.scratch(self.bytes(blocks));
        let vectors = self.vectors(input);
        let total = blocks * self.quads * self.rows;
        let size = if total >= 1024 { 64 } else { 16 };
        cx.kernel("conv2d_pack", PACK)
            .variant(if vectors { "vectors" } else { "" })
            .define("WORKGROUP", size)
            .define("VECTORS", vectors as u32)
            .define("FOLD", self.fold)
            .define("DILATION", if self.fold > 1 { dilation } else { 1 })
            .arg("total", total)
            .arg("quads", self.quads)
            .arg("channels", channels)
            .arg("in_y", input[0])
            .arg("in_x", input[1])
            .arg("rows", self.rows)
            .arg("columns", self.columns)
            .arg_i32("before_y", self.before[0])
            .arg_i32("before_x", self.before[1])
            .read(from)
            .write(self.slot)
            .trips(self.columns)
            .threads(total, size)
    }
}

/// The order in which a kernel reads its weights.
#[derive(Clone, Copy)]
pub(in crate::ops) enum Order {
    /// Of a tile of outputs, read by all lanes together: four channels of an output, and
    /// `width` outputs of a lane, next to each other.
    Shared {
        tile: usize,
        lanes: usize,
        width: usize,
    },
    /// Of so many outputs, which every lane has its own of: outputs next to each other.
    Outputs(usize),
}

/// Copies the weights of a convolution of `image` into the order of a kernel, for every
/// tile of outputs, four channels and tap.
pub(in crate::ops) fn pack_weight(
    cx: &mut Lower<'_>,
    part: &Direct,
    image: &Image,
    order: Order,
) -> Result<Slot> {
    let (tile, held, lanes, width) = match order {
        Order::Shared { tile, lanes, width } => (tile, tile.next_multiple_of(lanes), lanes, width),
        Order::Outputs(tile) => (tile, tile, 1, 0),
    };
    let taps = image.taps(part);
    let tiles = part.channels_out.div_ceil(tile);
    let count = part.groups * tiles * image.quads * taps[0] * taps[1] * held;
    let weights = cx.scratch_like(Slot::In(1), 4 * count as u64);
    cx.kernel("conv2d_pack_weight", PACK_WEIGHT)
        .define("LANES", lanes)
        .define("WIDTH", width)
        .define("HELD", held)
        .define("TO", tile)
        .define("FOLD", image.fold)
        .stored("W", Slot::In(1))
        .stored("PACKED", weights)
        .arg("total", count)
        .arg("tiles", tiles)
        .arg("quads", image.quads)
        .arg("taps_y", taps[0])
        .arg("taps_x", taps[1])
        .arg("channels_out", part.channels_out)
        .arg("channels_in", part.channels_in)
        .arg("weight_first", part.weight_first)
        .arg("weight_group", part.weight_group)
        .arg("weight_out", part.weight_out)
        .arg("weight_in", part.weight_in)
        .arg_i32("weight_tap_y", part.weight_tap[0])
        .arg_i32("weight_tap_x", part.weight_tap[1])
        .read(Slot::In(1))
        .write(weights)
        .threads(count, 64)?;
    Ok(weights)
}
