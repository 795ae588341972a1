//! Sums that were taken in chunks, added up in the order of the chunks: the second pass of
//! weight gradients.

use crate::Result;
use crate::graph::{Lower, Slot};

const SHADER: &str = include_str!("../../../shaders/reduce/sum_chunks.wgsl");

/// Adds partial sums `[chunks, len]` in the order of the chunks.
pub(crate) fn sum_chunks(cx: &mut Lower<'_>, parts: Slot, len: usize, chunks: usize) -> Result<()> {
    sum_chunks_apart(cx, parts, len, chunks, len)
}

/// The same where chunks begin `stride` elements apart.
pub(crate) fn sum_chunks_apart(
    cx: &mut Lower<'_>,
    parts: Slot,
    len: usize,
    chunks: usize,
    stride: usize,
) -> Result<()> {
    let vec4 = len.is_multiple_of(4) && stride.is_multiple_of(4);
    let each = if vec4 { 4 } else { 1 };
    cx.kernel("sum_chunks", SHADER)
        .define("VEC4", vec4 as u32)
        .arg("len", len / each)
        .arg("chunks", chunks)
        .arg("stride", stride / each)
        .read(parts)
        .write(Slot::Out(0))
        .flops(len * chunks)
        .trips(chunks)
        .threads(len / each, 64)
}
