//! How factorisations are lowered on software adapters: by lanes that hold rows in
//! registers and exchange them by shuffles, instead of by workgroup memory and barriers.

use crate::Result;
use crate::device::DeviceClass;
use crate::graph::{Access, Lower, Slot};

const REGISTER: &str = include_str!("../../../shaders/linalg/lu_register.wgsl");
const SHUFFLE: &str = include_str!("../../../shaders/linalg/lu_shuffle.wgsl");
const STRIP: &str = include_str!("../../../shaders/linalg/lu_strip.wgsl");

/// Elements of a matrix that one invocation of lu_register.wgsl holds at most: what does
/// not fit takes the drivers' compilers seconds.
const MOST_NUMBERS: usize = 288;
/// Up to so many they are fewer lanes' than a subgroup has.
const FEW_NUMBERS: usize = 160;
/// Rows of registers that one invocation of lu_shuffle.wgsl holds at most.
const MOST_SHUFFLED: usize = 16;
/// Rows that lu_strip.wgsl updates at a time: a divisor of the widths of blocks.
const STRIP_ROWS: usize = 16;

/// The lanes that share a matrix where it fits into their registers, on software
/// adapters. Fewer repeat less of the work on a pivot; more keep the kernel short, and two
/// subgroups busy.
pub(in crate::ops) fn register_lanes(cx: &Lower<'_>, batch: usize, n: usize) -> Option<usize> {
    let device = cx.device();
    let most = match device.subgroup_size {
        _ if device.class != DeviceClass::Software => return None,
        Some(lanes) if lanes >= 8 => 8,
        _ => 1,
    };
    let numbers = |parts: usize| n * n.div_ceil(parts);
    let enough = |parts: usize| numbers(parts) <= FEW_NUMBERS && batch * parts >= 16;
    let parts = [1, 2, 4].into_iter().find(|p| *p <= most && enough(*p));
    let parts = parts.unwrap_or(most);
    (numbers(parts) <= MOST_NUMBERS).then_some(parts)
}

/// Factors small matrices, each in the registers of `parts` lanes.
pub(in crate::ops) fn registers(
    cx: &mut Lower<'_>,
    [batch, n]: [usize; 2],
    parts: usize,
) -> Result<()> {
    let lanes = cx.device().subgroup_size.map_or(8, |lanes| lanes.max(8)) as usize;
    let mut kernel = cx
        .kernel("lu_register", REGISTER)
        .variant(format!("{parts} lanes"))
        .define("LANES", lanes)
        .shuffles(parts)
        .define("PARTS", parts)
        .define("STEPS", parts.ilog2())
        .define("ROWS", n.div_ceil(parts))
        .define("N", n)
        .arg("batch", batch);
    for output in 0..5 {
        kernel = kernel.write(Slot::Out(output));
    }
    kernel
        .read(Slot::In(0))
        .flops(2 * batch * n * n * n / 3)
        .trips(n)
        .threads(batch * parts, lanes)
}

/// The lanes of a subgroup where kernels by subgroups are used: on software adapters.
pub(in crate::ops) fn subgroup(cx: &Lower<'_>) -> Option<usize> {
    let device = cx.device();
    let lanes = device.subgroup_size? as usize;
    let software = device.class == DeviceClass::Software;
    (software && (8..=64).contains(&lanes)).then_some(lanes)
}

/// The lanes of a subgroup, and how many of them factor matrices of `n` rows together.
pub(in crate::ops) fn subgroups(cx: &Lower<'_>, n: usize) -> Option<(usize, usize)> {
    let lanes = subgroup(cx)?;
    let groups = n.div_ceil(MOST_SHUFFLED * lanes);
    let most = cx.device().max_invocations as usize / lanes;
    (groups <= lanes.min(most)).then_some((lanes, groups))
}

/// Factors the columns `first..end` by subgroups.
pub(in crate::ops) fn panel(
    cx: &mut Lower<'_>,
    [batch, n, first, end]: [usize; 4],
    [lanes, groups]: [usize; 2],
) -> Result<()> {
    let width = end - first;
    let quads = if n.is_multiple_of(8) { 2 } else { 1 };
    let strips = width.div_ceil(4 * quads * lanes);
    let size = lanes * groups;
    let copied = if first == 0 { n * n.div_ceil(size) } else { 0 };
    let mut kernel = cx
        .kernel("lu_shuffle", SHUFFLE)
        .variant(if width == n { "whole" } else { "block" })
        .define("LANES", lanes)
        // All for the sums at the end, eight before.
        .shuffles(lanes.max(8))
        .define("STEPS", lanes.ilog2())
        .define("GROUPS", groups)
        .define("ROUNDS", if groups == 1 { 1 } else { 2 })
        .define("ROWS", n.div_ceil(size))
        .define("EIGHT", quads / 2)
        .define("QUADS", quads);
    for (name, value) in [("batch", batch), ("n", n), ("first", first), ("end", end)] {
        kernel = kernel.arg(name, value);
    }
    let access = match first {
        0 => Access::Write,
        _ => Access::ReadWrite,
    };
    for output in 0..5 {
        kernel = kernel.bind(Slot::Out(output), access);
    }
    kernel
        .read(Slot::In(0))
        .flops(panel_flops([batch, n, first, end]))
        .trips(copied + width.div_ceil(8) * (8 + strips * (1 + n.div_ceil(8))))
        .flat_groups(batch)
}

/// Carries the factored columns `first..end` to all others, by subgroups.
pub(in crate::ops) fn carry(
    cx: &mut Lower<'_>,
    [batch, n, first, end]: [usize; 4],
    lanes: usize,
) -> Result<()> {
    let (width, rest) = (end - first, n - end);
    let quads = if n.is_multiple_of(8) { 2 } else { 1 };
    let strip = 4 * quads * lanes;
    cx.kernel("lu_strip", STRIP)
        .define("LANES", lanes)
        .shuffles(lanes.min(STRIP_ROWS))
        .define("TM", STRIP_ROWS)
        .define("HELD", STRIP_ROWS.div_ceil(lanes))
        .define("EIGHT", quads / 2)
        .define("QUADS", quads)
        .arg("batch", batch)
        .arg("n", n)
        .arg("first", first)
        .arg("end", end)
        .bind(Slot::Out(0), Access::ReadWrite)
        .read(Slot::Out(2))
        .flops(batch * rest * width * (width + 2 * rest))
        .trips(width + (n - first).div_ceil(STRIP_ROWS) * (1 + width / 8))
        .flat_groups(batch * (first.div_ceil(strip) + rest.div_ceil(strip)))
}

/// Operations of factoring the columns `first..end`.
pub(in crate::ops) fn panel_flops([batch, n, first, end]: [usize; 4]) -> usize {
    let (rows, w) = ((n - first) as f64, (end - first) as f64);
    (batch as f64 * (rows * w * w - w * w * w / 3.0)) as usize
}
