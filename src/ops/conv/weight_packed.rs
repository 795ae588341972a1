//! The gradient of a convolution by its weight on software adapters with subgroups:
//! both operands are packed first, by `pack.rs`.

use super::pack::{Image, View};
use super::packed::{can_share, worth};
use super::register::even_tile;
use super::weight_problem::WeightGradient;
use crate::Result;
use crate::device::{DeviceProfile, LOOP_BUDGET};
use crate::graph::{Lower, Slot};
use crate::ops::reduce::sum_chunks::sum_chunks;
use crate::ops::variant::Variant;

const SHADER: &str = include_str!("../../../shaders/conv/weight_packed.wgsl");

/// Pixels of a row in one iteration, where a lane has few sums.
const MOST_PIXELS: usize = 4;

pub(in crate::ops) struct Packed;

impl Variant<WeightGradient> for Packed {
    fn name(&self) -> &'static str {
        "packed"
    }

    fn possible(&self, problem: &WeightGradient, device: &DeviceProfile) -> bool {
        can_share(device) && Layout::of(problem, device).is_some()
    }

    /// Whether there are channels for a vec4, and work enough for the copies.
    fn pays(&self, problem: &WeightGradient, device: &DeviceProfile) -> bool {
        problem.dims.og >= 4 && worth(device, problem.flops())
    }

    fn lower(&self, problem: &WeightGradient, cx: &mut Lower<'_>) -> Result<()> {
        match Layout::of(problem, cx.device()) {
            Some(layout) => layout.lower(problem, cx),
            None => Ok(()),
        }
    }
}

/// How the operands are copied, and the sums dealt to lanes.
struct Layout {
    lanes: usize,
    x: Image,
    dy: Image,
    /// Of a kernel row, taps in registers and blocks of them.
    unrolled: usize,
    blocks: usize,
    tile_out: usize,
    pixels: usize,
    chunks: usize,
    rows_per_chunk: usize,
}

impl Layout {
    /// None where the copies would grow too large.
    fn of(problem: &WeightGradient, device: &DeviceProfile) -> Option<Layout> {
        let (d, window) = (&problem.dims, &problem.window);
        let (rows, weights) = (problem.rows(), problem.weights());
        let lanes = device.subgroup_size? as usize;
        // Rows are taken several pixels at a time.
        let round = |pixels: usize| [d.output[0], d.output[1].next_multiple_of(pixels)];
        let x_view = View {
            count: round(MOST_PIXELS),
            taps: d.kernel,
            stride: window.stride,
            dilation: window.dilation,
            before: window.before,
        };
        let x = Image::plan(d.cg, d.input, &[x_view])?;
        // Where a kernel row is too long for registers, its taps go to different lanes.
        let taps = if x.fold > 1 { 1 } else { d.kernel[1] };
        let unrolled = if taps <= 5 { taps } else { 1 };
        let blocks = taps / unrolled;
        let tile_out = even_tile(d.og, if unrolled > 4 { 16 } else { 32 }.min(4 * lanes));
        let tile_out = tile_out.next_multiple_of(4);
        let pixels = match tile_out * unrolled {
            0..=48 => MOST_PIXELS,
            _ => 2,
        };
        let dy_view = View {
            taps: [1, 1],
            count: round(pixels),
            stride: [1, 1],
            dilation: [1, 1],
            before: [0, 0],
        };
        let dy = Image::plan(d.og, d.output, &[dy_view])?;
        let samples = d.n * window.groups;
        let most = device.max_binding;
        if x.bytes(samples) > most || dy.bytes(samples) > most {
            return None;
        }
        let mut layout = Layout {
            lanes,
            x,
            dy,
            unrolled,
            blocks,
            tile_out,
            pixels,
            chunks: 1,
            rows_per_chunk: rows,
        };
        // Equal work for every core, at most 16 MiB of partial sums, unless the loop budget
        // asks for more.
        let chunks = 16usize
            .div_ceil(layout.tiles(problem))
            .min((4 << 20) / weights)
            .clamp(1, rows);
        let longest = (LOOP_BUDGET as usize / layout.per_row()).max(1);
        layout.rows_per_chunk = rows.div_ceil(chunks).min(longest);
        layout.chunks = rows.div_ceil(layout.rows_per_chunk);
        let partial = (layout.chunks * weights * 4) as u64;
        (partial <= most).then_some(layout)
    }

    /// Subgroups' shares of the taps and input channels of a group.
    fn jobs(&self, problem: &WeightGradient) -> usize {
        (self.x.quads * problem.dims.kernel[0] * self.blocks).div_ceil(self.lanes)
    }

    fn tiles(&self, problem: &WeightGradient) -> usize {
        let tiles_out = problem.dims.og.div_ceil(self.tile_out);
        self.jobs(problem) * tiles_out * problem.window.groups
    }

    /// Steps of the loop over a row of pixels.
    fn steps(&self) -> usize {
        self.dy.columns / self.pixels
    }

    fn per_row(&self) -> usize {
        1 + self.steps()
    }

    fn lower(mut self, problem: &WeightGradient, cx: &mut Lower<'_>) -> Result<()> {
        let (d, window) = (&problem.dims, &problem.window);
        let (rows, weights) = (problem.rows(), problem.weights());
        let (lanes, chunks) = (self.lanes, self.chunks);
        let samples = d.n * window.groups;
        let total = self.tiles(problem) * chunks;
        let dilation = window.dilation[1];
        self.x
            .copy(cx, Slot::In(0), samples, d.cg, d.input, dilation)?;
        self.dy.copy(cx, Slot::In(1), samples, d.og, d.output, 1)?;
        let target = match chunks {
            1 => Slot::Out(0),
            _ => cx.scratch((chunks * weights * 4) as u64),
        };
        let slide = self.unrolled > 1 && window.stride[1] == window.dilation[1];
        cx.kernel("conv2d_weight_shuffle", SHADER)
            .variant(format!(
                "shuffle {}x4x{}, {} pixels, {chunks} chunks",
                self.tile_out, self.unrolled, self.pixels
            ))
            .define("LANES", lanes)
            // Each holds four outputs.
            .shuffles(self.tile_out / 4)
            .define("TO", self.tile_out)
            .define("TAPS", self.unrolled)
            .define("PIXELS", self.pixels)
            .define("FOLD", self.x.fold)
            .define("SLIDE", slide as u32)
            .arg("total", total)
            .arg("jobs", self.jobs(problem))
            .arg("quads", self.x.quads)
            .arg("taps_y", d.kernel[0])
            .arg("blocks", self.blocks)
            .arg("tiles_out", d.og.div_ceil(self.tile_out))
            .arg("groups", window.groups)
            .arg("quads_out", self.dy.quads)
            .arg("channels_out", d.og)
            .arg("channels_in", d.cg)
            .arg("rows", rows)
            .arg("rows_per_chunk", self.rows_per_chunk)
            .arg("out_y", d.output[0])
            .arg("steps", self.steps())
            .arg("rows_in", self.x.rows)
            .arg("columns_in", self.x.columns)
            .arg("stride_y", window.stride[0])
            .arg("stride_x", window.stride[1])
            .arg("dilation_y", window.dilation[0])
            .arg("dilation_x", window.dilation[1])
            .read(self.x.slot)
            .read(self.dy.slot)
            .write(target)
            .flops(problem.flops())
            .trips(self.rows_per_chunk * self.per_row())
            .dealt(total * lanes, lanes)?;
        if chunks > 1 {
            sum_chunks(cx, target, weights, chunks)?;
        }
        Ok(())
    }
}
