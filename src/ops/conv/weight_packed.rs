//! The gradient of a convolution by its weight on software adapters with subgroups:
//! both operands are packed first, by `pack.rs`.

use super::pack::{Image, View};
use super::packed::shared_lanes;
use super::register::even_tile;
use super::window::{Dims, Window};
use crate::Result;
use crate::device::LOOP_BUDGET;
use crate::graph::{Lower, Slot};
use crate::ops::reduce::sum_chunks::sum_chunks;

const SHADER: &str = include_str!("../../../shaders/conv/weight_packed.wgsl");

/// Pixels of a row in one iteration, where a lane has few sums.
const MOST_PIXELS: usize = 4;

/// Whether copies of the operands pay; if so they were lowered.
pub(in crate::ops) fn lower(window: &Window, d: &Dims, cx: &mut Lower<'_>) -> Result<bool> {
    let weights = d.o * d.cg * d.kernel[0] * d.kernel[1];
    let rows = d.n * d.output[0];
    let flops = 2 * rows * d.output[1] * weights;
    let Some(lanes) = shared_lanes(cx, flops) else {
        return Ok(false);
    };
    // Rows are taken several pixels at a time.
    let round = |pixels: usize| [d.output[0], d.output[1].next_multiple_of(pixels)];
    let x_view = View {
        count: round(MOST_PIXELS),
        taps: d.kernel,
        stride: window.stride,
        dilation: window.dilation,
        before: window.before,
    };
    let Some(mut x) = Image::plan(d.cg, d.input, &[x_view]) else {
        return Ok(false);
    };
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
    let Some(mut dy) = Image::plan(d.og, d.output, &[dy_view]) else {
        return Ok(false);
    };
    let steps = dy.columns / pixels;
    let tiles_out = d.og.div_ceil(tile_out);
    let jobs = (x.quads * d.kernel[0] * blocks).div_ceil(lanes);
    let tiles = jobs * tiles_out * window.groups;
    let per_row = 1 + steps;
    let blocks_all = d.n * window.groups;
    let most = cx.device().max_binding;
    if d.og < 4 || x.bytes(blocks_all) > most || dy.bytes(blocks_all) > most {
        return Ok(false);
    }
    // Equal work for every core, at most 16 MiB of partial sums, unless the loop budget
    // asks for more.
    let chunks = 16usize
        .div_ceil(tiles)
        .min((4 << 20) / weights)
        .clamp(1, rows);
    let longest = (LOOP_BUDGET as usize / per_row).max(1);
    let rows_per_chunk = rows.div_ceil(chunks).min(longest);
    let chunks = rows.div_ceil(rows_per_chunk);
    if (chunks * weights * 4) as u64 > most {
        return Ok(false);
    }

    x.copy(
        cx,
        Slot::In(0),
        blocks_all,
        d.cg,
        d.input,
        window.dilation[1],
    )?;
    dy.copy(cx, Slot::In(1), blocks_all, d.og, d.output, 1)?;
    let target = match chunks {
        1 => Slot::Out(0),
        _ => cx.scratch((chunks * weights * 4) as u64),
    };
    let slide = unrolled > 1 && window.stride[1] == window.dilation[1];
    cx.kernel("conv2d_weight_shuffle", SHADER)
        .variant(format!(
            "shuffle {tile_out}x4x{unrolled}, {pixels} pixels, {chunks} chunks"
        ))
        .define("LANES", lanes)
        // Each holds four outputs.
        .shuffles(tile_out / 4)
        .define("TO", tile_out)
        .define("TAPS", unrolled)
        .define("PIXELS", pixels)
        .define("FOLD", x.fold)
        .define("SLIDE", slide as u32)
        .arg("total", tiles * chunks)
        .arg("jobs", jobs)
        .arg("quads", x.quads)
        .arg("taps_y", d.kernel[0])
        .arg("blocks", blocks)
        .arg("tiles_out", tiles_out)
        .arg("groups", window.groups)
        .arg("quads_out", dy.quads)
        .arg("channels_out", d.og)
        .arg("channels_in", d.cg)
        .arg("rows", rows)
        .arg("rows_per_chunk", rows_per_chunk)
        .arg("out_y", d.output[0])
        .arg("steps", steps)
        .arg("rows_in", x.rows)
        .arg("columns_in", x.columns)
        .arg("stride_y", window.stride[0])
        .arg("stride_x", window.stride[1])
        .arg("dilation_y", window.dilation[0])
        .arg("dilation_x", window.dilation[1])
        .read(x.slot)
        .read(dy.slot)
        .write(target)
        .flops(flops)
        .trips(rows_per_chunk * per_row)
        .dealt(tiles * chunks * lanes, lanes)?;
    if chunks > 1 {
        sum_chunks(cx, target, weights, chunks)?;
    }
    Ok(true)
}
