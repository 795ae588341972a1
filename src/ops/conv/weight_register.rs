//! The gradient of a convolution by its weight on any device: tiles of weights in
//! registers, the pixels split into chunks whose sums are added in a fixed order.

use super::register::{even_tile, fours, shared, unroll};
use super::weight_problem::WeightGradient;
use crate::Result;
use crate::device::{DeviceClass, DeviceProfile, LOOP_BUDGET};
use crate::graph::{Lower, Slot};
use crate::ops::reduce::sum_chunks::sum_chunks;
use crate::ops::variant::Variant;

const SHADER: &str = include_str!("../../../shaders/conv/weight_register.wgsl");

pub(in crate::ops) struct Register;

impl Variant<WeightGradient> for Register {
    fn name(&self) -> &'static str {
        "register"
    }

    fn possible(&self, _: &WeightGradient, _: &DeviceProfile) -> bool {
        true
    }

    fn lower(&self, problem: &WeightGradient, cx: &mut Lower<'_>) -> Result<()> {
        let (d, window) = (&problem.dims, &problem.window);
        let (tile, unrolled, span) = unroll(
            d.kernel[1],
            even_tile(d.output[1], 4),
            window.stride[1],
            window.dilation[1],
        );
        // Where a subgroup shares dy, its reads count little and tiles grow along it.
        let blocks = d.kernel[1] / unrolled;
        let software = cx.device().class == DeviceClass::Software;
        let lanes = match cx.device().subgroup_size {
            Some(size) if software && d.cg.div_ceil(4) * d.kernel[0] * blocks >= size as usize => {
                size as usize
            }
            _ => 0,
        };
        // Enough sums per invocation to make up for the loads, few enough for registers.
        let (most_out, most_in) = match unrolled {
            1 if lanes > 0 => (16, 4),
            2 | 3 if lanes > 0 => (16, 2),
            4 | 5 if lanes > 0 => (16, 1),
            1 => (8, 4),
            2 | 3 => (4, 4),
            4 | 5 => (4, 2),
            _ => (4, 1),
        };
        let (tile_out, tile_in) = (even_tile(d.og, most_out), even_tile(d.cg, most_in));
        let (tiles_out, tiles_in) = (d.og.div_ceil(tile_out), d.cg.div_ceil(tile_in));
        let padded_tiles = (tiles_in * d.kernel[0] * blocks).next_multiple_of(lanes.max(1));
        let tiles = window.groups * tiles_out * padded_tiles;
        let (weights, rows) = (problem.weights(), problem.rows());
        let per_row = 1 + d.output[1].div_ceil(tile);
        let wanted = match cx.device().class {
            DeviceClass::Software => 1 << 10,
            _ => 1 << 14,
        };
        // At most 16 MiB of partial sums, unless the loop budget asks for more.
        let most = (cx.device().max_binding as usize / 4).min(4 << 20);
        let chunks = (wanted / tiles).min(most / weights).clamp(1, rows);
        let longest = (LOOP_BUDGET as usize / per_row).max(1);
        let rows_per_chunk = rows.div_ceil(chunks).min(longest);
        let chunks = rows.div_ceil(rows_per_chunk);

        let before = window.before;
        let padded = (0..2).any(|axis| {
            let reach = (d.output[axis] - 1) * window.stride[axis]
                + (d.kernel[axis] - 1) * window.dilation[axis];
            before[axis] > 0 || reach as isize - before[axis] >= d.input[axis] as isize
        });
        let (left, full) = match tile == 4 && blocks == 1 && d.output[1].is_multiple_of(4) {
            true => fours(d.input[1], tile * window.stride[1], before[1], span),
            false => (0, 0),
        };
        let whole = full > 0;
        let held = if whole { tile_out } else { tile_out * tile };
        let target = if chunks > 1 {
            cx.scratch((chunks * weights * 4) as u64)
        } else {
            Slot::Out(0)
        };
        let kernel = cx
            .kernel("conv2d_weight", SHADER)
            .variant(format!(
                "registers {tile_out}x{tile_in}x{unrolled}{}, {chunks} chunks",
                shared(lanes)
            ))
            .define("LANES", lanes)
            .shuffles(lanes.min(held))
            .define("FOURS", whole as u32)
            .define("HELD", held.div_ceil(lanes.max(1)))
            .define("TO", tile_out)
            .define("TC", tile_in)
            .define("TX", tile)
            .define("TAPS", unrolled)
            .define("LEFT", left)
            .define("FULL", full)
            .define("REST", span - left - 4 * full)
            .define("STRIDE_X", window.stride[1])
            .define("DILATION_X", window.dilation[1])
            .define("PADDED", padded as u32)
            .define("RAGGED", !d.output[1].is_multiple_of(tile) as u32)
            .arg("total", tiles * chunks)
            .arg("padded", padded_tiles)
            .arg("blocks", blocks)
            .arg("taps_y", d.kernel[0])
            .arg("tiles_in", tiles_in)
            .arg("tiles_out", tiles_out)
            .arg("groups", window.groups)
            .arg("channels_out", d.og)
            .arg("channels_in", d.cg)
            .arg("rows", rows)
            .arg("rows_per_chunk", rows_per_chunk)
            .arg("out_y", d.output[0])
            .arg("out_x", d.output[1])
            .arg("in_y", d.input[0])
            .arg("in_x", d.input[1])
            .arg("stride_y", window.stride[0])
            .arg("dilation_y", window.dilation[0])
            .arg_i32("before_y", before[0])
            .arg_i32("before_x", before[1])
            .read(Slot::In(0));
        let kernel = match whole {
            true => kernel.read(Slot::In(0)),
            false => kernel,
        };
        kernel
            .read(Slot::In(1))
            .write(target)
            .flops(problem.flops())
            .trips(rows_per_chunk * per_row)
            .dealt(tiles * chunks, 64)?;
        if chunks > 1 {
            sum_chunks(cx, target, weights, chunks)?;
        }
        Ok(())
    }
}
